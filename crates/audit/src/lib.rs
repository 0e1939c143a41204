//! Typed audit events in hash-chained records.
//!
//! What could not be recorded did not happen: [`Log::record`] returns only when the record is
//! accepted by its sink (written and flushed to the device, for a file; [`Target`] says it of the
//! others), and on an error the caller does not go on.
//!
//! # Form
//!
//! One record a line, at most [`LINE_BYTES_MAX`] bytes with its newline:
//!
//! ```json
//! {"seq":1,"time":"2026-01-31T12:00:00.000000Z","prev":"<64 hex>","event":{"event":"…",…},"hash":"<64 hex>"}
//! ```
//!
//! `hash` is SHA-256 over the line's bytes before `,"hash":` and a `}`. `prev` is the hash of the
//! record before, 64 zeroes in the first; `seq` counts from 1.
//!
//! # Parts
//!
//! A file that the next record would make too long is renamed to `<name>.<number of its first record,
//! 20 digits>`, and a new one of the log's name continues its chain. [`Parts`] reads them as one.
//!
//! # What the chain shows, and what not
//!
//! [`verify`] finds every record that was changed, removed, inserted or moved, *given the hash of
//! the last one*. The chain has no key: who can write the whole file can write another chain, and
//! records cut off at the end leave a shorter, valid chain. So [`Summary::head`] is what to keep
//! elsewhere: a later [`Summary`] that does not pass through it is of another log.
//!
//! # After a crash
//!
//! A record is one write, undone if it fails. If the process is killed within it, the file may end
//! in a line without its newline. [`verify`] calls that torn, and [`Log::file`] refuses to append:
//! a torn line means that something was about to happen and did not, which a person should see.
//! Removing the bytes after the last newline makes the log whole again.

mod datagram;
mod error;
mod event;
mod http;
mod log;
mod parts;
mod receipt;
mod record;
mod target;
mod verify;

pub use error::Error;
pub use event::Event;
pub use log::{Log, PART_BYTES_DEFAULT, PART_BYTES_MAX, PART_BYTES_MIN};
pub use parts::Parts;
pub use receipt::{
    BrokerKeys, Countersigned, RECEIPT_TYPE, Receipt, Uncountersigned, Unreceipted, verify_receipts,
};
pub use record::{Head, LINE_BYTES_MAX, RECEIPT_BYTES_MAX, TEXT_BYTES_MAX};
pub use target::Target;
pub use verify::{Broken, Summary, Why, verify};
