//! [`Preflight`]: does the tree fit, asked before its first byte is fetched.

use std::fmt;
use std::path::PathBuf;

use crate::destination::Destination;
use crate::error::Error;
use crate::memory::{self, MemoryLimit};
use crate::plan::{Plan, directories};
use crate::staging::{Done, Journal, Tree};

/// What the process itself may still grow by while it works: its buffers and its stacks.
pub const MEMORY_SLACK_BYTES: u64 = 32 << 20;

const PAGE_BYTES: u64 = 4_096;
/// Staging directory, its three directories and files: everything that is not in the tree.
const INODES_OF_OURS: u64 = 8;
/// The receipt's fields beside its files.
const RECEIPT_FIELDS_BYTES: u64 = 4 * PAGE_BYTES;

/// What the tree needs and what there is. Already staged content counts as there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflight {
    /// Bytes still to be allocated, each file rounded up to pages, with the journal and receipt.
    pub need_bytes: u64,
    /// Inodes still to be allocated.
    pub need_inodes: u64,
    /// Bytes free in the filesystem; `None`: it has no limit of its own.
    pub space: Option<u64>,
    /// Inodes free in the filesystem; `None`: it has no limit.
    pub inodes: Option<u64>,
    /// The tightest limit on memory; `None`: no limit, or the filesystem is not memory.
    pub memory: Option<MemoryLimit>,
}

/// What there can be too little of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// Bytes in the filesystem: `size=` of a tmpfs.
    Space,
    /// Inodes in the filesystem: `nr_inodes=` of a tmpfs.
    Inodes,
    /// Bytes of memory, by the cgroup in this directory or by `/proc/meminfo`.
    Memory(PathBuf),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Space => f.write_str("bytes of the filesystem"),
            Self::Inodes => f.write_str("inodes of the filesystem"),
            Self::Memory(by) => write!(f, "bytes of memory by {}", by.display()),
        }
    }
}

/// [`Destination::preflight`].
pub(crate) fn preflight(destination: &Destination, plan: &Plan) -> Result<Preflight, Error> {
    plan.check()?;
    let staged = Tree::resumable(destination, plan)?;
    let found = measure(destination, plan, staged.as_ref())?;

    let short = |need, have: Option<u64>, of| match have {
        Some(have) if have < need => Err(Error::TooSmall { need, have, of }),
        _ => Ok(()),
    };
    short(found.need_bytes, found.space, Bound::Space)?;
    short(found.need_inodes, found.inodes, Bound::Inodes)?;
    if let Some(limit) = &found.memory {
        let need = found.need_bytes.saturating_add(MEMORY_SLACK_BYTES);
        short(need, Some(limit.available), Bound::Memory(limit.by.clone()))?;
    }
    Ok(found)
}

fn measure(
    destination: &Destination,
    plan: &Plan,
    staged: Option<&Tree>,
) -> Result<Preflight, Error> {
    let in_memory = destination.filesystem().is_memory();
    let directories = directories(plan.files.iter().map(|file| file.path.as_str())).len() as u64;

    // The journal exists twice while it is replaced, and the receipt is shorter than it.
    let journal = pages(Journal::new(plan).to_json()?.len() as u64);
    let mut need_bytes = pages(Done::size(&plan.files)) + 3 * journal + RECEIPT_FIELDS_BYTES;
    let mut need_inodes = INODES_OF_OURS;
    if !in_memory {
        need_bytes += directories * PAGE_BYTES;
    }
    if staged.is_none() {
        need_inodes += plan.files.len() as u64 + directories;
    }
    for file in &plan.files {
        need_bytes = need_bytes.saturating_add(pages(file.bytes));
    }
    need_bytes -= staged.map_or(0, |tree| tree.allocated);

    let stat = destination.dir().space()?;
    // A tmpfs without `size=`, ramfs, and filesystems that make inodes as needed, report a total of 0.
    let limited = |total: u64, free: u64| (total > 0).then_some(free);
    Ok(Preflight {
        need_bytes,
        need_inodes,
        space: limited(stat.f_blocks, stat.f_bavail.saturating_mul(stat.f_frsize)),
        inodes: limited(stat.f_files, stat.f_favail),
        memory: if in_memory { memory::tightest(destination.system()) } else { None },
    })
}

/// Bytes of the pages that hold `bytes`.
pub(crate) fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_BYTES).saturating_mul(PAGE_BYTES)
}
