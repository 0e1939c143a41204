//! Which error of which library is which code.

use super::{Failure, chain};
use crate::code::Code;

impl From<seal::Error> for Failure {
    fn from(error: seal::Error) -> Self {
        use seal::Error;
        let code = match &error {
            Error::NotSealed(_) => Code::NotSealed,
            Error::KeyUnusable(_) => Code::KeyUnusable,
            Error::DigestMismatch { .. } => Code::Mismatch,
            Error::Stale { .. }
            | Error::ModelNotAllowed { .. }
            | Error::Unpinned { .. }
            | Error::Unvouched { .. } => Code::Stale,
            _ => Code::Tampered,
        };
        let failure = Self::new(code, chain(&error));
        match &error {
            Error::NoRecipient { .. } => {
                failure.hint("Name one of the keys that `sealift inspect` shows")
            }
            Error::Unwrap => failure.hint("It is the wrong key, or the bundle was changed"),
            Error::Unsupported { .. } => failure.hint("A newer Sealift may know it"),
            Error::Unpinned { .. } => failure.hint(
                "Register the key with `sealift key put --model NAME@GENERATION`, add \
                 #digest=sha256:… to the URI, or say --allow-unpinned",
            ),
            Error::Unvouched { .. } => failure.hint(
                "Open it with the manifest digest that `sealift seal` printed, as #digest=sha256:… \
                 in the URI; to rewrap, open it by another of its keys",
            ),
            _ => failure,
        }
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        use store::Error;
        let code = match &error {
            Error::NotFound { .. } => Code::NotFound,
            Error::Denied { .. } => Code::AccessDenied,
            Error::Tls { .. } => Code::Tls,
            Error::Usage { .. } | Error::Unsupported { .. } => Code::Usage,
            Error::TooLarge { .. } => Code::Tampered,
            _ => Code::Network,
        };
        Self::new(code, chain(&error))
    }
}

impl From<provenance::Error> for Failure {
    fn from(error: provenance::Error) -> Self {
        use provenance::Error;
        let code = match &error {
            Error::Unusable { .. } => Code::Usage,
            _ => Code::Signature,
        };
        let failure = Self::new(code, chain(&error));
        match &error {
            Error::OtherMaterial { .. } => failure.hint(
                "Say who is believed: --signature-key, --signature-ca or --signature-trusted-root",
            ),
            Error::Provider { .. } => {
                failure.hint("Compare --signature-identity-provider with the publisher's")
            }
            Error::Proof { .. } => failure
                .hint("If the trusted root is an old one, take the current one of that Sigstore"),
            Error::UnknownKey(_) => {
                failure.hint("Compare --signature-key with the publisher's key")
            }
            Error::Extra { .. } | Error::Missing { .. } | Error::Changed { .. } => {
                failure.hint("Fetch the model from its publisher again, or have it signed anew")
            }
            _ => failure,
        }
    }
}

impl From<keys::Error> for Failure {
    fn from(error: keys::Error) -> Self {
        use keys::Error;
        let code = match &error {
            Error::Attestation { .. } | Error::Evidence { .. } => Code::Attestation,
            Error::Login { .. } => Code::AccessDenied,
            Error::Denied { .. } => Code::KeyDenied,
            Error::Unwrap { .. } => Code::Tampered,
            Error::NotFound { .. } => Code::KeyNotFound,
            Error::Empty { .. }
            | Error::TooLarge { .. }
            | Error::SignerUnusable { .. }
            | Error::KeyUnusable(_) => Code::KeyUnusable,
            Error::Sealed(_) => Code::Tampered,
            Error::Signature { .. } => Code::Mismatch,
            Error::Audience(_) => Code::Audience,
            Error::Tls { .. } => Code::Tls,
            Error::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Code::KeyNotFound
            }
            Error::File { .. } => Code::KeyUnusable,
            Error::Usage(_) => Code::Usage,
            _ => Code::KeyUnreachable,
        };
        let failure = Self::new(code, chain(&error));
        match &error {
            Error::Unwrap { .. } => {
                failure.hint("It was wrapped for another key or another bundle, or it was changed")
            }
            _ => failure,
        }
    }
}

impl From<publish::Error> for Failure {
    fn from(error: publish::Error) -> Self {
        use publish::Error;
        let code = match &error {
            Error::NotMemoryBacked { .. } => Code::NotMemory,
            Error::TooSmall { .. } | Error::Full { .. } => Code::TooSmall,
            Error::InvalidPlan(_)
            | Error::Incomplete { .. }
            | Error::OutOfRange { .. }
            | Error::Closed { .. } => Code::Bug,
            _ => Code::Publish,
        };
        let failure = Self::new(code, chain(&error));
        match &error {
            Error::NotMemoryBacked { .. } => {
                failure.hint("Mount memory there (emptyDir with medium: Memory)")
            }
            Error::NotEmpty { .. } => failure.hint("Give the model a directory of its own"),
            _ => failure,
        }
    }
}

impl From<audit::Error> for Failure {
    fn from(error: audit::Error) -> Self {
        Self::new(Code::Audit, chain(&error))
    }
}
