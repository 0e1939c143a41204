//! Volumes to try: revisions as they should be, a look at what is there, and a store of each kind.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use publish::Steps;
use publish::volumes::{Committed, Error, HeldState, Options, PlainDirectories, Store, Tmpfs};
use rustix::mount::{UnmountFlags, unmount};
use volumes::name::{Category, TreePath, VolumeId};
use volumes::tree::{Digest, Limits, Meta, Node, Tree};

pub const LIMITS: Limits = Limits { entries: 2_000, bytes: 1 << 20 };
pub const GRACE: Duration = Duration::from_secs(2);

pub fn id() -> VolumeId {
    VolumeId::parse("0000-1111.config").unwrap()
}

/// Who else than root may own files: nobody, unless we are root.
pub fn other() -> (u32, u32) {
    match rustix::process::geteuid().is_root() {
        true => (1234, 4321),
        false => own(),
    }
}

fn own() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// What is at a path: content, or `None` for a directory.
pub type Entry = (Option<Vec<u8>>, Meta);

/// A revision as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    pub root: Meta,
    pub entries: BTreeMap<String, Entry>,
}

impl Model {
    /// Of files by path; the directories that they need have mode 0755.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let (uid, gid) = own();
        let mut model = Self { root: Meta { mode: 0o755, uid, gid }, entries: BTreeMap::new() };
        for (path, content) in files {
            model.add(path, content.as_bytes(), 0o644, (uid, gid));
        }
        model
    }

    pub fn add(&mut self, path: &str, content: &[u8], mode: u32, (uid, gid): (u32, u32)) {
        for (slash, _) in path.match_indices('/') {
            let directory = Meta { mode: 0o755, ..self.root };
            self.entries.entry(path[..slash].to_owned()).or_insert((None, directory));
        }
        self.entries.insert(path.to_owned(), (Some(content.to_vec()), Meta { mode, uid, gid }));
    }

    pub fn with(mut self, path: &str, content: &[u8], mode: u32, owner: (u32, u32)) -> Self {
        self.add(path, content, mode, owner);
        self
    }

    pub fn with_dir(mut self, path: &str, mode: u32, (uid, gid): (u32, u32)) -> Self {
        self.entries.insert(path.to_owned(), (None, Meta { mode, uid, gid }));
        self
    }

    pub fn with_root(mut self, mode: u32, (uid, gid): (u32, u32)) -> Self {
        self.root = Meta { mode, uid, gid };
        self
    }

    /// As it comes from the host.
    pub fn tree(&self) -> Tree {
        let node = |(content, meta): &Entry| match content {
            None => Node::Directory(*meta),
            Some(content) => {
                let sent = sent(content);
                Node::File { meta: *meta, bytes: sent.len() as u64, digest: Digest::of(&sent) }
            }
        };
        let nodes = self.entries.iter();
        let nodes = nodes.map(|(path, entry)| (TreePath::parse(path).unwrap(), node(entry)));
        Tree::new(self.root, nodes.collect(), Limits::MAX).unwrap()
    }

    pub fn tops(&self) -> BTreeSet<String> {
        let top = |path: &String| path.split('/').next().unwrap().to_owned();
        self.entries.keys().map(top).collect()
    }
}

/// Which mounter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Tmpfs,
}

impl Kind {
    /// Those that this process may use.
    pub fn available() -> Vec<Self> {
        let top = tempfile::tempdir_in("/dev/shm").unwrap();
        let may = Tmpfs::prepare(top.path(), None);
        let _ = unmount(top.path(), UnmountFlags::DETACH);
        match may {
            Ok(_) => vec![Self::Plain, Self::Tmpfs],
            Err(error) => {
                testkit::skip(format!("mounts: {error}"));
                vec![Self::Plain]
            }
        }
    }

    pub fn parse(name: &str) -> Self {
        if name == "Tmpfs" { Self::Tmpfs } else { Self::Plain }
    }

