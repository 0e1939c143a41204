//! What things are called. Each type exists only after its rules were checked.

use std::collections::HashSet;
use std::fmt;

use aws_lc_rs::{digest, rand};

use crate::Error;
use crate::json::excerpt;

mod key_uri;

pub use key_uri::{
    AwsKmsKey, AzureKmsKey, GcpKmsKey, KeyUri, Pkcs11Key, Pkcs11Object, PluginUri, VaultKv,
    VaultTransit,
};

/// A file's path inside a bundle: relative, clean, and safe to create below any directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundlePath(String);

impl BundlePath {
    /// Longest path, in bytes of UTF-8.
    pub const BYTES_MAX: usize = 1024;
    /// Longest component: a file name's 255 bytes less `.sealed`.
    pub const COMPONENT_BYTES_MAX: usize = 248;
    /// Most components.
    pub const DEPTH_MAX: usize = 32;

    /// Checks `path` against the rules of `docs/format.md` §2.
    pub fn parse(path: &str) -> Result<Self, Error> {
        let refuse = |why| Err(refused(path, why));
        if path.is_empty() {
            return refuse("empty");
        }
        if path.len() > Self::BYTES_MAX {
            return refuse("longer than 1024 bytes");
        }
        if path.contains('\\') || path.contains(char::is_control) {
            return refuse("control character or backslash");
        }
        if path.split('/').count() > Self::DEPTH_MAX {
            return refuse("deeper than 32 components");
        }
        for component in path.split('/') {
            match component {
                "" => return refuse("absolute, or an empty component"),
                "." | ".." => return refuse("`.` or `..`"),
                _ if component.len() > Self::COMPONENT_BYTES_MAX => {
                    return refuse("a component longer than 248 bytes");
                }
                // Ours: staging, journal and receipt live beside the published files.
                _ if begins_with_ignoring_case(component, ".sealift") => {
                    return refuse("a component that begins with `.sealift`");
                }
                _ => {}
            }
        }
        // Its objects would need a directory where `sealift.json` lies.
        if begins_with_ignoring_case(path, "sealift.json/") {
            return refuse("below `sealift.json`");
        }
        Ok(Self(path.to_owned()))
    }

    /// The path with `/` between components.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the object that holds the file: `<path>.sealed`.
    pub fn object(&self) -> String {
        format!("{}.sealed", self.0)
    }
}

impl fmt::Display for BundlePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Refuses sets of paths that cannot stand beside each other on every filesystem: duplicates, names
/// equal after lower-casing, a file (or its object) that is also a directory of another. `paths`
/// must be sorted by bytes, strictly ascending; that is checked too.
pub fn check_set<'a>(paths: impl Iterator<Item = &'a BundlePath>) -> Result<(), Error> {
    let mut previous: Option<&BundlePath> = None;
    let mut files = HashSet::new();
    let mut directories = HashSet::new();
    let mut lower_paths = Vec::new();
    for path in paths {
        if previous.is_some_and(|previous| previous >= path) {
            return Err(refused(path.as_str(), "not in strictly ascending order"));
        }
        previous = Some(path);
        let lower = path.as_str().to_lowercase();
        if !files.insert(lower.clone()) {
            return Err(refused(path.as_str(), "equal to another but for case"));
        }
        for (end, _) in lower.match_indices('/') {
            if !directories.contains(&lower[..end]) {
                directories.insert(lower[..end].to_owned());
            }
        }
        lower_paths.push((path, lower));
    }
    for (path, lower) in lower_paths {
        // Lower-casing looks at what follows (Σ at the end of a word), so of the object's whole name.
        if directories.contains(&lower) || directories.contains(&path.object().to_lowercase()) {
            return Err(refused(path.as_str(), "also a directory of another"));
        }
    }
    Ok(())
}

/// 128 random bits that tie files, recipients and manifest of one sealing together. Displayed as 32
/// hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BundleId([u8; 16]);

