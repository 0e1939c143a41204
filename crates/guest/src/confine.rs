//! What each of the agent's processes gives up, for ever, before it hears anybody.
//!
//! | | receiver | mounter |
//! |---|---|---|
//! | hears | the host, of which it believes nothing | the receiver, of which it believes little more |
//! | capabilities | [`RECEIVER`] | [`MOUNTER`] |
//! | files | Landlock: the volumes; see [`Grants`] | those that its few calls reach |
//! | network | what it listened to before | with a key source: its socket file |
//! | system calls | a list | a shorter list, with mounts |
//!
//! Both get `no_new_privs`. Who makes a call that is not on its list is killed: our own programs make
//! none, so it is somebody else's code that runs there, and an error would only tell it to try
//! another one. The other process ends with it and both are started again; containers keep what
//! they see meanwhile. A host that can bring that about stops updates, which it can do anyway.
//!
//! Landlock and seccomp bind the calling thread and those that it starts: call this before the
//! first one.

mod calls;

use std::fmt;
use std::path::PathBuf;

use ::confine::drop_privileges;
use ::confine::files::Files;
use rustix::thread::CapabilitySet;

/// Capabilities of the receiver.
///
/// - `CAP_CHOWN`: files get the owners that they have on the host.
/// - `CAP_FOWNER`: then their modes, and names in further revisions, though they are somebody else's.
/// - `CAP_DAC_OVERRIDE`: directories are filled and emptied whatever their mode and owner.
/// - `CAP_FSETID`: a directory keeps setgid, which `fsGroup` sets, though the group is not ours.
pub const RECEIVER: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID);

/// Capabilities of the mounter.
///
/// - `CAP_SYS_ADMIN`: mounts.
/// - `CAP_DAC_OVERRIDE`: what an agent without mounts left is removed, whoever owns it.
pub const MOUNTER: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::DAC_OVERRIDE);

/// What has to hold, or the agent does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Require {
    /// Everything but Landlock, which is used where the kernel has it and missed aloud elsewhere
    #[default]
    Seccomp,
    /// Everything
    Landlock,
    /// Nothing: no confinement at all, to find faults
    Nothing,
}

/// What the receiver needs besides its connections.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    /// Where the volumes are; `new/` and `volumes/` exist. It may do there what a store does.
    pub root: PathBuf,
    /// Files and directories that are read later, by their paths. Of a file it is its directory that
    /// may be read, with all that is in it: a certificate that is renewed is another file.
    pub readable: Vec<PathBuf>,
    /// Whether it connects to sockets of the file system, to any of them. Only where it has no
    /// mounter that does it instead.
    pub connects_unix: bool,
}

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "is to be logged"]
pub struct Confined {
    /// System calls are filtered, and no privileges can be won.
    pub seccomp: bool,
    /// Landlock's version; `None`: the kernel has none that is of use, or it was not asked for.
    pub landlock: Option<u8>,
    /// Capabilities that are left. `None`: as it was started.
    pub capabilities: Option<CapabilitySet>,
}

impl fmt::Display for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(capabilities) = self.capabilities else { return f.write_str("not at all") };
        f.write_str(if self.seccomp { "seccomp, " } else { "" })?;
        if let Some(version) = self.landlock {
            write!(f, "Landlock {version}, ")?;
        }
        match capabilities.is_empty() {
            true => f.write_str("no capabilities"),
            false => write!(f, "capabilities {:#x}", capabilities.bits()),
        }
    }
}

/// Why a process is not confined as it has to be; it must end then, since a part may be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused.
    #[error(transparent)]
    Confine(#[from] ::confine::Error),
    /// The kernel has no Landlock, or one that is too old.
    #[error(
        "this kernel has no Landlock of Linux 5.19 or later (CONFIG_SECURITY_LANDLOCK, and \
         \"landlock\" in lsm=); start without --confine landlock to go on without"
    )]
    NoLandlock,
}

/// Confines the calling thread, which is the process's only one, to what the receiver does.
pub fn receiver(grants: &Grants, require: Require) -> Result<Confined, Error> {
    if require == Require::Nothing {
        return Ok(Confined { seccomp: false, landlock: None, capabilities: None });
    }
    let capabilities = drop_privileges(RECEIVER)?;
    let landlock = files(grants).restrict()?;
    if landlock.is_none() && require == Require::Landlock {
        return Err(Error::NoLandlock);
    }
    calls::receiver(grants.connects_unix).map_err(::confine::Error::Seccomp)?;
    Ok(Confined { seccomp: true, landlock, capabilities: Some(capabilities) })
}

/// Confines the calling thread, which is the process's only one, to what the mounter does;
/// `connects_unix`: with connections to a socket file.
pub fn mounter(require: Require, connects_unix: bool) -> Result<Confined, Error> {
    if require == Require::Nothing {
        return Ok(Confined { seccomp: false, landlock: None, capabilities: None });
    }
    let capabilities = drop_privileges(MOUNTER)?;
    calls::mounter(connects_unix).map_err(::confine::Error::Seccomp)?;
    Ok(Confined { seccomp: true, landlock: None, capabilities: Some(capabilities) })
}

/// Its volumes, and what it was told to read. `chmod` and `chown` would change every file: so the
/// receiver has only the forms of those that take one that is open, and may open only these.
fn files(grants: &Grants) -> Files {
    // Not in the root itself: there the mounter looks for these two.
    let mut files = Files::new().list(&grants.root);
    for place in ["new", "volumes"] {
        files = files.keep(grants.root.join(place));
    }
    grants.readable.iter().fold(files, |files, path| files.read_renewed(path))
}
