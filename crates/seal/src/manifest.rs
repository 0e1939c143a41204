//! The manifest: an in-toto Statement about the sealed objects, in a DSSE envelope.

use crate::Error;
use crate::json::malformed;
use crate::name::{BundleId, BundlePath, Digest, ModelName, check_set};
use crate::segment::{Header, Layout};

pub(crate) mod dsse;
pub(crate) mod statement;

/// A file's permissions: as git, either plain or executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 0644
    Plain,
    /// 0755
    Executable,
}

impl Mode {
    /// As for chmod.
    pub fn bits(self) -> u32 {
        match self {
            Self::Plain => 0o644,
            Self::Executable => 0o755,
        }
    }

    /// Executable if any execute bit is set.
    pub fn from_bits(bits: u32) -> Self {
        if bits & 0o111 == 0 { Self::Plain } else { Self::Executable }
    }
}

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Where it goes.
    pub path: BundlePath,
    /// Its permissions.
    pub mode: Mode,
    /// Where its segments lie; carries its size.
    pub layout: Layout,
    /// The header that its object must begin with.
    pub header: Header,
    /// SHA-256 of the sealed object.
    pub sha256: Digest,
}

/// What a bundle says of itself. In a [`crate::bundle::Bundle`] it is only claimed; in an
/// [`crate::bundle::Opened`] it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Ties files, recipients and manifest together.
    pub id: BundleId,
    /// The model's lineage.
    pub name: ModelName,
    /// Rises with each sealing of the same lineage.
    pub generation: u64,
    /// RFC 3339, UTC; informative.
    pub created: String,
    /// Sorted by path.
    pub files: Vec<FileEntry>,
}

impl Manifest {
    /// Most files.
    pub const FILES_MAX: usize = 16_384;
    /// Highest generation: what every JSON reader holds exactly.
    pub const GENERATION_MAX: u64 = (1 << 53) - 1;
    /// Largest sum of the objects' sizes in bytes, for the same reason.
    pub const CIPHERTEXT_BYTES_MAX: u64 = (1 << 53) - 1;

    /// Sum of the files' sizes in bytes.
    pub fn plaintext_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.layout.plaintext_bytes()).sum()
    }

    /// Sum of the objects' sizes in bytes, `sealift.json` left out.
    pub fn ciphertext_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.layout.ciphertext_bytes()).sum()
    }

    /// The rules that no single member can show.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.check_head()?;
        if self.files.is_empty() {
            return Err(malformed("predicate", "no files"));
        }
        within("number of files", self.files.len() as u64, Self::FILES_MAX as u64)?;
        check_set(self.files.iter().map(|file| &file.path))?;
        let sizes = self.files.iter().map(|file| file.layout.ciphertext_bytes());
        let total = sizes.fold(0, u64::saturating_add);
        within("sum of sizes", total, Self::CIPHERTEXT_BYTES_MAX)
    }

    /// The rules for what is known before the files are.
    pub(crate) fn check_head(&self) -> Result<(), Error> {
        if !is_utc_time(&self.created) {
            return Err(malformed("predicate", "`created` is not an RFC 3339 time in UTC"));
        }
        within("generation", self.generation, Self::GENERATION_MAX)
    }
}

fn within(what: &'static str, found: u64, limit: u64) -> Result<(), Error> {
    if found > limit { Err(Error::Limit { what, found, limit }) } else { Ok(()) }
}

/// `YYYY-MM-DDThh:mm:ss[.fraction]Z`, digits only by place: nothing depends on the date.
fn is_utc_time(text: &str) -> bool {
    let Some((seconds, fraction)) =
        text.strip_suffix('Z').and_then(|text| text.split_at_checked(19))
    else {
        return false;
    };
    let shaped = seconds.bytes().zip(*b"dddd-dd-ddTdd:dd:dd").all(|(byte, place)| match place {
        b'd' => byte.is_ascii_digit(),
        _ => byte == place,
    });
    let digits = fraction.strip_prefix('.').is_some_and(|digits| {
        (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
    });
    shaped && (fraction.is_empty() || digits)
}
