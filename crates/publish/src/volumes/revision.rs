//! [`build`]: a revision's directory out of the current one and what is staged; [`check`]: whether a
//! directory is the revision that its record says.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ::volumes::name::TreePath;
use ::volumes::tree::{Digest, Meta, Node, Tree};

use super::error::Error;
use super::layout::{blob_name, name_of, retain};
use super::staging::Contents;
use crate::dir::{Dir, File, is_dir};

/// Where contents come from: the revision that is current, if it is known what that is, and
/// `staging/`.
pub(super) struct Sources<'a> {
    pub(super) current: Option<(&'a Dir, &'a Tree)>,
    pub(super) staging: &'a Dir,
}

/// Contents of no bytes: they are never sent.
pub(super) fn is_empty(digest: &Digest) -> bool {
    *digest == Digest::of(b"")
}

/// The contents that must be staged before `tree` can be built, or have another length than the
/// tree says.
pub(super) fn lacking(
    held: Option<&HashMap<Digest, u64>>,
    contents: &Contents,
    tree: &Tree,
) -> Result<Vec<Digest>, Error> {
    let mut lacking = BTreeSet::new();
    for node in tree.nodes().values() {
        let Node::File { bytes, digest, .. } = node else { continue };
        let said = match is_empty(digest) {
            true => Some(0),
            false => held
                .and_then(|held| held.get(digest).copied())
                .or_else(|| contents.complete(digest)),
        };
        match said {
            Some(said) if said == *bytes => {}
            Some(said) => return Err(Error::Length { digest: *digest, found: *bytes, said }),
            None => drop(lacking.insert(*digest)),
        }
    }
    Ok(lacking.into_iter().collect())
}

/// The contents of a tree that are staged, sealed, and not opened yet, with their lengths.
pub(super) fn sealed(
    held: Option<&HashMap<Digest, u64>>,
    contents: &Contents,
    tree: &Tree,
) -> BTreeMap<Digest, u64> {
    let of = |node: &Node| match node {
        // What is current was opened before it became so.
        Node::File { digest, .. } if held.is_none_or(|held| !held.contains_key(digest)) => {
            Some((*digest, contents.sealed(digest)?))
        }
        _ => None,
    };
    tree.nodes().values().filter_map(of).collect()
}

/// The lengths, on the wire, of a tree's contents.
pub(super) fn lengths(tree: &Tree) -> HashMap<Digest, u64> {
    let length = |node: &Node| match node {
        Node::File { bytes, digest, .. } => Some((*digest, *bytes)),
        Node::Directory(_) => None,
    };
    tree.nodes().values().filter_map(length).collect()
}

/// Fills the empty directory `top`. Its own owner and mode are left to the caller, since a directory
/// that may not be written cannot be moved by everybody.
pub(super) fn build(top: &Dir, tree: &Tree, sources: &Sources<'_>) -> Result<(), Error> {
    let mut uses: HashMap<Digest, u32> = HashMap::new();
    let mut elsewhere: HashMap<Digest, &TreePath> = HashMap::new();
    for node in tree.nodes().values() {
        if let Node::File { digest, .. } = node {
            *uses.entry(*digest).or_default() += 1;
        }
    }
    for (path, node) in sources.current.iter().flat_map(|(_, tree)| tree.nodes()) {
        if let Node::File { digest, .. } = node {
            elsewhere.insert(*digest, path);
        }
    }
    let mut parent = Parent::default();
    for (path, node) in tree.nodes() {
        let (to, from) = parent.of(path, top, sources.current)?;
        let name = name_of(path);
        let Node::File { meta, digest, .. } = node else {
            to.create_dir(name, 0o700)?;
            continue;
        };
        let left = uses.get_mut(digest).map_or(0, |left| {
            *left -= 1;
            *left
        });
        let same = sources.current.is_some_and(|(_, old)| old.nodes().get(path) == Some(node));
        if let (true, Some(from)) = (same, from) {
            // Never given another owner or mode afterwards: the inode is the old revision's, too.
            from.link(name, to, name)?;
            // Who could write there may have put a link in its place, which has now a second name.
            if !to.stat(name)?.is_some_and(|stat| is_as(&stat, node)) {
                return Err(crate::Error::InTheWay { path: from.shown().join(name) }.into());
            }
        } else if is_empty(digest) {
            finish(&to.create_file(name, 0o600)?, *meta)?;
        } else if let (Some(old), Some((current, _))) = (elsewhere.get(digest), sources.current) {
            copy(current, old.as_str(), to, name, *meta)?;
        } else {
            let blob = blob_name(digest);
            match left {
                // The last to need it takes it.
                0 => {
                    sources.staging.link(&blob, to, name)?;
                    finish(&opened(to, name)?, *meta)?;
                }
                _ => copy(sources.staging, &blob, to, name, *meta)?,
            }
        }
    }
    // Directories last and from below, since they may take away the right to fill them.
    for (path, node) in tree.nodes().iter().rev() {
        if let Node::Directory(meta) = node {
            top.existing(path.as_str())?.own(meta.uid, meta.gid, meta.mode)?;
        }
    }
    Ok(())
}

