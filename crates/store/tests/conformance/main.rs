//! One suite for every source that a model can come from: the same cases, each against a server of
//! its own, real where there is one. What came of them is a table; see [`record`].

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod clouds;
mod near;
mod record;
mod stand_ins;
mod suite;
