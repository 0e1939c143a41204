//! [`exact`]: are these the files in a directory, and is there nothing else?

use std::collections::BTreeMap;

use crate::dir::{Dir, is_dir, is_plain};
use crate::error::Error;
use crate::plan::directories;
use crate::preflight::pages;

/// A file to be found: path, size and permission bits.
pub(crate) type Wanted<'a> = (&'a str, u64, u32);

/// Looks for exactly these files in `top`, with their directories and the names `others` directly in
/// it. `None`: there is less, more, or something else. Otherwise the bytes that the filesystem has
/// given them, of each file no more than its pages. Content is not read.
pub(crate) fn exact<'a>(
    top: &Dir,
    wanted: impl Iterator<Item = Wanted<'a>>,
    others: &[&'a str],
) -> Result<Option<u64>, Error> {
    match look(top, wanted, others) {
        Err(Error::InTheWay { .. }) => Ok(None),
        other => other,
    }
}

fn look<'a>(
    top: &Dir,
    wanted: impl Iterator<Item = Wanted<'a>>,
    others: &[&'a str],
) -> Result<Option<u64>, Error> {
    let files: BTreeMap<&str, (u64, u32)> =
        wanted.map(|(path, bytes, mode)| (path, (bytes, mode))).collect();
    let mut allocated = 0;
    for (path, names) in directories(files.keys().copied()) {
        let Some(dir) = top.dir(path)? else { return Ok(None) };
        let others = if path.is_empty() { others } else { &[] };
        // One more than expected is enough to know.
        let found = dir.names(names.len() + others.len() + 1)?;
        if found.len() != names.len() + others.len() {
            return Ok(None);
        }
        for name in found {
            let Some(name) = name.to_str() else { return Ok(None) };
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            let Some(stat) = dir.stat(name)? else { return Ok(None) };
            let as_wanted = match files.get(path.as_str()) {
                Some((bytes, mode)) => {
                    let given = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
                    allocated += given.min(pages(*bytes));
                    is_plain(&stat)
                        && u64::try_from(stat.st_size) == Ok(*bytes)
                        && stat.st_mode & 0o7777 == *mode
                }
                None => (names.contains(name) && is_dir(&stat)) || others.contains(&name),
            };
            if !as_wanted {
                return Ok(None);
            }
        }
    }
    Ok(Some(allocated))
}
