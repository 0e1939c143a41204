//! The embedded key broker: releases keys to guests that prove what they are.
//!
//! It speaks Confidential Containers' KBS attestation protocol 0.4 to guests and the part of
//! upstream's admin API that keys and the resource policy need, so that guests and tools work with
//! it as with Trustee, and Trustee can take its place by a change of URL. `docs/broker.md`
//! describes both, and what is kept on disk.
//!
//! The path of a request: [`server`] reads it within limits; [`service`] decides, with the
//! [`session`](service) in its cookie, the [`evidence`] verifiers and the Rego policies; the audit
//! log accepts a record; only then the answer leaves, encrypted for the guest's own key.

mod admin;
mod appraisal;
mod clock;
mod config;
mod error;
pub mod evidence;
mod files;
mod init;
mod init_data;
mod jwt;
mod master;
mod metrics;
mod migrate;
mod policy;
mod protocol;
mod rates;
mod refusal;
mod rego;
mod resources;
pub mod server;
pub mod service;
mod session;
mod throttle;
mod token;
mod watched;

pub use admin::{AUDIENCE, LIFETIME_SECONDS_MAX, ROLE};
pub use clock::{Clock, system_clock};
pub use config::{Config, TlsFiles};
pub use error::Error;
pub use init::{Initialized, init};
pub use master::MasterKey;
pub use migrate::{export, import};
pub use protocol::{ReportData, Tee, VERSION};
pub use rates::{BURST_SECONDS, CLIENT_RATE_DEFAULT, CLIENTS_MAX};
pub use rego::{EVALUATION_TIME_MAX, POLICY_BYTES_MAX};
pub use resources::{LISTED_MAX, RESOURCE_BYTES_MAX};
pub use session::{COOKIE_CHARS_MAX, SESSION_SECONDS};
pub use token::{ISSUER, TOKEN_SECONDS};
