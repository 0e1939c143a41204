//! Writing one object: nothing is visible under its name until [`ObjectWriter::finish`] has
//! returned.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags, fsync, openat, renameat, unlinkat};

use crate::Error;
use crate::local::{Local, TEMPORARY_PREFIX, blocking, failed};
use crate::remote::{self, Remote};
use crate::{hdfs, oci};

/// The usual part of a multipart upload.
const PART_BYTES: u64 = 8 * 1024 * 1024;
/// Parts that are sent at the same time. With one being filled and one waiting, six parts are in
/// memory.
pub(crate) const PARTS_IN_FLIGHT: usize = 4;

/// Writes one object, in order. Dropping it without [`finish`](Self::finish) leaves nothing behind,
/// as far as the store can still be reached.
pub struct ObjectWriter {
    sink: Sink,
    address: String,
    written: u64,
    bytes_max: u64,
}

enum Sink {
    Remote(Option<Box<opendal::Writer>>),
    Pushed(Option<Box<Push>>),
    Local(LocalFile),
}

/// An upload of our own making.
pub(crate) enum Push {
    Oci(oci::Upload),
    Hdfs(hdfs::Upload),
}

impl Push {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match self {
            Self::Oci(upload) => upload.write(bytes).await,
            Self::Hdfs(upload) => upload.write(bytes).await,
        }
    }

    async fn finish(&mut self) -> Result<(), Error> {
        match self {
            Self::Oci(upload) => upload.finish().await,
            Self::Hdfs(upload) => upload.finish().await,
        }
    }

    async fn abort(&mut self) -> Result<(), Error> {
        match self {
            Self::Oci(upload) => upload.abort().await,
            Self::Hdfs(upload) => upload.abort().await,
        }
    }
}

impl ObjectWriter {
    pub(crate) async fn remote(
        remote: &Remote,
        object: &str,
        bytes: Option<u64>,
        address: String,
    ) -> Result<Self, Error> {
        let parts_max = remote.parts().count_max;
        let part = part_bytes(bytes, parts_max);
        let writer = remote.writer(object, usize::try_from(part).unwrap_or(usize::MAX)).await?;
        let bytes_max = part.saturating_mul(parts_max);
        Ok(Self { sink: Sink::Remote(Some(Box::new(writer))), address, written: 0, bytes_max })
    }

    pub(crate) async fn local(local: &Local, object: &str, address: String) -> Result<Self, Error> {
        let (local, object) = (local.clone(), object.to_owned());
        let file = blocking(move || LocalFile::create(&local, &object)).await?;
        Ok(Self { sink: Sink::Local(file), address, written: 0, bytes_max: u64::MAX })
    }

    pub(crate) fn pushed(upload: Push, address: String) -> Self {
        let sink = Sink::Pushed(Some(Box::new(upload)));
        Self { sink, address, written: 0, bytes_max: u64::MAX }
    }

    /// Appends `bytes`. Waits while too many parts are on their way.
    ///
    /// # Errors
    /// The store's; the object cannot be finished after one.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.written = self.written.saturating_add(bytes.len() as u64);
        if self.written > self.bytes_max {
            let limit = self.bytes_max;
            return Err(Error::TooLarge {
                object: self.address.clone(),
                limit,
                unit: "bytes in as many parts as the service takes",
            });
        }
        let result = match &mut self.sink {
            Sink::Remote(Some(writer)) => {
                writer.write(bytes).await.map_err(|error| remote::failure(&error))
            }
            Sink::Pushed(Some(upload)) => upload.write(&bytes).await,
            Sink::Remote(None) | Sink::Pushed(None) => Err(ended()),
            Sink::Local(file) => file.write(bytes).await,
        };
        result.map_err(|error| error.at(&self.address))
    }

    /// For a caller with a thread of its own: where a local object can be written without a change
    /// of threads for each part.
    pub fn local_appender(&self) -> Option<LocalAppender> {
        match &self.sink {
            Sink::Local(local) => {
                Some(LocalAppender { file: Arc::clone(&local.file), address: self.address.clone() })
            }
            Sink::Remote(_) | Sink::Pushed(_) => None,
        }
    }

    /// Makes the object visible under its name, replacing what was there.
    ///
    /// # Errors
    /// The store's; then nothing is visible, unless the answer of an S3 service to the very last
    /// request was lost.
    pub async fn finish(mut self) -> Result<(), Error> {
        let result = match &mut self.sink {
            Sink::Remote(Some(writer)) => match writer.close().await {
                Ok(_) => {
                    self.sink = Sink::Remote(None);
                    Ok(())
                }
                Err(error) => {
                    // The error that matters is the first one.
                    let _ = writer.abort().await;
                    self.sink = Sink::Remote(None);
                    Err(remote::failure(&error))
                }
            },
            Sink::Pushed(upload) => match upload.take() {
                Some(mut upload) => match upload.finish().await {
                    Ok(()) => Ok(()),
                    Err(error) => {
                        let _ = upload.abort().await;
                        Err(error)
                    }
                },
                None => Err(ended()),
            },
            Sink::Remote(None) => Err(ended()),
            Sink::Local(file) => file.publish().await,
        };
        result.map_err(|error| error.at(&self.address))
    }

    /// Removes what was written so far.
    ///
    /// # Errors
    /// The store's; then parts of the upload may remain, which cost storage until the bucket's
    /// owner aborts them.
    pub async fn abort(mut self) -> Result<(), Error> {
        match &mut self.sink {
            Sink::Remote(writer) => match writer.take() {
                Some(mut writer) => {
                    writer.abort().await.map_err(|error| remote::failure(&error).at(&self.address))
                }
                None => Ok(()),
            },
            Sink::Pushed(upload) => match upload.take() {
                Some(mut upload) => upload.abort().await.map_err(|error| error.at(&self.address)),
                None => Ok(()),
            },
            // Dropping removes the file.
            Sink::Local(_) => Ok(()),
        }
    }
}

