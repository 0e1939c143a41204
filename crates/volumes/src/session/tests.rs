use super::*;
use crate::name::Category;

/// Volumes in memory, with the store's rules about contents.
#[derive(Default)]
struct Memory {
    volumes: BTreeMap<VolumeId, Kept>,
    refused: Vec<(Option<VolumeId>, Reason)>,
    no_space: bool,
    drafted: usize,
}

/// What all drafts may take.
const ROOM: usize = 16 << 20;

struct Kept {
    sequence: u64,
    revision: Option<(Tree, Digest)>,
    staged: BTreeSet<Digest>,
    claimed: u64,
}

impl Memory {
    fn held_of(volume: &VolumeId, kept: &Kept) -> Held {
        let digest = kept.revision.as_ref().map(|(_, digest)| *digest);
        Held { volume: volume.clone(), category: Category::Secret, sequence: kept.sequence, digest }
    }
}

fn contents(tree: &Tree) -> impl Iterator<Item = Digest> {
    tree.nodes().values().filter_map(|node| match node {
        Node::File { digest, .. } => Some(*digest),
        Node::Directory(_) => None,
    })
}

impl Volumes for Memory {
    fn instance(&self) -> [u8; 16] {
        [1; 16]
    }

    fn held(&self, after: Option<&VolumeId>, max: usize) -> (Vec<Held>, bool) {
        let mut page: Vec<_> = self
            .volumes
            .iter()
            .filter(|(volume, _)| after.is_none_or(|after| *volume > after))
            .map(|(volume, kept)| Self::held_of(volume, kept))
            .collect();
        let more = page.len() > max;
        page.truncate(max);
        (page, more)
    }

    fn held_one(&self, volume: &VolumeId) -> Option<Held> {
        self.volumes.get(volume).map(|kept| Self::held_of(volume, kept))
    }

    fn status(&self, _: Option<&VolumeId>, _: usize) -> (Vec<VolumeStatus>, bool) {
        (Vec::new(), false)
    }

    fn open(&mut self, request: &OpenRequest) -> Result<OpenResponse, Refusal> {
        let kept = self.volumes.entry(request.volume.clone()).or_insert(Kept {
            sequence: 0,
            revision: None,
            staged: BTreeSet::new(),
            claimed: 0,
        });
        let held = Self::held_of(&request.volume, kept);
        Ok(OpenResponse { held, path: "/v".into(), limits: Limits::MAX })
    }

    fn current(&self, volume: &VolumeId) -> Option<Current<'_>> {
        let kept = self.volumes.get(volume)?;
        let revision = kept.revision.as_ref().map(|(tree, digest)| (tree, *digest));
        Some(Current { sequence: kept.sequence, revision, limits: Limits::MAX })
    }

    fn holds(&self, volume: &VolumeId, content: &Digest) -> bool {
        let kept = &self.volumes[volume];
        let mut visible = kept.revision.iter().flat_map(|(tree, _)| contents(tree));
        kept.staged.contains(content) || visible.any(|held| held == *content)
    }

    fn put(&mut self, volume: &VolumeId, chunk: &Chunk<'_>) -> Result<Option<Digest>, Refusal> {
        let (digest, unnamed) = (Digest::of(chunk.data), chunk.digest == Digest::UNNAMED);
        assert!(unnamed || digest == chunk.digest, "the real store refuses it");
        self.volumes.get_mut(volume).expect("it is open").staged.insert(digest);
        Ok(unnamed.then_some(digest))
    }

    fn commit(&mut self, volume: &VolumeId, sequence: u64, tree: Tree) -> Result<Held, Refusal> {
        if self.no_space {
            return Err(Refusal::new(Reason::NoSpace, "full"));
        }
        let kept = self.volumes.get_mut(volume).expect("it is open");
        let digest = tree.digest();
        (kept.sequence, kept.revision) = (sequence, Some((tree, digest)));
        kept.staged.clear();
        Ok(Self::held_of(volume, kept))
    }

    fn room(&self) -> usize {
        ROOM - self.drafted
    }

    fn drafted(&mut self, _: u64, bytes: usize) {
        self.drafted = bytes;
    }

    fn claim(&mut self, volume: &VolumeId, session: u64) {
        let kept = self.volumes.get_mut(volume).expect("it is open");
        kept.claimed = kept.claimed.max(session);
    }

    fn discard(&mut self, volume: &VolumeId, session: u64) {
        if let Some(kept) = self.volumes.get_mut(volume).filter(|kept| kept.claimed <= session) {
            kept.claimed = 0;
            kept.staged.clear();
        }
    }

    fn remove(&mut self, volume: &VolumeId) -> Result<(), Refusal> {
        self.volumes.remove(volume);
        Ok(())
    }

    fn refused(&mut self, volume: Option<&VolumeId>, refusal: &Refusal) {
        self.refused.push((volume.cloned(), refusal.reason));
    }

    fn refusals(&self) -> u64 {
        self.refused.len() as u64
    }
}

