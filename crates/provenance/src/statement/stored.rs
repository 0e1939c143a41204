//! How a statement is spelled.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Method, Resource, WHAT};
use crate::Error;
use crate::digest::Algorithm;
use crate::error::{excerpt, known, malformed};

#[derive(Serialize, Deserialize)]
pub(super) struct Document<'a> {
    #[serde(rename = "_type", borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) subject: Vec<Subject<'a>>,
    #[serde(rename = "predicateType", borrow)]
    pub(super) predicate_type: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) predicate: Predicate<'a>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Subject<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) digest: DigestSet<'a>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct DigestSet<'a> {
    #[serde(borrow)]
    pub(super) sha256: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Predicate<'a> {
    #[serde(borrow)]
    pub(super) serialization: Serialization<'a>,
    #[serde(borrow)]
    pub(super) resources: Vec<StoredResource<'a>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Serialization<'a> {
    #[serde(borrow)]
    pub(super) method: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) hash_type: Cow<'a, str>,
    /// What is published holds no links, whatever the signer followed.
    pub(super) allow_symlinks: bool,
    #[serde(borrow, default)]
    pub(super) ignore_paths: Vec<Cow<'a, str>>,
    /// Python writes `1000000000.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) shard_size: Option<serde_json::Number>,
}

impl Serialization<'_> {
    pub(super) fn method(&self) -> Result<Method, Error> {
        match (&*self.method, &self.shard_size) {
            ("files", _) => Ok(Method::Files),
            ("shards", Some(size)) => {
                let text = size.to_string();
                let size = text.strip_suffix(".0").unwrap_or(&text).parse().unwrap_or(0);
                if size == 0 {
                    return Err(malformed(WHAT, "a shard size that is no positive whole number"));
                }
                Ok(Method::Shards(size))
            }
            ("shards", None) => Err(malformed(WHAT, "shards without their size")),
            (other, _) => Err(Error::Unsupported { what: "method", found: excerpt(other) }),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredResource<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) algorithm: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) digest: Cow<'a, str>,
}

impl StoredResource<'_> {
    pub(super) fn read(
        &self,
        method: Method,
        hash: Algorithm,
        spelled: &str,
    ) -> Result<Resource, Error> {
        known("algorithm", &self.algorithm, spelled)?;
        let digest = hex::decode(self.digest.as_bytes()).ok();
        let digest = digest.filter(|digest| digest.len() == hash.bytes());
        let digest = digest.ok_or_else(|| malformed(WHAT, "a digest of another length"))?;
        if let Method::Files = method {
            return Ok(Resource { path: self.name.to_string(), range: None, digest });
        }
        let named = || {
            let mut parts = self.name.rsplitn(3, ':');
            let (end, start, path) = (parts.next()?, parts.next()?, parts.next()?);
            Some((path.to_owned(), decimal(start)?..decimal(end)?))
        };
        let (path, range) = named().ok_or_else(|| {
            malformed(WHAT, format!("{:?} is no name of a shard", excerpt(&self.name)))
        })?;
        Ok(Resource { path, range: Some(range), digest })
    }
}

/// A number in the one way that it is written.
fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}