impl Drop for ObjectWriter {
    fn drop(&mut self) {
        let sink = match &mut self.sink {
            Sink::Remote(writer) => Sink::Remote(writer.take()),
            Sink::Pushed(upload) => Sink::Pushed(upload.take()),
            Sink::Local(_) => return,
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let address = std::mem::take(&mut self.address);
        runtime.spawn(async move {
            let aborted = match sink {
                Sink::Remote(Some(mut writer)) => {
                    writer.abort().await.map_err(|error| remote::failure(&error))
                }
                Sink::Pushed(Some(mut upload)) => upload.abort().await,
                _ => Ok(()),
            };
            if let Err(error) = aborted {
                tracing::warn!(object = address, %error, "parts of an upload may remain");
            }
        });
    }
}

impl std::fmt::Debug for ObjectWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectWriter")
            .field("address", &self.address)
            .field("written", &self.written)
            .finish()
    }
}

/// Appends to a local object on the thread that calls it, as [`ObjectWriter::write`] does on another.
#[derive(Debug)]
pub struct LocalAppender {
    file: Arc<File>,
    address: String,
}

impl LocalAppender {
    /// Appends `bytes`.
    ///
    /// # Errors
    /// The file system's; the object cannot be finished after one.
    pub fn append(&self, bytes: &[u8]) -> Result<(), Error> {
        append(&self.file, bytes).map_err(|error| error.at(&self.address))
    }
}

fn ended() -> Error {
    Error::protocol("the upload was ended before")
}

fn append(mut file: &File, bytes: &[u8]) -> Result<(), Error> {
    file.write_all(bytes).map_err(|error| failed("write", error))
}

/// Parts large enough that `bytes` fit into as many as are allowed; whole MiB.
fn part_bytes(bytes: Option<u64>, parts_max: u64) -> u64 {
    const MIB: u64 = 1024 * 1024;
    bytes.unwrap_or(0).div_ceil(parts_max).div_ceil(MIB).saturating_mul(MIB).max(PART_BYTES)
}

/// A file under a temporary name beside its final one.
struct LocalFile {
    dir: Arc<OwnedFd>,
    file: Arc<File>,
    temporary: String,
    base: String,
    published: bool,
}

impl LocalFile {
    fn create(local: &Local, object: &str) -> Result<Self, Error> {
        let (dir, base) = local.parent(object, true)?;
        // Random, as in a container every process has the same number.
        let temporary = format!("{TEMPORARY_PREFIX}{:016x}", RandomState::new().hash_one(object));
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&dir, &temporary, flags, Mode::from_raw_mode(0o644))
            .map_err(|errno| failed("create a file", errno))?;
        Ok(Self {
            dir: Arc::new(dir),
            file: Arc::new(File::from(file)),
            temporary,
            base: base.to_owned(),
            published: false,
        })
    }

    async fn write(&self, bytes: Bytes) -> Result<(), Error> {
        let file = self.file.clone();
        blocking(move || append(&file, &bytes)).await
    }

    async fn publish(&mut self) -> Result<(), Error> {
        let (dir, file) = (self.dir.clone(), self.file.clone());
        let (from, to) = (self.temporary.clone(), self.base.clone());
        blocking(move || {
            file.sync_all().map_err(|error| failed("write to disk", error))?;
            renameat(&dir, &from, &dir, &to).map_err(|errno| failed("rename", errno))?;
            fsync(&dir).map_err(|errno| failed("write to disk", errno))
        })
        .await?;
        self.published = true;
        Ok(())
    }
}

impl Drop for LocalFile {
    fn drop(&mut self) {
        if !self.published {
            // The name is gone already if only the last fsync failed.
            let _ = unlinkat(&self.dir, &self.temporary, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS_MAX: u64 = 10_000;

    #[test]
    fn parts_grow_so_that_the_largest_object_fits() {
        let gib = 1024 * 1024 * 1024;
        assert_eq!(part_bytes(None, PARTS_MAX), PART_BYTES);
        assert_eq!(part_bytes(Some(1), PARTS_MAX), PART_BYTES);
        assert_eq!(part_bytes(Some(PART_BYTES * PARTS_MAX), PARTS_MAX), PART_BYTES);
        for bytes in [PART_BYTES * PARTS_MAX + 1, 100 * gib, 5_000 * gib] {
            assert!(part_bytes(Some(bytes), PARTS_MAX) * PARTS_MAX >= bytes);
            assert!(part_bytes(Some(bytes), PARTS_MAX) <= 5 * gib);
        }
    }
}
