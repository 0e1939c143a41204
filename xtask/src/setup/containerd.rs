//! containerd, of other releases of Debian than this machine's: the first with NRI is that of Debian
//! 13. Its programs need no newer library than Debian 12 has, so that they are unpacked below `.tools`
//! and run where they lie.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::debian::Packages;
use crate::process;

/// Debian 13 has containerd 1.7; testing has 2.x, whatever that is today.
const RELEASES: [&str; 2] = ["trixie", "testing"];

/// The directories of containerd's programs, by Debian's release, or why one cannot be had.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, Result<PathBuf>)> {
    RELEASES.into_iter().map(|release| (release, of(release)))
}

/// Those that are here, as a search path for the tests; the others are named on standard output.
pub(crate) fn search_path() -> Result<std::ffi::OsString> {
    let mut found = Vec::new();
    for (release, programs) in all() {
        match programs {
            Ok(programs) => found.push(programs),
            Err(why) => println!("not ready: containerd of Debian {release}: {why:#}"),
        }
    }
    Ok(std::env::join_paths(found)?)
}

fn of(release: &str) -> Result<PathBuf> {
    let files = Packages::release(release)?.unpacked("containerd")?;
    let programs = files.join("usr/bin");
    // Testing's may come to need libraries that this machine has not.
    process::capture(Command::new(programs.join("containerd")).arg("--version"))?;
    Ok(programs)
}
