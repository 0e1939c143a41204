//! [`Contents`]: files' contents as they arrive, by digest, before a revision needs them.

use std::collections::BTreeMap;
use std::fs::File;

use rustix::fs::OFlags;

use ::volumes::name::TreePath;
use ::volumes::tree::{Digest, Limits};

use super::error::{Error, within};
use super::hash::Hash;
use super::layout::blob_name;
use crate::dir::Dir;

/// What sealed contents begin with (Confidential Containers' sealed secrets).
pub const SEALED_PREFIX: &[u8] = b"sealed.";

/// What is in `staging/`, and how far it has come.
#[derive(Default)]
pub(super) struct Contents(BTreeMap<Digest, Blob>);

struct Blob {
    /// The length on the wire.
    total: u64,
    /// How many of its first bytes are those of [`SEALED_PREFIX`].
    alike: usize,
    state: State,
}

/// What was sealed in contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) bytes: u64,
    /// The one path that it may be at; `None`: any.
    pub(super) only_at: Option<TreePath>,
}

enum State {
    /// `written` bytes are there.
    Partial { written: u64, hash: Hash },
    /// All of it, verified. `opened`: what stands in its place.
    Complete { opened: Option<Opened> },
}

impl Blob {
    /// What it takes, or will.
    fn takes(&self) -> u64 {
        match self.state {
            State::Partial { .. } => self.total,
            State::Complete { ref opened } => {
                opened.as_ref().map_or(0, |opened| opened.bytes).max(self.total)
            }
        }
    }

    fn is_sealed(&self) -> bool {
        let unopened = matches!(self.state, State::Complete { opened: None });
        unopened && self.alike == SEALED_PREFIX.len()
    }
}

impl Contents {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The length on the wire of contents that are complete.
    pub(super) fn complete(&self, digest: &Digest) -> Option<u64> {
        let blob = self.0.get(digest)?;
        matches!(blob.state, State::Complete { .. }).then_some(blob.total)
    }

    /// Whether contents are complete, sealed, and not opened yet: their length on the wire.
    pub(super) fn sealed(&self, digest: &Digest) -> Option<u64> {
        self.0.get(digest).filter(|blob| blob.is_sealed()).map(|blob| blob.total)
    }

    /// What was sealed in contents; `None`: they are as they came.
    pub(super) fn opened(&self, digest: &Digest) -> Option<&Opened> {
        match &self.0.get(digest)?.state {
            State::Complete { opened } => opened.as_ref(),
            State::Partial { .. } => None,
        }
    }

