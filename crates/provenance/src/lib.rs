//! Publishers' signatures over a model's files: [OpenSSF Model Signing] 1.0, as the Python package
//! `model-signing` writes and reads it.
//!
//! Pure: bytes in, bytes out; files are read by the caller. The nouns are the modules':
//!
//! - [`trust`]: who is believed: public keys, authorities with the identities that they vouch for, or
//!   a Sigstore's trusted root with identities and their provider.
//! - [`bundle`]: the signature file: a Sigstore bundle around a DSSE envelope.
//! - [`statement`]: what is signed: the digests of files or shards, and what they were taken of.
//! - [`digest`]: the digests.
//! - [`key`]: ECDSA keys.
//!
//! Verification is in two steps, so that nothing large is hashed for a stranger:
//! [`Signature::verify`](bundle::Signature::verify) gives the statement and its signer, and
//! [`Statement::tasks`](statement::Statement::tasks) compares the set of files and says what is to
//! be hashed, and to which digest.
//!
//! [OpenSSF Model Signing]: https://github.com/ossf/model-signing-spec

pub mod bundle;
mod certificate;
pub mod digest;
mod error;
mod json;
pub mod key;
mod sigstore;
pub mod statement;
pub mod trust;

pub use error::Error;

/// The signature file's usual name.
pub const SIGNATURE_FILE: &str = "model.sig";
