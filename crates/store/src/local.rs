//! A local directory: a mounted volume, or a bundle on a laptop.
//!
//! The directory itself may be reached through symbolic links, since whoever names it chose it.
//! Below it none is followed: each component is opened relative to the one before.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, mkdirat, openat, statat};
use rustix::io::Errno;

use crate::stream::ObjectStream;
use crate::{Entry, Error, ObjectMeta, name, remote};

/// How much is read at once.
const READ_BYTES: usize = 1024 * 1024;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Names of files that are being written. A killed upload leaves one behind; listings skip it.
pub(crate) const TEMPORARY_PREFIX: &str = ".sealift-upload-";

/// A directory.
#[derive(Clone)]
pub(crate) struct Local {
    root: Arc<Path>,
}

impl Local {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root: root.into() }
    }

    pub(crate) async fn stat(&self, object: &str) -> Result<ObjectMeta, Error> {
        let (this, object) = (self.clone(), object.to_owned());
        blocking(move || Ok(meta(&this.open(&object)?.1))).await
    }

    pub(crate) async fn get(
        &self,
        object: &str,
        range: Option<Range<u64>>,
        etag: Option<&str>,
        address: String,
    ) -> Result<ObjectStream, Error> {
        let (this, object) = (self.clone(), object.to_owned());
        let (file, stat) = blocking(move || this.open(&object)).await?;
        let meta = meta(&stat);
        if etag.is_some() && etag != meta.etag.as_deref() {
            return Err(Error::Changed { object: String::new() });
        }
        let range = range.unwrap_or(0..meta.bytes);
        if range.end > meta.bytes {
            return Err(Error::protocol("the object ends before the range that was asked for"));
        }
        let chunks =
            stream::try_unfold((Arc::new(file), range.clone()), |(file, left)| async move {
                if left.is_empty() {
                    return Ok(None);
                }
                let (reader, start) = (file.clone(), left.start);
                let length =
                    usize::try_from(left.end - start).unwrap_or(usize::MAX).min(READ_BYTES);
                let chunk = blocking(move || read_at(&reader, start, length)).await?;
                let next = start + chunk.len() as u64..left.end;
                Ok(Some((chunk, (file, next))))
            });
        Ok(ObjectStream::new(Box::pin(chunks), address, &range, None))
    }

    /// Opens a regular file below the root for reading.
    pub(crate) fn open(&self, object: &str) -> Result<(File, Stat), Error> {
        let (parent, base) = self.parent(object, false)?;
        // O_NONBLOCK: opening a FIFO must not hang.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file =
            openat(&parent, base, flags, Mode::empty()).map_err(|errno| failed("open", errno))?;
        let stat = fstat(&file).map_err(|errno| failed("open", errno))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok((File::from(file), stat)),
            _ => Err(Error::protocol("the object is not a regular file")),
        }
    }

    /// The directory that holds `object`, made on the way if asked, and the object's last
    /// component.
    pub(crate) fn parent<'a>(
        &self,
        object: &'a str,
        make: bool,
    ) -> Result<(OwnedFd, &'a str), Error> {
        if make {
            std::fs::create_dir_all(&self.root)
                .map_err(|error| failed("create the directory", error))?;
        }
        let mut dir = openat(CWD, &*self.root, DIRECTORY, Mode::empty())
            .map_err(|errno| failed("open", errno))?;
        let Some((parents, base)) = object.rsplit_once('/') else { return Ok((dir, object)) };
        for component in parents.split('/') {
            if make {
                match mkdirat(&dir, component, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(failed("create the directory", errno)),
                }
            }
            dir = openat(&dir, component, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
                .map_err(|errno| failed("open", errno))?;
        }
        Ok((dir, base))
    }

    /// Removes what killed uploads have left behind.
    pub(crate) async fn remove_unfinished(&self) -> Result<(), Error> {
        let root = Arc::clone(&self.root);
        blocking(move || match root.exists() {
            true => sweep(&root, name::DEPTH_MAX).map_err(|error| failed("tidy", error)),
            false => Ok(()),
        })
        .await
    }

    pub(crate) async fn list(&self, entries_max: usize) -> Result<Vec<Entry>, Error> {
        let this = self.clone();
        blocking(move || {
            let root = openat(CWD, &*this.root, DIRECTORY, Mode::empty())
                .map_err(|errno| failed("open", errno))?;
            let mut entries = Vec::new();
            let mut left = entries_max;
            walk(&root, "", &mut entries, &mut left)
                .map_err(|error| error.unwrap_or_else(|| remote::too_many(entries_max)))?;
            Ok(entries)
        })
        .await
    }
}

