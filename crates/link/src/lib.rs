//! The sockets of both agents.
//!
//! | module | holds |
//! |---|---|
//! | [`exposition`] | measurements, as Prometheus reads them |
//! | [`pages`] | a few pages over HTTP, for who scrapes them |

pub mod exposition;
pub mod pages;
pub mod socket_file;
