//! How volumes are, for people and programs.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use volumes::tree::{Node, Tree};

use super::Attached;
use crate::guest::Protocol;

/// One volume, as `sealift status` shows it. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeReport {
    /// Its name in the guest.
    pub volume: String,
    /// Its kind.
    pub category: String,
    /// The guest's address.
    pub guest: String,
    /// Where containers find it in the guest; unknown before the first revision.
    pub guest_path: Option<String>,
    /// Whether none of its files is to be run.
    pub noexec: bool,
    /// The revision that the guest has; 0: none.
    pub sequence: u64,
    /// Its digest.
    pub digest: Option<String>,
    /// Whether the guest has what the host has.
    pub current: bool,
    /// Whether a revision appears there in one step, verified. Kata's own agent can do neither.
    pub atomic: bool,
    /// Milliseconds since a change was noticed that the guest does not have; 0 if it has.
    pub lag_ms: u64,
    /// When the guest last had what the host has.
    pub last_success: Option<u64>,
    /// What it failed with last, why its changes are only noticed by rescanning, or that what is old
    /// cannot be removed; none if all is well.
    pub failure: Option<String>,
    /// Files and directories.
    pub entries: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// When the earliest of its tokens expires.
    pub token_expires: Option<u64>,
    /// Whether that is near and kubelet has not renewed it.
    pub token_alarm: bool,
}

impl VolumeReport {
    pub(crate) fn of(attached: &Attached) -> Self {
        let state = &attached.state;
        let now = seconds(SystemTime::now());
        let lag = state.behind_since.map_or(0, |since| since.elapsed().as_millis());
        Self {
            volume: attached.volume.id.to_string(),
            category: attached.volume.category.to_string(),
            guest: attached.guest.to_string(),
            guest_path: attached.guest_path.clone(),
            noexec: !attached.volume.category.may_run(state.executable),
            sequence: attached.known.sequence,
            digest: attached.known.digest.map(|digest| digest.to_string()),
            current: state.behind_since.is_none(),
            atomic: attached.guest.protocol == Protocol::Sealift,
            lag_ms: u64::try_from(lag).unwrap_or(u64::MAX),
            last_success: state.current_at.map(seconds),
            failure: state.failure.clone().or_else(|| state.unwatched.clone()).or_else(|| {
                let kept = "the guest's policy forbids removing earlier revisions";
                attached.left.kept.then(|| kept.into())
            }),
            entries: state.entries,
            bytes: state.bytes,
            token_expires: state.token.map(|token| token.expires),
            token_alarm: state.token.is_some_and(|token| now >= token.alarm_at()),
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// `added`, `changed` or `removed`.
    pub change: String,
    /// Where in the volume; `.` is the volume's own directory.
    pub path: String,
    /// Length of the file that the host has.
    pub bytes: Option<u64>,
}

/// From what the guest has to what the host has. Without a known tree everything counts as added.
pub(super) fn changes(known: Option<&Tree>, tree: &Tree) -> Vec<Change> {
    let change = |change: &str, path: &str, node: Option<&Node>| Change {
        change: change.into(),
        path: path.into(),
        bytes: node.and_then(|node| match node {
            Node::File { bytes, .. } => Some(*bytes),
            Node::Directory(_) => None,
        }),
    };
    let Some(known) = known else {
        let added =
            tree.nodes().iter().map(|(path, node)| change("added", path.as_str(), Some(node)));
        return added.collect();
    };
    let delta = known.delta(tree);
    let root = delta.root.map(|_| change("changed", ".", None));
    let upserts = delta.upserts.iter().map(|(path, node)| {
        let what = if known.nodes().contains_key(path) { "changed" } else { "added" };
        change(what, path.as_str(), Some(node))
    });
    let removals = delta.removals.iter().map(|path| change("removed", path.as_str(), None));
    root.into_iter().chain(upserts).chain(removals).collect()
}
