//! [`Tree`]: one revision of a volume, its digest, and the [`Delta`] from one to the next.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256, digest};

use crate::Error;
use crate::name::TreePath;

/// SHA-256 of a file's bytes, or of a tree's canonical form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of contents whose digest their receiver is to find out.
    pub const UNNAMED: Self = Self([0; 32]);

    /// Of a file's bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::finished(digest(&SHA256, bytes))
    }

    /// One that was computed before.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The result of a SHA-256 that was computed piece by piece.
    ///
    /// # Panics
    /// With a digest of another algorithm.
    pub fn finished(digest: aws_lc_rs::digest::Digest) -> Self {
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From 64 lower-case hex digits, as displayed.
    pub fn parse(hex: &str) -> Option<Self> {
        let nibble = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 32];
        let pairs = hex.as_bytes().chunks_exact(2);
        if hex.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Owner and permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits; of directories also setgid, which Kubernetes sets with `fsGroup`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What is at a path. There is no third kind: kubelet writes none, and the guest makes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory(Meta),
    /// A regular file.
    File {
        /// Owner and permissions.
        meta: Meta,
        /// Length.
        bytes: u64,
        /// Of its bytes.
        digest: Digest,
    },
}

impl Node {
    /// Owner and permissions.
    pub fn meta(&self) -> Meta {
        match self {
            Self::Directory(meta) | Self::File { meta, .. } => *meta,
        }
    }
}

/// What a volume may hold. Policy lowers these, nothing raises them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Files and directories, the root not counted.
    pub entries: u32,
    /// Bytes of all files together.
    pub bytes: u64,
}

impl Limits {
    /// The most that any policy allows: 16 384 entries, 1 GiB.
    pub const MAX: Self = Self { entries: 16_384, bytes: 1 << 30 };
}

/// Memory that an entry takes beside its path: in a map that is half full, and once more as a
/// content that is known by its digest.
pub const ENTRY_BYTES: usize = 320;

/// Bytes of memory that an entry of this path takes, about.
pub(crate) fn entry_memory(path: &TreePath) -> usize {
    path.as_str().len() + ENTRY_BYTES
}

/// One revision: the volume's own directory and everything in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    root: Meta,
    /// Shared by all copies.
    nodes: Arc<BTreeMap<TreePath, Node>>,
    bytes: u64,
    memory: usize,
    /// Of all of the above, which never change.
    digest: Digest,
}

impl Tree {
    /// Checks that the nodes make a tree within `limits`: each one's parent is a directory of it,
    /// and modes are plain.
    pub fn new(root: Meta, nodes: BTreeMap<TreePath, Node>, limits: Limits) -> Result<Self, Error> {
        check_meta("the volume's root", &Node::Directory(root))?;
        within("entries", nodes.len() as u64, u64::from(limits.entries))?;
        let (mut bytes, mut memory) = (0_u64, 0);
        for (path, node) in &nodes {
            memory += entry_memory(path);
            check_meta(path.as_str(), node)?;
            if let Some(parent) = path.parent()
                && !matches!(nodes.get(parent), Some(Node::Directory(_)))
            {
                return Err(Error::Tree {
                    path: path.to_string(),
                    why: "is in something that is not a directory of the volume",
                });
            }
            if let Node::File { bytes: length, .. } = node {
                bytes = bytes.saturating_add(*length);
            }
        }
        within("bytes", bytes, limits.bytes)?;
        let digest = canonical_digest(root, &nodes);
        Ok(Self { root, nodes: Arc::new(nodes), bytes, memory, digest })
    }

    /// Owner and permissions of the volume's own directory.
    pub fn root(&self) -> Meta {
        self.root
    }