impl BundleId {
    /// A fresh one.
    pub fn random() -> Self {
        Self(random())
    }

    /// Exactly 32 lower-case hex digits.
    pub fn parse(hex: &str) -> Result<Self, Error> {
        lower_hex(hex).map(Self).ok_or_else(|| refused(hex, "not 32 lower-case hex digits"))
    }
}

impl fmt::Display for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A SHA-256 digest, displayed as `sha256:<hex>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        Self(out)
    }

    /// From raw bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// `sha256:` and 64 lower-case hex digits.
    pub fn parse(text: &str) -> Result<Self, Error> {
        text.strip_prefix("sha256:")
            .and_then(lower_hex)
            .map(Self)
            .ok_or_else(|| refused(text, "not `sha256:` and 64 lower-case hex digits"))
    }

    /// From 64 lower-case hex digits, without the prefix: in-toto's spelling.
    pub(crate) fn from_hex(hex: &str) -> Result<Self, Error> {
        lower_hex(hex).map(Self).ok_or_else(|| refused(hex, "not 64 lower-case hex digits"))
    }

    /// 64 lower-case hex digits, without the prefix.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

/// A model's lineage name, the same for all its generations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName(String);

impl ModelName {
    /// Longest name, in bytes.
    pub const BYTES_MAX: usize = 128;

    /// `[A-Za-z0-9][A-Za-z0-9._/-]{0,127}`.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let clean = name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/-".contains(&b));
        if !clean || name.len() > Self::BYTES_MAX {
            return Err(refused(name, "not `[A-Za-z0-9][A-Za-z0-9._/-]{0,127}`"));
        }
        Ok(Self(name.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key broker's resource: `kbs:///<repository>/<type>/<tag>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceUri {
    repository: String,
    kind: String,
    tag: String,
}

impl ResourceUri {
    /// Longest segment, in bytes: brokers store resources as files.
    pub const SEGMENT_BYTES_MAX: usize = 255;

    /// Parses the URI form. A host between `kbs://` and the first `/` is refused: it would be
    /// ignored.
    pub fn parse(uri: &str) -> Result<Self, Error> {
        match uri.strip_prefix("kbs:///") {
            Some(path) => Self::from_path(path),
            None if uri.starts_with("kbs://") => {
                Err(refused(uri, "names a host; write `kbs:///<repository>/<type>/<tag>`"))
            }
            None => Err(refused(uri, "not `kbs:///<repository>/<type>/<tag>`")),
        }
    }

    /// Parses `<repository>/<type>/<tag>`.
    pub fn from_path(path: &str) -> Result<Self, Error> {
        let segments: Vec<&str> = path.splitn(4, '/').collect();
        let [repository, kind, tag] = segments[..] else {
            return Err(refused(path, "not three segments"));
        };
        if !segments.iter().all(|segment| is_segment(segment)) {
            return Err(refused(path, "a segment that is not `[A-Za-z0-9_-][A-Za-z0-9_.-]*`"));
        }
        Ok(Self { repository: repository.into(), kind: kind.into(), tag: tag.into() })
    }

    /// `<repository>/<type>/<tag>`.
    pub fn path(&self) -> String {
        format!("{}/{}/{}", self.repository, self.kind, self.tag)
    }
}

impl fmt::Display for ResourceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kbs:///{}", self.path())
    }
}

/// `N` random bytes.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("aws-lc's generator aborts rather than fail after start");
    bytes
}

fn is_segment(segment: &str) -> bool {
    !segment.is_empty()
        && segment.len() <= ResourceUri::SEGMENT_BYTES_MAX
        && !segment.starts_with('.')
        && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn begins_with_ignoring_case(text: &str, prefix: &str) -> bool {
    text.to_lowercase().starts_with(prefix)
}

fn lower_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let lower = text.bytes().all(|b| !b.is_ascii_uppercase());
    (lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

fn refused(name: &str, why: &'static str) -> Error {
    Error::Name { name: excerpt(name), why }
}
