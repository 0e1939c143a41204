//! [`Files`]: which files, by Landlock.
//!
//! A rule holds for what is mounted below its directory, too, also if that comes later: Landlock
//! looks from a file upwards through mounts. What it does not cover is metadata: `stat` and
//! `readlink` see every path, and `chmod` changes every one that the user owns. Files cannot be
//! emptied from Linux 6.2 on (Landlock 3), ports are refused from 6.7 on (4), signals and abstract
//! sockets from 6.12 on (6).

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};

use crate::Error;
use crate::calls::Reach;

/// Versions of Landlock that are of use, newest first: in the first one nothing could be moved from
/// one directory to another, and our programs do that.
const VERSIONS: [(ABI, u8); 5] =
    [(ABI::V6, 6), (ABI::V5, 5), (ABI::V4, 4), (ABI::V3, 3), (ABI::V2, 2)];

/// To read files and list directories.
const READ: [AccessFs; 2] = [AccessFs::ReadFile, AccessFs::ReadDir];

/// To keep files in a directory: no devices, FIFOs or sockets, and nothing is executed.
const KEEP: [AccessFs; 10] = [
    AccessFs::ReadFile,
    AccessFs::ReadDir,
    AccessFs::WriteFile,
    AccessFs::Truncate,
    AccessFs::MakeReg,
    AccessFs::MakeDir,
    AccessFs::MakeSym,
    AccessFs::RemoveFile,
    AccessFs::RemoveDir,
    AccessFs::Refer,
];

/// To write into a file that is there, as into a device.
const WRITE: [AccessFs; 3] = [AccessFs::ReadFile, AccessFs::WriteFile, AccessFs::Truncate];

/// What may be done with files. Nothing that is not said here: no other file, no TCP port, and where
/// the kernel can keep them back, no signals and abstract sockets to others.
#[derive(Debug, Clone, Default)]
pub struct Files {
    grants: Vec<(PathBuf, BitFlags<AccessFs>)>,
    tcp: BitFlags<AccessNet>,
    reach: Reach,
}

impl Files {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lists a directory, and those below it.
    #[must_use]
    pub fn list(self, path: impl Into<PathBuf>) -> Self {
        self.grant(path.into(), AccessFs::ReadDir.into())
    }

    /// Reads a file, or whatever is below a directory.
    #[must_use]
    pub fn read(self, path: impl Into<PathBuf>) -> Self {
        self.grant(path.into(), READ.into_iter().collect())
    }

    /// Reads a file that may be replaced by another, as a certificate that is renewed: all of its
    /// directory, and of that of the file that it links to; of a directory, that itself.
    #[must_use]
    pub fn read_renewed(mut self, path: &Path) -> Self {
        let real = path.canonicalize().ok();
        for path in [Some(path), real.as_deref()].into_iter().flatten() {
            self = self.read(match path.is_dir() {
                true => path,
                false => path.parent().unwrap_or(path),
            });
        }
        self
    }

    /// Keeps files below a directory.
    #[must_use]
    pub fn keep(self, path: impl Into<PathBuf>) -> Self {
        self.grant(path.into(), KEEP.into_iter().collect())
    }

    /// Keeps files below a directory that may have to be made first: below the nearest one above it
    /// that is there. Not below all of them: that is an error.
    pub fn keep_or_make(self, path: &Path) -> Result<Self, Error> {
        // Of a relative path, the last one is empty.
        let is_there = |above: &&Path| above.is_dir();
        self.keep_if_there(path.ancestors().find(is_there).unwrap_or(Path::new(".")))
    }

    /// Keeps files below a directory, if it is there. Not below all of them: that is an error.
    pub fn keep_if_there(self, path: &Path) -> Result<Self, Error> {
        match path.canonicalize() {
            Ok(real) if real == Path::new("/") => Err(Error::TooMuch { path: path.to_path_buf() }),
            Ok(real) if real.is_dir() => Ok(self.keep(real)),
            _ => Ok(self),
        }
    }

    /// Keeps a file, and others beside it, if its directory is there; of a bare name, here.
    pub fn keep_beside(self, file: &Path) -> Result<Self, Error> {
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        self.keep_if_there(parent.unwrap_or(Path::new(".")))
    }