    /// Everything in it, by path; a directory comes before what is in it.
    pub fn nodes(&self) -> &BTreeMap<TreePath, Node> {
        &self.nodes
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there is a file that somebody may run.
    pub fn executable(&self) -> bool {
        const ANYBODY: u32 = 0o111;
        let runs =
            |node: &Node| matches!(node, Node::File { meta, .. } if meta.mode & ANYBODY != 0);
        self.nodes.values().any(runs)
    }

    /// Bytes of memory that it takes, about: its paths, and [`ENTRY_BYTES`] for each.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// The revision's name: SHA-256 of the canonical form, which is
    ///
    /// | part | bytes |
    /// |---|---|
    /// | `sealift.volumes.v1\n` | 19 |
    /// | root: mode, uid, gid | 3 × u32 |
    /// | per node, by path: length of the path, path | u32, as long |
    /// | kind (1 directory, 2 file), mode, uid, gid | u8, 3 × u32 |
    /// | of files: length, digest | u64, 32 |
    ///
    /// with big-endian numbers. Nothing can be cut, added or moved without another digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What makes `newer` out of this.
    pub fn delta(&self, newer: &Self) -> Delta {
        Delta {
            root: (self.root != newer.root).then_some(newer.root),
            upserts: newer
                .nodes
                .iter()
                .filter(|(path, node)| self.nodes.get(*path) != Some(*node))
                .map(|(path, node)| (path.clone(), *node))
                .collect(),
            removals: self
                .nodes
                .keys()
                .filter(|path| !newer.nodes.contains_key(*path))
                .cloned()
                .collect(),
        }
    }

    /// This with `delta`'s changes. Refuses to remove what is not there: then the two sides do not
    /// mean the same base.
    pub fn apply(&self, delta: Delta, limits: Limits) -> Result<Self, Error> {
        let mut nodes = BTreeMap::clone(&self.nodes);
        for path in &delta.removals {
            if nodes.remove(path).is_none() {
                return Err(Error::Tree {
                    path: path.to_string(),
                    why: "is to be removed and is not there",
                });
            }
        }
        nodes.extend(delta.upserts);
        Self::new(delta.root.unwrap_or(self.root), nodes, limits)
    }
}

/// The difference between two revisions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// The root's owner and permissions, if they change.
    pub root: Option<Meta>,
    /// What is new or different.
    pub upserts: Vec<(TreePath, Node)>,
    /// What is gone.
    pub removals: Vec<TreePath>,
}

impl Delta {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.root.is_none() && self.upserts.is_empty() && self.removals.is_empty()
    }
}

/// See [`Tree::digest`].
fn canonical_digest(root: Meta, nodes: &BTreeMap<TreePath, Node>) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(b"sealift.volumes.v1\n");
    let meta = |context: &mut Context, meta: Meta| {
        for number in [meta.mode, meta.uid, meta.gid] {
            context.update(&number.to_be_bytes());
        }
    };
    meta(&mut context, root);
    for (path, node) in nodes {
        let length = u32::try_from(path.as_str().len()).expect("a path is short");
        context.update(&length.to_be_bytes());
        context.update(path.as_str().as_bytes());
        context.update(&[match node {
            Node::Directory(_) => 1,
            Node::File { .. } => 2,
        }]);
        meta(&mut context, node.meta());
        if let Node::File { bytes, digest, .. } = node {
            context.update(&bytes.to_be_bytes());
            context.update(digest.as_bytes());
        }
    }
    Digest::finished(context.finish())
}

fn within(what: &'static str, found: u64, limit: u64) -> Result<(), Error> {
    if found > limit { Err(Error::Limit { what, found, limit }) } else { Ok(()) }
}

/// Permission bits only: nothing in a volume acts with its owner's rights.
fn check_meta(path: &str, node: &Node) -> Result<(), Error> {
    const PERMISSIONS: u32 = 0o777;
    const SETGID: u32 = 0o2000;
    let (allowed, why) = match node {
        Node::Directory(_) => (PERMISSIONS | SETGID, "setuid, sticky, or not a mode"),
        Node::File { .. } => (PERMISSIONS, "setuid, setgid, sticky, or not a mode"),
    };
    let Meta { mode, uid, gid } = node.meta();
    if mode & !allowed != 0 {
        return Err(Error::Mode { path: path.to_owned(), mode, why });
    }
    // The system calls take it for "as it is".
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Error::Tree { path: path.to_owned(), why: "has an owner that nobody is" });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
