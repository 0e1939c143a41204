//! [`Records`]: the kernel's `struct inotify_event`, one after another.
//!
//! | bytes | holds |
//! |---|---|
//! | 4 | watch descriptor, -1 for an overflow |
//! | 4 | what happened |
//! | 4 | cookie |
//! | 4 | length of the name with its padding |
//! | as many | name, filled up with NUL |

use rustix::fs::inotify::ReadFlags;

/// Before the name.
pub(super) const HEADER_BYTES: usize = 16;

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) descriptor: i32,
    pub(super) happened: ReadFlags,
    /// In the directory; empty for the directory itself.
    pub(super) name: &'a [u8],
}

/// What is left of a buffer. `None` for what is no record, which ends it.
pub(super) struct Records<'a> {
    left: &'a [u8],
}

impl<'a> Records<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let mut word = || {
            let (word, rest) = self.left.split_first_chunk::<4>()?;
            self.left = rest;
            Some(*word)
        };
        let descriptor = i32::from_ne_bytes(word()?);
        let happened = ReadFlags::from_bits_retain(u32::from_ne_bytes(word()?));
        word()?;
        let length = usize::try_from(u32::from_ne_bytes(word()?)).ok()?;
        let (name, rest) = self.left.split_at_checked(length)?;
        self.left = rest;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        Some(Record { descriptor, happened, name: &name[..end] })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Option<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        let record = self.record();
        if record.is_none() {
            self.left = &[];
        }
        Some(record)
    }
}
