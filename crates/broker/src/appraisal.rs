//! The attestation policy: from what evidence proves to AR4SI's trust claims and EAR's verdict.
//!
//! Upstream's form: Rego, package `policy`, a rule `trust_claims` of numbers (AR4SI,
//! draft-ietf-rats-ar4si), and the function `query_reference_value(name)`, which is null for names
//! that the file of reference values does not have. Attestation itself fails only if the policy
//! cannot be evaluated; a bad verdict is for the resource policy to refuse.

mod references;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::Error;
use crate::files;
use crate::protocol::Tee;
use crate::rego::{Function, POLICY_BYTES_MAX, Rego};
use crate::watched::Watched;
use references::References;

const RULE: &str = "data.policy.trust_claims";
const DEFAULT: &str = include_str!("appraisal/default.rego");
/// AR4SI's claims, in its order.
const CLAIMS: [&str; 8] = [
    "instance-identity",
    "configuration",
    "executables",
    "file-system",
    "hardware",
    "runtime-opaque",
    "storage-opaque",
    "sourced-data",
];

/// What the broker thinks of a guest.
#[derive(Debug, Clone)]
pub(crate) struct Appraisal {
    /// The overall verdict: that of the worst claim.
    pub(crate) status: Status,
    /// AR4SI's trustworthiness vector, by claim name.
    pub(crate) trustworthiness: BTreeMap<&'static str, i8>,
    /// Why it is not affirming: `<claim>: <rule>`, at least one for each claim that is to blame.
    pub(crate) reasons: Vec<String>,
}

/// EAR's trustworthiness tier, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// As expected.
    Affirming,
    /// Nothing is claimed.
    None,
    /// Genuine, with known weaknesses, or not recognized.
    Warning,
    /// Proves nothing, or something bad.
    Contraindicated,
}

/// The policy and the values that it compares with.
#[derive(Debug)]
pub(crate) struct AttestationPolicy {
    default: Arc<Rego>,
    file: Option<Watched<Rego>>,
    references: Option<Watched<References>>,
}

impl AttestationPolicy {
    /// Reads and tries both files, if there are any.
    pub(crate) fn open(
        policy: Option<PathBuf>,
        references: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let opened = Self {
            default: Arc::new(parse(DEFAULT.to_owned())?),
            file: policy.map(Watched::new),
            references: references.map(Watched::new),
        };
        opened.check()?;
        Ok(opened)
    }

    /// Judges a guest by its annotated evidence, as the token will show it.
    pub(crate) fn appraise(&self, tee: Tee, evidence: &Value) -> Result<Appraisal, Error> {
        let references = match &self.references {
            Some(file) => file.current(References::read)?,
            None => Arc::default(),
        };
        let policy = self.current()?;
        let found = policy
            .evaluate(RULE, None, evidence.clone(), Some(lookup(references.clone())))
            .map_err(Error::AttestationPolicy)?;
        let trustworthiness = trust_claims(&found).map_err(Error::AttestationPolicy)?;
        let worst = trustworthiness.values().map(|&claim| Status::of(claim)).max();
        let status = match worst.unwrap_or(Status::None) {
            // Whatever a policy says of it: upstream's `affirming` policy must refuse it.
            _ if tee == Tee::SAMPLE => Status::Contraindicated,
            // Claims that say nothing do not spoil those that affirm.
            Status::None
                if trustworthiness
                    .values()
                    .any(|&claim| Status::of(claim) == Status::Affirming) =>
            {
                Status::Affirming
            }
            status => status,
        };
        let reasons = match status {
            Status::Affirming => Vec::new(),
            // It is never affirmed, whatever a policy says: there is nothing to ask it.
            _ if tee == Tee::SAMPLE => reasons(tee, Vec::new(), &trustworthiness),
            _ => {
                let named = policy.reasons(None, evidence.clone(), Some(lookup(references)));
                reasons(tee, named, &trustworthiness)
            }
        };
        Ok(Appraisal { status, trustworthiness, reasons })
    }

    /// Whether both files can be used now.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.appraise(Tee::SAMPLE, &json!({})).map(drop)
    }

    fn current(&self) -> Result<Arc<Rego>, Error> {
        let Some(file) = &self.file else { return Ok(self.default.clone()) };
        file.current(|path| {
            let text =
                files::read(path, POLICY_BYTES_MAX).map_err(|source| Error::file(path, source))?;
            let text = String::from_utf8(text.to_vec())
                .map_err(|_| Error::AttestationPolicy("not UTF-8 text".to_owned()))?;
            parse(text)
        })
    }
}

fn parse(text: String) -> Result<Rego, Error> {
    let parsed = Rego::parse(text).and_then(|policy| policy.prepared_for(RULE));
    parsed.map_err(Error::AttestationPolicy)
}

/// The policy's function that looks a name up.
fn lookup(references: Arc<References>) -> Function {
    let query = move |arguments: Vec<regorus::Value>| {
        Ok(match &arguments[..] {
            [regorus::Value::String(name)] => references.get(name),
            _ => regorus::Value::Null,
        })
    };
    Function { name: "query_reference_value", body: Box::new(query) }
}

/// What the policy named, and the number of each claim that it said nothing of.
fn reasons(
    tee: Tee,
    mut named: Vec<String>,
    trustworthiness: &BTreeMap<&'static str, i8>,
) -> Vec<String> {
    if tee == Tee::SAMPLE {
        return vec!["sample evidence proves nothing".to_owned()];
    }
    let about = |claim: &str, reason: &str| {
        reason.strip_prefix(claim).is_some_and(|rest| rest.starts_with(':'))
    };
    let silent = trustworthiness.iter().filter(|(claim, value)| {
        Status::of(**value) > Status::None && !named.iter().any(|reason| about(claim, reason))
    });
    let numbers: Vec<_> = silent.map(|(claim, value)| format!("{claim}: {value}")).collect();
    named.extend(numbers);
    if named.is_empty() {
        named.push("the attestation policy claims nothing".to_owned());
    }
    named
}

impl Status {
    /// The tier of a claim, AR4SI section 2.3.2.
    fn of(claim: i8) -> Self {
        match claim {
            -1..=1 => Self::None,
            2..=31 | -32..=-2 => Self::Affirming,
            32..=95 | -96..=-33 => Self::Warning,
            96..=127 | -128..=-97 => Self::Contraindicated,
        }
    }
}

fn trust_claims(found: &regorus::Value) -> Result<BTreeMap<&'static str, i8>, String> {
    let found = found.as_object().map_err(|_| "trust_claims is not an object".to_owned())?;
    found
        .iter()
        .map(|(name, claim)| {
            let known =
                CLAIMS.iter().find(|known| name.as_string().is_ok_and(|name| **name == ***known));
            let claim = claim.as_i64().ok().and_then(|claim| i8::try_from(claim).ok());
            match (known, claim) {
                (Some(known), Some(claim)) => Ok((*known, claim)),
                _ => Err(format!(
                    "trust_claims has {name}, which is none of AR4SI's, or no number of one byte"
                )),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
