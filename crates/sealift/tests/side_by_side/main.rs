//! KServe's own storage initializer (`kserve-storage`, the package of its image, driven as the image
//! drives it) beside ours, on the same sources: the same files with the same bytes, except where
//! docs/places.md says otherwise; and what either does with files that somebody changed.
//!
//! Each comparison adds a line to the file that `SEALIFT_COMPARED` names, of what both sides were
//! seen to do; `cargo xtask compare` makes README.md's table of these lines.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;
mod differences;
mod encrypted;
mod harness;
mod places;
