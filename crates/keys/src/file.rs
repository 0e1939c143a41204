//! [`FileSource`]: keys in files.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use seal::name::ResourceUri;
use secret::Secret;

use crate::{Error, KeySource};

/// Keys in one file, which answers for every name, or in a directory with a file
/// `<repository>/<type>/<tag>` for each.
///
/// Symbolic links are followed, since that is how Kubernetes mounts Secrets. What they lead to
/// must be a regular file.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
}

impl FileSource {
    /// The file or directory at `path`. It is opened when a key is asked for, not before.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }
}

impl KeySource for FileSource {
    fn kind(&self) -> &'static str {
        "file"
    }

    async fn release(&self, resource: &ResourceUri) -> Result<Secret, Error> {
        let (root, resource) = (self.path.clone(), resource.clone());
        let endpoint = self.path.display().to_string();
        tokio::task::spawn_blocking(move || release(&root, &resource)).await.unwrap_or_else(
            |stopped| {
                Err(Error::Unreachable {
                    endpoint,
                    why: "the runtime is shutting down".to_owned(),
                    source: Some(stopped.into()),
                })
            },
        )
    }
}

fn release(root: &Path, resource: &ResourceUri) -> Result<Secret, Error> {
    // A resource's segments have no separators and do not begin with a dot: the path stays below.
    let path = if root.is_dir() { root.join(resource.path()) } else { root.to_owned() };
    let failure = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => {
            Error::NotFound { resource: resource.into(), detail: path.display().to_string() }
        }
        _ => Error::File { path: path.clone(), source },
    };
    let (file, bytes) = open(&path).map_err(failure)?;
    if bytes > Secret::BYTES_MAX as u64 {
        let what = path.display().to_string();
        return Err(Error::TooLarge { what, limit: Secret::BYTES_MAX });
    }
    if bytes == 0 {
        return Err(Error::Empty { resource: resource.into() });
    }
    read(file, bytes).map_err(failure)
}

/// A key, or another secret, in a file of its own: at least one byte, at most [`Secret::BYTES_MAX`].
pub fn read_key(path: &Path) -> io::Result<Secret> {
    match open(path)? {
        (_, 0) => Err(io::Error::other("empty")),
        (_, bytes) if bytes > Secret::BYTES_MAX as u64 => Err(io::Error::other("too long")),
        (file, bytes) => read(file, bytes),
    }
}

/// Opens a regular file, and says how long it is.
fn open(path: &Path) -> io::Result<(File, u64)> {
    // Non-blocking, so that a FIFO in the key's place cannot hang us; it has no effect on a file.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.mode() & 0o007 != 0 {
        // Only a warning: the files of a mounted Secret are 0644 by default.
        tracing::warn!(path = %path.display(), "the key file is open to every user");
    }
    Ok((file, metadata.len()))
}

/// Reads exactly `bytes` straight into locked pages.
fn read(mut file: File, bytes: u64) -> io::Result<Secret> {
    let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
    let mut outcome = Ok(());
    let secret =
        Secret::fill(bytes, |page| outcome = file.read_exact(page)).map_err(io::Error::other)?;
    outcome?;
    match file.read(&mut [0])? {
        0 => Ok(secret),
        _ => Err(io::Error::other("the file grew while it was read")),
    }
}
