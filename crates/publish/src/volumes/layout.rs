//! The names below the root and in a volume, and how its directories are read.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use ::volumes::name::TreePath;
use ::volumes::tree::{Digest, Tree};

use crate::Error;
use crate::dir::Dir;
use crate::wipe::empty;

/// Below the root: the volumes that are visible, and those that are not yet, or no longer.
pub(super) const VOLUMES: &str = "volumes";
pub(super) const NEW: &str = "new";

/// In a volume: what containers see.
pub(super) const DATA: &str = "data";
/// In a volume: the revision being made.
pub(super) const STAGING: &str = "staging";
/// In a volume: what the current revision is.
pub(super) const RECORDS: &str = "records";

/// In `data/`: which revision is current, and the same while it is being made.
pub(super) const CURRENT: &str = "..data";
pub(super) const CURRENT_NEW: &str = "..data_tmp";
/// In `staging/`: the links of names that the revision adds.
pub(super) const LINKS: &str = "links";

/// How many names of a directory are read at once.
const NAMES_AT_ONCE: usize = 65_536;

/// The name of a revision's directory.
pub(super) fn revision_name(sequence: u64) -> String {
    format!("..{sequence}")
}

/// The reverse of [`revision_name`], for names that it makes.
pub(super) fn parse_revision(name: &[u8]) -> Option<u64> {
    let sequence: u64 = str::from_utf8(name).ok()?.strip_prefix("..")?.parse().ok()?;
    (revision_name(sequence).as_bytes() == name).then_some(sequence)
}

/// The name of staged contents.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blob-{digest}")
}

/// Where the link of a top-level name points to.
pub(super) fn link_target(top: &str) -> String {
    format!("{CURRENT}/{top}")
}

/// The names that are visible at the top of a volume.
pub(super) fn tops(tree: &Tree) -> BTreeSet<&str> {
    tree.nodes().keys().map(TreePath::top).collect()
}

/// The last component of a path in a tree.
pub(super) fn name_of(path: &TreePath) -> &str {
    path.as_str().rsplit_once('/').map_or(path.as_str(), |(_, name)| name)
}

/// Removes whatever is at `name`. Nothing there is success.
pub(super) fn remove(dir: &Dir, name: impl AsRef<OsStr>) -> Result<(), Error> {
    let name = name.as_ref();
    if dir.unlink(name)? || dir.rmdir(name)? {
        return Ok(());
    }
    if let Some(below) = dir.dir(name)? {
        empty(&below)?;
    }
    dir.rmdir(name).map(drop)
}

/// Removes every name but those that `keep` says to keep.
pub(super) fn retain(
    dir: &Dir,
    mut keep: impl FnMut(&[u8]) -> Result<bool, Error>,
) -> Result<(), Error> {
    loop {
        let names = dir.names(NAMES_AT_ONCE)?;
        let mut removed = false;
        for name in &names {
            if !keep(name.as_bytes())? {
                remove(dir, name)?;
                removed = true;
            }
        }
        if !removed || names.len() < NAMES_AT_ONCE {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_have_one_name_each() {
        for sequence in [0, 1, 10, u64::MAX] {
            assert_eq!(parse_revision(revision_name(sequence).as_bytes()), Some(sequence));
        }
        for bad in
            ["", "..", "7", "..+7", "..07", "..data", "..-1", "...7", "..18446744073709551616"]
        {
            assert_eq!(parse_revision(bad.as_bytes()), None, "{bad}");
        }
    }
}