const META: Meta = Meta { mode: 0o755, uid: 0, gid: 0 };

fn volume() -> VolumeId {
    VolumeId::parse("pod.volume").expect("an id")
}

/// A tree of files with their contents.
fn tree(files: &[(&str, &str)]) -> Tree {
    let nodes = files.iter().map(|(path, content)| {
        let meta = Meta { mode: 0o644, ..META };
        let digest = Digest::of(content.as_bytes());
        let node = Node::File { meta, bytes: content.len() as u64, digest };
        (TreePath::parse(path).expect("a path"), node)
    });
    Tree::new(META, nodes.collect(), Limits::MAX).expect("a tree")
}

struct Talk {
    session: Session,
    memory: Memory,
}

impl Talk {
    /// Greeted, and the volume is open.
    fn begun() -> Self {
        let mut talk = Self { session: Session::new(1), memory: Memory::default() };
        talk.hello().expect("hello");
        talk.open();
        talk
    }

    fn say(&mut self, method: &str, payload: &[u8]) -> Result<Vec<u8>, Reason> {
        let request = Request { service: SERVICE, method, payload, timeout_ns: 0 }.encode();
        let answer = self.session.answer(&request, &mut self.memory);
        let Response(result) = Response::decode(&answer).expect("a response");
        result.map(<[u8]>::to_vec).map_err(|refusal| refusal.reason)
    }

    fn hello(&mut self) -> Result<Vec<u8>, Reason> {
        self.say("Hello", &HelloRequest { version: VERSION, after: None }.encode())
    }

    fn open(&mut self) {
        let limits = Limits { entries: 0, bytes: 0 };
        let open = OpenRequest { volume: volume(), category: Category::Secret, limits };
        self.say("Open", &open.encode()).expect("open");
    }

    /// Sends the changes from `old` to `new`, and those of `files` that are given.
    fn put(
        &mut self,
        sequence: u64,
        old: Option<&Tree>,
        new: &Tree,
        files: &[&str],
    ) -> Result<Vec<Digest>, Reason> {
        let nodes = |delta: Delta| {
            let root = delta.root.into_iter().map(Entry::Root);
            let others = delta.upserts.into_iter().map(|(path, node)| Entry::At(path, node));
            (root.chain(others).collect(), delta.removals)
        };
        let (upserts, removals) = match old {
            Some(old) => nodes(old.delta(new)),
            None => {
                let mut all = tree(&[]).delta(new);
                all.root = Some(new.root());
                nodes(all)
            }
        };
        let chunk = |content: &'_ str| (Digest::of(content.as_bytes()), content.len() as u64);
        let chunks = files
            .iter()
            .map(|content| {
                let (digest, total) = chunk(content);
                Chunk { digest, total, offset: 0, data: content.as_bytes() }
            })
            .collect();
        let put = PutRequest { volume: volume(), sequence, upserts, removals, chunks };
        let answer = self.say("Put", &put.encode())?;
        Ok(PutResponse::decode(&answer).expect("a put's answer").missing)
    }

    fn commit(&mut self, sequence: u64, base: Option<&Tree>, new: &Tree) -> Result<(), Reason> {
        let base = base.map(Tree::digest);
        let commit = CommitRequest { volume: volume(), sequence, base, digest: new.digest() };
        let answer = self.say("Commit", &commit.encode())?;
        let held = CommitResponse::decode(&answer).expect("a commit's answer").held;
        assert_eq!((held.sequence, held.digest), (sequence, Some(new.digest())));
        Ok(())
    }

    fn visible(&self) -> Option<Digest> {
        self.memory.volumes[&volume()].revision.as_ref().map(|(_, digest)| *digest)
    }
}

#[test]
fn a_change_takes_two_round_trips_and_only_its_content() {
    let mut talk = Talk::begun();
    let (one, two) = (tree(&[("a", "1"), ("b", "2")]), tree(&[("a", "1"), ("b", "3")]));
    assert_eq!(talk.put(1, None, &one, &["1", "2"]), Ok(vec![]));
    assert_eq!(talk.commit(1, None, &one), Ok(()));
    assert_eq!(talk.put(2, Some(&one), &two, &["3"]), Ok(vec![]));
    assert_eq!(talk.commit(2, Some(&one), &two), Ok(()));
    assert_eq!(talk.visible(), Some(two.digest()));
    assert!(talk.memory.refused.is_empty());
}

