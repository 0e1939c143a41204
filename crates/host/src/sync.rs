//! One volume of one guest, made current: what the guest lacks, and nothing else, in order.
//!
//! | the guest holds | what is sent |
//! |---|---|
//! | this revision | nothing |
//! | the revision that was sent last | the entries and contents that differ |
//! | anything else, or nothing | all entries, then the contents that it says it lacks |
//!
//! Large files that it cannot hold are sent before all that, without a digest: the guest says it,
//! since it has to compute it anyway, and the file is read once instead of twice. The next look at
//! the volume compares it with what is on disk.
//!
//! Then a commit, which names the digest of the result. A change of one small file is one `Put` and
//! one `Commit`.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use volumes::name::{Category, TreePath, VolumeId};
use volumes::refusal::Reason;
use volumes::tree::{Delta, Digest, Limits, Node, Tree};
use volumes::wire::message::{
    Chunk, CommitRequest, CommitResponse, ELEMENTS_MAX, Entry, Held, Message, OpenRequest,
    OpenResponse, PutRequest, PutResponse,
};

use crate::client::{self, Client};
use crate::snapshot::{Seen, Snapshot};

/// What a volume's revision is made of, in bytes of one message: below a frame's limit, with room
/// for names and numbers around them.
const MESSAGE_BYTES: usize = 192 << 10;

/// Longest path that a guest may name.
const PATH_BYTES_MAX: usize = 4096;

/// Why a volume is not current.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The guest refused, or the connection broke.
    #[error(transparent)]
    Guest(#[from] client::Error),
    /// The revision cannot be read any more: take a new snapshot.
    #[error(transparent)]
    Snapshot(#[from] crate::Error),
}

/// What the guest holds of a volume, as far as this agent knows.
#[derive(Debug, Default, Clone)]
pub struct Known {
    /// The highest committed sequence.
    pub sequence: u64,
    /// The visible revision.
    pub digest: Option<Digest>,
    /// Its tree, if this agent has sent it. Lost with a restart, and not needed to go on.
    tree: Option<Arc<Tree>>,
    /// Digests of large files that the guest has said, until they are part of what it holds.
    named: Vec<(Seen, Digest)>,
    /// The highest sequence that was tried: each attempt has one of its own, so that the parts of
    /// one are never taken for another's.
    tried: u64,
}

impl Known {
    /// The guest has said it again; what is known beyond that stays, if it still fits.
    pub fn update(&mut self, held: &Held) {
        if self.digest != held.digest {
            self.tree = None;
        }
        (self.sequence, self.digest) = (held.sequence, held.digest);
    }

    /// The digest of a file, if the guest has said it; [`Digest::UNNAMED`] if it is to be asked,
    /// since the file is large and it does not hold one like it.
    pub(crate) fn named(&self, seen: &Seen) -> Option<Digest> {
        /// From here on reading a file twice is dear.
        const LARGE_BYTES: u64 = 1 << 20;
        if let Some((_, digest)) = self.named.iter().find(|(known, _)| known == seen) {
            return Some(*digest);
        }
        let alike =
            |node: &Node| matches!(node, Node::File { bytes, .. } if *bytes == seen.bytes());
        let may_hold = match (&self.digest, &self.tree) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(_), Some(tree)) => tree.nodes().values().any(alike),
        };
        (seen.bytes() >= LARGE_BYTES && !may_hold).then_some(Digest::UNNAMED)
    }

    /// Another revision is visible, of a guest that does not count them itself.
    pub fn committed(&mut self, tree: &Tree) {
        self.sequence = self.sequence.saturating_add(1);
        (self.digest, self.tree) = (Some(tree.digest()), Some(Arc::new(tree.clone())));
    }

    /// The visible revision's tree, if this agent has sent it.
    pub fn tree(&self) -> Option<&Tree> {
        self.tree.as_deref()
    }
}

/// A volume and its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name in the guest.
    pub id: VolumeId,
    /// Its kind.
    pub category: Category,
}

