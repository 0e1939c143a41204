/// Longest excerpt of foreign text in an error, in characters.
const EXCERPT_CHARS_MAX: usize = 100;

/// Why a signature, or a model, was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The signature file breaks a rule of its format.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// The part: `signature file`, `statement`, …
        what: &'static str,
        /// The rule that it breaks.
        why: String,
    },
    /// A form that this program does not know: never guessed at.
    #[error("unsupported {what} {found:?}")]
    Unsupported {
        /// What is of an unknown form.
        what: &'static str,
        /// What was found, shortened.
        found: String,
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
    /// What a keyless signature is proven with does not hold, or is not there.
    #[error("the {what} is refused: {why}")]
    Proof {
        /// The step: `log entry`, `checkpoint`, `timestamp`, …
        what: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// None of the public keys that are believed made the signature.
    #[error("none of the public keys given is the one that signed{0}")]
    UnknownKey(String),
    /// Signed with a key, with a certificate or keylessly, where only the others are believed.
    #[error("it is signed with a {found}, and no {found} is believed here")]
    OtherMaterial {
        /// What it is signed with.
        found: &'static str,
    },
    /// The signature does not hold for what it stands beside.
    #[error("the signature does not hold")]
    Forged,
    /// The certificate is not one to believe now.
    #[error("the signer's certificate is refused: {0}")]
    Certificate(String),
    /// The certificate is good, and somebody else's.
    #[error("the signer is {found}, which is none of the identities given")]
    Identity {
        /// The names that the certificate gives, shortened.
        found: String,
    },
    /// The signer's identity was proven to another provider than the one that is believed.
    #[error("the signer is vouched for by {found}, which is not the identity provider given")]
    Provider {
        /// The provider that the certificate names, shortened.
        found: String,
    },
    /// A file that was signed is not there.
    #[error("{path} was signed and is missing")]
    Missing {
        /// The file, shortened.
        path: String,
    },
    /// A file is there that was not signed.
    #[error("{path} is there and was not signed")]
    Extra {
        /// The file.
        path: String,
    },
    /// A file is not the one that was signed.
    #[error("{path} is not what was signed")]
    Changed {
        /// The file, shortened.
        path: String,
    },
    /// What was given as a key or certificate is none that can be used.
    #[error("unusable {what}: {why}")]
    Unusable {
        /// What was given.
        what: &'static str,
        /// Why it cannot be used.
        why: &'static str,
    },
}

pub(crate) fn malformed(what: &'static str, why: impl Into<String>) -> Error {
    Error::Malformed { what, why: why.into() }
}

/// The beginning of what somebody else wrote.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Refuses a form that is not the expected one.
pub(crate) fn known(what: &'static str, found: &str, expected: &str) -> Result<(), Error> {
    if found != expected {
        return Err(Error::Unsupported { what, found: excerpt(found) });
    }
    Ok(())
}

pub(crate) fn limit(what: &'static str, found: usize, limit: usize) -> Result<(), Error> {
    if found > limit {
        return Err(Error::Limit { what, found: found as u64, limit: limit as u64 });
    }
    Ok(())
}
