//! [`Done`]: which segments are written.

use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::OFlags;

use crate::dir::{Dir, File};
use crate::error::Error;
use crate::layout::DONE;
use crate::plan::PlannedFile;

/// One bit per segment, each file's bits beginning with a byte of its own; in memory and in the
/// staging directory. A bit is set only after the segment is written, first here, then there.
///
/// Two threads that finish segments of the same byte may store their bytes in either order. Then the
/// stored byte can lack a bit, never have one too many: a later run would write that segment again.
/// Callers give runs of 8 aligned segments to one worker, so this does not happen in practice.
pub(crate) struct Done {
    bytes: Box<[AtomicU8]>,
    /// First byte of each file.
    starts: Box<[usize]>,
    stored: File,
}

impl Done {
    /// No segment is written yet.
    pub(crate) fn create(staging: &Dir, files: &[PlannedFile]) -> Result<Self, Error> {
        let (starts, size) = layout(files);
        let stored = staging.create_file(DONE, 0o600)?;
        stored.resize(size as u64)?;
        let bytes = (0..size).map(|_| AtomicU8::new(0)).collect();
        Ok(Self { bytes, starts, stored })
    }

    /// What an earlier run stored; `None` if that is not about these files.
    pub(crate) fn read(staging: &Dir, files: &[PlannedFile]) -> Result<Option<Self>, Error> {
        let (starts, size) = layout(files);
        let Some(stored) = staging.file(DONE, OFlags::RDWR)? else { return Ok(None) };
        let Some(bytes) = stored.read(size)?.filter(|bytes| bytes.len() == size) else {
            return Ok(None);
        };
        let bytes = bytes.into_iter().map(AtomicU8::new).collect();
        Ok(Some(Self { bytes, starts, stored }))
    }

    /// Number of bytes of the stored form.
    pub(crate) fn size(files: &[PlannedFile]) -> u64 {
        layout(files).1 as u64
    }

    pub(crate) fn is_set(&self, file: usize, segment: u32) -> bool {
        let (byte, bit) = self.locate(file, segment);
        // Acquire pairs with the release of `set`: who sees the bit sees the written segment.
        self.bytes[byte].load(Ordering::Acquire) & bit != 0
    }

    pub(crate) fn set(&self, file: usize, segment: u32) -> Result<(), Error> {
        let (byte, bit) = self.locate(file, segment);
        let now = self.bytes[byte].fetch_or(bit, Ordering::AcqRel) | bit;
        self.stored.write_at(&[now], byte as u64)
    }

    fn locate(&self, file: usize, segment: u32) -> (usize, u8) {
        (self.starts[file] + segment as usize / 8, 1 << (segment % 8))
    }
}

/// First byte of each file, and the number of bytes in all.
fn layout(files: &[PlannedFile]) -> (Box<[usize]>, usize) {
    let mut size = 0;
    let starts = files.iter().map(|file| {
        let start = size;
        size += file.segments.div_ceil(8) as usize;
        start
    });
    (starts.collect(), size)
}