impl Volume {
    /// Announces it to a guest; a volume that is there already stays as it is.
    pub fn open(&self, client: &mut Client) -> Result<OpenResponse, client::Error> {
        let limits = Limits { entries: 0, bytes: 0 };
        let request = OpenRequest { volume: self.id.clone(), category: self.category, limits };
        let opened: OpenResponse = client.call("Open", &request.encode())?;
        let path = Path::new(&opened.path);
        let plain = path.is_absolute() && opened.path.len() <= PATH_BYTES_MAX;
        if opened.held.volume != self.id || !plain || opened.path.contains(char::is_control) {
            return Err(volumes::Error::Message("an answer about something else").into());
        }
        Ok(opened)
    }

    /// Brings the guest to `snapshot`'s revision. False: it was there already.
    ///
    /// On an error the guest has the revision that it had before, or, if the connection broke at
    /// the very end, the new one: `Hello` tells.
    pub fn sync(
        &self,
        client: &mut Client,
        snapshot: &mut Snapshot,
        known: &mut Known,
    ) -> Result<bool, Error> {
        /// An incremental attempt, a whole one after news of what the guest has, and one more.
        const ATTEMPTS: u32 = 3;
        for attempt in 1.. {
            let committed = self.attempt(client, snapshot, known);
            // Answers come to everything that was sent, also when it was in vain.
            client.drain()?;
            match committed {
                Ok(held) => {
                    let changed = held.is_some() || attempt > 1;
                    if let Some(held) = held {
                        (known.sequence, known.digest) = (held.sequence, held.digest);
                        known.tree = None;
                        known.named.clear();
                    }
                    known.tree.get_or_insert_with(|| Arc::new(snapshot.tree().clone()));
                    return Ok(changed);
                }
                Err(Error::Guest(client::Error::Refused(refusal)))
                    if attempt < ATTEMPTS && is_news(refusal.reason) =>
                {
                    known.update(&self.open(client)?.held);
                    known.tree = None;
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// `None`: the guest holds it already.
    fn attempt(
        &self,
        client: &mut Client,
        snapshot: &mut Snapshot,
        known: &mut Known,
    ) -> Result<Option<Held>, Error> {
        let last = known.sequence.max(known.tried);
        let sequence = last.checked_add(1).ok_or_else(|| {
            client::Error::from(volumes::Error::Message("no sequence is above that one"))
        })?;
        let unnamed: Vec<(TreePath, Seen)> =
            snapshot.unnamed().map(|(path, seen)| (path.clone(), *seen)).collect();
        if !unnamed.is_empty() {
            known.tried = sequence;
            let revision = Revision { volume: &self.id, sequence, snapshot };
            let digests = revision.send_unnamed(client, &unnamed)?;
            let seen = unnamed.iter().map(|(_, seen)| *seen);
            known.named.extend(seen.zip(digests.iter().copied()));
            let paths = unnamed.into_iter().map(|(path, _)| path);
            snapshot.name(&paths.zip(digests).collect())?;
        }
        if known.digest == Some(snapshot.tree().digest()) {
            return Ok(None);
        }
        known.tried = sequence;
        let revision = Revision { volume: &self.id, sequence, snapshot };
        match known.tree.clone() {
            Some(base) => revision.send_changes(client, &base, &known.named),
            None => revision.send_whole(client),
        }
        .map(Some)
    }
}

/// Whether the guest has something else than we thought.
fn is_news(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Base | Reason::Missing | Reason::Stale | Reason::Conflict | Reason::Unknown
    )
}

/// A revision on its way.
struct Revision<'a> {
    volume: &'a VolumeId,
    sequence: u64,
    snapshot: &'a Snapshot,
}

impl Revision<'_> {
    /// Contents whose digests are to be found out; returns those.
    fn send_unnamed(
        &self,
        client: &mut Client,
        files: &[(TreePath, Seen)],
    ) -> Result<Vec<Digest>, Error> {
        let mut parts = Parts::new(self, client);
        for (path, seen) in files {
            parts.content(Digest::UNNAMED, path, seen.bytes())?;
        }
        let Answers { named, .. } = parts.finish()?;
        if named.len() != files.len() || named.contains(&Digest::UNNAMED) {
            let what = volumes::Error::Message("other contents named than were sent");
            return Err(client::Error::from(what).into());
        }
        Ok(named)
    }

    /// What differs from `base`, which the guest holds, without the contents that it has named.
    fn send_changes(
        &self,
        client: &mut Client,
        base: &Tree,
        named: &[(Seen, Digest)],
    ) -> Result<Held, Error> {
        let tree = self.snapshot.tree();
        let Delta { root, upserts, removals } = base.delta(tree);
        let held: BTreeSet<Digest> = contents(base.nodes().iter())
            .map(|(digest, ..)| digest)
            .chain(named.iter().map(|(_, digest)| *digest))
            .collect();
        let wanted = contents(upserts.iter().map(|(path, node)| (path, node)))
            .filter(|(digest, ..)| !held.contains(digest));
        let mut parts = Parts::new(self, client);
        if let Some(root) = root {
            parts.entry(Entry::Root(root))?;
        }
        for removal in removals {
            parts.removal(removal)?;
        }
        let wanted: Vec<_> =
            wanted.map(|(digest, path, bytes)| (digest, path.clone(), bytes)).collect();
        for (path, node) in upserts {
            parts.entry(Entry::At(path, node))?;
        }
        parts.contents(&wanted)?;
        parts.finish()?;
        self.commit(client, Some(base.digest()))
    }

    /// All of it, except for the contents that the guest holds.
    fn send_whole(&self, client: &mut Client) -> Result<Held, Error> {
        let tree = self.snapshot.tree();
        let mut parts = Parts::new(self, client);
        parts.entry(Entry::Root(tree.root()))?;
        for (path, node) in tree.nodes() {
            parts.entry(Entry::At(path.clone(), *node))?;
        }
        let Answers { missing, .. } = parts.finish()?;
        let wanted: Vec<_> = contents(tree.nodes().iter())
            .filter(|(digest, ..)| missing.contains(digest))
            .map(|(digest, path, bytes)| (digest, path.clone(), bytes))
            .collect();
        let mut parts = Parts::new(self, client);
        parts.contents(&wanted)?;
        parts.finish()?;
        self.commit(client, None)
    }

    fn commit(&self, client: &mut Client, base: Option<Digest>) -> Result<Held, Error> {
        let request = CommitRequest {
            volume: self.volume.clone(),
            sequence: self.sequence,
            base,
            digest: self.snapshot.tree().digest(),
        };
        let CommitResponse { held } = client.call("Commit", &request.encode())?;
        if held.volume != request.volume || held.digest != Some(request.digest) {
            let what = volumes::Error::Message("an answer about something else");
            return Err(client::Error::from(what).into());
        }
        Ok(held)
    }
}

/// Each file's digest, path and length.
fn contents<'a>(
    nodes: impl Iterator<Item = (&'a TreePath, &'a Node)>,
) -> impl Iterator<Item = (Digest, &'a TreePath, u64)> {
    nodes.filter_map(|(path, node)| match node {
        Node::File { bytes, digest, .. } => Some((*digest, path, *bytes)),
        Node::Directory(_) => None,
    })
}

