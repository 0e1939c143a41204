//! The mounter: the one process of the two that may mount, and all that the other may ask it for.
//!
//! A process under Landlock may not mount, and the one that hears the host is to be under Landlock.
//! So the receiver asks over a socket pair, a message each way for every call of
//! [`publish::volumes::Mounter`]: names and numbers, no paths. The mounter takes the receiver for
//! somebody whom the host has taken over.

mod client;
mod dial;
mod server;
mod wire;

pub use self::client::Client;
pub use self::dial::{Passed, Switchboard};
pub use self::server::{Bounds, Ended, places, serve};
pub use self::wire::{ANSWER_BYTES_MAX, REQUEST_BYTES, Request};
