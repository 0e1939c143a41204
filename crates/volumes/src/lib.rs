//! What the host agent and the guest agent say to each other about volumes. Pure: bytes and values
//! in, values and bytes out; no I/O, no clock, no threads.
//!
//! A *volume* is a tree of directories and files that Kubernetes keeps current on the host: a
//! Secret, a ConfigMap, a projected token. A *revision* is one state of it, named by its [digest].
//! The host chooses what is in a revision, never where it goes: paths are relative and clean, modes
//! are plain, kinds are two, and each count and length has a limit that is checked before anything
//! is allocated for it.
//!
//! | module | holds |
//! |---|---|
//! | [`audience`] | whom a sealed secret is for |
//! | [`name`] | what volumes and their files may be called |
//! | [`tree`] | a revision's tree, its digest, the difference between two |
//! | [`wire`] | frames, fields, messages: `sealift.volumes.v1` over ttrpc |
//! | [`refusal`] | why the guest says no, in words that the host can act on |
//! | [`report`] | how a guest's volumes are, for people and programs |
//! | [`session`] | the guest's side of a connection |
//!
//! [digest]: tree::Tree::digest

pub mod audience;
mod error;
pub mod name;
pub mod refusal;
pub mod report;
pub mod session;
pub mod tree;
pub mod wire;

pub use error::{Error, chain};