/// A piece of a content, on its way.
struct Piece {
    digest: Digest,
    total: u64,
    offset: u64,
    data: Vec<u8>,
}

impl Piece {
    fn chunk(&self) -> Chunk<'_> {
        Chunk { digest: self.digest, total: self.total, offset: self.offset, data: &self.data }
    }
}

/// Packs a revision's parts into as few messages as they fit.
struct Parts<'a> {
    revision: &'a Revision<'a>,
    client: &'a mut Client,
    upserts: Vec<Entry>,
    removals: Vec<TreePath>,
    chunks: Vec<Piece>,
    bytes: usize,
    answers: Answers,
}

/// What the guest has said.
#[derive(Default)]
struct Answers {
    missing: BTreeSet<Digest>,
    named: Vec<Digest>,
}

impl<'a> Parts<'a> {
    fn new(revision: &'a Revision<'a>, client: &'a mut Client) -> Self {
        Self {
            revision,
            client,
            upserts: Vec::new(),
            removals: Vec::new(),
            chunks: Vec::new(),
            bytes: 0,
            answers: Answers::default(),
        }
    }

    fn entry(&mut self, entry: Entry) -> Result<(), Error> {
        /// Digest, numbers and tags, at their longest.
        const OTHERS: usize = 96;
        let path = match &entry {
            Entry::Root(_) => 0,
            Entry::At(path, _) => path.as_str().len(),
        };
        self.make_room(path + OTHERS)?;
        self.upserts.push(entry);
        Ok(())
    }