    pub fn open(
        self,
        root: &Path,
        steps: Option<Arc<dyn Steps>>,
        now: Instant,
    ) -> Result<Store, Error> {
        let options = Options { grace: GRACE, steps: steps.clone(), ..Options::default() };
        match self {
            Self::Plain => {
                let mounter = PlainDirectories::prepare(root, steps)?;
                Store::open(root, options, Box::new(mounter), now)
            }
            Self::Tmpfs => {
                let mounter = Tmpfs::prepare(root, steps)?;
                Store::open(root, options, Box::new(mounter), now)
            }
        }
    }
}

/// A root, removed with all its mounts.
pub struct Place {
    top: tempfile::TempDir,
    pub root: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let top = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = top.path().join("root");
        Self { top, root }
    }

    pub fn data(&self) -> PathBuf {
        self.root.join("volumes").join(id().as_str()).join("data")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while unmount(&self.root, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
        let _ = self.top.path();
    }
}

/// A content as it comes: what begins with `opened:` is sealed then.
fn sent(content: &[u8]) -> Vec<u8> {
    match content.starts_with(b"opened:") {
        true => format!("sealed.{}", Digest::of(content)).into_bytes(),
        false => content.to_vec(),
    }
}

/// Creates the volume, sends what it lacks in pieces, commits.
pub fn publish(
    store: &mut Store,
    model: &Model,
    sequence: u64,
    now: Instant,
) -> Result<Committed, Error> {
    store.create(&id(), Category::ConfigMap, LIMITS)?;
    send(store, model)?;
    store.commit(&id(), sequence, &model.tree(), || now)
}

/// Sends what the volume lacks in pieces, and opens what is sealed.
pub fn send(store: &mut Store, model: &Model) -> Result<(), Error> {
    let mut lacks: BTreeSet<Digest> = store.lacks(&id(), &model.tree())?.into_iter().collect();
    for content in model.entries.values().filter_map(|(content, _)| content.as_ref()) {
        let sent = sent(content);
        let (digest, length) = (Digest::of(&sent), sent.len() as u64);
        if lacks.remove(&digest) {
            let mut offset = 0;
            for piece in sent.chunks(4_000) {
                offset = store.put(&id(), digest, length, offset, piece)?;
            }
        }
        if sent != *content && store.sealed(&id(), &model.tree())?.contains_key(&digest) {
            store.replace(&id(), digest, content, None)?;
        }
    }
    Ok(())
}

/// What is current, read through `..data`; `None`: there is no volume.
pub fn current(data: &Path) -> Result<Option<Model>, String> {
    if !data.exists() {
        return Ok(None);
    }
    let link = fs::read_link(data.join("..data")).map_err(|error| format!("..data: {error}"))?;
    Ok(Some(read(&data.join(link))?))
}

/// The tree at `top`.
pub fn read(top: &Path) -> Result<Model, String> {
    let meta = |found: &fs::Metadata| Meta {
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
    };
    let failed = |error: std::io::Error| format!("{}: {error}", top.display());
    let mut model =
        Model { root: meta(&fs::symlink_metadata(top).map_err(failed)?), entries: BTreeMap::new() };
    let mut pending = vec![String::new()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(top.join(&directory)).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().into_string().map_err(|name| format!("{name:?}"))?;
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            let found = entry.metadata().map_err(failed)?;
            let content = if found.is_dir() {
                pending.push(path.clone());
                None
            } else if found.is_file() {
                Some(fs::read(entry.path()).map_err(failed)?)
            } else {
                return Err(format!("{path} is neither a file nor a directory"));
            };
            model.entries.insert(path, (content, meta(&found)));
        }
    }
    Ok(model)
}

