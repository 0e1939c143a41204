//! containerd, of other releases of Debian than this machine's: the first with NRI is that of Debian
//! 13. Its programs need no newer library than Debian 12 has, so that they are unpacked below `.tools`
//! and run where they lie.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::vm::{unpacked_as, with_package_lists};
use crate::process;

/// Debian 13 has containerd 1.7; testing has 2.x, whatever that is today.
const RELEASES: [&str; 2] = ["trixie", "testing"];
/// Who signs Debian's releases, as the package `debian-archive-keyring` has it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

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
    let files = unpacked_as(&format!("containerd-{release}"), "containerd", |work| {
        download(release, work)
    })?;
    let programs = files.join("usr/bin");
    // Testing's may come to need libraries that this machine has not.
    process::capture(Command::new(programs.join("containerd")).arg("--version"))?;
    Ok(programs)
}

/// With package lists of its own, so that apt's do not begin to know another release.
fn download(release: &str, work: &Path) -> Result<()> {
    for directory in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(work.join("apt").join(directory))?;
    }
    let sources = work.join("apt/sources.list");
    fs::write(
        &sources,
        format!("deb [signed-by={KEYRING}] {} {release} main\n", with_package_lists(mirror)?),
    )?;
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(work);
        for (option, path) in [
            ("Dir::State", work.join("apt/state")),
            ("Dir::Cache", work.join("apt/cache")),
            ("Dir::Etc::SourceList", sources.clone()),
            ("Dir::Etc::SourceParts", "/dev/null".into()),
        ] {
            command.arg("--option").arg(format!("{option}={}", path.display()));
        }
        // Root's files are not for the user that apt downloads as.
        command.args(["--option", "APT::Sandbox::User=root", "-qq"]);
        process::capture(command.args(arguments)).map(drop)
    };
    apt(&["update"])?;
    apt(&["download", "containerd"])
}

/// Where this machine has its own packages from.
fn mirror() -> Result<String> {
    let format = ["--format", "$(REPO_URI) $(ORIGIN) $(SUITE)", "Created-By: Packages"];
    let lists = process::capture(Command::new("apt-get").arg("indextargets").args(format))?;
    let of_debian = |line: &str| {
        let mut words = line.split(' ');
        let (uri, origin, suite) = (words.next()?, words.next()?, words.next()?);
        let whole = origin == "Debian" && !suite.contains('-');
        whole.then(|| uri.to_owned())
    };
    lists.lines().find_map(of_debian).context("apt knows no mirror of Debian")
}
