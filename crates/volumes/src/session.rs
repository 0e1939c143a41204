//! The guest's side of one connection: requests in, answers out. No sockets and no files: those are
//! behind [`Volumes`], so that every order of messages can be tried in a test.
//!
//! | the host says | accepted when |
//! |---|---|
//! | `Hello` | always, with our version; nothing else before it |
//! | `Open` | policy allows the category, and the volume is not another category's |
//! | `Put` n | the volume is open, and n is above what was committed; parts of another revision are forgotten |
//! | `Commit` n | as `Put`; the changes fit their base; the digest is the announced one; all contents are here |
//! | `Drop` | always; of an unknown volume it changes nothing |
//!
//! Parts of a revision live in the session and end with it: a connection that is cut leaves nothing.
//! Its end may be heard of late, when another connection has taken its place. So sessions have
//! numbers, and none takes away what a newer one works with.

use std::collections::{BTreeMap, BTreeSet};

use crate::name::{TreePath, VolumeId};
use crate::refusal::{Reason, Refusal};
use crate::tree::{Delta, Digest, Limits, Meta, Node, Tree, entry_memory};
use crate::wire::message::{
    Chunk, CommitRequest, CommitResponse, DropRequest, Entry, Held, HelloRequest, HelloResponse,
    Message, OpenRequest, OpenResponse, PutRequest, PutResponse, Request, Response, SERVICE,
    StatusRequest, StatusResponse, VERSION, VolumeStatus,
};

/// What stands behind a session: the volumes of this guest. A refusal leaves the visible revision
/// as it was.
pub trait Volumes {
    /// 16 random bytes of this start of the agent.
    fn instance(&self) -> [u8; 16];

    /// At most `max` volumes after `after`, in order, and whether there are more.
    fn held(&self, after: Option<&VolumeId>, max: usize) -> (Vec<Held>, bool);

    /// One volume.
    fn held_one(&self, volume: &VolumeId) -> Option<Held>;

    /// How they are doing, in the same way.
    fn status(&self, after: Option<&VolumeId>, max: usize) -> (Vec<VolumeStatus>, bool);

    /// Makes room for a volume, or finds it.
    fn open(&mut self, request: &OpenRequest) -> Result<OpenResponse, Refusal>;

    /// A volume's highest committed sequence, its visible tree if there is one, and its limits.
    fn current(&self, volume: &VolumeId) -> Option<Current<'_>>;

    /// Whether the visible revision or staging holds a content.
    fn holds(&self, volume: &VolumeId, content: &Digest) -> bool;

    /// Bytes of memory that is left for entries, of what all volumes and drafts share.
    fn room(&self) -> usize;

    /// A session's drafts take so many bytes from now on.
    fn drafted(&mut self, session: u64, bytes: usize);

    /// Stages a piece of a content. The last one of a content without a name gives it that.
    fn put(&mut self, volume: &VolumeId, chunk: &Chunk<'_>) -> Result<Option<Digest>, Refusal>;

    /// Makes `tree` the visible revision, in one step.
    fn commit(&mut self, volume: &VolumeId, sequence: u64, tree: Tree) -> Result<Held, Refusal>;

    /// From now on a session works with what is staged. One whose number is higher keeps it.
    fn claim(&mut self, volume: &VolumeId, session: u64);

    /// Forgets what is staged, unless a newer session has claimed it.
    fn discard(&mut self, volume: &VolumeId, session: u64);

    /// Removes a volume.
    fn remove(&mut self, volume: &VolumeId) -> Result<(), Refusal>;

    /// Counts and explains a refusal.
    fn refused(&mut self, volume: Option<&VolumeId>, refusal: &Refusal);

    /// Refusals since the start.
    fn refusals(&self) -> u64;
}

/// A volume as it is.
#[derive(Debug, Clone, Copy)]
pub struct Current<'a> {
    /// The highest committed sequence; 0: none.
    pub sequence: u64,
    /// The visible revision and its digest.
    pub revision: Option<(&'a Tree, Digest)>,
    /// What the volume may hold.
    pub limits: Limits,
}

/// One connection's state.
#[derive(Debug)]
pub struct Session {
    number: u64,
    greeted: bool,
    drafts: BTreeMap<VolumeId, Draft>,
    /// Volumes for which contents may be staged through this session.
    staged: BTreeSet<VolumeId>,
}

/// The parts of a revision that came so far.
#[derive(Debug)]
struct Draft {
    sequence: u64,
    root: Option<Meta>,
    upserts: BTreeMap<TreePath, Node>,
    removals: BTreeSet<TreePath>,
    /// What they take.
    memory: usize,
}

impl Draft {
    fn new(sequence: u64) -> Self {
        let (upserts, removals) = (BTreeMap::new(), BTreeSet::new());
        Self { sequence, root: None, upserts, removals, memory: 0 }
    }

    fn upsert(&mut self, path: TreePath, node: Node) {
        let memory = entry_memory(&path);
        if self.upserts.insert(path, node).is_none() {
            self.memory += memory;
        }
    }

