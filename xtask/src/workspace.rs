//! Where things are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::process;

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies below the root")
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Cargo's target directory, wherever the user's configuration puts it.
pub(crate) fn target_dir() -> Result<&'static Path> {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    if let Some(dir) = DIR.get() {
        return Ok(dir);
    }
    let mut command = cargo();
    command.args(["metadata", "--no-deps", "--format-version", "1"]);
    let metadata = process::capture(&mut command)?;
    let (_, rest) = metadata
        .split_once(r#""target_directory":""#)
        .context("cargo metadata names no target directory")?;
    let dir = rest.split('"').next().unwrap_or_default();
    Ok(DIR.get_or_init(|| dir.into()))
}

/// How programs are built.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    /// For tests: built soonest.
    Dev,
    /// For the demo and the bench: what users run.
    Release,
}

/// Builds `programs` and gives the directory that holds them.
pub(crate) fn build(programs: &[&str], profile: Profile) -> Result<PathBuf> {
    let mut command = cargo();
    // The whole workspace's choice of features, so that every recipe shares what was built.
    command.args(["build", "--quiet", "--locked", "--workspace"]);
    for program in programs {
        command.args(["--bin", program]);
    }
    match profile {
        Profile::Dev => {
            process::run(&mut command)?;
            Ok(target_dir()?.join("debug"))
        }
        Profile::Release => release(&mut command, Arch::here()),
    }
}

/// Runs a `cargo build` whose programs are to be what users get: optimised, without libraries, and
/// the same bytes wherever the repository lies. Gives the directory that holds them.
pub(crate) fn release(build: &mut Command, arch: Arch) -> Result<PathBuf> {
    let target = arch.target();
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = match cargo_home {
        Some(home) => home,
        None => std::env::home_dir().context("this user has no home directory")?.join(".cargo"),
    };
    let paths = [(root(), "/sealift"), (&cargo_home, "/cargo")];
    let renamed =
        |option: &str| paths.map(|(from, to)| format!("{option}={}={to}", from.display()));
    let rust = renamed("--remap-path-prefix").join(" ");
    // The target is said even though it is this machine's own: flags are then for the program alone,
    // and not for build scripts, and the program gets a directory of its own.
    arch.prepare(build)?
        .arg("--release")
        .env("RUSTFLAGS", format!("-C target-feature=+crt-static {rust}"))
        // The C of the cryptography names its files in its errors.
        .env(
            format!("CFLAGS_{}", target.replace('-', "_")),
            renamed("-ffile-prefix-map").join(" "),
        );
    process::run(build)?;
    Ok(target_dir()?.join(target).join("release"))
}
