//! Resources at rest: one encrypted file each, replaced whole.
//!
//! `<data directory>/resources/<repository>/<type>/<tag>`:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | `SLBRes01` |
//! | 8 | 8 | version, big endian: 1, then one more at each write |
//! | 16 | 8 | creation, seconds since 1970 UTC, big endian |
//! | 24 | 8 | last write, likewise |
//! | 32 | 28 + n | the value, sealed ([`crate::master`]) |
//!
//! The associated data is the 32 bytes before it and `\n<repository>/<type>/<tag>`, so that a file
//! cannot stand in for another and its metadata cannot be changed. An older copy of the same file
//! can be put back by whoever writes to the disk; only the audit log tells.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use seal::name::ResourceUri;
use secret::Secret;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::files::{self, Existing};
use crate::master::{Cipher, MasterKey, Purpose};

/// Largest value, in bytes: keys, with room for their private members.
pub const RESOURCE_BYTES_MAX: usize = 64 * 1024;
/// Most resources that one listing names.
pub const LISTED_MAX: usize = 10_000;

const MAGIC: &[u8; 8] = b"SLBRes01";
const HEADER_BYTES: usize = 32;
const SEAL_BYTES: usize = 28;

/// All resources of a data directory.
#[derive(Debug)]
pub(crate) struct Resources {
    root: PathBuf,
    cipher: Cipher,
}

/// What is known of a resource beside its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Metadata {
    /// Counts writes, from 1.
    pub(crate) version: u64,
    /// Seconds since 1970 UTC.
    pub(crate) created: u64,
    /// Seconds since 1970 UTC.
    pub(crate) updated: u64,
}

/// A file's content, authenticated.
struct Stored {
    metadata: Metadata,
    value: Zeroizing<Vec<u8>>,
}

/// A line of a listing.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Listed {
    /// `<repository>/<type>/<tag>`.
    pub(crate) resource: String,
    /// `None` if the file does not authenticate.
    #[serde(flatten)]
    pub(crate) metadata: Option<Metadata>,
}

impl Resources {
    /// Opens or creates the tree below `data_dir`.
    pub(crate) fn open(data_dir: &Path, master: &MasterKey) -> Result<Self, Error> {
        let root = data_dir.join("resources");
        files::create_dir(&root).map_err(|source| Error::file(&root, source))?;
        Ok(Self { root, cipher: master.cipher(Purpose::Resource) })
    }

