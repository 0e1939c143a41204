//! A guest agent over plain directories on a socket file, and a host that says whatever it is told.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

pub mod program;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use guest::agent::{Agent, spawn_keeper};
use guest::policy::Policy;
use guest::server::{Limits, Server};
use link::listen::{Address, Listener};
use publish::volumes::{Options, PlainDirectories};
use tempfile::TempDir;
use volumes::name::{Category, TreePath, VolumeId};
use volumes::refusal::{Reason, Refusal};
use volumes::tree::{Digest, Limits as TreeLimits, Meta, Node, Tree};
use volumes::wire::frame::{Kind, frame};
use volumes::wire::message::{
    Chunk, CommitRequest, Entry, HelloRequest, Message, OpenRequest, PutRequest, Request, Response,
    SERVICE, VERSION,
};
use volumes::wire::stream::read_frame;

pub struct Guest {
    dir: TempDir,
    pub agent: Arc<Mutex<Agent>>,
}

impl Guest {
    pub fn start(policy: Policy, limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let mounter = Box::new(PlainDirectories::prepare(&root, None).unwrap());
        let options = Options { grace: Duration::from_millis(20), ..Options::default() };
        let agent = Agent::open(&root, policy, options, mounter).unwrap();
        let agent = Arc::new(Mutex::new(agent));
        spawn_keeper(&agent).unwrap();
        let listener = Listener::bind(&Address::Unix(dir.path().join("socket")), None).unwrap();
        let server = Server::new(Arc::clone(&agent), limits);
        std::thread::spawn(move || server.run(&listener));
        Self { dir, agent }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    pub fn data(&self, volume: &VolumeId) -> PathBuf {
        self.dir.path().join("root/volumes").join(volume.as_str()).join("data")
    }

    /// What a container would read, by path.
    pub fn read(&self, volume: &VolumeId) -> BTreeMap<String, Vec<u8>> {
        read(&self.data(volume))
    }
}

/// What a container would read in a volume, by path.
pub fn read(data: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(dir: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if prefix.is_empty() && name.starts_with("..") {
                continue;
            }
            let path = dir.join(&name);
            match path.is_dir() {
                true => walk(&path, &format!("{prefix}{name}/"), found),
                false => {
                    drop(found.insert(format!("{prefix}{name}"), std::fs::read(path).unwrap()))
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(data, "", &mut found);
    found
}

pub fn volume(name: &str) -> VolumeId {
    VolumeId::parse(name).unwrap()
}

/// A revision: its tree, and the contents by path.
pub fn tree(files: &[(&str, &[u8])]) -> Tree {
    tree_of(own(), files)
}

/// Who runs the tests is who may own files.
pub fn own() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// The same of somebody else.
pub fn tree_of((uid, gid): (u32, u32), files: &[(&str, &[u8])]) -> Tree {
    let meta = |mode| Meta { mode, uid, gid };
    let mut nodes = BTreeMap::new();
    for (path, content) in files {
        for (end, _) in path.match_indices('/') {
            nodes.insert(TreePath::parse(&path[..end]).unwrap(), Node::Directory(meta(0o755)));
        }
        let digest = Digest::of(content);
        let node = Node::File { meta: meta(0o644), bytes: content.len() as u64, digest };
        nodes.insert(TreePath::parse(path).unwrap(), node);
    }
    Tree::new(meta(0o755), nodes, TreeLimits::MAX).unwrap()
}

/// What a host says, message by message, to bring `files` as revision `sequence` of nothing.
pub fn conversation(
    volume: &VolumeId,
    category: Category,
    sequence: u64,
    files: &[(&str, &[u8])],
) -> Vec<(&'static str, Vec<u8>)> {
    conversation_of(own(), volume, category, sequence, files)
}

/// The same about files of somebody else.
pub fn conversation_of(
    owner: (u32, u32),
    volume: &VolumeId,
    category: Category,
    sequence: u64,
    files: &[(&str, &[u8])],
) -> Vec<(&'static str, Vec<u8>)> {
    let limits = TreeLimits { entries: 0, bytes: 0 };
    let tree = tree_of(owner, files);
    let root = [Entry::Root(tree.root())].into_iter();
    let put = PutRequest {
        volume: volume.clone(),
        sequence,
        upserts: root
            .chain(tree.nodes().iter().map(|(path, node)| Entry::At(path.clone(), *node)))
            .collect(),
        removals: vec![],
        chunks: files
            .iter()
            .map(|(_, content)| Chunk {
                digest: Digest::of(content),
                total: content.len() as u64,
                offset: 0,
                data: content,
            })
            .collect(),
    };
    let commit =
        CommitRequest { volume: volume.clone(), sequence, base: None, digest: tree.digest() };
    vec![
        ("Hello", HelloRequest { version: VERSION, after: None }.encode()),
        ("Open", OpenRequest { volume: volume.clone(), category, limits }.encode()),
        ("Put", put.encode()),
        ("Commit", commit.encode()),
    ]
}

/// The same as frames.
pub fn frames(messages: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let number = |index: usize| u32::try_from(2 * index + 1).unwrap();
    let one = |(index, (method, payload)): (usize, &(&str, Vec<u8>))| {
        let request = Request { service: SERVICE, method, payload, timeout_ns: 0 };
        frame(Kind::Request, number(index), &request.encode())
    };
    messages.iter().enumerate().flat_map(one).collect()
}

/// The next answer; `None`: the guest has closed the connection.
pub fn answer(stream: &mut impl Read) -> Option<Result<Vec<u8>, Refusal>> {
    let mut payload = Vec::new();
    match read_frame(stream, &mut payload) {
        Ok(Some(_)) => Some(Response::decode(&payload).unwrap().0.map(<[u8]>::to_vec)),
        _ => None,
    }
}

/// Says everything and returns why it was refused, message by message.
pub fn say(stream: &mut UnixStream, messages: &[(&str, Vec<u8>)]) -> Vec<Option<Reason>> {
    stream.write_all(&frames(messages)).unwrap();
    messages.iter().map(|_| answer(stream).unwrap().err().map(|refusal| refusal.reason)).collect()
}

/// Waits until the guest has closed the connection, whatever it says before.
pub fn closed(stream: &mut impl Read) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
