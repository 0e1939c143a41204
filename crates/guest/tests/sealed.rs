//! Sealed values: what is visible was opened, whatever the key source does.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Guest, answer, conversation, frames, volume};
use guest::agent::unseal_by;
use guest::cdh::{Cdh, Error};
use guest::policy::Policy;
use guest::server::Limits;
use serde_json::json;
use tempfile::TempDir;
use testkit::sealer::Sealer;
use volumes::name::Category;
use volumes::refusal::{Reason, Refusal};
use volumes::tree::Limits as TreeLimits;
use volumes::wire::cdh::{Call, PAYLOAD_BYTES_MAX, Status, VALUE_BYTES_MAX, answer_head};
use volumes::wire::frame::{HEADER_BYTES, Kind, frame};
use volumes::wire::message::{Message, StatusRequest, StatusResponse};
use volumes::wire::stream::read_frame_up_to;

const PATIENCE: Duration = Duration::from_secs(20);

/// What the fake says to one request: bytes, and whether it then closes.
type Answer = Arc<dyn Fn(&[u8]) -> (Vec<u8>, bool) + Send + Sync>;

/// A data hub that does what it is told.
struct FakeCdh {
    dir: TempDir,
    asked: Arc<AtomicUsize>,
    answer: Arc<Mutex<Answer>>,
}

