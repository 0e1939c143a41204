//! The failure codes: what users, scripts, KServe's status and the documentation call a failure.
//!
//! One table, shared by every program of Sealift. A code never changes its meaning.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $slug:literal;)*) => {
        /// A class of failure: the process's exit code, and the word that follows it in messages.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Code { $($(#[$doc])* $variant = $number,)* }

        impl Code {
            /// Every code, ascending.
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];

            /// The word for people: `not-sealed`.
            pub fn slug(self) -> &'static str {
                match self { $(Code::$variant => $slug,)* }
            }

            /// The page that `sealift explain` prints.
            pub fn page(self) -> &'static str {
                match self {
                    $(Code::$variant => {
                        include_str!(concat!("../../../docs/errors/", $slug, ".md"))
                    })*
                }
            }
        }
    };
}

codes! {
    /// A fault of ours.
    Bug = 1, "bug";
    /// The command line, a variable or a file of settings is wrong.
    Usage = 2, "usage";
    /// The model, bundle or file is not there.
    NotFound = 10, "not-found";
    /// The store refuses the credentials, or there are none.
    AccessDenied = 11, "access-denied";
    /// The network or the store failed, after retries.
    Network = 12, "network";
    /// The server's certificate is not trusted.
    Tls = 13, "tls";
    /// The key source did not accept this machine's evidence.
    Attestation = 20, "attestation-failed";
    /// The key source knows the key and refuses it to this workload.
    KeyDenied = 21, "key-denied";
    /// The key source does not know the key.
    KeyNotFound = 22, "key-not-found";
    /// The key source does not answer, after retries.
    KeyUnreachable = 23, "key-source-unreachable";
    /// What was released is not a usable key.
    KeyUnusable = 24, "key-unusable";
    /// Something in the bundle is not authentic, or the key is another.
    Tampered = 30, "tampered";
    /// A plain model (or upstream's JWE) where a sealed bundle is required.
    NotSealed = 31, "not-sealed";
    /// A digest or signature does not match.
    Mismatch = 32, "digest-mismatch";
    /// Sealed, but nobody named the key.
    NoKeyNamed = 33, "no-key-named";
    /// Superseded, or nothing says which manifest is current.
    Stale = 34, "stale";
    /// A publisher's signature is missing where one is required, or does not hold.
    Signature = 35, "signature-refused";
    /// A sealed secret that is for another pod, file or time, or says so of what is not known here.
    Audience = 36, "not-for-here";
    /// Too little memory, space or inodes.
    TooSmall = 40, "too-small";
    /// The destination is not memory-backed.
    NotMemory = 41, "not-memory-backed";
    /// The destination could not be written or published.
    Publish = 42, "publish-failed";
    /// The audit record could not be written, so nothing was done.
    Audit = 50, "audit-failed";
}

impl Code {
    /// The process's exit code.
    pub fn exit(self) -> u8 {
        self as u8
    }

    /// Reads `E31`, `e31`, `31` or `not-sealed`.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.strip_prefix(['E', 'e']).unwrap_or(text).parse::<u8>().ok();
        Self::ALL
            .iter()
            .copied()
            .find(|code| Some(code.exit()) == number || code.slug().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "E{:02}", self.exit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_in_every_form_that_we_print() {
        for &code in Code::ALL {
            assert_eq!(Code::parse(&code.to_string()), Some(code));
            assert_eq!(Code::parse(&code.exit().to_string()), Some(code));
            assert_eq!(Code::parse(code.slug()), Some(code));
        }
        assert_eq!(Code::parse("E99"), None);
        assert_eq!(Code::parse(""), None);
    }

    #[test]
    fn every_page_names_its_own_code_and_what_to_do() {
        for &code in Code::ALL {
            let page = code.page();
            assert!(
                page.starts_with(&format!("# {code} {}\n", code.slug())),
                "{code}: the title of its page is {:?}",
                page.lines().next()
            );
            assert!(page.contains("\n## What to do\n"), "{code}: no section 'What to do'");
        }
    }
}
