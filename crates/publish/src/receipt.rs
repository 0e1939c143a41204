//! [`Receipt`]: the last thing written, so the proof that the tree is whole.

use serde::{Deserialize, Serialize};

use crate::dir::Dir;
use crate::error::Error;
use crate::plan::check_paths;

/// The receipt of a published tree, `.sealift-receipt.json` in the destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Version of this form: [`Receipt::VERSION`].
    pub version: u32,
    /// SHA-256 of the manifest, 64 lower-case hex digits.
    pub manifest_digest: String,
    /// Identity of the sealed bundle.
    pub bundle_id: String,
    /// Name of the model.
    pub model: String,
    /// Generation of the model.
    pub generation: u64,
    /// Resource of the key that opened it.
    pub key: String,
    /// Where it came from, without credentials.
    pub source: String,
    /// Every file.
    pub files: Vec<ReceiptFile>,
    /// Sum of their sizes.
    pub bytes: u64,
    /// When the work began, RFC 3339.
    pub started: String,
    /// When the tree was whole, RFC 3339.
    pub finished: String,
}

/// A published file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptFile {
    /// Path relative to the destination.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Permission bits; in JSON four octal digits, as in the manifest.
    #[serde(with = "octal")]
    pub mode: u32,
}

impl Receipt {
    /// The only version there is.
    pub const VERSION: u32 = 1;
    /// Longest receipt, and journal, in bytes. A manifest of 8 MiB names no more files than fit.
    pub const BYTES_MAX: usize = 16 << 20;

    /// The receipt at `name`; `None` if there is none that we can have written.
    pub(crate) fn read(dir: &Dir, name: &str) -> Result<Option<Self>, Error> {
        Ok(dir.read(name, Self::BYTES_MAX)?.and_then(|json| Self::parse(&json)))
    }

    fn parse(json: &[u8]) -> Option<Self> {
        let receipt: Self = serde_json::from_slice(json).ok()?;
        let digest = hex::decode(&receipt.manifest_digest).ok()?;
        check_paths(receipt.paths()).ok()?;
        (receipt.version == Self::VERSION && digest.len() == 32).then_some(receipt)
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.path.as_str())
    }
}

mod octal {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(mode: &u32, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{mode:04o}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
        u32::from_str_radix(&String::deserialize(from)?, 8).map_err(D::Error::custom)
    }
}
