//! Whose signature a model must have.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use provenance::statement::{Method, SHARD_BYTES};

/// Whether a publisher's signature must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SignaturePolicy {
    /// There must be one, and it must hold.
    Require,
    /// If there is one, it must hold.
    Verify,
    /// Nobody looks at it.
    Off,
}

/// Which publishers are believed.
#[derive(Debug, Clone, Args)]
pub struct SignatureArgs {
    /// What becomes of models without a publisher's signature (OpenSSF Model Signing) [default: require
    /// with a key, authority or trusted root, else off]
    #[arg(long, value_enum, env = "SEALIFT_SIGNATURE_POLICY")]
    pub signature_policy: Option<SignaturePolicy>,
    /// Publishers' public keys, PEM; may be repeated
    #[arg(long, value_name = "FILE", env = "SEALIFT_SIGNATURE_KEY", value_delimiter = ',')]
    pub signature_key: Vec<PathBuf>,
    /// Authorities of publishers' certificates, PEM; may be repeated
    #[arg(
        long,
        value_name = "FILE",
        env = "SEALIFT_SIGNATURE_CA",
        value_delimiter = ',',
        requires = "signature_identity"
    )]
    pub signature_ca: Vec<PathBuf>,
    /// A Sigstore's trusted_root.json, or a client's trust configuration, for keyless signatures; verified
    /// offline
    #[arg(
        long,
        value_name = "FILE",
        env = "SEALIFT_SIGNATURE_TRUSTED_ROOT",
        requires_all = ["signature_identity", "signature_identity_provider"]
    )]
    pub signature_trusted_root: Option<PathBuf>,
    /// The OpenID provider that a keyless signer's identity must have been proven to, exactly as the
    /// certificate has it
    #[arg(
        long,
        value_name = "URL",
        env = "SEALIFT_SIGNATURE_IDENTITY_PROVIDER",
        requires = "signature_trusted_root"
    )]
    pub signature_identity_provider: Option<String>,
    /// Whose certificate it must be: an e-mail address or URI; with an authority also a DNS name or the
    /// whole subject (CN=…,O=…); may be repeated
    #[arg(long, value_name = "NAME", env = "SEALIFT_SIGNATURE_IDENTITY")]
    pub signature_identity: Vec<String>,
    /// The signature's name among the model's files
    #[arg(long, value_name = "PATH", default_value = provenance::SIGNATURE_FILE, env = "SEALIFT_SIGNATURE_FILE")]
    pub signature_file: String,
}

/// How a model is signed.
#[derive(Debug, Clone, Args)]
pub struct SigningArgs {
    /// Sign the model (OpenSSF Model Signing) with this ECDSA key, PKCS#8 PEM
    #[arg(long, value_name = "FILE", env = "SEALIFT_SIGN_KEY")]
    pub sign_key: Option<PathBuf>,
    /// What a digest is taken of: with shards, parts of one file are verified in parallel
    #[arg(long, value_enum, default_value = "files", requires = "sign_key")]
    pub sign_method: SignMethod,
    /// The signature's name among the model's files
    #[arg(long, value_name = "PATH", default_value = provenance::SIGNATURE_FILE, env = "SEALIFT_SIGNATURE_FILE")]
    pub signature_file: String,
}

/// What a digest is taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SignMethod {
    /// Each file.
    Files,
    /// Each 10^9 bytes of each file.
    Shards,
}

impl SignMethod {
    /// As the statement has it.
    pub fn method(self) -> Method {
        match self {
            Self::Files => Method::Files,
            Self::Shards => Method::Shards(SHARD_BYTES),
        }
    }
}
