//! Places that are read at one state, which is asked for once: repositories of hubs, artifacts of
//! registries. Their files have lengths, and often digests, but no versions.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::{Entry, Error, ObjectMeta, remote};

/// What a snapshot says of a file.
pub(crate) trait File {
    /// Its length.
    fn bytes(&self) -> u64;
}

/// Reads the 64 lower-case hexadecimal digits of a SHA-256.
pub(crate) fn sha256(text: &str) -> Option<[u8; 32]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = value(*high)? << 4 | value(*low)?;
    }
    Some(bytes)
}

/// The files of a snapshot, by name.
pub(crate) struct Files<F>(BTreeMap<String, F>);

impl<F: File> Files<F> {
    /// What the snapshot says of one.
    pub(crate) fn get(&self, object: &str) -> Result<&F, Error> {
        self.0.get(object).ok_or(Error::NotFound { object: String::new(), bucket: false })
    }

    pub(crate) fn stat(&self, object: &str) -> Result<ObjectMeta, Error> {
        Ok(ObjectMeta { bytes: self.get(object)?.bytes(), etag: None })
    }

    pub(crate) fn list(&self, entries_max: usize) -> Result<Vec<Entry>, Error> {
        if self.0.len() > entries_max {
            return Err(remote::too_many(entries_max));
        }
        let entry = |(name, file): (&String, &F)| Entry {
            name: name.clone(),
            bytes: file.bytes(),
            etag: None,
        };
        Ok(self.0.iter().map(entry).collect())
    }

    /// A file, and which of its bytes are meant: those that were asked for, else all.
    pub(crate) fn part(
        &self,
        object: &str,
        range: Option<Range<u64>>,
    ) -> Result<(&F, Range<u64>), Error> {
        let file = self.get(object)?;
        let range = range.unwrap_or(0..file.bytes());
        match range.end <= file.bytes() {
            true => Ok((file, range)),
            false => Err(Error::protocol("the object ends before the range that was asked for")),
        }
    }
}

impl<F> From<BTreeMap<String, F>> for Files<F> {
    fn from(files: BTreeMap<String, F>) -> Self {
        Self(files)
    }
}
