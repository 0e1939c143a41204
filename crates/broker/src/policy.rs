//! The resource policy: Rego, as upstream's KBS evaluates it, parsed once for each change.
//!
//! Who decides what it is: the operator's file (`--policy`), else what an administrator posted,
//! else the default, which releases to affirming guests only. A policy that cannot be read or
//! parsed releases nothing; the one before it is not used instead.

use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use regorus::utils::limits::ExecutionTimerConfig;
use seal::name::ResourceUri;
use serde_json::{Value, json};

use crate::error::Error;
use crate::files::{self, Existing, Stamp};
use crate::master::{Cipher, MasterKey, Purpose};

/// Largest policy, in bytes of Rego.
pub const POLICY_BYTES_MAX: usize = 64 * 1024;
/// Longest evaluation.
pub const EVALUATION_TIME_MAX: Duration = Duration::from_millis(250);

const RULE: &str = "data.policy.allow";
const DEFAULT: &str = include_str!("policy/default.rego");
const INSECURE_DEV: &str = include_str!("policy/insecure-dev.rego");
/// How often the evaluation looks at its clock, in the interpreter's units of work.
const WORK_BETWEEN_CHECKS: NonZeroU32 = NonZeroU32::new(64).expect("64 is not zero");

/// The policy in force, whoever changes it.
#[derive(Debug)]
pub(crate) struct Policy {
    source: Source,
    default: Arc<Compiled>,
    current: Mutex<Option<(Stamp, Arc<Compiled>)>>,
}

#[derive(Debug)]
enum Source {
    /// The operator's.
    File(PathBuf),
    /// An administrator's, encrypted at rest.
    Posted { path: PathBuf, cipher: Cipher },
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
            Some(path) => Source::File(path),
            None => Source::Posted {
                path: data_dir.join("policy.rego.sealed"),
                cipher: master.cipher(Purpose::Policy),
            },
        };
        let dev = if insecure_dev { INSECURE_DEV } else { "" };
        let default = Arc::new(Compiled::parse(format!("{DEFAULT}{dev}"))?);
        let policy = Self { source, default, current: Mutex::default() };
        policy.current()?;
        Ok(policy)
    }

    /// The policy as of now: one `stat` unless the file changed.
    pub(crate) fn current(&self) -> Result<Arc<Compiled>, Error> {
        let path = match &self.source {
            Source::File(path) | Source::Posted { path, .. } => path,
        };
        let fail = |source| Error::file(path, source);
        let stamp = match Stamp::of(path) {
            Ok(stamp) => stamp,
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && matches!(self.source, Source::Posted { .. }) =>
            {
                return Ok(self.default.clone());
            }
            Err(error) => return Err(fail(error)),
        };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((parsed, policy)) = &*current
            && *parsed == stamp
        {
            return Ok(policy.clone());
        }
        // Nothing stays in force that is no longer what the file says.
        *current = None;
        let text = match &self.source {
            Source::File(path) => files::read(path, POLICY_BYTES_MAX).map_err(fail)?,
            Source::Posted { path, cipher } => {
                let sealed = files::read_own(path, POLICY_BYTES_MAX + 64).map_err(fail)?;
                cipher.open(&sealed, b"").map_err(|_| Error::Tampered { path: path.clone() })?
            }
        };
        let text = String::from_utf8(text.to_vec())
            .map_err(|_| Error::Policy("not UTF-8 text".to_owned()))?;
        let policy = Arc::new(Compiled::parse(text)?);
        // If the file was replaced meanwhile, the next call sees another stamp and reads again.
        *current = Some((stamp, policy.clone()));
        Ok(policy)
    }

    /// What an administrator has posted, if anything.
    pub(crate) fn posted(&self) -> Result<Option<Arc<Compiled>>, Error> {
        let current = self.current()?;
        Ok((!Arc::ptr_eq(&current, &self.default)).then_some(current))
    }

    /// Whether [`Policy::store`] can work at all.
    pub(crate) fn is_writable(&self) -> Result<(), Error> {
        match &self.source {
            Source::File(path) => Err(Error::PolicyIsFile(path.clone())),
            Source::Posted { .. } => Ok(()),
        }
    }

    /// Puts a policy in force.
    pub(crate) fn store(&self, policy: &Compiled) -> Result<(), Error> {
        match &self.source {
            Source::File(path) => Err(Error::PolicyIsFile(path.clone())),
            Source::Posted { path, cipher } => {
                let sealed = cipher.seal(policy.text.as_bytes(), b"");
                files::write(path, &sealed, Existing::Replace)
                    .map_err(|source| Error::file(path, source))
            }
        }
    }
}

/// A parsed policy.
pub(crate) struct Compiled {
    engine: regorus::Engine,
    text: String,
    digest: String,
}

impl Compiled {
    /// Parses a policy and tries it once on a guest without claims, which must not fail: it finds
    /// a missing `allow` and unsafe variables before anyone depends on them.
    pub(crate) fn parse(text: String) -> Result<Self, Error> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(Error::Policy(format!("larger than {POLICY_BYTES_MAX} bytes")));
        }
        let mut engine = regorus::Engine::new();
        engine.set_execution_timer_config(ExecutionTimerConfig {
            limit: EVALUATION_TIME_MAX,
            check_interval: WORK_BETWEEN_CHECKS,
        });
        let package = engine
            .add_policy("policy.rego".to_owned(), text.clone())
            .map_err(|error| Error::Policy(error.to_string()))?;
        if package != "data.policy" {
            return Err(Error::Policy("the package must be `policy`".to_owned()));
        }
        let digest = hex::encode(digest(&SHA256, text.as_bytes()));
        let policy = Self { engine, text, digest };
        policy.evaluate(json!({ "plugin": "", "resource-path": [], "query": {} }), json!({}))?;
        Ok(policy)
    }

    /// Whether a guest with these claims may have the resource. Anything but `true` is no.
    pub(crate) fn allows(
        &self,
        resource: &ResourceUri,
        query: &Value,
        claims: &Value,
    ) -> Result<bool, Error> {
        let path = resource.path();
        let data = json!({
            "plugin": "resource",
            "resource-path": path.split('/').collect::<Vec<_>>(),
            "query": query,
        });
        self.evaluate(data, claims.clone())
    }

    fn evaluate(&self, data: Value, input: Value) -> Result<bool, Error> {
        // A clone shares the parsed policy; upstream parses its text at each request.
        let mut engine = self.engine.clone();
        engine.set_input(input.into());
        engine
            .add_data(data.into())
            .and_then(|()| engine.eval_rule(RULE.to_owned()))
            .map(|allow| matches!(allow, regorus::Value::Bool(true)))
            .map_err(|error| Error::Policy(error.to_string()))
    }

    /// SHA-256 of the text, hex.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// The Rego.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled").field("digest", &self.digest).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