#[test]
fn after_a_restart_only_missing_contents_are_asked_for() {
    let mut talk = Talk::begun();
    let (one, two) = (tree(&[("a", "1"), ("b", "2")]), tree(&[("a", "1"), ("b", "3")]));
    talk.put(1, None, &one, &["1", "2"]).expect("put");
    talk.commit(1, None, &one).expect("commit");
    // The host does not know any more what it sent.
    assert_eq!(talk.put(2, None, &two, &[]), Ok(vec![Digest::of(b"3")]));
    assert_eq!(talk.commit(2, None, &two), Err(Reason::Missing));
    let only_contents = tree(&[]);
    assert_eq!(talk.put(2, Some(&only_contents), &only_contents, &["3"]), Ok(vec![]));
    assert_eq!(talk.commit(2, None, &two), Ok(()));
}

#[test]
fn replays_late_and_lying_messages_change_nothing() {
    let mut talk = Talk::begun();
    let (one, two) = (tree(&[("a", "1")]), tree(&[("a", "2")]));
    talk.put(5, None, &one, &["1"]).expect("put");
    talk.commit(5, None, &one).expect("commit");
    assert_eq!(talk.commit(5, None, &one), Ok(()), "said again");
    assert_eq!(talk.commit(5, None, &two), Err(Reason::Conflict));
    assert_eq!(talk.put(5, Some(&one), &two, &["2"]), Err(Reason::Stale));
    assert_eq!(talk.put(4, Some(&one), &two, &["2"]), Err(Reason::Stale));
    assert_eq!(talk.commit(4, Some(&one), &one), Err(Reason::Stale));
    talk.put(9, Some(&one), &two, &["2"]).expect("a skipped number is fine");
    assert_eq!(talk.put(8, Some(&one), &two, &["2"]), Ok(vec![]), "its parts replace the others");
    assert_eq!(talk.commit(9, Some(&one), &two), Err(Reason::Stale), "those are forgotten");
    talk.put(9, Some(&one), &two, &["2"]).expect("again");
    assert_eq!(talk.commit(10, Some(&one), &two), Err(Reason::Stale), "parts of another revision");
    assert_eq!(talk.commit(9, Some(&two), &two), Err(Reason::Base));
    assert_eq!(talk.visible(), Some(one.digest()));
    talk.put(9, Some(&one), &two, &[]).expect("a base refusal ends the draft");
    assert_eq!(talk.commit(9, Some(&one), &one), Err(Reason::Digest));
    assert_eq!(talk.visible(), Some(one.digest()));
    talk.put(u64::MAX, Some(&one), &two, &["2"]).expect("the last number there is");
    talk.commit(u64::MAX, Some(&one), &two).expect("commit");
    assert_eq!(talk.put(u64::MAX, None, &one, &["1"]), Err(Reason::Stale));
}

#[test]
fn a_lost_deletion_is_another_digest() {
    let mut talk = Talk::begun();
    let (one, two) = (tree(&[("a", "1"), ("b", "2")]), tree(&[("a", "1")]));
    talk.put(1, None, &one, &["1", "2"]).expect("put");
    talk.commit(1, None, &one).expect("commit");
    // A man in the middle drops the removal.
    talk.put(2, Some(&one), &one, &[]).expect("put");
    assert_eq!(talk.commit(2, Some(&one), &two), Err(Reason::Digest));
}

#[test]
fn nothing_is_answered_before_hello_and_no_other_service_or_version() {
    let mut talk = Talk { session: Session::new(1), memory: Memory::default() };
    for method in ["Open", "Put", "Commit", "Drop", "Status", "Other"] {
        assert_eq!(talk.say(method, &[]), Err(Reason::Unsupported), "{method}");
    }
    for version in [0, 2, u32::MAX] {
        let hello = HelloRequest { version, after: None }.encode();
        assert_eq!(talk.say("Hello", &hello), Err(Reason::Unsupported), "{version}");
    }
    assert!(!talk.session.is_greeted());
    talk.hello().expect("hello");
    assert_eq!(talk.say("Other", &[]), Err(Reason::Unsupported));
    let request =
        Request { service: "grpc.AgentService", method: "Hello", payload: &[], timeout_ns: 0 };
    let answer = talk.session.answer(&request.encode(), &mut talk.memory);
    assert!(Response::decode(&answer).expect("a response").0.is_err());
}

#[test]
fn unknown_volumes_are_refused_and_others_go_on() {
    let mut talk = Talk::begun();
    let other = VolumeId::parse("other").expect("an id");
    let put = PutRequest {
        volume: other.clone(),
        sequence: 1,
        upserts: vec![Entry::Root(META)],
        removals: vec![],
        chunks: vec![],
    };
    assert_eq!(talk.say("Put", &put.encode()), Err(Reason::Unknown));
    assert_eq!(talk.memory.refused, [(Some(other), Reason::Unknown)]);
    let one = tree(&[("a", "1")]);
    talk.put(1, None, &one, &["1"]).expect("put");
    talk.commit(1, None, &one).expect("commit");
}