impl FakeCdh {
    fn start(answer: impl Fn(&[u8]) -> (Vec<u8>, bool) + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("cdh.sock")).unwrap();
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Arc::new(answer)));
        let (asked, of) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&answer));
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, answer, count) =
                    (stream.unwrap(), Arc::clone(&of), Arc::clone(&count));
                std::thread::spawn(move || {
                    let mut payload = Vec::new();
                    let Ok(Some(_)) =
                        read_frame_up_to(&mut stream, &mut payload, PAYLOAD_BYTES_MAX)
                    else {
                        return;
                    };
                    let Ok(Call::UnsealForItsFile(sealed)) = Call::decode(&payload) else { return };
                    count.fetch_add(1, Ordering::SeqCst);
                    let answer = Arc::clone(&answer.lock().unwrap());
                    let (bytes, closes) = answer(sealed);
                    let _ = stream.write_all(&bytes);
                    // Otherwise it is kept until the other side has enough.
                    while !closes && stream.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
                });
            }
        });
        Self { dir, asked, answer }
    }

    fn honest() -> Self {
        Self::start(opens)
    }

    fn set(&self, answer: impl Fn(&[u8]) -> (Vec<u8>, bool) + Send + Sync + 'static) {
        *self.answer.lock().unwrap() = Arc::new(answer);
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("cdh.sock")
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// `sealed.x` is `opened x`.
fn opens(sealed: &[u8]) -> (Vec<u8>, bool) {
    let value = [b"opened ", &sealed[b"sealed.".len()..]].concat();
    (framed(1, &value), true)
}

fn framed(stream: u32, value: &[u8]) -> Vec<u8> {
    [answer_head(stream, value.len()), value.to_vec()].concat()
}

fn start(policy: Policy, cdh: Option<&FakeCdh>, timeout: Duration) -> Guest {
    let guest = Guest::start(policy, Limits::default());
    if let Some(cdh) = cdh {
        unseal_by(&guest.agent, Cdh::new(cdh.path(), timeout));
    }
    guest
}

fn one(stream: &mut UnixStream, message: &(&'static str, Vec<u8>)) -> Result<Vec<u8>, Refusal> {
    stream.write_all(&frames(std::slice::from_ref(message))).unwrap();
    answer(stream).unwrap()
}

/// As the host does it: again and again, while it is only not yet.
fn bring(
    guest: &Guest,
    name: &str,
    category: Category,
    sequence: u64,
    files: &[(&str, &[u8])],
) -> Result<(), Refusal> {
    let mut stream = guest.connect();
    let messages = conversation(&volume(name), category, sequence, files);
    let (commit, parts) = messages.split_last().unwrap();
    let until = Instant::now() + PATIENCE;
    let mut missing = true;
    loop {
        if std::mem::take(&mut missing) {
            for message in parts {
                one(&mut stream, message)?;
            }
        }
        match one(&mut stream, commit) {
            Err(Refusal { reason: Reason::Opening | Reason::TooSoon, .. }) => {}
            // The end of the connection before has swept it away.
            Err(Refusal { reason: Reason::Missing, .. }) => missing = true,
            other => return other.map(drop),
        }
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn sealed(result: Result<(), Refusal>) -> String {
    let refusal = result.unwrap_err();
    assert_eq!(refusal.reason, Reason::Sealed, "{refusal}");
    refusal.what
}

/// A text with an audience. Who signed it is the key source's affair.
fn bound(audience: serde_json::Value) -> Vec<u8> {
    let mut payload = Sealer::vault_payload("kbs:///team/db/password");
    payload["annotations"]["sealift.audience"] = audience;
    Sealer::new("one.jwk").sign(&payload).into_bytes()
}

/// By a key source that opens everything, as upstream's, which knows of no audience.
#[test]
fn whom_a_value_is_for_is_kept_to_whatever_the_key_source_opens() {
    let cdh = FakeCdh::honest();
    let known = Guest::start(Policy::default(), Limits::default());
    let opener = guest::unseal::Opener {
        cdh: Cdh::new(cdh.path(), PATIENCE),
        namespace: Some("team-a".into()),
        service_account: Some("db".into()),
    };
    unseal_by(&known.agent, opener);
    let unknown = start(Policy::default(), Some(&cdh), PATIENCE);
    let bring = |guest: &Guest, path: &str, sealed: &[u8], sequence| {
        bring(guest, "pod.v", Category::Secret, sequence, &[(path, sealed)])
    };
    let all = bound(json!({
        "namespace": "team-a", "service_account": "db", "key": "password",
        "expires": "9999-01-01T00:00:00Z",
    }));
    bring(&known, "password", &all, 1).unwrap();
    let asked = cdh.asked();
    for (guest, audience, why) in [
        (
            &known,
            json!({"namespace":"team-b"}),
            "for the namespace team-b alone, and this is team-a",
        ),
        (&known, json!({"service_account":"web"}), "service account web"),
        (&known, json!({"expires":"2020-01-01T00:00:00Z"}), "it expired at 2020-01-01T00:00:00Z"),
        (&known, json!({"pod":"x"}), "cannot be read"),
        (&unknown, json!({"namespace":"team-a"}), "--audience-namespace does"),
        (&unknown, json!({"service_account":"db"}), "--audience-service-account does"),
    ] {
        let refused = sealed(bring(guest, "password", &bound(audience), 2));
        assert!(refused.starts_with("password: ") && refused.contains(why), "{refused}");
    }
    assert_eq!(cdh.asked(), asked, "nobody was asked for what may not be here");
    // Beside the file that it is for, and in another's place, also when it is there already.
    for path in ["user", "a/password"] {
        let refused = sealed(bring(&known, path, &all, 2));
        assert!(refused.contains("for the file password alone"), "{refused}");
    }
    bring(&unknown, "a/b", &bound(json!({"key": "a/b"})), 2).unwrap();
}

#[test]
fn a_guest_that_cannot_open_it_shows_nothing_that_is_sealed() {
    let guest = start(Policy::default(), None, PATIENCE);
    for (category, name) in
        Category::ALL.into_iter().zip(["pod.secret", "pod.config", "pod.projected", "pod.down"])
    {
        bring(&guest, name, category, 1, &[("a", b"plain"), ("b", b"unsealed.x")]).unwrap();
        let why = sealed(bring(&guest, name, category, 2, &[("a", b"plain"), ("c", b"sealed.x")]));
        assert_eq!(why, "c is sealed, and this guest has no --key-source");
        let found = guest.read(&volume(name));
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b"], "the revision before stays");
        bring(&guest, name, category, 3, &[("a", b"plain again")]).unwrap();
    }
}

#[test]
fn what_is_visible_was_opened_once() {
    let cdh = FakeCdh::honest();
    let guest = start(Policy::default(), Some(&cdh), PATIENCE);
    let read = |name: &str, path: &str| {
        String::from_utf8(guest.read(&volume(name))[path].clone()).unwrap()
    };
    let files: &[(&str, &[u8])] =
        &[("a", b"sealed.one"), ("copy/a", b"sealed.one"), ("b", b"sealed.two"), ("c", b"plain")];
    for (category, name) in
        Category::ALL.into_iter().zip(["pod.secret", "pod.config", "pod.projected", "pod.down"])
    {
        let before = cdh.asked();
        bring(&guest, name, category, 1, files).unwrap();
        assert_eq!(
            [read(name, "a"), read(name, "copy/a"), read(name, "b"), read(name, "c")],
            ["opened one", "opened one", "opened two", "plain"]
        );
        assert_eq!(cdh.asked() - before, 2, "each content once");
        // What stays is not asked for again, wherever it goes.
        bring(
            &guest,
            name,
            category,
            2,
            &[("a", b"sealed.one"), ("moved", b"sealed.two"), ("d", b"4")],
        )
        .unwrap();
        assert_eq!([read(name, "a"), read(name, "moved")], ["opened one", "opened two"]);
        assert_eq!(cdh.asked() - before, 2);
        bring(&guest, name, category, 3, &[("a", b"sealed.three")]).unwrap();
        assert_eq!(read(name, "a"), "opened three");
    }
}

#[test]
fn a_key_source_that_misbehaves_shows_nothing_and_holds_up_nobody() {
    let cdh = FakeCdh::honest();
    let policy = Policy { limits: TreeLimits { entries: 16, bytes: 2 << 20 }, ..Policy::default() };
    let guest = start(policy, Some(&cdh), Duration::from_millis(300));
    bring(&guest, "pod.v", Category::Secret, 1, &[("a", b"sealed.1")]).unwrap();
    let good = framed(1, b"forged");
    let edited = |position: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[position] = byte;
        bytes
    };
    let long = u32::try_from(PAYLOAD_BYTES_MAX + 1).unwrap().to_be_bytes();
    let says = |message: &str| {
        let status = Status { code: 13, message: message.into() };
        frame(Kind::Response, 1, &status.encode())
    };
    let cases: Vec<(Vec<u8>, bool, &str)> = vec![
        (vec![], false, "timed out"),
        (vec![], true, "connection failed"),
        (good[..good.len() - 1].to_vec(), false, "timed out"),
        (good[..good.len() - 1].to_vec(), true, "connection failed"),
        (vec![0xff; 4096], true, "frame"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), true, "frame"),
        (framed(3, b"forged"), true, "something else"),
        (framed(2, b"forged"), true, "even"),
        (edited(8, 1), true, "something else"),
        ([&long[..], &[0, 0, 0, 1, 2, 0]].concat(), false, "limit"),
        (edited(HEADER_BYTES + 2, 0x0b), true, "message"),
        (says("[CDH] [ERROR]: Unseal Secret failed"), true, "a: Unseal Secret failed"),
        (says(&format!("no\n\x1b[2J{}", "x".repeat(9000))), true, "no [2Jxxx"),
        (says(""), true, "code 13 and no word"),
        (framed(1, b"sealed.again"), true, "sealed again"),
        (framed(1, &vec![b'x'; VALUE_BYTES_MAX]), true, ""),
    ];
    let last = cases.len() - 1;
    for (index, (bytes, closes, expected)) in cases.into_iter().enumerate() {
        let sequence = 10 + index as u64;
        cdh.set(move |_| (bytes.clone(), closes));
        let content = format!("sealed.case {index}");
        let result =
            bring(&guest, "pod.v", Category::Secret, sequence, &[("a", content.as_bytes())]);
        if index == last {
            // As long as a value may be: it fits.
            result.unwrap();
            break;
        }
        assert!(result.is_err(), "{index}: {expected}");
        let why = sealed(result);
        assert!(why.contains(expected) && why.len() <= 512, "{index}: {why}");
        assert!(!why.contains(char::is_control), "{why}");
        assert_eq!(guest.read(&volume("pod.v"))["a"], b"opened 1", "{index}");
        bring(&guest, "pod.other", Category::Secret, sequence, &[("a", b"plain")]).unwrap();
    }
}

#[test]
fn a_failure_is_told_and_tried_again_on_the_same_connection() {
    let cdh = FakeCdh::start(|_| (vec![], true));
    let guest = start(Policy::default(), Some(&cdh), PATIENCE);
    let mut stream = guest.connect();
    let messages =
        conversation(&volume("pod.v"), Category::Secret, 1, &[("a", b"sealed.1"), ("b", b"2")]);
    for message in &messages[..3] {
        one(&mut stream, message).unwrap();
    }
    let mut settled = |expected: Reason| {
        let until = Instant::now() + PATIENCE;
        loop {
            let reason = one(&mut stream, &messages[3]).err().map(|refusal| refusal.reason);
            if reason != Some(Reason::Opening) {
                assert_eq!(reason, (expected != Reason::Opening).then_some(expected));
                return;
            }
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    settled(Reason::Sealed);
    settled(Reason::Sealed);
    assert_eq!(cdh.asked(), 2);
    cdh.set(opens);
    settled(Reason::Opening);
    assert_eq!(guest.read(&volume("pod.v"))["a"], b"opened 1");
    // Waiting is no failure, and what failed is over.
    let status = ("Status", StatusRequest { after: None }.encode());
    let status = StatusResponse::decode(&one(&mut stream, &status).unwrap()).unwrap();
    assert_eq!((status.volumes[0].failure.as_str(), status.refused), ("", 2));
}

/// Three volumes whose contents hang, more of them than there are threads for one volume: another's
/// are opened meanwhile, plain ones come, and what hangs comes when it does not hang any more.
#[test]
fn an_opening_that_hangs_holds_up_no_other_volume() {
    let cdh = FakeCdh::honest();
    let guest = start(Policy::default(), Some(&cdh), PATIENCE);
    let (free, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    cdh.set(move |sealed| {
        if sealed.starts_with(b"sealed.hang") {
            // Ends when the other end is gone.
            let _ = gate.lock().unwrap().recv();
        }
        opens(sealed)
    });
    let names: Vec<String> = (0..3).map(|n| format!("pod.hang{n}")).collect();
    let files: [(&str, &[u8]); 4] = [
        ("a", b"sealed.hang a"),
        ("b", b"sealed.hang b"),
        ("c", b"sealed.hang c"),
        ("d", b"sealed.hang d"),
    ];
    let mut hanging: Vec<UnixStream> = names.iter().map(|_| guest.connect()).collect();
    let commits: Vec<_> = names
        .iter()
        .zip(&mut hanging)
        .map(|(name, stream)| {
            let mut messages = conversation(&volume(name), Category::Secret, 1, &files);
            let commit = messages.pop().unwrap();
            for message in &messages {
                one(stream, message).unwrap();
            }
            commit
        })
        .collect();
    for (stream, commit) in hanging.iter_mut().zip(&commits) {
        assert_eq!(one(stream, commit).unwrap_err().reason, Reason::Opening);
    }
    for turn in 1..10 {
        let content = format!("sealed.{turn}");
        bring(&guest, "pod.v", Category::Secret, turn, &[("a", content.as_bytes())]).unwrap();
        bring(&guest, "pod.plain", Category::Secret, turn, &[("a", b"plain")]).unwrap();
        for (stream, commit) in hanging.iter_mut().zip(&commits) {
            assert_eq!(one(stream, commit).unwrap_err().reason, Reason::Opening);
        }
    }
    assert!(guest.read(&volume("pod.hang0")).is_empty());
    // A volume may go while its contents are being opened, and a connection, too.
    let gone = hanging.remove(0);
    drop(gone);
    drop(free);
    for ((stream, commit), name) in hanging.iter_mut().zip(&commits[1..]).zip(&names[1..]) {
        let until = Instant::now() + PATIENCE;
        while let Err(refusal) = one(stream, commit) {
            assert!(refusal.reason == Reason::Opening && Instant::now() < until, "{refusal}");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(guest.read(&volume(name))["d"], b"opened hang d");
    }
    bring(&guest, &names[0], Category::Secret, 1, &files).unwrap();
}

#[test]
fn limits_hold_for_what_was_sealed_and_for_what_seals() {
    let cdh = FakeCdh::start(|_| (framed(1, &[b'x'; 200]), true));
    let policy = Policy { limits: TreeLimits { entries: 8, bytes: 300 }, ..Policy::default() };
    let guest = start(policy, Some(&cdh), PATIENCE);
    bring(&guest, "pod.v", Category::Secret, 1, &[("a", b"sealed.1")]).unwrap();
    let two: [(&str, &[u8]); 2] = [("a", b"sealed.1"), ("b", b"sealed.2")];
    let refused = bring(&guest, "pod.v", Category::Secret, 2, &two).unwrap_err();
    assert_eq!(refused.reason, Reason::Limit, "{refused}");
    assert_eq!(guest.read(&volume("pod.v")).len(), 1);
    let asked = cdh.asked();
    let guest = start(
        Policy { limits: TreeLimits { entries: 8, bytes: 4 << 20 }, ..Policy::default() },
        Some(&cdh),
        PATIENCE,
    );
    let mut stream = guest.connect();
    let long = [b"sealed.".to_vec(), vec![b'x'; VALUE_BYTES_MAX]].concat();
    // In pieces, since it is longer than a frame.
    let mut refusal = None;
    for message in pieces("pod.long", &long) {
        refusal = one(&mut stream, &message).err();
    }
    let what = sealed(Err(refusal.unwrap()));
    assert_eq!(what, format!("a is sealed, and longer than {VALUE_BYTES_MAX} bytes"));
    assert_eq!(cdh.asked(), asked, "the key source is not asked");
}

/// A revision of one long file.
fn pieces(name: &str, content: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    use volumes::wire::message::{Chunk, PutRequest};
    let files = [("a", content)];
    let mut messages = conversation(&volume(name), Category::Secret, 1, &files);
    let whole = messages.remove(2).1;
    let entries = PutRequest::decode(&whole).unwrap().upserts;
    let put = |upserts, chunks| {
        let volume = volume(name);
        ("Put", PutRequest { volume, sequence: 1, upserts, removals: vec![], chunks }.encode())
    };
    let mut puts = vec![put(entries, vec![])];
    puts.extend(content.chunks(100_000).enumerate().map(|(index, data)| {
        let (offset, total) = (100_000 * index as u64, content.len() as u64);
        let digest = volumes::tree::Digest::of(content);
        put(vec![], vec![Chunk { digest, total, offset, data }])
    }));
    messages.splice(2..2, puts);
    messages
}

/// What a good answer becomes when any of its bytes is another one, or it ends anywhere.
#[test]
fn every_prefix_and_changed_byte_of_an_answer_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cdh.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let cdh = Cdh::new(&path, PATIENCE);
    let good = framed(1, b"secret");
    let mut answers: Vec<Vec<u8>> = (0..good.len()).map(|end| good[..end].to_vec()).collect();
    for position in 0..good.len() {
        answers.extend([0x01, 0x04, 0x80, 0xff].map(|change| {
            let mut bytes = good.clone();
            bytes[position] ^= change;
            bytes
        }));
    }
    answers.push(good.clone());
    let count = answers.len();
    std::thread::spawn(move || {
        for bytes in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut payload = Vec::new();
            read_frame_up_to(&mut stream, &mut payload, PAYLOAD_BYTES_MAX).unwrap();
            assert_eq!(Call::decode(&payload), Ok(Call::Resource("kbs:///a/b/c")));
            let _ = stream.write_all(&bytes);
        }
    });
    let results: Vec<_> = (0..count).map(|_| cdh.resource("kbs:///a/b/c")).collect();
    assert!(results[..good.len()].iter().all(Result::is_err), "no prefix is an answer");
    assert_eq!(**results[count - 1].as_ref().unwrap(), *b"secret");
    let missing = Cdh::new(dir.path().join("missing"), PATIENCE).unseal(b"sealed.x").unwrap_err();
    assert!(matches!(missing, Error::Broken { .. }), "{missing:?}");
}

#[test]
fn a_socket_that_nobody_accepts_from_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cdh.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let cdh = Cdh::new(&path, Duration::from_millis(100));
    // Until the queue is full, and after that.
    let mut waiting = Vec::new();
    while waiting.len() < 10_000 {
        let stream = std::os::unix::net::UnixStream::connect(&path);
        waiting.push(stream.unwrap());
        if waiting.len() >= 128 {
            break;
        }
    }
    for _ in 0..3 {
        assert!(cdh.unseal(b"sealed.x").is_err());
    }
}

/// The same call answered by containerd's ttrpc, as its own crate speaks it.
#[test]
fn a_server_of_the_ttrpc_crate_is_understood() {
    struct Opens;
    impl ttrpc::MethodHandler for Opens {
        fn handler(
            &self,
            context: ttrpc::TtrpcContext,
            request: ttrpc::Request,
        ) -> ttrpc::Result<()> {
            let mut response = ttrpc::Response::new();
            if request.payload.windows(10).any(|part| part == b"sealed.bad") {
                let message = "[CDH] [ERROR]: Unseal Secret failed".to_owned();
                response.set_status(ttrpc::get_status(ttrpc::Code::INTERNAL, message));
            } else {
                response.set_status(ttrpc::get_status(ttrpc::Code::OK, String::new()));
                response.payload = b"\x0a\x06secret".to_vec();
            }
            context.respond(context.mh.stream_id, response)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cdh.sock");
    let methods: std::collections::HashMap<String, Box<dyn ttrpc::MethodHandler + Send + Sync>> =
        [("/api.SealedSecretService/UnsealSecret".to_owned(), Box::new(Opens) as _)].into();
    let mut server = ttrpc::Server::new()
        .bind(&format!("unix://{}", path.display()))
        .unwrap()
        .register_service(methods);
    server.start().unwrap();
    let cdh = Cdh::new(&path, PATIENCE);
    assert_eq!(**cdh.unseal(b"sealed.x").unwrap(), *b"secret");
    assert_eq!(cdh.unseal(b"sealed.bad").unwrap_err().to_string(), "Unseal Secret failed");
    assert!(matches!(cdh.resource("kbs:///a/b/c"), Err(Error::Refused(_))));
    server.shutdown();
}
