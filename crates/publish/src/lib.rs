//! A tree into place on Linux: all of it or none of it.
//!
//! A tree is filled in a staging directory inside its destination, which only its owner can read,
//! and made visible by renames when every byte of it is there. The last step writes a receipt: a
//! destination holds a model if, and only if, it holds a receipt. A kill at any system call, and an
//! error of any, leaves the old tree, the new tree, or something that the next run tidies up.
//!
//! # States
//!
//! What [`Destination::recover`] finds and does. *T* is the tree in the staging directory, *O* the
//! directory for what was published before; the journal is the last file of a new staging directory
//! and the first to be removed.
//!
//! | staging | journal | receipt | killed while | then |
//! | --- | --- | --- | --- | --- |
//! | none | – | none | (nothing) | empty |
//! | none | – | old or new | (nothing) | that tree |
//! | there | none | none, old or new | making or removing *T* | staging is removed |
//! | there | staging | none or old | filling *T* | kept if it is memory and of the manifest asked for, else removed |
//! | there | publishing | old | about to publish | as above |
//! | there | publishing | none | moving names | new names go back to *T*, old ones back from *O*, the old receipt last; then as above |
//! | there | publishing | new | tidying up | staging is removed |
//!
//! So nothing becomes visible by recovering: a tree whose publication was interrupted is published
//! by the run that has verified its manifest again, or not at all. What is staged on a disk is never
//! resumed, since somebody else may have written there in between.
//!
//! # What is trusted
//!
//! The directory's owner, and on memory-backed filesystems what an earlier run left. Symbolic links,
//! FIFOs, mounts and foreign names below the destination are never followed, opened or replaced:
//! every call is relative to a directory's descriptor ([`rustix::fs::openat2`], or one component at
//! a time). Within the top-level names of a published tree, everything is ours and goes when that
//! tree is replaced.

mod destination;
mod dir;
mod error;
mod exact;
mod filesystem;
mod layout;
mod memory;
mod plan;
mod preflight;
mod receipt;
mod staging;
mod switch;
mod system;
pub mod volumes;
mod wipe;

pub use destination::{Destination, Policy};
pub use error::Error;
pub use filesystem::Filesystem;
pub use memory::MemoryLimit;
pub use plan::{
    COMPONENT_BYTES_MAX, DEPTH_MAX, FILE_BYTES_MAX, FILES_MAX, PATH_BYTES_MAX, Plan, PlannedFile,
};
pub use preflight::{Bound, MEMORY_SLACK_BYTES, Preflight};
pub use receipt::{Receipt, ReceiptFile};
pub use staging::{StagedFile, Staging};
pub use system::{Call, Steps, System};
pub use wipe::wipe;