    /// Writes a file, if it is there.
    #[must_use]
    pub fn write_if_there(self, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        match path.exists() {
            true => self.grant(path, WRITE.into_iter().collect()),
            false => self,
        }
    }

    /// Connects to TCP ports.
    #[must_use]
    pub fn connect(mut self) -> Self {
        self.tcp |= AccessNet::ConnectTcp;
        self
    }

    /// Listens on TCP ports.
    #[must_use]
    pub fn listen(mut self) -> Self {
        self.tcp |= AccessNet::BindTcp;
        self
    }

    /// Hears others on sockets that listen already, or will by [`Files::listen`].
    #[must_use]
    pub fn accept(mut self) -> Self {
        self.reach.accept = true;
        self
    }

    /// Connects to sockets that have a place in the file system, to any of them: Landlock knows no
    /// rule for those.
    #[must_use]
    pub fn connect_unix(mut self) -> Self {
        self.reach.unix = true;
        self
    }

    /// Connects to virtual machines (vsock), to any of them.
    #[must_use]
    pub fn connect_vsock(mut self) -> Self {
        self.reach.vsock = true;
        self
    }

    /// Is told of changes in directories (inotify): of names, in all that its user may read.
    #[must_use]
    pub fn watch(mut self) -> Self {
        self.reach.watch = true;
        self
    }

    /// Changes owners of files that it has open, as far as its capabilities go.
    #[must_use]
    pub fn give_away(mut self) -> Self {
        self.reach.owners = true;
        self
    }

    /// Listens on a socket that gets a place in this directory, and removes such a socket there.
    #[must_use]
    pub fn listen_unix(mut self, dir: impl Into<PathBuf>) -> Self {
        self.reach.unix = true;
        self.reach.listen = true;
        self.grant(dir.into(), AccessFs::MakeSock | AccessFs::RemoveFile)
    }

    /// The directories and files that may be written.
    pub fn written(&self) -> impl Iterator<Item = &Path> {
        let writes = |access: &BitFlags<AccessFs>| access.contains(AccessFs::WriteFile);
        self.grants.iter().filter(move |(_, access)| writes(access)).map(|(path, _)| path.as_path())
    }

    pub(crate) fn calls(&self) -> Reach {
        let listen = self.reach.listen || self.tcp.contains(AccessNet::BindTcp);
        Reach { internet: !self.tcp.is_empty(), listen, ..self.reach }
    }

    fn grant(mut self, path: PathBuf, access: BitFlags<AccessFs>) -> Self {
        self.grants.push((path, access));
        self
    }

    /// Keeps the calling thread to them. `None`: the kernel cannot.
    pub fn restrict(&self) -> Result<Option<u8>, Error> {
        for (abi, version) in VERSIONS {
            // The kernel is older.
            let Ok(ruleset) = self.handle(abi) else { continue };
            let mut ruleset = ruleset.create().map_err(Error::Landlock)?;
            for (path, access) in &self.grants {
                ruleset = allow(ruleset, path, *access & AccessFs::from_all(abi))?;
            }
            ruleset.restrict_self().map_err(Error::Landlock)?;
            return Ok(Some(version));
        }
        Ok(None)
    }

    fn handle(&self, abi: ABI) -> Result<Ruleset, RulesetError> {
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let mut ruleset = ruleset.handle_access(AccessFs::from_all(abi))?;
        let refused = AccessNet::from_all(abi) & !self.tcp;
        if !refused.is_empty() {
            ruleset = ruleset.handle_access(refused)?;
        }
        if abi >= ABI::V6 {
            ruleset = ruleset.scope(Scope::from_all(abi))?;
        }
        Ok(ruleset)
    }
}

fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, Error> {
    let fail = |source| Error::Grant { path: path.to_path_buf(), source };
    // A file has no entries.
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(ABI::V6) };
    let place = PathFd::new(path).map_err(fail)?;
    ruleset.add_rule(PathBeneath::new(place, access)).map_err(Error::Landlock)
}
