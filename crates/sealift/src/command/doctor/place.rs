//! Where the doctor is: what it looks at depends on it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::finding::Finding;

/// Longest file of the kernel or of an administrator that is read.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// The kind of place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Place {
    /// Neither of the others.
    Laptop,
    /// A Kubernetes node: kubelet's directory or containerd's socket is there.
    Node,
    /// In a pod: Kubernetes' variables or a service account are there.
    Pod,
}

/// A machine as its files and the process's variables show it. Tests have their own.
pub(crate) struct Machine<'a> {
    /// What stands for `/`.
    pub(crate) root: PathBuf,
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
}

impl Machine<'_> {
    /// `path` is absolute.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The text of a small file, without surrounding white space.
    pub(crate) fn text(&self, path: &str) -> io::Result<String> {
        bounded(&self.path(path)).map(|text| text.trim().to_owned())
    }

    /// A variable that is set to something.
    pub(crate) fn set(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    pub(crate) fn place(&self) -> Place {
        let account = "/var/run/secrets/kubernetes.io/serviceaccount";
        if self.set("KUBERNETES_SERVICE_HOST").is_some() || self.has(account) {
            Place::Pod
        } else if self.has("/var/lib/kubelet") || self.has("/run/containerd/containerd.sock") {
            Place::Node
        } else {
            Place::Laptop
        }
    }
}

/// Reads a file that is not longer than it may be.
fn bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // Not a pipe that someone has put there: it would be waited for.
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no regular file"));
    }
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too long"));
    }
    Ok(text)
}

pub(crate) fn finding(place: Place, said: bool) -> Finding {
    let name = match place {
        Place::Laptop => "laptop",
        Place::Node => "node",
        Place::Pod => "pod",
    };
    let how = if said { "as --at says" } else { "as far as can be seen; --at says otherwise" };
    Finding::ok("place", format!("{name}, {how}"))
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    #[test]
    fn a_pod_a_node_and_a_laptop_are_told_apart() {
        let laptop = Fake::new(&[]);
        assert_eq!(laptop.machine().place(), Place::Laptop);
        let node = Fake::new(&[("/var/lib/kubelet/config.yaml", "")]);
        assert_eq!(node.machine().place(), Place::Node);
        let node = Fake::new(&[("/run/containerd/containerd.sock", "")]);
        assert_eq!(node.machine().place(), Place::Node);
        // A pod that has the node's directories mounted is still a pod.
        let pod = node.with("KUBERNETES_SERVICE_HOST", "10.0.0.1");
        assert_eq!(pod.machine().place(), Place::Pod);
        let pod = Fake::new(&[("/var/run/secrets/kubernetes.io/serviceaccount/token", "")]);
        assert_eq!(pod.machine().place(), Place::Pod);
        assert!(finding(Place::Pod, true).seen.starts_with("pod, as --at says"));
    }

    #[test]
    fn what_is_too_long_or_no_file_is_not_read() {
        let limit = usize::try_from(FILE_BYTES_MAX).unwrap();
        let (fits, long) = ("x".repeat(limit), "x".repeat(limit + 1));
        let fake = Fake::new(&[("/fits", &fits), ("/long", &long), ("/dir/file", "")]);
        let machine = fake.machine();
        assert_eq!(machine.text("/fits").unwrap().len(), limit);
        assert!(machine.text("/long").is_err());
        assert!(machine.text("/dir").is_err());
        assert!(machine.text("/none").is_err());
    }
}
