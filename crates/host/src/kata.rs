//! Volumes in a guest whose only agent is Kata's own, as it is: `AgentService.CopyFile`, one entry a
//! call, as well as that can do it.
//!
//! What a revision costs: a directory, every file, a link for each new name, then `..data`, then one
//! call for each link and directory that is gone. Every file is sent again, since it goes into a new
//! directory; only a projected volume of which a single file changed (a token, once an hour) keeps
//! its directory, and has that file replaced in one step.
//!
//! What it cannot do, because the API has no way: switch `..data` in one step (the agent unlinks and
//! links it again, and readers may find nothing in between), ask what the guest holds, verify or
//! limit anything. Removing is a side effect of an error: the agent removes what is at a link's path
//! before it fails to make a link to nothing. Agents before kata-containers pull request 12971 do
//! not.
//!
//! Source: kata-containers 4.1.0, `src/agent/src/rpc.rs` (`do_copy_file`) and
//! `src/libs/protocols/protos/agent.proto`; the names are what `src/tools/genpolicy/rules.rego`
//! allows.

mod copier;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use volumes::name::{Category, TreePath, VolumeId};
use volumes::tree::{Digest, Meta, Node, Tree};

use self::copier::{Content, copy};
use crate::client::{self, Client};
use crate::snapshot::{DATA, Snapshot};
use crate::sync::{Error, Known};

/// Where kata-agent lets its host write.
pub const SHARED: &str = "/run/kata-containers/shared/containers";
/// The sixteen characters that Kata itself fills with random ones.
const MARK: &str = "sealiftvolumesv1";
/// As much of a file as goes into one call: as much as Kata's Go runtime sends.
const PIECE_BYTES: usize = 1 << 20;
/// Revisions that are remembered for removal. The oldest is given up when there are more: a guest
/// that broke off so often at the very same call is being made again.
const REVISIONS_MAX: usize = 64;
/// What is not a volume's own: readable by all.
const PLAIN: Meta = Meta { mode: 0o755, uid: 0, gid: 0 };

/// Where containers find a volume: the same after every restart, of a name that genpolicy's rules
/// for `CopyFile` and for mounts allow.
pub fn guest_path(volume: &VolumeId) -> String {
    let name = volume.as_str().split_once('.').map_or(volume.as_str(), |(_, name)| name);
    format!("{SHARED}/{}-{MARK}-{name}", Digest::of(volume.as_str().as_bytes()))
}

/// What was left in a guest: all that there is to go by when something has to be removed, since the
/// guest cannot be asked. Written down before anything of it is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left {
    /// Directories of revisions that may be there.
    pub revisions: Vec<String>,
    /// Links that may be there.
    pub names: BTreeSet<String>,
    /// Whether the guest's policy forbids removing what is old.
    pub kept: bool,
    /// The revision that containers see, if that is known.
    live: Option<String>,
    /// One that they surely do not, because it was not finished.
    draft: Option<String>,
    /// Links that surely are there.
    linked: BTreeSet<String>,
}

impl Left {
    /// What was written down, if it can have been.
    pub fn load(revisions: Vec<String>, names: BTreeSet<String>) -> Option<Self> {
        let plain = |name: &String| {
            let stamp = name.strip_prefix("..");
            stamp.is_some_and(|stamp| {
                !stamp.is_empty() && stamp.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
            })
        };
        let top = |name: &String| TreePath::parse(name).is_ok() && !name.contains('/');
        (revisions.len() <= REVISIONS_MAX && revisions.iter().all(plain) && names.iter().all(top))
            .then(|| Self { revisions, names, ..Self::default() })
    }

    /// The connection was lost: the guest may have been made again.
    pub fn doubt(&mut self) {
        self.live = None;
        self.linked.clear();
    }

    /// A name that no directory has had.
    fn begin(&mut self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut nanos = now.as_nanos();
        let name = loop {
            let name = format!("..{}_{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
            if !self.revisions.contains(&name) {
                break name;
            }
            nanos += 1;
        };
        if self.revisions.len() == REVISIONS_MAX {
            self.revisions.remove(0);
        }
        self.revisions.push(name.clone());
        name
    }
}

/// A volume and its guest.
#[derive(Debug)]
pub struct Kata<'a> {
    /// The connection.
    pub client: &'a mut Client,
    /// The volume.
    pub volume: &'a VolumeId,
    /// Its kind.
    pub category: Category,
}

