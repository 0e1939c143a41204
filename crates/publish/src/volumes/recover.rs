//! [`recover`]: what a volume is, and its repair, after an agent that ended anywhere.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use ::volumes::name::{TreePath, VolumeId};
use ::volumes::tree::{Digest, Limits, Node, Tree};

use super::error::Error;
use super::layout::{
    CURRENT, DATA, RECORDS, STAGING, parse_revision, remove, retain, revision_name,
};
use super::record::Record;
use super::revision::check;
use super::staging::{Contents, Opened};
use super::volume::{Current, Previous, Volume};
use crate::dir::{Dir, is_dir};

/// Most revisions of which an earlier agent can have left directories.
const LEFT_MAX: usize = 1_024;

/// The volume in `dir`. `None`: it never had a revision.
///
/// Which one is current, is only what `..data` says. Those before it keep their grace, counted anew,
/// since somebody may be reading in them; one after it never was current, and goes.
pub(super) fn recover(
    id: &VolumeId,
    dir: Dir,
    until: Instant,
    revisions_max: u32,
) -> Result<Option<Volume>, Error> {
    let Some(data) = of_ours(dir.dir(DATA))? else { return Ok(None) };
    let link = data.read_link(CURRENT)?;
    let Some(sequence) = link.and_then(|target| parse_revision(&target)) else { return Ok(None) };
    let Some(revision) = of_ours(data.dir(revision_name(sequence)))? else { return Ok(None) };

    retain(&dir, |name| Ok([DATA, STAGING, RECORDS].iter().any(|own| own.as_bytes() == name)))?;
    for name in [STAGING, RECORDS] {
        if of_ours(dir.dir(name))?.is_none() {
            remove(&dir, name)?;
            dir.create_dir(name, 0o700)?;
        }
    }
    let record = read_record(&dir.existing(RECORDS)?, sequence)?;
    let record = record.filter(|record| record.id == *id && record.sequence == sequence);
    let known = match record {
        Some(record) => check(&revision, &record.tree)?.map(|opened| (record, opened)),
        None => None,
    };
    let (kind, current) = match known {
        Some((Record { category, limits, tree, bound, .. }, opened)) => {
            let opened = restored(&tree, &bound, &opened);
            (Some((category, limits)), Current::revision(sequence, tree, opened))
        }
        None => (None, Current::Damaged { sequence }),
    };
    let volume = Volume {
        id: id.clone(),
        previous: previous(&data, sequence, until, revisions_max)?,
        dir,
        kind,
        current,
        contents: Contents::default(),
        untidy: false,
    };
    volume.settle()?;
    Ok(Some(volume))
}

/// What was sealed in contents of a revision, by how long its files are and by its record.
fn restored(
    tree: &Tree,
    bound: &HashSet<Digest>,
    lengths: &HashMap<Digest, u64>,
) -> HashMap<Digest, Opened> {
    let opened = |(path, node): (&TreePath, &Node)| {
        let Node::File { bytes, digest, .. } = node else { return None };
        let only_at = bound.contains(digest).then(|| path.clone());
        let length = lengths.get(digest).copied().or(only_at.is_some().then_some(*bytes))?;
        Some((*digest, Opened { bytes: length, only_at }))
    };
    tree.nodes().iter().filter_map(opened).collect()
}

/// The youngest revisions before the current one, oldest first.
fn previous(
    data: &Dir,
    current: u64,
    until: Instant,
    revisions_max: u32,
) -> Result<Vec<Previous>, Error> {
    let mut sequences = Vec::new();
    for name in data.names(LEFT_MAX + usize::try_from(Limits::MAX.entries).unwrap_or(LEFT_MAX))? {
        let name = name.as_encoded_bytes();
        if let Some(sequence) = parse_revision(name).filter(|sequence| *sequence < current)
            && data.stat(revision_name(sequence))?.is_some_and(|stat| is_dir(&stat))
        {
            sequences.push(sequence);
        }
    }
    sequences.sort_unstable();
    let kept = sequences.len().min(revisions_max.max(2) as usize - 1);
    let kept = sequences.split_off(sequences.len() - kept);
    Ok(kept.into_iter().map(|sequence| Previous { sequence, until }).collect())
}

/// The record of a revision; `None` if there is none that can be read.
fn read_record(records: &Dir, sequence: u64) -> Result<Option<Record>, Error> {
    let bytes_max = usize::try_from(Record::bytes_max(Limits::MAX)).unwrap_or(usize::MAX);
    let bytes = records.read(&sequence.to_string(), bytes_max)?;
    Ok(bytes.and_then(|bytes| Record::parse(&bytes)))
}

/// A link, a file or a mount where a directory of ours should be is none.
fn of_ours(dir: Result<Option<Dir>, crate::Error>) -> Result<Option<Dir>, Error> {
    match dir {
        Err(crate::Error::InTheWay { .. }) => Ok(None),
        other => Ok(other?),
    }
}