    /// The value, or `None` if there is no such resource.
    pub(crate) fn read(&self, resource: &ResourceUri) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        Ok(self.load(resource)?.map(|stored| stored.value))
    }

    /// Whether there is a resource of this name, intact or not.
    pub(crate) fn exists(&self, resource: &ResourceUri) -> bool {
        self.path(resource).symlink_metadata().is_ok()
    }

    /// Whether the tree can be read at all.
    pub(crate) fn check(&self) -> Result<(), Error> {
        fs::read_dir(&self.root).map(drop).map_err(|source| Error::file(&self.root, source))
    }

    /// Stores a value. `now` is in seconds since 1970 UTC.
    pub(crate) fn write(
        &self,
        resource: &ResourceUri,
        value: &[u8],
        existing: Existing,
        now: u64,
    ) -> Result<Metadata, Error> {
        if value.is_empty() || value.len() > RESOURCE_BYTES_MAX {
            return Err(Error::ResourceSize { found: value.len(), limit: RESOURCE_BYTES_MAX });
        }
        let path = self.path(resource);
        let fail = |source| Error::file(&path, source);
        let _lock = files::lock(&self.root).map_err(fail)?;
        let dir = path.parent().unwrap_or(&self.root);
        files::create_dir(dir).and_then(|()| files::remove_unfinished(dir)).map_err(fail)?;
        let old = match self.load(resource) {
            Ok(old) => old.map(|stored| stored.metadata),
            // Overwriting is how a damaged file is repaired.
            Err(Error::Tampered { .. }) => None,
            Err(error) => return Err(error),
        };
        self.replace(resource, value, old, existing, now)
    }

    /// Replaces a value by what `change` makes of it, while nobody else writes. `None`: there is none.
    pub(crate) fn change<E: From<Error>>(
        &self,
        resource: &ResourceUri,
        now: u64,
        change: impl FnOnce(&[u8]) -> Result<Secret, E>,
    ) -> Result<Option<Metadata>, E> {
        let fail = |source| Error::file(&self.root, source);
        let _lock = files::lock(&self.root).map_err(fail)?;
        let Some(Stored { metadata, value }) = self.load(resource)? else { return Ok(None) };
        let value = change(&value)?;
        let replaced =
            self.replace(resource, value.expose(), Some(metadata), Existing::Replace, now)?;
        Ok(Some(replaced))
    }

    /// Writes a file; the lock is held.
    fn replace(
        &self,
        resource: &ResourceUri,
        value: &[u8],
        old: Option<Metadata>,
        existing: Existing,
        now: u64,
    ) -> Result<Metadata, Error> {
        let path = self.path(resource);
        let metadata = match old {
            Some(old) => Metadata {
                version: old.version.saturating_add(1),
                created: old.created,
                updated: now,
            },
            None => Metadata { version: 1, created: now, updated: now },
        };
        let mut file = header(metadata).to_vec();
        file.extend(self.cipher.seal(value, &context(&file, resource)));
        files::write(&path, &file, existing).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists(resource.path()),
            _ => Error::file(&path, source),
        })?;
        Ok(metadata)
    }

    /// Removes a resource; `false` if there was none.
    pub(crate) fn delete(&self, resource: &ResourceUri) -> Result<bool, Error> {
        let path = self.path(resource);
        let _lock = files::lock(&self.root).map_err(|source| Error::file(&path, source))?;
        match files::remove(&path) {
            Ok(()) => Ok(true),
            Err(source) if is_absent(&source) => Ok(false),
            Err(source) => Err(Error::file(&path, source)),
        }
    }

    /// Names and metadata, sorted, at most [`LISTED_MAX`]. Each file is authenticated.
    pub(crate) fn list(&self) -> Result<Vec<Listed>, Error> {
        let mut listed = Vec::new();
        self.list_below(&self.root, "", 0, &mut listed)?;
        listed.sort_unstable_by(|a, b| a.resource.cmp(&b.resource));
        Ok(listed)
    }

    fn list_below(
        &self,
        dir: &Path,
        prefix: &str,
        depth: usize,
        listed: &mut Vec<Listed>,
    ) -> Result<(), Error> {
        for entry in fs::read_dir(dir).map_err(|source| Error::file(dir, source))? {
            let entry = entry.map_err(|source| Error::file(dir, source))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{prefix}{name}");
            if name.starts_with('.') || listed.len() >= LISTED_MAX {
                continue;
            }
            if depth < 2 && entry.path().is_dir() {
                self.list_below(&entry.path(), &format!("{path}/"), depth + 1, listed)?;
            } else if let Ok(resource) = ResourceUri::from_path(&path) {
                match self.load(&resource) {
                    Ok(Some(stored)) => {
                        listed.push(Listed { resource: path, metadata: Some(stored.metadata) });
                    }
                    // Deleted since the directory was read.
                    Ok(None) => {}
                    Err(_) => listed.push(Listed { resource: path, metadata: None }),
                }
            }
        }
        Ok(())
    }

    fn load(&self, resource: &ResourceUri) -> Result<Option<Stored>, Error> {
        let path = self.path(resource);
        let file = match files::read_own(&path, HEADER_BYTES + RESOURCE_BYTES_MAX + SEAL_BYTES) {
            Ok(file) => file,
            Err(source) if is_absent(&source) => return Ok(None),
            Err(source) => return Err(Error::file(&path, source)),
        };
        self.parse(&file, resource).map(Some).ok_or(Error::Tampered { path })
    }

    fn parse(&self, file: &[u8], resource: &ResourceUri) -> Option<Stored> {
        let (head, sealed) = file.split_at_checked(HEADER_BYTES)?;
        let number = |at: usize| Some(u64::from_be_bytes(head[at..at + 8].try_into().ok()?));
        let metadata = Metadata { version: number(8)?, created: number(16)?, updated: number(24)? };
        let value = self.cipher.open(sealed, &context(head, resource)).ok()?;
        (head.starts_with(MAGIC) && !value.is_empty()).then_some(Stored { metadata, value })
    }

    fn path(&self, resource: &ResourceUri) -> PathBuf {
        // Safe to join: no segment of a `ResourceUri` is empty, begins with a dot or has a slash.
        self.root.join(resource.path())
    }
}

fn header(metadata: Metadata) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&metadata.version.to_be_bytes());
    header[16..24].copy_from_slice(&metadata.created.to_be_bytes());
    header[24..].copy_from_slice(&metadata.updated.to_be_bytes());
    header
}

fn context(header: &[u8], resource: &ResourceUri) -> Vec<u8> {
    [header, b"\n", resource.path().as_bytes()].concat()
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests;
