//! Keys that users have elsewhere: Vault and OpenBao, AWS KMS, Google's Cloud KMS, Azure's Managed HSM,
//! PKCS#11 tokens.
//!
//! Two kinds. One releases a key, like the sources in [`keys`]: [`Vault::release`]. The others
//! never do: a [`RemoteKey`] wraps a fresh key when a bundle is sealed, and unwraps it when the
//! bundle is opened (`docs/format.md` §7). All speak of failures as [`keys::Error`], so that
//! [`keys::with_retry`] and the codes of the command line serve them alike.
//!
//! Guests' agents do not link this crate.

mod awskms;
mod azurekms;
mod gcpkms;
mod oauth;
mod pkcs11;
mod vault;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keys::Error;
use seal::key::{KEY_BYTES, Kek};
use seal::name::BundleId;
use secret::Secret;
use zeroize::Zeroizing;

pub use awskms::{AwsKms, AwsKmsSettings, CONTEXT};
pub use azurekms::{AzureKms, AzureKmsSettings};
pub use gcpkms::{GcpKms, GcpKmsSettings};
pub use pkcs11::{Pin, Pkcs11, Pkcs11Settings};
pub use vault::{Jwt, Login, Vault, VaultSettings};

/// A key that stays with its holder, who wraps and unwraps with it.
///
/// This is the place for further services: one that can encrypt 32 bytes and decrypt them again
/// needs a kind of [`seal::name::KeyUri`] and these two functions.
pub trait RemoteKey: Send + Sync {
    /// The kind of [`seal::name::KeyUri`] that names its keys.
    type Name;

    /// `vault`, `awskms`, `gcpkms`, `azurekms` or `pkcs11`: for logs and audit records.
    fn kind(&self) -> &'static str;

    /// `kek` wrapped by `key`, bound to `bundle` where the service can bind.
    fn wrap(
        &self,
        key: &Self::Name,
        kek: &Kek,
        bundle: &BundleId,
    ) -> impl Future<Output = Result<Vec<u8>, Error>> + Send;

    /// What [`RemoteKey::wrap`] was given. [`Error::Unwrap`] if it was another key, another bundle,
    /// or other bytes.
    fn unwrap(
        &self,
        key: &Self::Name,
        wrapped: &[u8],
        bundle: &BundleId,
    ) -> impl Future<Output = Result<Secret, Error>> + Send;
}

/// The key in what a service says it unwrapped, base64. Errors quote nothing of it.
fn decoded_key(text: &str, endpoint: &str) -> Result<Secret, Error> {
    // As long as the decoder's estimate for 44 characters.
    let mut bytes = Zeroizing::new([0; 36]);
    let decoded = match text.len() {
        44 => STANDARD.decode_slice(text, &mut *bytes).ok(),
        _ => None,
    };
    if decoded != Some(KEY_BYTES) {
        return Err(Error::protocol(endpoint, "what it unwrapped is no key of 32 bytes"));
    }
    Secret::copy(&bytes[..KEY_BYTES]).map_err(|error| Error::protocol(endpoint, error.to_string()))
}