    fn remove(&mut self, path: TreePath) {
        let memory = entry_memory(&path);
        if self.removals.insert(path) {
            self.memory += memory;
        }
    }

    fn entries(&self) -> usize {
        self.upserts.len() + self.removals.len()
    }
}

impl Session {
    /// Volumes listed in one answer: with the longest names they fit a frame.
    const PAGE: usize = 256;

    /// A connection that has said nothing yet. A later one has a higher number.
    pub fn new(number: u64) -> Self {
        Self { number, greeted: false, drafts: BTreeMap::new(), staged: BTreeSet::new() }
    }

    /// Answers one request frame's payload with a response frame's.
    pub fn answer(&mut self, payload: &[u8], volumes: &mut dyn Volumes) -> Vec<u8> {
        let mut about = None;
        let answered = self.dispatch(payload, volumes, &mut about);
        volumes.drafted(self.number, self.memory());
        if let Err(refusal) = &answered {
            volumes.refused(about.as_ref(), refusal);
        }
        let result = match &answered {
            Ok(message) => Ok(&message[..]),
            Err(refusal) => Err(refusal.clone()),
        };
        Response(result).encode()
    }

    /// Whether the peer has said who it is.
    pub fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// The connection is over: what was staged through it is forgotten.
    pub fn end(self, volumes: &mut dyn Volumes) {
        self.staged.iter().for_each(|volume| volumes.discard(volume, self.number));
        volumes.drafted(self.number, 0);
    }

    /// What its drafts take.
    fn memory(&self) -> usize {
        self.drafts.values().map(|draft| draft.memory).sum()
    }

    fn dispatch(
        &mut self,
        payload: &[u8],
        volumes: &mut dyn Volumes,
        about: &mut Option<VolumeId>,
    ) -> Result<Vec<u8>, Refusal> {
        let request = Request::decode(payload)?;
        if request.service != SERVICE {
            return Err(Refusal::new(Reason::Unsupported, "no such service"));
        }
        if !self.greeted && request.method != "Hello" {
            return Err(Refusal::new(Reason::Unsupported, "the first request must be Hello"));
        }
        let message = request.payload;
        match request.method {
            "Hello" => self.hello(&HelloRequest::decode(message)?, volumes),
            "Open" => {
                let request = OpenRequest::decode(message)?;
                *about = Some(request.volume.clone());
                Ok(volumes.open(&request)?.encode())
            }
            "Put" => {
                let request = PutRequest::decode(message)?;
                *about = Some(request.volume.clone());
                self.put(request, volumes)
            }
            "Commit" => {
                let request = CommitRequest::decode(message)?;
                *about = Some(request.volume.clone());
                self.commit(&request, volumes)
            }
            "Drop" => {
                let request = DropRequest::decode(message)?;
                *about = Some(request.volume.clone());
                self.drafts.remove(&request.volume);
                self.staged.remove(&request.volume);
                volumes.remove(&request.volume)?;
                Ok(Vec::new())
            }
            "Status" => {
                let request = StatusRequest::decode(message)?;
                // A status may carry a text for each: fewer of them fit.
                let (page, more) = volumes.status(request.after.as_ref(), Self::PAGE / 2);
                let refused = volumes.refusals();
                Ok(StatusResponse { volumes: page, more, refused }.encode())
            }
            _ => Err(Refusal::new(Reason::Unsupported, "no such method")),
        }
    }

    fn hello(
        &mut self,
        request: &HelloRequest,
        volumes: &mut dyn Volumes,
    ) -> Result<Vec<u8>, Refusal> {
        if request.version != VERSION {
            let what = format!("version {} of the protocol; this is {VERSION}", request.version);
            return Err(Refusal::new(Reason::Unsupported, what));
        }
        self.greeted = true;
        let (page, more) = volumes.held(request.after.as_ref(), Self::PAGE);
        let instance = volumes.instance();
        Ok(HelloResponse { version: VERSION, instance, volumes: page, more }.encode())
    }

