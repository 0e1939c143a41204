//! The sealed bundle: what it is made of, how it is written, how it is opened.
//!
//! Pure: bytes in, bytes out; no I/O, no async, no `unsafe`. `docs/format.md` is the byte-exact
//! description; the modules carry its nouns:
//!
//! - [`name`]: what bundles, files, models and keys are called, and which names are refused.
//! - [`segment`]: Tink streaming AEAD, `AES256_GCM_HKDF_1MB`: the bytes of each file.
//! - [`key`]: the data key (DEK) of one sealing and the key that wraps it (KEK), with its pins.
//! - [`jwe`]: RFC 7516 as far as recipients, key brokers and upstream's files need it.
//! - [`ocicrypt`]: encrypted layers of container images, as far as they are read.
//! - [`manifest`]: the in-toto statement in its DSSE envelope.
//! - [`pin`]: freshness: which manifest may be opened now.
//! - [`bundle`]: `sealift.json`: parse, open (unwrap, verify, check the pin), seal, rewrap.

pub mod bundle;
mod error;
mod json;
pub mod jwe;
pub mod key;
pub mod manifest;
pub mod name;
pub mod ocicrypt;
pub mod pin;
pub mod segment;

pub use error::Error;
