//! Development only: a bucket, a key broker and a destination that misbehave on purpose, the
//! checkers that judge what came of it, and the planted bugs that show that the checkers see.

pub mod azure;
pub mod azure_vm;
pub mod bao;
pub mod clouds;
pub mod filter;
pub mod gcp;
pub mod hostile;
pub mod kata;
pub mod kbs;
pub mod kills;
pub mod kubelet;
pub mod line;
pub mod moto;
pub mod ocicrypt;
pub mod oracle;
pub mod packages;
pub mod pages;
pub mod planted;
pub mod proto;
pub mod registry;
pub mod relay;
pub mod s3;
pub mod sealer;
pub mod server;
pub mod sigstore;
mod skip;
pub mod softhsm;
pub mod steps;
pub mod swtpm;
pub mod tls;
pub mod torn;
pub mod tunnel;
pub mod web;

pub use skip::{COLLECTED, skip};
