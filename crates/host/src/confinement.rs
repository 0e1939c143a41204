//! What the host agent gives up, for ever, before its first thread: it reads what pods and their users
//! may have written, hears guests and shims, and holds every Secret of the node's guests.
//!
//! | | left |
//! |---|---|
//! | capabilities | [`KEPT`] |
//! | files | kubelet's directory, read; its own state; with TLS the certificates, and what names are looked up with |
//! | network | socket files, vsock, and what listens already; with TLS connections to any host |
//! | system calls | a list, without other programs |
//!
//! Landlock knows no rule for socket files and vsock: who takes the agent over can still speak to the
//! container runtime, and to every other service of the node that hears root.

use std::path::Path;

use ::confine::files::Files;
use ::confine::{CapabilitySet, Confined, Error};

/// Files of a pod's user that are for nobody else are read; nothing is written that is not root's.
pub const KEPT: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;

/// What the C library reads to find a name's address.
const RESOLVER: [&str; 5] =
    ["/etc/gai.conf", "/etc/host.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf"];

/// What the agent needs beside its connections.
#[derive(Debug, Clone)]
pub struct Grants<'a> {
    /// Kubelet's directory. Only what is there now: another one that takes its place is not granted.
    pub kubelet_root: &'a Path,
    /// What is remembered. It is made if it is not there.
    pub state_dir: &'a Path,
    /// Certificates and keys, read again for every connection. Empty: no connection leaves this machine.
    pub tls: Vec<&'a Path>,
}

/// Confines the calling thread, which is the process's only one, to what the agent does. What it
/// listens on has to be bound before.
pub fn confine(grants: &Grants<'_>) -> Result<Confined, Error> {
    ::confine::program(&files(grants)?, KEPT)
}

fn files(grants: &Grants<'_>) -> Result<Files, Error> {
    let make = |source| Error::System { call: "make the directory of the agent's state", source };
    std::fs::create_dir_all(grants.state_dir).map_err(make)?;
    let files = Files::new()
        .read(grants.kubelet_root)
        .keep_if_there(grants.state_dir)?
        .connect_unix()
        .connect_vsock()
        .accept()
        .watch();
    if grants.tls.is_empty() {
        return Ok(files);
    }
    let files = grants.tls.iter().fold(files, |files, path| files.read_renewed(path));
    let resolver = RESOLVER.iter().map(Path::new).filter(|path| path.exists());
    Ok(resolver.fold(files.connect(), lookup))
}

/// What a file in `/etc` links to is replaced there, as by systemd-resolved: so its directory is read,
/// but not one as large as `/etc` itself.
fn lookup(files: Files, path: &Path) -> Files {
    match path.canonicalize() {
        Ok(real) if real.ancestors().count() > 3 => files.read_renewed(&real),
        _ => files.read(path),
    }
}