    fn put(
        &mut self,
        request: PutRequest<'_>,
        volumes: &mut dyn Volumes,
    ) -> Result<Vec<u8>, Refusal> {
        let volume = &request.volume;
        let current = volumes.current(volume).ok_or_else(|| unknown(volume))?;
        above(request.sequence, current.sequence)?;
        let entries_max = 2 * current.limits.entries as usize;
        if self.drafts.get(volume).is_none_or(|draft| draft.sequence != request.sequence) {
            // Contents that this revision shares with the one before stay staged.
            self.drafts.insert(volume.clone(), Draft::new(request.sequence));
        }
        // What of another revision was forgotten just now is free.
        volumes.drafted(self.number, self.memory());
        let paths = request.upserts.iter().filter_map(Entry::path).chain(&request.removals);
        let more: usize = paths.map(entry_memory).sum();
        let entries =
            self.drafts[volume].entries() + request.upserts.len() + request.removals.len();
        if entries > entries_max || more > volumes.room() {
            self.drafts.remove(volume);
            let what = match entries > entries_max {
                true => "too many changes at once",
                false => "the names in all volumes together are too long",
            };
            return Err(Refusal::new(Reason::Limit, what));
        }
        self.staged.insert(volume.clone());
        volumes.claim(volume, self.number);
        let mut named = Vec::new();
        for chunk in &request.chunks {
            named.extend(volumes.put(volume, chunk).inspect_err(|refusal| {
                // What earlier attempts left is in the way: the next one begins with nothing.
                if matches!(refusal.reason, Reason::Limit | Reason::NoSpace) {
                    self.drafts.remove(volume);
                    volumes.discard(volume, self.number);
                }
            })?);
        }
        let draft = self.drafts.get_mut(volume).expect("it was just looked at, or inserted");
        let mut needed = Vec::new();
        for entry in request.upserts {
            match entry {
                Entry::Root(meta) => draft.root = Some(meta),
                Entry::At(path, node) => {
                    if let Node::File { digest, .. } = node {
                        needed.push(digest);
                    }
                    draft.upsert(path, node);
                }
            }
        }
        request.removals.into_iter().for_each(|path| draft.remove(path));
        needed.sort_unstable();
        needed.dedup();
        needed.retain(|digest| !volumes.holds(volume, digest));
        Ok(PutResponse { missing: needed, named }.encode())
    }

    fn commit(
        &mut self,
        request: &CommitRequest,
        volumes: &mut dyn Volumes,
    ) -> Result<Vec<u8>, Refusal> {
        let volume = &request.volume;
        let current = volumes.current(volume).ok_or_else(|| unknown(volume))?;
        if request.sequence == current.sequence
            && let Some((_, digest)) = current.revision
        {
            // Said again, since its answer was lost; or a lie.
            if digest != request.digest {
                let what = "this sequence was committed with another digest";
                return Err(Refusal::new(Reason::Conflict, what));
            }
            let held = volumes.held_one(volume).ok_or_else(|| unknown(volume))?;
            return Ok(CommitResponse { held }.encode());
        }
        above(request.sequence, current.sequence)?;
        let draft = match self.drafts.remove(volume) {
            Some(draft) if draft.sequence == request.sequence => draft,
            Some(draft) => {
                let what = format!("the parts that came are of revision {}", draft.sequence);
                self.drafts.insert(volume.clone(), draft);
                return Err(Refusal::new(Reason::Stale, what));
            }
            None => Draft::new(request.sequence),
        };
        let tree = revise(&draft, request.base, &current)?;
        if tree.digest() != request.digest {
            let what = "the result's digest is not the one announced";
            return Err(Refusal::new(Reason::Digest, what));
        }
        let missing = tree.nodes().iter().find(|(_, node)| match node {
            Node::File { digest, .. } => !volumes.holds(volume, digest),
            Node::Directory(_) => false,
        });
        if let Some((path, _)) = missing {
            // The parts are kept: only the contents have to come.
            self.drafts.insert(volume.clone(), draft);
            let what = format!("the content of {path} has not come");
            return Err(Refusal::new(Reason::Missing, what));
        }
        // In the end the tree takes its place.
        volumes.drafted(self.number, self.memory());
        match volumes.commit(volume, request.sequence, tree) {
            Ok(held) => Ok(CommitResponse { held }.encode()),
            Err(refusal) => {
                // The host may say it again in a moment.
                self.drafts.insert(volume.clone(), draft);
                Err(refusal)
            }
        }
    }
}

/// The draft's changes, made to the base that the host names.
fn revise(draft: &Draft, base: Option<Digest>, current: &Current<'_>) -> Result<Tree, Refusal> {
    match (base, current.revision) {
        (Some(base), Some((tree, digest))) if base == digest => {
            let delta = Delta {
                root: draft.root,
                upserts: draft.upserts.iter().map(|(path, node)| (path.clone(), *node)).collect(),
                removals: draft.removals.iter().cloned().collect(),
            };
            Ok(tree.apply(delta, current.limits)?)
        }
        (Some(_), _) => Err(Refusal::new(Reason::Base, "the base is not what this guest holds")),
        (None, _) => {
            let root = draft.root.ok_or_else(|| {
                Refusal::new(Reason::Invalid, "a whole revision needs the root's entry")
            })?;
            if !draft.removals.is_empty() {
                return Err(Refusal::new(Reason::Invalid, "removals from nothing"));
            }
            Ok(Tree::new(root, draft.upserts.clone(), current.limits)?)
        }
    }
}

fn above(sequence: u64, committed: u64) -> Result<(), Refusal> {
    if sequence > committed {
        return Ok(());
    }
    let what = format!("revision {sequence} is not above {committed}, which was committed");
    Err(Refusal::new(Reason::Stale, what))
}

fn unknown(volume: &VolumeId) -> Refusal {
    Refusal::new(Reason::Unknown, format!("{volume} is not open"))
}

#[cfg(test)]
mod tests;
