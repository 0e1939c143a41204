//! [`System`]: what this crate knows of the machine, replaceable in tests.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

/// One system call, about to be made.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Its name, as `strace` prints it.
    pub name: &'static str,
    /// Whether it can change what another process sees.
    pub mutates: bool,
    /// What it is about, for messages.
    pub path: &'a Path,
}

/// Sees every system call of this crate before it is made. Tests kill the process here, or let the
/// call fail, at the 1st, 2nd, … call until a run completes: new calls are covered without anyone
/// having to name them.
pub trait Steps: Send + Sync {
    /// An error is returned in place of making the call.
    fn before(&self, call: &Call<'_>) -> Result<(), Errno>;
}

/// Where the kernel's trees are, and who watches the calls.
#[derive(Clone)]
pub struct System {
    /// The sysfs tree, `/sys`: to recognise dm-crypt.
    pub sys: PathBuf,
    /// The proc tree, `/proc`: to find the cgroups of this process.
    pub proc: PathBuf,
    /// Told of every call. `None` outside tests.
    pub steps: Option<Arc<dyn Steps>>,
}

impl Default for System {
    fn default() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into(), steps: None }
    }
}

impl fmt::Debug for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("System")
            .field("sys", &self.sys)
            .field("proc", &self.proc)
            .field("steps", &self.steps.is_some())
            .finish()
    }
}