    fn removal(&mut self, path: TreePath) -> Result<(), Error> {
        self.make_room(path.as_str().len() + 8)?;
        self.removals.push(path);
        Ok(())
    }

    /// Contents, each once.
    fn contents(&mut self, wanted: &[(Digest, TreePath, u64)]) -> Result<(), Error> {
        let mut sent = BTreeSet::new();
        for (digest, path, total) in wanted {
            if sent.insert(digest) {
                self.content(*digest, path, *total)?;
            }
        }
        Ok(())
    }

    /// A content, piece by piece from the held snapshot.
    fn content(&mut self, digest: Digest, path: &TreePath, total: u64) -> Result<(), Error> {
        const OTHERS: usize = 96;
        /// Of longer pieces the copy costs more than a call of its own.
        const COPIED_MAX: usize = 64 << 10;
        let file = self.revision.snapshot.open(path)?;
        let mut offset = 0;
        loop {
            let left = usize::try_from(total - offset).unwrap_or(usize::MAX);
            // A large file's pieces fill their messages.
            if self.bytes + OTHERS >= MESSAGE_BYTES {
                self.flush(None)?;
            }
            let length = left.min(MESSAGE_BYTES - self.bytes - OTHERS);
            self.make_room(length + OTHERS)?;
            let mut piece = Piece { digest, total, offset, data: Vec::new() };
            if length <= COPIED_MAX {
                piece.data.resize(length, 0);
                self.revision.snapshot.read(path, &file, &mut piece.data)?;
                self.chunks.push(piece);
            } else {
                self.chunks.push(piece);
                self.flush(Some((&file, length)))?;
            }
            offset += length as u64;
            if offset == total {
                // The guest would find out, if it had been told a digest.
                return Ok(self.revision.snapshot.still(path, &file)?);
            }
        }
    }

    /// Sends what is packed, if `bytes` more would be too much.
    fn make_room(&mut self, bytes: usize) -> Result<(), Error> {
        let full = [self.upserts.len(), self.removals.len(), self.chunks.len()]
            .into_iter()
            .any(|count| count == ELEMENTS_MAX);
        if full || self.bytes + bytes > MESSAGE_BYTES {
            self.flush(None)?;
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Sends what is packed. With `rest`, the last content goes on with that many bytes of that file.
    fn flush(&mut self, rest: Option<(&File, usize)>) -> Result<(), Error> {
        if self.bytes == 0 {
            return Ok(());
        }
        if self.client.waiting() == Client::WINDOW {
            self.receive()?;
        }
        let request = PutRequest {
            volume: self.revision.volume.clone(),
            sequence: self.revision.sequence,
            upserts: std::mem::take(&mut self.upserts),
            removals: std::mem::take(&mut self.removals),
            chunks: self.chunks.iter().map(Piece::chunk).collect(),
        };
        self.client.send_put(&request, rest)?;
        drop(request);
        self.chunks.clear();
        self.bytes = 0;
        Ok(())
    }

    /// Sends the rest, and waits for all answers.
    fn finish(mut self) -> Result<Answers, Error> {
        self.flush(None)?;
        while self.client.waiting() > 0 {
            self.receive()?;
        }
        Ok(self.answers)
    }

    /// One answer. The first refusal is the one that says why; `sync` reads those behind it.
    fn receive(&mut self) -> Result<(), Error> {
        let answer = self.client.receive(|payload| Ok(PutResponse::decode(payload)?));
        match answer {
            Ok(response) => {
                self.answers.missing.extend(response.missing);
                self.answers.named.extend(response.named);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}
