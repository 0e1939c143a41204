//! Why the broker cannot start or carry on. What a client is told is a [`crate::refusal`].

use std::io;
use std::path::{Path, PathBuf};

/// Each variant is a decision of the caller's: which file or flag to look at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("{} cannot be used", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The master key file does not hold a key.
    #[error("the master key is unusable: {0}")]
    MasterKey(&'static str),
    /// A file of ours does not authenticate: changed, moved, or written under another master key.
    #[error("{} was changed, or belongs to another master key", path.display())]
    Tampered {
        /// The file.
        path: PathBuf,
    },
    /// A resource that was to be created exists.
    #[error("resource {0} exists")]
    Exists(String),
    /// A file that is to be imported is not where a resource is.
    #[error("{} is no resource: resources/REPOSITORY/TYPE/TAG are", .0.display())]
    NotAResource(PathBuf),
    /// A resource is empty or too large.
    #[error("a resource has 1 to {limit} bytes, this one has {found}")]
    ResourceSize {
        /// Its length in bytes.
        found: usize,
        /// The largest length allowed, in bytes.
        limit: usize,
    },
    /// The resource policy cannot be used.
    #[error("the resource policy is unusable: {0}")]
    Policy(String),
    /// The policy comes from a file that only the operator changes.
    #[error("the resource policy is managed by the file {}", .0.display())]
    PolicyIsFile(PathBuf),
    /// The attestation policy cannot be used.
    #[error("the attestation policy is unusable: {0}")]
    AttestationPolicy(String),
    /// The reference values cannot be used.
    #[error("the reference values in {} are unusable: {why}", path.display())]
    ReferenceValues {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        why: String,
    },
    /// A file of AMD's certificates holds something else.
    #[error("{} holds a certificate that is no ASK or ASVK of AMD's: {why}", path.display())]
    AmdCertificates {
        /// The file.
        path: PathBuf,
        /// Which, and why not.
        why: String,
    },
    /// A file that should hold an administrator's public key does not.
    #[error("{} holds no Ed25519 public key in PEM", path.display())]
    AdminKey {
        /// The file.
        path: PathBuf,
    },
    /// A file that should hold TPMs' attestation keys does not.
    #[error("{} holds something else than public keys of P-256 or RSA in PEM", path.display())]
    TpmKey {
        /// The file.
        path: PathBuf,
    },
    /// The certificate or its key cannot be used.
    #[error("the TLS certificate or key is unusable: {0}")]
    Tls(String),
    /// Settings that are not allowed together.
    #[error("{0}")]
    Settings(&'static str),
    /// The process could not give up what it does not need.
    #[error("cannot be confined (where the sandbox around it has no seccomp: --confine false)")]
    Confine(#[source] confine::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The audit log cannot be written, so nothing may be done.
    #[error("the audit log cannot be used")]
    Audit(#[source] audit::Error),
}

impl Error {
    pub(crate) fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }
}
