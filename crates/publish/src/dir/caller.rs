//! [`Caller`]: makes the calls, and lets a test see each before.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::error::Error;
use crate::system::{Call, Steps};

/// How often one call is made again because a signal interrupted it.
const INTERRUPTIONS_MAX: u32 = 1_000;

/// Who makes a call: an open file or directory.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) steps: Option<Arc<dyn Steps>>,
    /// Where it was when opened. For messages only.
    pub(crate) shown: PathBuf,
}

impl Caller {
    /// A call that changes nothing.
    pub(crate) fn read<T>(
        &self,
        name: &'static str,
        run: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.make(name, false, run)
    }

    /// A call that can change what others see.
    pub(crate) fn write<T>(
        &self,
        name: &'static str,
        run: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.make(name, true, run)
    }

    pub(crate) fn make<T>(
        &self,
        name: &'static str,
        mutates: bool,
        mut run: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        for _ in 0..INTERRUPTIONS_MAX {
            let allowed = match &self.steps {
                Some(steps) => steps.before(&Call { name, mutates, path: &self.shown }),
                None => Ok(()),
            };
            match allowed.and_then(|()| run()) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
        Err(Errno::INTR)
    }

    /// Turns the errno of a call about `path`, below this, into an error.
    pub(crate) fn fail(
        &self,
        name: &'static str,
        path: impl AsRef<Path>,
    ) -> impl Fn(Errno) -> Error {
        let path = self.join(path.as_ref());
        move |errno| Error::of(name, &path, errno)
    }

    pub(crate) fn at(&self, path: impl AsRef<Path>) -> Self {
        Self { steps: self.steps.clone(), shown: self.join(path.as_ref()) }
    }

    /// The empty path is this itself, and not the same with a slash.
    fn join(&self, path: &Path) -> PathBuf {
        match path.as_os_str().is_empty() {
            true => self.shown.clone(),
            false => self.shown.join(path),
        }
    }
}
