//! Where keys come from.
//!
//! A [`KeySource`] turns the name of a key into its bytes, or says why it will not. Three exist:
//!
//! - [`Cdh`]: the Confidential Data Hub inside a Confidential Containers guest, which attests for
//!   us. Plain HTTP on loopback.
//! - [`Kbs`]: a key broker that speaks the KBS attestation protocol (Trustee, or our own broker),
//!   for confidential VMs without a data hub. We attest, with a pluggable [`Attester`].
//! - [`FileSource`]: development, and keys that Kubernetes mounts as a Secret.
//!
//! [`sealed`] opens Confidential Containers' sealed secrets with what they release.
//!
//! All of them pass one suite, [`conformance`]. [`release_with_retry`] is how programs ask: an
//! [`Error`] knows whether asking again can help. What is released lives in a
//! [`Secret`] and appears in no error, log or `Debug` output.

mod attest;
mod cdh;
pub mod conformance;
mod error;
mod file;
pub mod http;
mod kbs;
mod pem;
mod retry;
pub mod sealed;

use seal::name::ResourceUri;
use secret::Secret;

pub use attest::{
    AttestationKey, Attester, AzureTee, AzureVtpm, AzureVtpmError, Pcrs, SampleAttester, Tpm,
    TpmError, Tsm, TsmError,
};
pub use cdh::Cdh;
pub use error::{Cause, Error, printable};
pub use file::{FileSource, read_key};
pub use http::HttpSettings;
pub use kbs::{Kbs, RECEIPT_BYTES_MAX};
pub use retry::{Retry, release_with_retry, with_retry};

/// Something that releases keys.
pub trait KeySource: Send + Sync {
    /// `cdh`, `kbs` or `file`: for logs and audit records.
    fn kind(&self) -> &'static str;

    /// Asks once for `resource`. At most [`Secret::BYTES_MAX`] bytes, never none.
    fn release(&self, resource: &ResourceUri)
    -> impl Future<Output = Result<Secret, Error>> + Send;

    /// The same, with what the broker signed about it if it is a broker that does.
    fn release_signed(
        &self,
        resource: &ResourceUri,
    ) -> impl Future<Output = Result<Released, Error>> + Send {
        async { Ok(Released { key: self.release(resource).await?, receipt: None }) }
    }
}

/// A key, and what comes with it.
#[derive(Debug)]
pub struct Released {
    /// The key.
    pub key: Secret,
    /// The broker's signature under the release, for the audit log: a compact JWS of at most
    /// [`RECEIPT_BYTES_MAX`] bytes that nobody has verified. Only our broker sends one.
    pub receipt: Option<String>,
}

/// The key source that a program was configured with.
#[derive(Debug)]
#[non_exhaustive]
pub enum Source {
    /// The guest's Confidential Data Hub.
    Cdh(Cdh),
    /// A key broker.
    Kbs(Kbs),
    /// Files.
    File(FileSource),
}

impl KeySource for Source {
    fn kind(&self) -> &'static str {
        match self {
            Self::Cdh(cdh) => cdh.kind(),
            Self::Kbs(kbs) => kbs.kind(),
            Self::File(file) => file.kind(),
        }
    }

    async fn release(&self, resource: &ResourceUri) -> Result<Secret, Error> {
        match self {
            Self::Cdh(cdh) => cdh.release(resource).await,
            Self::Kbs(kbs) => kbs.release(resource).await,
            Self::File(file) => file.release(resource).await,
        }
    }

    async fn release_signed(&self, resource: &ResourceUri) -> Result<Released, Error> {
        match self {
            Self::Cdh(cdh) => cdh.release_signed(resource).await,
            Self::Kbs(kbs) => kbs.release_signed(resource).await,
            Self::File(file) => file.release_signed(resource).await,
        }
    }
}
