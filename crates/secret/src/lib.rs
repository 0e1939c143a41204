//! Key bytes, kept out of swap, core dumps, logs and freed memory.
//!
//! This is the workspace's one crate with `unsafe` code (see `docs/adr/0002-one-unsafe-crate.md`):
//! locking pages and wiping freed heap blocks have no safe wrapper. Two things live here:
//!
//! - [`Secret`]: bytes in their own pages, locked, left out of core dumps, wiped when dropped.
//! - [`WipeOnFree`]: a global allocator that wipes small blocks when they are freed, so that a key
//!   which passed through a parser or an HTTP client's buffer does not outlive it.
//!
//! What it cannot reach: registers, the stack, kernel copies, and the expanded AES key inside
//! aws-lc, which wipes its own.

mod alloc;
mod pages;

pub use alloc::WipeOnFree;
pub use pages::{Secret, TooLong};
