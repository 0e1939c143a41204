use crate::name::{BundlePath, KeyUri};

/// Why a bundle, a key or a token was refused. Each variant is a decision of the caller's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not a sealed bundle at all (the bucket may hold a plain model).
    #[error("not a sealed bundle: {0}")]
    NotSealed(&'static str),
    /// A bundle whose structure breaks a rule of the format: `what` names the part.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// The part: `sealift.json`, `envelope`, `predicate`, `recipient`, …
        what: &'static str,
        /// The rule that it breaks.
        why: String,
    },
    /// A format version or cipher that this program does not know: never guessed at.
    #[error("unsupported {what} {found:?}")]
    Unsupported {
        /// What is of an unknown kind.
        what: &'static str,
        /// What was found, shortened.
        found: String,
    },
    /// A name or path that may not be used.
    #[error("refused name {name:?}: {why}")]
    Name {
        /// The name, shortened and escaped.
        name: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// The released bytes cannot serve as a key.
    #[error("unusable key: {0}")]
    KeyUnusable(&'static str),
    /// No recipient of the bundle is wrapped for the key that the deployer named.
    #[error("not sealed for {resource}")]
    NoRecipient {
        /// The key that the deployer named.
        resource: KeyUri,
    },
    /// A recipient (or another JWE) is there, but the key does not open it: the wrong key, or
    /// changed bytes.
    #[error("the key does not open what was sealed for it")]
    Unwrap,
    /// The manifest's authentication code does not hold under the bundle's data key.
    #[error("the manifest is not authentic")]
    ManifestForged,
    /// An encrypted layer is not the one that was encrypted.
    #[error("the encrypted layer is not authentic")]
    LayerForged,
    /// A segment does not authenticate.
    #[error("segment {segment} is not authentic")]
    Segment {
        /// Index of the segment in its file, from 0.
        segment: u32,
    },
    /// A stored object is not as long as its manifest says.
    #[error("{path} has {found} bytes of ciphertext, the manifest says {expected}")]
    Length {
        /// The file.
        path: BundlePath,
        /// What the manifest asks for, in bytes.
        expected: u64,
        /// What is there, in bytes.
        found: u64,
    },
    /// A stored object's header is not the one that the manifest pins: other ciphertext.
    #[error("{path} is not the ciphertext that the manifest names")]
    Header {
        /// The file.
        path: BundlePath,
    },
    /// A digest is not the one asked for.
    #[error("{what} has digest {found}, expected {expected}")]
    DigestMismatch {
        /// What was digested.
        what: String,
        /// The digest asked for.
        expected: String,
        /// The digest found.
        found: String,
    },
    /// The manifest's generation is below the key's (or the deployer's) minimum.
    #[error("generation {found} of {name:?} is superseded, the minimum is {minimum}")]
    Stale {
        /// The model's name.
        name: String,
        /// The manifest's generation.
        found: u64,
        /// The lowest generation allowed.
        minimum: u64,
    },
    /// The key (or the deployer) allows other models, not this one.
    #[error("the key is not for model {name:?}")]
    ModelNotAllowed {
        /// The model's name in the manifest.
        name: String,
    },
    /// Nothing says which manifest is current, so an old one could stand in unnoticed.
    #[error("nothing pins the manifest of {name:?}")]
    Unpinned {
        /// The model's name in the manifest.
        name: String,
    },
    /// The recipient's key wraps for anybody, so it does not tell who sealed the bundle.
    #[error("anybody may wrap for {resource}, so it does not tell who sealed this")]
    Unvouched {
        /// The key's name.
        resource: KeyUri,
    },
    /// A number or size beyond its limit.
    #[error("{what} of {found} is over the limit of {limit}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// What was found.
        found: u64,
        /// The limit.
        limit: u64,
    },
}
