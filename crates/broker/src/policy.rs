//! The resource policy: Rego, as upstream's KBS evaluates it, parsed once for each change.
//!
//! Who decides what it is: the operator's file (`--policy`), else what an administrator posted,
//! else the default, which releases to affirming guests only. A policy that cannot be read or
//! parsed releases nothing; the one before it is not used instead.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seal::name::ResourceUri;
use serde_json::{Value, json};

use crate::error::Error;
use crate::files::{self, Existing};
use crate::master::{Cipher, MasterKey, Purpose};
use crate::rego::{POLICY_BYTES_MAX, Rego};
use crate::watched::Watched;

const RULE: &str = "data.policy.allow";
const DEFAULT: &str = include_str!("policy/default.rego");
const INSECURE_DEV: &str = include_str!("policy/insecure-dev.rego");

/// The policy in force, whoever changes it.
#[derive(Debug)]
pub(crate) struct Policy {
    source: Source,
    default: Arc<Compiled>,
}

#[derive(Debug)]
enum Source {
    /// The operator's.
    File(Watched<Compiled>),
    /// An administrator's, encrypted at rest.
    Posted { file: Watched<Compiled>, cipher: Cipher },
}

impl Policy {
    /// The policy of a data directory, or of `file` if that is given. It is read and parsed now.
    pub(crate) fn open(
        data_dir: &Path,
        master: &MasterKey,
        file: Option<PathBuf>,
        insecure_dev: bool,
    ) -> Result<Self, Error> {
        let source = match file {
            Some(path) => Source::File(Watched::new(path)),
            None => Source::Posted {
                file: Watched::new(data_dir.join("policy.rego.sealed")),
                cipher: master.cipher(Purpose::Policy),
            },
        };
        let dev = if insecure_dev { INSECURE_DEV } else { "" };
        let default = Arc::new(Compiled::parse(format!("{DEFAULT}{dev}"))?);
        let policy = Self { source, default };
        policy.current()?;
        Ok(policy)
    }

    /// The policy as of now: one `stat` unless the file changed.
    pub(crate) fn current(&self) -> Result<Arc<Compiled>, Error> {
        match &self.source {
            Source::File(file) => file.current(|path| {
                let text = files::read(path, POLICY_BYTES_MAX)
                    .map_err(|source| Error::file(path, source))?;
                Compiled::from_bytes(&text)
            }),
            Source::Posted { file, cipher } => {
                let posted = file.current_if_there(|path| {
                    let sealed = files::read_own(path, POLICY_BYTES_MAX + 64)
                        .map_err(|source| Error::file(path, source))?;
                    let tampered = |_| Error::Tampered { path: path.to_owned() };
                    Compiled::from_bytes(&cipher.open(&sealed, b"").map_err(tampered)?)
                })?;
                Ok(posted.unwrap_or_else(|| self.default.clone()))
            }
        }
    }

    /// What an administrator has posted, if anything.
    pub(crate) fn posted(&self) -> Result<Option<Arc<Compiled>>, Error> {
        let current = self.current()?;
        Ok((!Arc::ptr_eq(&current, &self.default)).then_some(current))
    }

    /// Whether [`Policy::store`] can work at all.
    pub(crate) fn is_writable(&self) -> Result<(), Error> {
        match &self.source {
            Source::File(file) => Err(Error::PolicyIsFile(file.path().to_owned())),
            Source::Posted { .. } => Ok(()),
        }
    }

    /// Puts a policy in force.
    pub(crate) fn store(&self, policy: &Compiled) -> Result<(), Error> {
        match &self.source {
            Source::File(file) => Err(Error::PolicyIsFile(file.path().to_owned())),
            Source::Posted { file, cipher } => {
                let path = file.path();
                let sealed = cipher.seal(policy.text().as_bytes(), b"");
                files::write(path, &sealed, Existing::Replace)
                    .map_err(|source| Error::file(path, source))
            }
        }
    }
}

/// A parsed resource policy.
#[derive(Debug)]
pub(crate) struct Compiled(Rego);

impl Compiled {
    /// Parses a policy and tries it once on a guest without claims, which must not fail: it finds
    /// a missing `allow` and unsafe variables before anyone depends on them.
    pub(crate) fn parse(text: String) -> Result<Self, Error> {
        let policy = Self(Rego::parse(text).map_err(Error::Policy)?);
        policy.evaluate(json!({ "plugin": "", "resource-path": [], "query": {} }), json!({}))?;
        Ok(policy)
    }

    /// The same of a file's content.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let text = String::from_utf8(bytes.to_vec())
            .map_err(|_| Error::Policy("not UTF-8 text".to_owned()))?;
        Self::parse(text)
    }

    /// Whether a guest with these claims may have the resource. Anything but `true` is no.
    pub(crate) fn allows(
        &self,
        resource: &ResourceUri,
        query: &Value,
        claims: &Value,
    ) -> Result<bool, Error> {
        self.evaluate(data(resource, query), claims.clone())
    }

    /// The names of the rules for which [`Compiled::allows`] said no, if the policy has any.
    pub(crate) fn reasons(
        &self,
        resource: &ResourceUri,
        query: &Value,
        claims: &Value,
    ) -> Vec<String> {
        self.0.reasons(Some(data(resource, query)), claims.clone(), None)
    }

    fn evaluate(&self, data: Value, input: Value) -> Result<bool, Error> {
        let allow = self.0.evaluate(RULE, Some(data), input, None).map_err(Error::Policy)?;
        Ok(matches!(allow, regorus::Value::Bool(true)))
    }

    /// SHA-256 of the text, hex.
    pub(crate) fn digest(&self) -> &str {
        self.0.digest()
    }

    /// The Rego.
    pub(crate) fn text(&self) -> &str {
        self.0.text()
    }
}

/// What upstream's policies know beside the guest's claims.
fn data(resource: &ResourceUri, query: &Value) -> Value {
    json!({
        "plugin": "resource",
        "resource-path": resource.path().split('/').collect::<Vec<_>>(),
        "query": query,
    })
}

#[cfg(test)]
mod tests;
