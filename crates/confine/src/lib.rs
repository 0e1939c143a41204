//! What a program gives up, for ever, before it hears anybody: [capabilities](drop_privileges),
//! [files](files::Files) by Landlock, [system calls](calls) by seccomp.
//!
//! All of it binds the calling thread and those that it starts: call it before the first one.
//! Landlock is used where the kernel has it; the caller says aloud where it has not.
//!
//! [`program`] is the whole of it for our programs that talk to the network; the guest agent, which
//! hears its host, has stricter lists of its own. [`stranger`] is what is left of it for a program
//! that loads somebody else's code. [`harden_process`] is for all of them, confined or not.

pub mod calls;
pub mod files;
mod harden;

use std::fmt;
use std::io;
use std::path::PathBuf;

pub use harden::{Hardening, harden_process};
use rustix::io::Errno;
pub use rustix::thread::CapabilitySet;
use rustix::thread::{
    CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use files::Files;

/// Why a process is not confined as it has to be; it must end then, since a part may be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused to take rights away.
    #[error("cannot {call}")]
    System {
        /// What was tried.
        call: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Landlock refused a rule.
    #[error("cannot confine the access to files: {0}")]
    Landlock(#[source] ::landlock::RulesetError),
    /// A place that is granted is not there.
    #[error("cannot grant {path:?}")]
    Grant {
        /// The place.
        path: PathBuf,
        /// Why not.
        #[source]
        source: ::landlock::PathFdError,
    },
    /// A directory that is `/`, where everything is, or would have to be made there.
    #[error(
        "what is to be kept would lie in {path:?}, which is all of the file system: make a directory for it first"
    )]
    TooMuch {
        /// The directory that would be granted.
        path: PathBuf,
    },
    /// The kernel refused the filter of system calls.
    #[error("cannot filter system calls (CONFIG_SECCOMP_FILTER)")]
    Seccomp(#[source] seccompiler::Error),
}

fn fail(call: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::System { call, source: errno.into() }
}

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "is to be logged"]
pub struct Confined {
    /// Landlock's version; `None`: the kernel has none that is of use.
    pub landlock: Option<u8>,
    /// Capabilities that are left.
    pub capabilities: CapabilitySet,
}

impl fmt::Display for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("seccomp, ")?;
        match self.landlock {
            Some(version) => write!(f, "Landlock {version}, ")?,
            None => f.write_str("no Landlock in this kernel, ")?,
        }
        match self.capabilities.is_empty() {
            true => f.write_str("no capabilities"),
            false => write!(f, "capabilities {:#x}", self.capabilities.bits()),
        }
    }
}

/// Of root's capabilities, the one that lets it read and write where others own the directory.
pub const KEEPER: CapabilitySet = CapabilitySet::DAC_OVERRIDE;

/// Confines the calling thread, which is the process's only one, to what a program does that works
/// with `files`, talks to others, and starts no other program; of the capabilities it keeps those in
/// `keep`. What it cannot take away: to change modes of files that its user owns, and to ask
/// another process over a socket that was [granted](Files::connect_unix).
///
/// A call that only an intruder would make kills the process. One that is merely not on the list is
/// answered as by a kernel that does not have it, for which libraries have another way.
pub fn program(files: &Files, keep: CapabilitySet) -> Result<Confined, Error> {
    let capabilities = drop_privileges(keep)?;
    let landlock = files.restrict()?;
    calls::program(files.calls()).map_err(Error::Seccomp)?;
    Ok(Confined { landlock, capabilities })
}

/// Takes from the calling thread, which is the process's only one, what no library that is loaded for
/// a device can need: other programs, other processes, mounts, the kernel, other users' rights. Files,
/// sockets and capabilities stay: nobody can say which ones such a library wants.
pub fn stranger() -> Result<(), Error> {
    set_no_new_privs(true).map_err(fail("set no_new_privs"))?;
    calls::stranger().map_err(Error::Seccomp)
}

/// Leaves of the capabilities that there are only those in `keep`, and no way to others.
pub fn drop_privileges(keep: CapabilitySet) -> Result<CapabilitySet, Error> {
    set_no_new_privs(true).map_err(fail("set no_new_privs"))?;
    let held = capabilities(None).map_err(fail("read the capabilities"))?.permitted;
    // Without this one the bounding set stays. It bounds what a program can win that is executed,
    // which is nothing after `no_new_privs`.
    if held.contains(CapabilitySet::SETPCAP) {
        for number in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if keep.contains(one) {
                continue;
            }
            match remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                // The first number that the kernel does not know.
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(fail("drop a capability")(errno)),
            }
        }
    }
    clear_ambient_capability_set().map_err(fail("drop the ambient capabilities"))?;
    let left = held.intersection(keep);
    let sets =
        CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(fail("drop capabilities"))?;
    Ok(left)
}