/// Removes temporary files below `dir`; goes through no link, and no deeper than names do.
fn sweep(dir: &Path, depth_left: usize) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && depth_left > 0 {
            sweep(&entry.path(), depth_left - 1)?;
        } else if kind.is_file()
            && entry.file_name().as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes())
        {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Collects the files below `dir`; `Err(None)` when there are more than `left` files and
/// directories.
fn walk(
    dir: &OwnedFd,
    prefix: &str,
    entries: &mut Vec<Entry>,
    left: &mut usize,
) -> Result<(), Option<Error>> {
    let list = |errno: Errno| Some(failed("list", errno));
    for entry in Dir::read_from(dir).map_err(list)? {
        let entry = entry.map_err(list)?;
        let file_name = entry.file_name();
        if matches!(file_name.to_bytes(), b"." | b"..") {
            continue;
        }
        *left = left.checked_sub(1).ok_or(None)?;
        let Ok(base) = file_name.to_str() else {
            return Err(Some(Error::protocol("the directory holds a name that is not UTF-8")));
        };
        if base.starts_with(TEMPORARY_PREFIX) {
            continue;
        }
        let full = crate::location::joined(prefix, base);
        if let Some(fault) = name::fault(&full) {
            return Err(Some(Error::protocol(format!(
                "the directory holds {}, which {fault}",
                name::quoted(&full)
            ))));
        }
        let stat = statat(dir, file_name, AtFlags::SYMLINK_NOFOLLOW).map_err(list)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let ObjectMeta { bytes, etag } = meta(&stat);
                entries.push(Entry { name: full, bytes, etag });
            }
            FileType::Directory => {
                let below = openat(dir, file_name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
                    .map_err(list)?;
                walk(&below, &full, entries, left)?;
            }
            _ => {
                let what = format!(
                    "the directory holds {}, which is not a regular file",
                    name::quoted(&full)
                );
                return Err(Some(Error::protocol(what)));
            }
        }
    }
    Ok(())
}

/// A file has no entity tag; its identity, length and modification time serve as one.
fn meta(stat: &Stat) -> ObjectMeta {
    let etag = format!(
        "{:x}-{:x}-{:x}-{}.{}",
        stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec
    );
    ObjectMeta { bytes: u64::try_from(stat.st_size).unwrap_or(0), etag: Some(etag) }
}

fn read_at(file: &File, offset: u64, length: usize) -> Result<Bytes, Error> {
    let mut chunk = BytesMut::zeroed(length);
    match file.read_exact_at(&mut chunk, offset) {
        Ok(()) => Ok(chunk.freeze()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Error::Changed { object: String::new() })
        }
        Err(error) => Err(failed("read", error)),
    }
}

/// What a failed system call means.
pub(crate) fn failed(what: &'static str, error: impl Into<io::Error>) -> Error {
    let error = error.into();
    let object = String::new();
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT) => Error::NotFound { object, bucket: false },
        Some(Errno::ACCESS | Errno::PERM) => {
            Error::Denied { object, reason: format!("cannot {what}") }
        }
        Some(Errno::LOOP | Errno::NOTDIR) => {
            Error::protocol("a symbolic link or a file is in the way")
        }
        _ => Error::Local { object, what, cause: Arc::new(error) },
    }
}

/// Runs file operations off the async threads.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, Error>
where
    F: FnOnce() -> Result<T, Error> + Send + 'static,
    T: Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Only a runtime that shuts down cancels the work; a panic goes on where it was waited for.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(failed("finish: the program is ending", io::Error::other(error))),
        },
    }
}