#[test]
fn a_failed_commit_can_be_said_again() {
    let mut talk = Talk::begun();
    let one = tree(&[("a", "1")]);
    talk.put(1, None, &one, &["1"]).expect("put");
    talk.memory.no_space = true;
    assert_eq!(talk.commit(1, None, &one), Err(Reason::NoSpace));
    talk.memory.no_space = false;
    assert_eq!(talk.commit(1, None, &one), Ok(()));
}

#[test]
fn changes_have_a_limit_and_a_cut_connection_leaves_nothing() {
    let mut talk = Talk::begun();
    let mut refused = None;
    for turn in 0..200 {
        let upserts = (0..500)
            .map(|n| TreePath::parse(&format!("{turn}-{n}")).expect("a path"))
            .map(|path| Entry::At(path, Node::Directory(META)))
            .collect();
        let put =
            PutRequest { volume: volume(), sequence: 1, upserts, removals: vec![], chunks: vec![] };
        if let Err(reason) = talk.say("Put", &put.encode()) {
            refused = Some((turn, reason));
            break;
        }
    }
    assert_eq!(refused, Some((65, Reason::Limit)), "twice as many as the volume may hold");
    assert_eq!(talk.memory.drafted, 0);
    talk.put(2, None, &tree(&[("a", "1")]), &["1"]).expect("put");
    assert!(talk.memory.drafted > 0);
    talk.session.end(&mut talk.memory);
    assert!(talk.memory.volumes[&volume()].staged.is_empty());
    assert_eq!(talk.memory.drafted, 0);
}

/// The same paths again take nothing more; others only as much as there is.
#[test]
fn all_drafts_share_one_room() {
    let mut talk = Talk::begun();
    let mut put = |sequence, volume: &VolumeId, turn: usize| {
        let name = |n: usize| format!("{turn}-{n}-{}", "x".repeat(200));
        let path = |n| TreePath::parse(&name(n)).expect("a path");
        let entry = |n| Entry::At(path(n), Node::Directory(META));
        let (upserts, volume) = ((0..500).map(entry).collect(), volume.clone());
        let put = PutRequest { volume, sequence, upserts, removals: vec![path(1)], chunks: vec![] };
        let answer = talk.say("Put", &put.encode()).map(drop);
        (answer, talk.memory.drafted)
    };
    let (one, other) = (volume(), VolumeId::parse("other").expect("an id"));
    let (answer, first) = put(1, &one, 0);
    assert_eq!(answer, Ok(()));
    assert!(first > 500 * 200, "{first}");
    assert_eq!(put(1, &one, 0), (Ok(()), first));
    assert_eq!(put(2, &one, 1), (Ok(()), first), "parts of another revision replace them");
    assert_eq!(put(1, &other, 0), (Err(Reason::Unknown), first));
    let refused = (0..).map(|turn| put(2, &one, turn)).find(|(answer, _)| answer.is_err());
    assert_eq!(refused, Some((Err(Reason::Limit), 0)));
}

/// Each byte of a conversation replaced by each value: whatever comes of it, what is visible is
/// one of the two revisions, and the real messages still work afterwards.
#[test]
fn no_changed_byte_makes_a_third_revision() {
    let (one, two) = (tree(&[("a", "1"), ("b", "2")]), tree(&[("a", "1"), ("c", "3")]));
    let put = |talk: &mut Talk| talk.put(2, Some(&one), &two, &["3"]);
    let commit = CommitRequest {
        volume: volume(),
        sequence: 2,
        base: Some(one.digest()),
        digest: two.digest(),
    };
    let request =
        Request { service: SERVICE, method: "Commit", payload: &commit.encode(), timeout_ns: 0 };
    let request = request.encode();
    for position in 0..request.len() {
        for value in [0, 1, 2, 0x7f, 0x80, 0xff, request[position] ^ 1, request[position] ^ 0x80] {
            let mut talk = Talk::begun();
            talk.put(1, None, &one, &["1", "2"]).expect("put");
            talk.commit(1, None, &one).expect("commit");
            put(&mut talk).expect("put");
            let mut changed = request.clone();
            changed[position] = value;
            talk.session.answer(&changed, &mut talk.memory);
            let visible = talk.visible().expect("a revision");
            assert!(visible == one.digest() || visible == two.digest());
            if visible == one.digest() {
                put(&mut talk).expect("put");
                talk.commit(2, Some(&one), &two).expect("commit");
            }
        }
    }
}