/// That the volume shows exactly `model`, as revision `sequence`, with no other revision, and that
/// nothing else is anywhere below the root.
pub fn exactly(place: &Place, model: &Model, sequence: u64) -> Result<(), String> {
    let data = place.data();
    let found = current(&data)?.ok_or("there is no volume")?;
    if found != *model {
        return Err(format!("found {found:?}, not {model:?}"));
    }
    let revision = format!("..{sequence}");
    let mut expected = model.tops();
    expected.extend(["..data".to_owned(), revision.clone()]);
    same_names(&data, expected)?;
    if fs::read_link(data.join("..data")).unwrap() != Path::new(&revision) {
        return Err(format!("..data does not name {revision}"));
    }
    for top in model.tops() {
        let link = fs::read_link(data.join(&top)).map_err(|error| format!("{top}: {error}"))?;
        if link != Path::new("..data").join(&top) {
            return Err(format!("{top} links to {}", link.display()));
        }
    }
    let found = fs::symlink_metadata(&data).unwrap();
    if (found.mode() & 0o7777, found.uid(), found.gid()) != (0o755, own().0, own().1) {
        return Err(format!("data/ has mode {:o}", found.mode()));
    }
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let volume = data.parent().unwrap();
    same_names(volume, names(&["data", "records", "staging"]))?;
    same_names(&volume.join("staging"), names(&[]))?;
    same_names(&volume.join("records"), names(&[&sequence.to_string()]))?;
    same_names(&place.root, names(&["new", "volumes"]))?;
    same_names(&place.root.join("new"), names(&[]))?;
    same_names(&place.root.join("volumes"), names(&[id().as_str()]))
}

fn same_names(directory: &Path, expected: BTreeSet<String>) -> Result<(), String> {
    let entries = fs::read_dir(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let found: BTreeSet<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    match found == expected {
        true => Ok(()),
        false => Err(format!("{}: {found:?}, not {expected:?}", directory.display())),
    }
}

/// The sequence number of what the store holds.
pub fn held(store: &Store) -> Option<u64> {
    store.held().next().and_then(|held| match held.state {
        HeldState::Nothing => None,
        HeldState::Damaged { sequence } | HeldState::Revision { sequence, .. } => Some(sequence),
    })
}

/// A step from one revision to the next.
pub struct Shape {
    pub name: &'static str,
    pub old: Option<Model>,
    pub new: Model,
}

/// The shapes that matter: each adds, keeps, moves or removes something in another way.
pub fn shapes() -> Vec<Shape> {
    let shape = |name, old, new| Shape { name, old, new };
    let flat = || Model::new(&[("a", "one"), ("b", "two"), ("run.sh", "#!/bin/sh")]);
    let nested = || Model::new(&[("a/b/c.yaml", "deep"), ("a/d", "less deep"), ("e", "five")]);
    let binary: Vec<u8> = (0..=u8::MAX).cycle().take(9_001).collect();
    let private = flat()
        .with("a", b"one", 0o400, other())
        .with("b", b"two", 0o440, other())
        .with_root(0o2770, other());
    let large = |generation: u32| {
        let mut model = Model::new(&[]);
        for key in 0..12 {
            model.add(&format!("key-{key}"), generation.to_string().as_bytes(), 0o644, own());
        }
        model
    };
    let secret = |password: &str| {
        let copies = Model::new(&[("password", password), ("copy", password), ("user", "me")]);
        copies.with("private", b"opened:for one alone", 0o400, other())
    };
    vec![
        shape("first", None, flat()),
        shape("first-nested", None, nested().with_dir("a/empty", 0o2775, other())),
        shape("changed", Some(flat()), flat().with("a", b"another one", 0o644, own())),
        shape("added", Some(flat()), flat().with("c", b"three", 0o644, own())),
        shape("deleted", Some(flat()), Model::new(&[("a", "one")])),
        shape("renamed", Some(flat()), Model::new(&[("z", "one"), ("b", "two")])),
        shape("file-to-directory", Some(flat()), nested()),
        shape("directory-to-file", Some(nested()), flat()),
        shape("owner-and-mode", Some(flat()), private.clone()),
        shape("owner-and-mode-back", Some(private), flat()),
        shape("empty-and-binary", Some(flat()), {
            let empty = flat().with("none", b"", 0o600, other());
            empty.with("b", &binary, 0o644, own()).with("copy", &binary, 0o640, other())
        }),
        shape("same", Some(nested()), nested()),
        shape("several", Some(large(1)), large(2)),
        shape("sealed-first", None, secret("opened:one")),
        shape("sealed-rotated", Some(secret("opened:one")), secret("opened:the second one")),
        shape(
            "sealed-kept",
            Some(secret("opened:one")),
            secret("opened:one").with("b", b"2", 0o644, own()),
        ),
        shape("sealed-moved", Some(secret("opened:one")), Model::new(&[("moved", "opened:one")])),
        shape("to-nothing", Some(nested()), Model::new(&[])),
    ]
}
