//! [`Volume`]: the directory, as the guest's agent keeps its volumes: revisions of which one is
//! visible, switched by one rename.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use publish::volumes::{Committed, Error, HeldState, Options, PlainDirectories, Store};
use publish::{Destination, Policy};
use volumes::name::{Category, TreePath, VolumeId};
use volumes::tree::{Digest, Limits, Meta, Node, Tree};
use zeroize::Zeroizing;

use crate::code::Code;
use crate::failure::{Failure, chain};

/// What the store calls the one volume.
const ID: &str = "secrets";
/// Where programs read, below the directory, and where that leads.
const LINK: (&str, &str) = ("data", "volumes/secrets/data");
/// More than Kubernetes allows for sixteen Secrets.
const LIMITS: Limits = Limits { entries: 2_048, bytes: 16 << 20 };
const DIRECTORY_MODE: u32 = 0o755;

/// The directory.
pub(super) struct Volume {
    store: Store,
    id: VolumeId,
    dir: PathBuf,
}

/// A file that is to be there.
pub(super) struct File {
    pub(super) meta: Meta,
    pub(super) content: Zeroizing<Vec<u8>>,
}

impl Volume {
    /// Opens it, as the last run left it: at exactly one revision, or none.
    pub(super) fn open(dir: &Path, allow_disk: bool, grace: Duration) -> Result<Self, Failure> {
        // Makes the directory, if it may be where it is.
        Destination::open(dir, &Policy { allow_disk })?;
        let id = VolumeId::parse(ID).map_err(|error| Failure::new(Code::Bug, error.to_string()))?;
        let options = Options { grace, ..Options::default() };
        let open = || {
            let mounter = PlainDirectories::prepare(dir, None)?;
            let mut store = Store::open(dir, options, Box::new(mounter), Instant::now())?;
            store.create(&id, Category::Secret, LIMITS)?;
            Ok(store)
        };
        let store = open().map_err(|error: Error| failed(&error).at(dir.display()))?;
        let (name, target) = LINK;
        let link = dir.join(name);
        match symlink(target, &link) {
            Err(error) if std::fs::read_link(&link).is_ok_and(|held| held == Path::new(target)) => {
                let _ = error;
            }
            other => other.map_err(|error| {
                Failure::new(Code::Publish, error.to_string()).at(link.display())
            })?,
        }
        Ok(Self { store, id, dir: dir.to_path_buf() })
    }

    /// What is visible: its number, and the tree if it is known.
    pub(super) fn current(&self) -> Option<(u64, Option<&Tree>)> {
        match self.store.get(&self.id)?.state {
            HeldState::Revision { sequence, tree, .. } => Some((sequence, Some(tree))),
            HeldState::Damaged { sequence } => Some((sequence, None)),
            HeldState::Nothing => None,
        }
    }

    /// Whether files of just these paths are visible.
    pub(super) fn has(&self, paths: &[&TreePath]) -> bool {
        let Some((_, Some(tree))) = self.current() else { return false };
        let is_file = |node: &Node| matches!(node, Node::File { .. });
        let files = tree.nodes().values().filter(|node| is_file(node)).count();
        files == paths.len()
            && paths.iter().all(|path| tree.nodes().get(*path).is_some_and(is_file))
    }

    /// Makes these files the ones that are visible, all at once. `before` is asked with the number
    /// that they will have. `None`: they are already.
    pub(super) async fn publish(
        &mut self,
        files: &BTreeMap<TreePath, File>,
        before: impl FnOnce(u64) -> Result<(), Failure>,
    ) -> Result<Option<u64>, Failure> {
        let tree = tree(files)?;
        let held = self.current();
        if held.is_some_and(|(_, held)| held.is_some_and(|held| held.digest() == tree.digest())) {
            return Ok(None);
        }
        let sequence = held.map_or(0, |(sequence, _)| sequence) + 1;
        before(sequence)?;
        let at = |error: &Error| failed(error).at(self.dir.display());
        // What an attempt before this one may have left.
        self.store.discard(&self.id).map_err(|error| at(&error))?;
        for file in files.values().filter(|file| !file.content.is_empty()) {
            let (digest, bytes) = (Digest::of(&file.content), file.content.len() as u64);
            if !self.store.holds(&self.id, &digest) {
                let put = self.store.put(&self.id, digest, bytes, 0, &file.content);
                put.map_err(|error| at(&error))?;
            }
        }
        loop {
            match self.store.commit(&self.id, sequence, &tree, Instant::now) {
                Ok(Committed::New | Committed::Already) => break,
                Err(Error::TooSoon { retry_after }) => tokio::time::sleep(retry_after).await,
                Err(error @ Error::Untidy { .. }) => {
                    tracing::warn!(error = %chain(&error), "something is left behind");
                    break;
                }
                Err(error) => return Err(at(&error)),
            }
        }
        Ok(Some(sequence))
    }

    /// Removes revisions whose grace is over; when the next one's is.
    pub(super) fn expire(&mut self) -> Option<Instant> {
        let expiry = self.store.expire(Instant::now());
        for (_, error) in &expiry.failures {
            tracing::warn!(error = %chain(error), "an earlier revision remains");
        }
        expiry.next
    }
}

fn tree(files: &BTreeMap<TreePath, File>) -> Result<Tree, Failure> {
    let owner = files.values().next().map_or((0, 0), |file| (file.meta.uid, file.meta.gid));
    let directory = Meta { mode: DIRECTORY_MODE, uid: owner.0, gid: owner.1 };
    let mut nodes = BTreeMap::new();
    for (path, File { meta, content }) in files {
        for (end, _) in path.as_str().match_indices('/') {
            let parent = TreePath::parse(&path.as_str()[..end])
                .map_err(|error| Failure::usage(error.to_string()))?;
            // A file there is left to the tree to refuse.
            nodes.entry(parent).or_insert(Node::Directory(directory));
        }
        let (bytes, digest) = (content.len() as u64, Digest::of(content));
        nodes.insert(path.clone(), Node::File { meta: *meta, bytes, digest });
    }
    Tree::new(directory, nodes, LIMITS).map_err(|error| Failure::usage(error.to_string()))
}

fn failed(error: &Error) -> Failure {
    let code = match error {
        Error::Full(_) | Error::Limit { .. } => Code::TooSmall,
        _ => Code::Publish,
    };
    Failure::new(code, chain(error))
}
