//! What is attached, over restarts: a JSON file, replaced as a whole.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use volumes::name::{Category, VolumeId};

use super::{Attached, Error, state_file};
use crate::guest::Guest;
use crate::kata::Left;
use crate::kubelet::Kubelet;

/// Longest file that is read: every volume that a node can have, with long paths.
const BYTES_MAX: u64 = 64 << 20;

/// One volume and its guest.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) volume: VolumeId,
    pub(super) category: Category,
    pub(super) path: PathBuf,
    pub(super) guest: Guest,
    /// Its guest has yet to be told that it is gone.
    pub(super) leaving: bool,
    /// What only we know that it holds.
    pub(super) left: Left,
}

/// The same as text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    volume: String,
    category: String,
    path: PathBuf,
    guest: String,
    #[serde(default)]
    leaving: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    revisions: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    names: BTreeSet<String>,
}

/// Keeps other agents from what this one remembers in `dir`, until it is dropped. One that is just
/// ending is waited for.
pub(super) fn lock(dir: &Path, patience: Duration) -> Result<fs::File, Error> {
    let until = Instant::now() + patience;
    let fail = |source| Error::Own { what: "cannot lock what was attached", source };
    fs::create_dir_all(dir).map_err(fail)?;
    let file = fs::File::open(dir).map_err(fail)?;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::AGAIN) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(Errno::AGAIN) => {
                let what = format!(
                    "another agent has {}; give this one its own --state-dir",
                    dir.display()
                );
                return Err(fail(io::Error::other(what)));
            }
            Err(errno) => return Err(fail(errno.into())),
        }
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Attachments(Vec<Attachment>);

impl Attachments {
    pub(super) fn of<'a>(volumes: impl Iterator<Item = &'a Attached>) -> Self {
        let attachment = |attached: &Attached| Attachment {
            volume: attached.volume.id.clone(),
            category: attached.volume.category,
            path: attached.path.clone(),
            guest: attached.guest.clone(),
            leaving: attached.leaving,
            left: attached.left.clone(),
        };
        Self(volumes.map(attachment).collect())
    }

    /// None, if there is no file yet. A file that cannot be understood is an error: going on
    /// without it would leave volumes stale in silence.
    pub(super) fn load(dir: &Path) -> Result<Self, Error> {
        let path = state_file(dir);
        let fail = |source| Error::Own { what: "cannot read what was attached", source };
        let text = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self(Vec::new())),
            Ok(metadata) if metadata.len() > BYTES_MAX => {
                return Err(fail(io::Error::other("the file is too long")));
            }
            _ => fs::read_to_string(&path).map_err(fail)?,
        };
        let rows: Vec<Row> = serde_json::from_str(&text).map_err(|error| fail(error.into()))?;
        if rows.len() > Kubelet::VOLUMES_MAX {
            return Err(fail(io::Error::other("too many volumes")));
        }
        let parsed = rows.into_iter().map(|row| {
            Some(Attachment {
                volume: VolumeId::parse(&row.volume).ok()?,
                category: Category::parse(&row.category)?,
                path: row.path,
                guest: row.guest.parse().ok()?,
                leaving: row.leaving,
                left: Left::load(row.revisions, row.names)?,
            })
        });
        let parsed: Option<Vec<_>> = parsed.collect();
        parsed.map(Self).ok_or_else(|| fail(io::Error::other("a row of it makes no sense")))
    }

    pub(super) fn save(&self, dir: &Path) -> Result<(), Error> {
        let rows = self.0.iter().map(|attachment| Row {
            volume: attachment.volume.to_string(),
            category: attachment.category.to_string(),
            path: attachment.path.clone(),
            guest: attachment.guest.to_string(),
            leaving: attachment.leaving,
            revisions: attachment.left.revisions.clone(),
            names: attachment.left.names.clone(),
        });
        let rows: Vec<Row> = rows.collect();
        let written = || {
            fs::create_dir_all(dir)?;
            let path = state_file(dir);
            let new = path.with_extension("new");
            let mut file = fs::File::create(&new)?;
            file.write_all(&serde_json::to_vec_pretty(&rows)?)?;
            file.sync_all()?;
            fs::rename(new, path)?;
            fs::File::open(dir)?.sync_all()
        };
        written().map_err(|source| Error::Own { what: "cannot write what is attached", source })
    }

    pub(super) fn into_vec(self) -> Vec<Attachment> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_agents_do_not_share_a_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state");
        let first = lock(&state, Duration::ZERO).expect("nobody has it");
        let refused = lock(&state, Duration::ZERO).expect_err("the first has it");
        assert!(volumes::chain(&refused).contains("another agent has"), "{refused:?}");
        drop(first);
        lock(&state, Duration::ZERO).expect("nobody has it any more");
    }
}