impl Kata<'_> {
    /// Brings the guest to `snapshot`'s revision, as far as one can know. False: it was there.
    ///
    /// `announce` writes down what is about to be left in the guest. On an error containers see the
    /// revision before, or, if the connection broke at the switch, the new one, or no `..data`:
    /// which is why the next attempt sends everything again.
    pub fn sync(
        &mut self,
        snapshot: &Snapshot,
        known: &mut Known,
        left: &mut Left,
        announce: &mut dyn FnMut(&Left) -> Result<(), crate::Error>,
    ) -> Result<bool, Error> {
        let tree = snapshot.tree();
        if known.digest == Some(tree.digest()) {
            return Ok(false);
        }
        let base = guest_path(self.volume);
        let alone = known.tree().and_then(|old| only_change(old, tree));
        match (&left.live, alone.filter(|_| self.category == Category::Projected)) {
            (Some(live), Some(change)) => {
                self.replace(&format!("{base}/{live}"), snapshot, &change)?
            }
            _ => self.renew(&base, snapshot, left, announce)?,
        }
        known.committed(tree);
        Ok(true)
    }

    /// A new directory with all of it, then the switch, then what is old.
    fn renew(
        &mut self,
        base: &str,
        snapshot: &Snapshot,
        left: &mut Left,
        announce: &mut dyn FnMut(&Left) -> Result<(), crate::Error>,
    ) -> Result<(), Error> {
        let tree = snapshot.tree();
        let names: BTreeSet<String> =
            tree.nodes().keys().map(|path| path.top().to_owned()).collect();
        left.names.extend(names.iter().cloned());
        let revision = match left.draft.take() {
            Some(draft) if self.remove(&format!("{base}/{draft}"))? => draft,
            _ => left.begin(),
        };
        announce(left)?;
        left.draft = Some(revision.clone());
        if left.live.is_none() {
            self.directory(base, PLAIN)?;
        }
        let at = format!("{base}/{revision}");
        self.send(&at, snapshot)?;
        for name in &names {
            // One that is there would be gone for a moment.
            if !left.linked.contains(name) {
                self.link(&format!("{base}/{name}"), &format!("{DATA}/{name}"))?;
                left.linked.insert(name.clone());
            }
        }
        // From here on containers may see it.
        (left.draft, left.live) = (None, None);
        self.link(&format!("{base}/{DATA}"), &revision)?;
        left.live = Some(revision.clone());
        left.kept = false;
        for gone in left.names.clone().difference(&names) {
            left.linked.remove(gone);
            match self.remove(&format!("{base}/{gone}"))? {
                true => _ = left.names.remove(gone),
                false => left.kept = true,
            }
        }
        for old in left.revisions.clone().iter().filter(|old| **old != revision) {
            match self.remove(&format!("{base}/{old}"))? {
                true => left.revisions.retain(|known| known != old),
                false => left.kept = true,
            }
        }
        Ok(())
    }

    /// One revision into its directory: directories, files, and once more the directories whose
    /// owner the agent changed, since each call gives the parent to the child's owner.
    fn send(&mut self, at: &str, snapshot: &Snapshot) -> Result<(), Error> {
        let tree = snapshot.tree();
        let mut directories = BTreeMap::from([("", tree.root())]);
        self.directory(at, tree.root())?;
        for (path, node) in tree.nodes() {
            if let Node::Directory(meta) = node {
                self.directory(&format!("{at}/{path}"), *meta)?;
                directories.insert(path.as_str(), *meta);
            }
        }
        // The agent assembles `a.x` in `a.tmp`: a file of that name must not be there yet.
        let last = |path: &TreePath| Path::new(path.as_str()).extension() == Some("tmp".as_ref());
        for temporary in [false, true] {
            for (path, node) in tree.nodes().iter().filter(|(path, _)| last(path) == temporary) {
                if let Node::File { meta, bytes, .. } = node {
                    let to = format!("{at}/{path}");
                    self.file(snapshot, path, *meta, *bytes, |_| to.clone(), PIECE_BYTES)?;
                }
            }
        }
        let owner = |meta: Meta| (meta.uid, meta.gid);
        let taken: BTreeSet<&str> = tree
            .nodes()
            .iter()
            .map(|(path, node)| (path.parent().unwrap_or(""), node.meta()))
            .filter(|(parent, meta)| {
                directories.get(parent).is_some_and(|of| owner(*of) != owner(*meta))
            })
            .map(|(parent, _)| parent)
            .collect();
        // From the inside out.
        for path in taken.into_iter().rev() {
            let to = if path.is_empty() { at.to_owned() } else { format!("{at}/{path}") };
            self.directory(&to, directories[path])?;
        }
        Ok(())
    }

    /// Replaces one file where it is, in one step: the agent assembles `stem.*` in `stem.tmp` and
    /// renames that when it is complete. So the first bytes go to a name of the same stem that is
    /// nothing, and only the others to the file, which is not removed when an offset is given.
    fn replace(&mut self, at: &str, snapshot: &Snapshot, change: &Change) -> Result<(), Error> {
        let Change { path, sibling, meta, bytes, parent } = change;
        let to = |offset| match offset {
            0 => format!("{at}/{sibling}"),
            _ => format!("{at}/{path}"),
        };
        let half = usize::try_from(bytes / 2).unwrap_or(usize::MAX).min(PIECE_BYTES);
        self.file(snapshot, path, *meta, *bytes, to, half)?;
        if (parent.uid, parent.gid) != (meta.uid, meta.gid) {
            let directory = path.parent().map_or(at.to_owned(), |path| format!("{at}/{path}"));
            self.directory(&directory, *parent)?;
        }
        Ok(())
    }

    /// Sends a file's bytes, piece by piece, the one at each offset `to` a path.
    fn file(
        &mut self,
        snapshot: &Snapshot,
        path: &TreePath,
        meta: Meta,
        bytes: u64,
        to: impl Fn(u64) -> String,
        first: usize,
    ) -> Result<(), Error> {
        let file = snapshot.open(path)?;
        let mut offset = 0;
        loop {
            let longest = if offset == 0 { first } else { PIECE_BYTES };
            let left = usize::try_from(bytes - offset).unwrap_or(usize::MAX);
            let mut data = vec![0; left.min(longest)];
            snapshot.read(path, &file, &mut data)?;
            copy(self.client, &to(offset), meta, &Content::File { bytes, offset, data: &data })?;
            offset += data.len() as u64;
            if offset == bytes {
                return Ok(());
            }
        }
    }

    fn directory(&mut self, path: &str, meta: Meta) -> Result<(), client::Error> {
        copy(self.client, path, meta, &Content::Directory)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<(), client::Error> {
        copy(self.client, path, PLAIN, &Content::Link(target))
    }

    /// Removes what is at `path`, by an attempt that has to fail. False: policy does not allow it.
    fn remove(&mut self, path: &str) -> Result<bool, client::Error> {
        match self.link(path, "") {
            Ok(()) => Ok(true),
            Err(client::Error::Refused(refusal)) => Ok(!copier::is_policy(refusal.reason)),
            Err(broken) => Err(broken),
        }
    }

    /// Removes the volume, as far as policy allows. Genpolicy's rules leave its empty directory.
    pub fn drop(&mut self, left: &Left) -> Result<(), client::Error> {
        let base = guest_path(self.volume);
        let mut whole = true;
        for name in std::iter::once(DATA)
            .chain(left.names.iter().map(String::as_str))
            .chain(left.revisions.iter().map(String::as_str))
        {
            whole &= self.remove(&format!("{base}/{name}"))?;
        }
        if !whole {
            tracing::warn!(volume = %self.volume, "the guest's policy forbids removing it");
        }
        self.remove(&base).map(drop)
    }
}

