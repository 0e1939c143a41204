//! Which artifact of which registry: the grammar of references.

use std::fmt;

use crate::{Error, snapshot};

/// The longest name of a repository, in bytes, as registries have it.
const REPOSITORY_BYTES_MAX: usize = 255;
/// The longest tag, in bytes (distribution-spec).
const TAG_BYTES_MAX: usize = 128;

/// An artifact: `registry[:port]/repository[:tag][@sha256:…]`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Host and port as they were written; the names of credentials are the same.
    pub(crate) registry: String,
    /// One or more components.
    pub(crate) repository: String,
    pub(crate) version: Version,
}

/// Which manifest of the repository.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Version {
    /// What the tag points to when it is asked for.
    Tag(String),
    /// This one, for ever.
    Digest(Sha256),
}

/// The SHA-256 of a manifest or blob, shown as `sha256:…`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sha256(pub(crate) [u8; 32]);

impl Sha256 {
    /// Reads `sha256:` and 64 lower-case hexadecimal digits; others name nothing that we can hold.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.strip_prefix("sha256:").and_then(snapshot::sha256).map(Self)
    }

    /// The digest of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut context = Hash::default();
        context.update(bytes);
        context.finish()
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A digest in the making.
#[derive(Clone)]
pub(crate) struct Hash(aws_lc_rs::digest::Context);

impl Default for Hash {
    fn default() -> Self {
        Self(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256))
    }
}

impl Hash {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Sha256 {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        Sha256(bytes)
    }
}

impl Reference {
    /// Reads what follows `oci://`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let malformed = |what: &str| Err(Error::usage(format!("oci:// location {what}")));
        let Some((registry, path)) = text.split_once('/') else {
            return malformed("names no repository: expected oci://registry/repository:tag");
        };
        if !is_registry(registry) {
            return malformed("names no registry: expected oci://host[:port]/repository:tag");
        }
        let (path, digest) = match path.split_once('@') {
            Some((path, digest)) => match Sha256::parse(digest) {
                Some(digest) => (path, Some(digest)),
                None => return malformed("has a digest that is not sha256: and 64 digits"),
            },
            None => (path, None),
        };
        let (repository, tag) = path.split_once(':').unwrap_or((path, "latest"));
        if !is_tag(tag) {
            return malformed("has a tag that no registry takes");
        }
        if repository.len() > REPOSITORY_BYTES_MAX || !repository.split('/').all(is_component) {
            return malformed("has a repository that is not in lower-case letters and digits");
        }
        let version = digest.map_or(Version::Tag(tag.to_owned()), Version::Digest);
        // Its images without an owner are owned by `library`.
        let repository = match (registry, repository.contains('/')) {
            ("docker.io", false) => format!("library/{repository}"),
            _ => repository.to_owned(),
        };
        Ok(Self { registry: registry.to_owned(), repository, version })
    }

    /// Where the registry's API is: Docker's own has another name than its images.
    pub(crate) fn host(&self) -> &str {
        match self.registry.as_str() {
            "docker.io" => "registry-1.docker.io",
            registry => registry,
        }
    }
}

/// A host name or address with or without a port.
fn is_registry(text: &str) -> bool {
    let clean = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
            ("v6", port.strip_prefix(':').or_else(|| port.is_empty().then_some("1")))
        }
        Some(_) => return false,
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("1")),
        },
    };
    !host.is_empty()
        && host.bytes().all(clean)
        && port.and_then(|port| port.parse::<u16>().ok()).is_some_and(|port| port > 0)
}

fn is_component(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    let end = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    end(bytes.first()) && end(bytes.last()) && bytes.iter().copied().all(inside)
}

fn is_tag(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=TAG_BYTES_MAX).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(inside)
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if matches!(self.version, Version::Tag(_)) { ':' } else { '@' };
        write!(f, "oci://{}/{}{mark}{}", self.registry, self.repository, self.version)
    }
}