    /// Whether a name in `staging/` is of something known here.
    pub(super) fn knows(&self, name: &[u8]) -> bool {
        let digest = str::from_utf8(name).ok().and_then(|name| name.strip_prefix("blob-"));
        digest.and_then(Digest::parse).is_some_and(|digest| self.0.contains_key(&digest))
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Writes one piece. Returns how much is there now, and, with the last piece of contents whose
    /// digest was [not named](Digest::UNNAMED), that.
    pub(super) fn put(
        &mut self,
        staging: &Dir,
        limits: Limits,
        digest: Digest,
        total: u64,
        offset: u64,
        data: &[u8],
    ) -> Result<(u64, Option<Digest>), Error> {
        let end = offset.saturating_add(data.len() as u64);
        if end > total {
            return Err(Error::Length { digest, found: end, said: total });
        }
        within("bytes of one file", total, limits.bytes)?;
        let again = digest == Digest::UNNAMED && offset == 0;
        let out_of_order = |expected| Err(Error::Offset { digest, found: offset, expected });
        let name = blob_name(&digest);
        let file = match self.0.get(&digest) {
            Some(blob) if blob.total != total && !again => {
                return Err(Error::Length { digest, found: total, said: blob.total });
            }
            Some(Blob { state: State::Complete { .. }, .. }) => return Ok((total, None)),
            Some(Blob { state: State::Partial { written, .. }, .. }) if offset > 0 => {
                if offset != *written {
                    return out_of_order(*written);
                }
                match staging.file(&name, OFlags::RDWR)? {
                    Some(file) => file,
                    None => {
                        self.0.remove(&digest);
                        return out_of_order(0);
                    }
                }
            }
            None if offset > 0 => return out_of_order(0),
            _ => self.begin(staging, limits, digest, total)?,
        };
        if let Err(error) = file.write_at(data, offset) {
            if offset == 0 {
                self.forget(staging, &digest);
            }
            return Err(error.into());
        }
        let Some(blob) = self.0.get_mut(&digest) else { return out_of_order(0) };
        blob.alike = alike_after(blob.alike, offset, data);
        if let State::Partial { written, hash } = &mut blob.state {
            hash.update(data);
            *written = end;
        }
        match end < total {
            true => Ok((end, None)),
            false => Ok((end, self.complete_now(staging, digest)?)),
        }
    }

    /// From the beginning, perhaps again.
    fn begin(
        &mut self,
        staging: &Dir,
        limits: Limits,
        digest: Digest,
        total: u64,
    ) -> Result<crate::dir::File, Error> {
        self.0.remove(&digest);
        let name = blob_name(&digest);
        staging.unlink(&name)?;
        within("staged files", self.0.len() as u64 + 1, u64::from(limits.entries))?;
        within("staged bytes", self.bytes().saturating_add(total), limits.bytes)?;
        let file = staging.create_file(&name, 0o600)?;
        let state = State::Partial { written: 0, hash: Hash::begin(total) };
        self.0.insert(digest, Blob { total, alike: 0, state });
        Ok(file)
    }

    /// All of it is there: it is what it was said to be, or gets its name.
    fn complete_now(&mut self, staging: &Dir, digest: Digest) -> Result<Option<Digest>, Error> {
        let Some(Blob { total, alike, state: State::Partial { hash, .. } }) =
            self.0.remove(&digest)
        else {
            return Ok(None);
        };
        let (name, found) = (blob_name(&digest), hash.finish());
        let complete = Blob { total, alike, state: State::Complete { opened: None } };
        if found == digest {
            self.0.insert(digest, complete);
            return Ok(None);
        }
        if digest != Digest::UNNAMED {
            let _ = staging.unlink(&name);
            return Err(Error::Digest { expected: digest, found });
        }
        match self.complete(&found) {
            // It came before, and may have been opened since.
            Some(_) => drop(staging.unlink(&name)?),
            None => {
                staging.move_over(&name, staging, &blob_name(&found))?;
                self.0.insert(found, complete);
            }
        }
        Ok(Some(found))
    }

    /// Removes what is there of contents. What cannot be removed now the next attempt or the next
    /// revision removes.
    pub(super) fn forget(&mut self, staging: &Dir, digest: &Digest) {
        self.0.remove(digest);
        let _ = staging.unlink(blob_name(digest));
    }

    /// Contents that are complete, to be read.
    pub(super) fn open(&self, staging: &Dir, digest: &Digest) -> Result<Option<File>, Error> {
        match self.complete(digest) {
            Some(_) => Ok(staging.linked_file(&blob_name(digest))?.map(crate::dir::File::into_std)),
            None => Ok(None),
        }
    }

    /// Exchanges complete contents by others, still filed under the same digest.
    pub(super) fn replace(
        &mut self,
        staging: &Dir,
        limits: Limits,
        digest: Digest,
        bytes: &[u8],
        only_at: Option<TreePath>,
    ) -> Result<(), Error> {
        let length = bytes.len() as u64;
        let Some(blob) = self.0.get(&digest).filter(|_| self.complete(&digest).is_some()) else {
            return Err(Error::Lacking { count: 1, first: digest });
        };
        if bytes.starts_with(SEALED_PREFIX) {
            return Err(Error::Sealed { count: 1, first: digest });
        }
        let others = self.bytes() - blob.takes();
        within("staged bytes", others.saturating_add(length.max(blob.total)), limits.bytes)?;
        let name = blob_name(&digest);
        let opened = format!("opened-{digest}");
        staging.unlink(&opened)?;
        let written = staging
            .create_file(&opened, 0o600)
            .and_then(|file| file.write_at(bytes, 0))
            .and_then(|()| staging.move_over(&opened, staging, &name));
        if let Err(error) = written {
            let _ = staging.unlink(&opened);
            return Err(error.into());
        }
        if let Some(blob) = self.0.get_mut(&digest) {
            blob.state = State::Complete { opened: Some(Opened { bytes: length, only_at }) };
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.0.values().fold(0, |sum: u64, blob| sum.saturating_add(blob.takes()))
    }
}

/// How many bytes are those of [`SEALED_PREFIX`] once `data` is there at `offset`, of which `alike`
/// were before.
fn alike_after(alike: usize, offset: u64, data: &[u8]) -> usize {
    match usize::try_from(offset) {
        Ok(offset) if offset == alike => {
            let rest = &SEALED_PREFIX[alike..];
            alike + rest.iter().zip(data).take_while(|(expected, byte)| expected == byte).count()
        }
        _ => alike,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_seen_however_it_is_cut() {
        for (text, sealed) in [
            ("sealed.x", true),
            ("sealed.", true),
            ("sealed", false),
            ("sealex.sealed.", false),
            ("", false),
            ("ssealed.", false),
        ] {
            for cut in 0..=text.len() {
                let (first, second) = text.as_bytes().split_at(cut);
                let alike = alike_after(alike_after(0, 0, first), cut as u64, second);
                assert_eq!(alike == SEALED_PREFIX.len(), sealed, "{text} cut at {cut}");
            }
        }
    }
}
