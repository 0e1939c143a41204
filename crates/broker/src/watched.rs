//! [`Watched`]: what a file says now, parsed once for each change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use crate::error::Error;
use crate::files::Stamp;

/// A file and what was read from it.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    path: PathBuf,
    current: Mutex<Option<(Stamp, Arc<T>)>>,
}

impl<T> Watched<T> {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, current: Mutex::default() }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says now, by `read` if it is another than before: one `stat` unless it
    /// changed. After an error, what it said before is not used either.
    pub(crate) fn current(
        &self,
        read: impl FnOnce(&Path) -> Result<T, Error>,
    ) -> Result<Arc<T>, Error> {
        let absent = || Error::file(&self.path, Errno::NOENT.into());
        self.current_if_there(read)?.ok_or_else(absent)
    }

    /// The same, and `None` if there is no such file.
    pub(crate) fn current_if_there(
        &self,
        read: impl FnOnce(&Path) -> Result<T, Error>,
    ) -> Result<Option<Arc<T>>, Error> {
        let stamp = match Stamp::of(&self.path) {
            Ok(stamp) => stamp,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::file(&self.path, source)),
        };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((parsed, value)) = &*current
            && *parsed == stamp
        {
            return Ok(Some(value.clone()));
        }
        // Nothing stays in force that is no longer what the file says.
        *current = None;
        let value = Arc::new(read(&self.path)?);
        // If the file was replaced meanwhile, the next call sees another stamp and reads again.
        *current = Some((stamp, value.clone()));
        Ok(Some(value))
    }
}