/// The directory that the last path was in, here and in the current revision, held open.
#[derive(Default)]
struct Parent {
    last: Option<(String, Dir, Option<Dir>)>,
}

impl Parent {
    fn of<'a>(
        &'a mut self,
        path: &TreePath,
        top: &Dir,
        current: Option<(&Dir, &Tree)>,
    ) -> Result<(&'a Dir, Option<&'a Dir>), Error> {
        let wanted = path.parent().unwrap_or("");
        let last = match self.last.take() {
            Some(last) if last.0 == wanted => last,
            _ => {
                let is_dir = |tree: &Tree| {
                    wanted.is_empty()
                        || matches!(tree.nodes().get(wanted), Some(Node::Directory(_)))
                };
                let from = match current {
                    Some((dir, tree)) if is_dir(tree) => dir.dir(wanted)?,
                    _ => None,
                };
                (wanted.to_owned(), top.existing(wanted)?, from)
            }
        };
        let (_, to, from) = self.last.insert(last);
        Ok((to, from.as_ref()))
    }
}

fn opened(dir: &Dir, path: &str) -> Result<File, Error> {
    let file = dir.linked_file(path)?;
    file.ok_or_else(|| Error::System(crate::Error::InTheWay { path: dir.shown().join(path) }))
}

fn copy(from: &Dir, path: &str, to: &Dir, name: &str, meta: Meta) -> Result<(), Error> {
    let file = to.create_file(name, 0o600)?;
    file.copy_from(&opened(from, path)?)?;
    finish(&file, meta)
}

fn finish(file: &File, meta: Meta) -> Result<(), Error> {
    file.chown(meta.uid, meta.gid)?;
    Ok(file.chmod(meta.mode)?)
}

/// Whether everything of `tree` is in `top` with its kind, owner and mode: then the lengths of
/// contents that were sealed. Removes what else there is. Contents are not read: those that were
/// sealed have other digests than the tree says.
pub(super) fn check(top: &Dir, tree: &Tree) -> Result<Option<HashMap<Digest, u64>>, Error> {
    let mut children: BTreeMap<&str, BTreeMap<&[u8], &Node>> = BTreeMap::from([("", [].into())]);
    for (path, node) in tree.nodes() {
        if let Node::Directory(_) = node {
            children.entry(path.as_str()).or_default();
        }
        let siblings = children.entry(path.parent().unwrap_or("")).or_default();
        siblings.insert(name_of(path).as_bytes(), node);
    }
    let root = Node::Directory(tree.root());
    let Some(stat) = top.stat(".")? else { return Ok(None) };
    let mut whole = is_as(&stat, &root);
    let mut opened = HashMap::new();
    for (path, names) in children {
        let dir = match top.dir(path) {
            Ok(Some(dir)) => dir,
            Ok(None) | Err(crate::Error::InTheWay { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        retain(&dir, |name| Ok(names.contains_key(name)))?;
        for (name, node) in names {
            let name = str::from_utf8(name).unwrap_or_default();
            let stat = dir.stat(name)?;
            whole &= stat.is_some_and(|stat| is_as(&stat, node));
            let length = stat.and_then(|stat| u64::try_from(stat.st_size).ok());
            if let (Node::File { bytes, digest, .. }, Some(length)) = (node, length)
                && *bytes != length
            {
                opened.insert(*digest, length);
            }
        }
    }
    Ok(whole.then_some(opened))
}

/// Whether something has the kind, owner and mode that it should have.
fn is_as(stat: &rustix::fs::Stat, node: &Node) -> bool {
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    let meta = node.meta();
    let of_kind = match node {
        Node::Directory(_) => is_dir(stat),
        Node::File { .. } => kind == rustix::fs::FileType::RegularFile,
    };
    of_kind
        && stat.st_mode & 0o7777 == meta.mode
        && (stat.st_uid, stat.st_gid) == (meta.uid, meta.gid)
}