/// A file that is the only difference between two revisions, and can be replaced where it is.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    path: TreePath,
    /// A path of the same stem that is not in the volume.
    sibling: String,
    meta: Meta,
    bytes: u64,
    /// Of its directory.
    parent: Meta,
}

fn only_change(old: &Tree, new: &Tree) -> Option<Change> {
    /// Two pieces of one byte.
    const BYTES_MIN: u64 = 2;
    let mut delta = old.delta(new);
    let (path, node) = delta.upserts.pop()?;
    let (Node::File { meta, bytes, .. }, Node::File { .. }) = (node, *old.nodes().get(&path)?)
    else {
        return None;
    };
    let plain = Path::new(path.as_str());
    let sibling = |extension| plain.with_extension(extension).into_os_string().into_string().ok();
    let (temporary, sibling) = (sibling("tmp")?, sibling("sealift")?);
    let there = |path: &str| new.nodes().contains_key(path);
    let alone = delta.root.is_none() && delta.upserts.is_empty() && delta.removals.is_empty();
    let parent = match path.parent() {
        Some(parent) => new.nodes().get(parent)?.meta(),
        None => new.root(),
    };
    (alone && bytes >= BYTES_MIN && !there(&temporary) && !there(&sibling)).then_some(Change {
        path,
        sibling,
        meta,
        bytes,
        parent,
    })
}

#[cfg(test)]
mod tests;
