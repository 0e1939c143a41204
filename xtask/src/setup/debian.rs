//! Debian packages that are unpacked below `.tools/debian` and not installed: for another kind of
//! processor, of another release, or since nothing else here shall boot or run them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Doing, is_root};
use crate::arch::Arch;
use crate::process;
use crate::workspace::root;

/// Who signs Debian's releases, as the package `debian-archive-keyring` has it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where packages come from.
pub(crate) struct Packages {
    /// Of which kind or release, unless they are this machine's own.
    kind: Option<String>,
    options: Vec<String>,
}

impl Packages {
    /// For a kind of processor.
    pub(crate) fn of(arch: Arch) -> Result<Self> {
        let name = arch.name();
        match arch == Arch::here() {
            true => Ok(Self { kind: None, options: Vec::new() }),
            false => Self::apart(
                name,
                [format!("APT::Architecture={name}"), format!("APT::Architectures={name}")],
            ),
        }
    }

    /// Of a release, from where this machine has its own.
    pub(crate) fn release(name: &str) -> Result<Self> {
        let sources = lists(name).join("sources.list");
        fs::create_dir_all(lists(name))?;
        let mirror = Self::of(Arch::here())?.asked(mirror)?;
        fs::write(&sources, format!("deb [signed-by={KEYRING}] {mirror} {name} main\n"))?;
        let sources = sources.display();
        Self::apart(
            name,
            [format!("Dir::Etc::SourceList={sources}"), "Dir::Etc::SourceParts=/dev/null".into()],
        )
    }

    /// By lists of their own, so that the system's apt hears nothing of them.
    fn apart(kind: &str, options: [String; 2]) -> Result<Self> {
        let at = lists(kind);
        for directory in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(at.join(directory))?;
        }
        let mut options = Vec::from(options);
        options.extend([
            format!("Dir::State::lists={}", at.join("lists").display()),
            format!("Dir::Cache={}", at.display()),
            "Acquire::Languages=none".to_owned(),
            // Root's files are not for the user that apt downloads as.
            "APT::Sandbox::User=root".to_owned(),
        ]);
        Ok(Self { kind: Some(kind.to_owned()), options })
    }

    /// `apt-get` or `apt-cache`.
    pub(crate) fn apt(&self, program: &str) -> Result<Command> {
        if process::which(program).is_none() {
            bail!("packages of Debian are needed, and there is no {program} to ask for them");
        }
        let mut apt = Command::new(program);
        for option in &self.options {
            apt.args(["-o", option]);
        }
        Ok(apt)
    }

    /// Does what needs apt's package lists; where that fails, they may be missing or old: fetches
    /// them, and tries once more.
    pub(crate) fn asked(&self, attempt: impl Fn() -> Result<String>) -> Result<String> {
        match attempt() {
            Err(_) if self.kind.is_some() || is_root()? => {
                process::capture(self.apt("apt-get")?.args(["update", "-qq"]))?;
                attempt()
            }
            done => done,
        }
    }

    /// A package's files.
    pub(crate) fn unpacked(&self, package: &str) -> Result<PathBuf> {
        let name = match &self.kind {
            None => package.to_owned(),
            Some(kind) => format!("{package}-{kind}"),
        };
        let target = directory().join(&name);
        if target.is_dir() {
            return Ok(target);
        }
        let doing = Doing::new(format!("unpacking the Debian package {name} into .tools"));
        // Complete or not there: it gets its name when everything is in it.
        let work = directory().join(format!(".{name}-{}", std::process::id()));
        fs::create_dir_all(&work)?;
        let done = self.unpack(package, &work, &target);
        fs::remove_dir_all(&work)?;
        done?;
        doing.done();
        Ok(target)
    }

    fn unpack(&self, package: &str, work: &Path, target: &Path) -> Result<()> {
        self.asked(|| {
            process::capture(self.apt("apt-get")?.current_dir(work).args(["download", package]))
        })?;
        let entries: Vec<_> = fs::read_dir(work)?.collect::<Result<_, _>>()?;
        let is_archive = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "deb");
        let archive = entries.iter().map(fs::DirEntry::path).find(is_archive);
        let archive = archive.with_context(|| format!("apt-get downloaded no {package}"))?;
        let files = work.join("files");
        process::capture(Command::new("dpkg-deb").arg("--extract").args([&archive, &files]))?;
        Ok(fs::rename(&files, target)?)
    }
}

/// Where all of them are.
pub(crate) fn directory() -> PathBuf {
    root().join(".tools/debian")
}

fn lists(kind: &str) -> PathBuf {
    directory().join(format!(".apt-{kind}"))
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
