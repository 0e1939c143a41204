//! [`wipe`]: empties a directory.

use std::os::fd::BorrowedFd;

use crate::dir::Dir;
use crate::error::Error;

/// How many names are read before they are removed and the directory is read again.
const NAMES_AT_ONCE: usize = 1_024;

/// Removes everything in the directory `fd`, following no link and leaving other mounts alone.
pub fn wipe(fd: BorrowedFd<'_>) -> Result<(), Error> {
    empty(&Dir::from_fd(fd)?)
}

/// Empties `dir` without recursion: a subdirectory that is not empty has its own subdirectories
/// moved up into `dir`, and their turn comes later. So a tree of any depth costs two descriptors,
/// and no path is ever built.
pub(crate) fn empty(dir: &Dir) -> Result<(), Error> {
    let mut moved = 0_u64;
    loop {
        let names = dir.names(NAMES_AT_ONCE)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in &names {
            if dir.unlink(name)? || dir.rmdir(name)? {
                continue;
            }
            let Some(below) = dir.dir(name)? else { continue };
            hoist(&below, dir, &mut moved)?;
            dir.rmdir(name)?;
        }
    }
}

/// Removes the files in `below` and moves its non-empty directories into `dir`.
fn hoist(below: &Dir, dir: &Dir, moved: &mut u64) -> Result<(), Error> {
    loop {
        let names = below.names(NAMES_AT_ONCE)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in &names {
            if below.unlink(name)? || below.rmdir(name)? {
                continue;
            }
            loop {
                *moved += 1;
                match below.shift(name, dir, moved.to_string()) {
                    // Taken: by a file of that name, or by what an earlier, killed run moved.
                    Err(Error::NotEmpty { .. }) => {}
                    other => break other.map(drop)?,
                }
            }
        }
    }
}
