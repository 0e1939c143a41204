//! The journal: what the content of the staging directory means.

use serde::{Deserialize, Serialize};

use crate::dir::Dir;
use crate::error::Error;
use crate::layout::{JOURNAL, JOURNAL_NEW};
use crate::plan::{Plan, PlannedFile, check_paths};
use crate::receipt::Receipt;

const VERSION: u32 = 1;

/// How far the work has come. Everything else is told by which names are where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// The tree is being filled; nothing outside the staging directory was touched.
    Staging,
    /// The tree is whole, and its top-level names are being exchanged with the old ones.
    Publishing,
}

/// `journal.json`. It is the last file of a new staging directory and the first to be removed from
/// one that is done with: without it, everything in there is refuse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Journal {
    version: u32,
    pub(crate) phase: Phase,
    pub(crate) digest: String,
    pub(crate) files: Vec<PlannedFile>,
}

impl Journal {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            version: VERSION,
            phase: Phase::Staging,
            digest: hex::encode(plan.digest),
            files: plan.files.clone(),
        }
    }

    /// The journal in `staging`; `None` if there is none that we can have written.
    pub(crate) fn read(staging: &Dir) -> Result<Option<Self>, Error> {
        let json = staging.read(JOURNAL, Receipt::BYTES_MAX)?;
        let journal = json.and_then(|json| serde_json::from_slice::<Self>(&json).ok());
        Ok(journal.filter(|j| j.version == VERSION && check_paths(j.paths()).is_ok()))
    }

    /// Replaces the journal in one step.
    pub(crate) fn write(&self, staging: &Dir, durable: bool) -> Result<(), Error> {
        write_file(staging, JOURNAL_NEW, &self.to_json()?, 0o600, durable)?;
        staging.replace(JOURNAL_NEW, JOURNAL)?;
        if durable { staging.sync() } else { Ok(()) }
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>, Error> {
        to_json(self)
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.path.as_str())
    }
}

/// One line of JSON that we will be able to read back.
pub(crate) fn to_json(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    let invalid = |why: String| Error::InvalidPlan(why);
    let mut json = serde_json::to_vec(value).map_err(|error| invalid(error.to_string()))?;
    json.push(b'\n');
    match json.len() <= Receipt::BYTES_MAX {
        true => Ok(json),
        false => Err(invalid("its paths are too long in all".into())),
    }
}

/// Writes a new file, in place of what an earlier attempt may have left at that name.
pub(crate) fn write_file(
    dir: &Dir,
    name: &str,
    bytes: &[u8],
    mode: u32,
    durable: bool,
) -> Result<(), Error> {
    dir.unlink(name)?;
    let file = dir.create_file(name, mode)?;
    file.chmod(mode)?;
    file.write_at(bytes, 0)?;
    if durable { file.sync() } else { Ok(()) }
}
