//! [`Contents`]: files' contents as they arrive, by digest, before a revision needs them.

use std::collections::BTreeMap;
use std::fs::File;

use aws_lc_rs::digest::{Context, SHA256};
use rustix::fs::OFlags;

use ::volumes::tree::{Digest, Limits};

use super::error::{Error, within};
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

enum State {
    /// `written` bytes are there, hashed into the context.
    Partial { written: u64, context: Context },
    /// All of it, verified. `opened`: how long what was sealed in it is, which stands in its place.
    Complete { opened: Option<u64> },
}

impl Blob {
    /// What it takes, or will.
    fn takes(&self) -> u64 {
        match self.state {
            State::Partial { .. } => self.total,
            State::Complete { opened } => opened.unwrap_or(0).max(self.total),
        }
    }

    fn is_sealed(&self) -> bool {
        let unopened = matches!(self.state, State::Complete { opened: None });
        unopened && self.alike == SEALED_PREFIX.len()
    }
}

impl Contents {
    /// The length on the wire of contents that are complete.
    pub(super) fn complete(&self, digest: &Digest) -> Option<u64> {
        let blob = self.0.get(digest)?;
        matches!(blob.state, State::Complete { .. }).then_some(blob.total)
    }

    /// Whether contents are complete, sealed, and not opened yet: their length on the wire.
    pub(super) fn sealed(&self, digest: &Digest) -> Option<u64> {
        self.0.get(digest).filter(|blob| blob.is_sealed()).map(|blob| blob.total)
    }

    /// How long what was sealed in contents is; `None`: they are as they came.
    pub(super) fn opened(&self, digest: &Digest) -> Option<u64> {
        match self.0.get(digest)?.state {
            State::Complete { opened } => opened,
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

    /// Writes one piece. Returns how much is there now.
    pub(super) fn put(
        &mut self,
        staging: &Dir,
        limits: Limits,
        digest: Digest,
        total: u64,
        offset: u64,
        data: &[u8],
    ) -> Result<u64, Error> {
        let end = offset.saturating_add(data.len() as u64);
        if end > total {
            return Err(Error::Length { digest, found: end, said: total });
        }
        within("bytes of one file", total, limits.bytes)?;
        let length = |said| Error::Length { digest, found: total, said };
        let name = blob_name(&digest);
        let (file, mut context, alike) = match self.0.get(&digest) {
            Some(blob) if blob.total != total => return Err(length(blob.total)),
            Some(Blob { state: State::Complete { .. }, .. }) => return Ok(total),
            Some(Blob { state: State::Partial { written, context }, alike, .. }) if offset > 0 => {
                if offset != *written {
                    return Err(Error::Offset { digest, found: offset, expected: *written });
                }
                let file = staging.file(&name, OFlags::RDWR)?;
                let Some(file) = file else {
                    self.0.remove(&digest);
                    return Err(Error::Offset { digest, found: offset, expected: 0 });
                };
                (file, context.clone(), *alike)
            }
            None if offset > 0 => {
                return Err(Error::Offset { digest, found: offset, expected: 0 });
            }
            known => {
                // From the beginning, perhaps again.
                let others = self.0.len() - usize::from(known.is_some());
                within("staged files", others as u64 + 1, u64::from(limits.entries))?;
                self.0.remove(&digest);
                let staged = self.bytes().saturating_add(total);
                within("staged bytes", staged, limits.bytes)?;
                staging.unlink(&name)?;
                (staging.create_file(&name, 0o600)?, Context::new(&SHA256), 0)
            }
        };
        if let Err(error) = file.write_at(data, offset) {
            if !self.0.contains_key(&digest) {
                // Not known here, so the next attempt or the next revision removes what stays.
                let _ = staging.unlink(&name);
            }
            return Err(error.into());
        }
        context.update(data);
        let alike = alike_after(alike, offset, data);
        let state = if end < total {
            State::Partial { written: end, context }
        } else {
            let found = Digest::finished(context.finish());
            if found != digest {
                self.0.remove(&digest);
                let _ = staging.unlink(&name);
                return Err(Error::Digest { expected: digest, found });
            }
            State::Complete { opened: None }
        };
        self.0.insert(digest, Blob { total, alike, state });
        Ok(end)
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
            blob.state = State::Complete { opened: Some(length) };
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
