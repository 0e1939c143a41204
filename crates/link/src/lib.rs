//! The way between the two agents: sockets whose peer is known, with deadlines that hold however the
//! peer drips.
//!
//! | transport | the listening side hears | the dialling side knows |
//! |---|---|---|
//! | `unix:` | root and its own user | the file's path |
//! | `vsock:`, `hvsock:` | the host, CID 2 | the virtual machine |
//! | `tls:` | who holds a certificate of its CA, and one of its names if it has any | the guest, by its certificate and name |
//!
//! | module | holds |
//! |---|---|
//! | [`dial`] | where a guest is, and the way there |
//! | [`listen`] | where a guest listens, and who may connect |
//! | [`stream`] | a connection, whatever is below it |
//! | [`tls`] | TLS 1.3 with certificates on both sides |
//! | [`local`] | socket files |
//! | [`pages`], [`exposition`] | metrics, as Prometheus scrapes and reads them |

pub mod dial;
pub mod exposition;
pub mod listen;
pub mod local;
pub mod pages;
pub mod stream;
pub mod tls;

pub use stream::{Closer, Stream};
