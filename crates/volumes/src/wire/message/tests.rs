use proptest::prelude::*;

use super::*;

fn meta() -> Meta {
    Meta { mode: 0o640, uid: 1000, gid: 2000 }
}

fn held() -> Held {
    Held {
        volume: VolumeId::parse("pod.volume").expect("an id"),
        category: Category::Secret,
        sequence: 300,
        digest: Some(Digest::of(b"held")),
    }
}

/// A message's name, its bytes, and whether bytes decode as such a message.
type Sample = (&'static str, Vec<u8>, fn(&[u8]) -> bool);

/// One valid message of each kind.
fn samples() -> Vec<Sample> {
    fn sample<'a, M: Message<'a> + PartialEq + std::fmt::Debug>(
        name: &'static str,
        message: &M,
        decode: fn(&[u8]) -> bool,
    ) -> Sample {
        (name, message.encode(), decode)
    }
    macro_rules! decodes {
        ($message:ident) => {
            |bytes| $message::decode(bytes).is_ok()
        };
    }
    let path = |text| TreePath::parse(text).expect("a path");
    let volume = held().volume;
    let put = PutRequest {
        volume: volume.clone(),
        sequence: 301,
        upserts: vec![
            Entry::Root(meta()),
            Entry::At(path("conf"), Node::Directory(meta())),
            Entry::At(
                path("conf/app.yaml"),
                Node::File { meta: meta(), bytes: 5, digest: Digest::of(b"hello") },
            ),
        ],
        removals: vec![path("old"), path("old/key")],
        chunks: vec![
            Chunk { digest: Digest::of(b"hello"), total: 5, offset: 0, data: b"hello" },
            Chunk { digest: Digest::UNNAMED, total: 5, offset: 0, data: b"other" },
        ],
    };
    assert_eq!(PutRequest::decode(&put.encode()).as_ref(), Ok(&put));
    let hello = HelloResponse {
        version: VERSION,
        instance: [7; 16],
        volumes: vec![held(), Held { sequence: 0, digest: None, ..held() }],
        more: true,
    };
    assert_eq!(HelloResponse::decode(&hello.encode()).as_ref(), Ok(&hello));
    let limits = Limits { entries: 10, bytes: 1 << 20 };
    let open = OpenRequest { volume: volume.clone(), category: Category::Projected, limits };
    assert_eq!(OpenRequest::decode(&open.encode()).as_ref(), Ok(&open));
    let opened = OpenResponse { held: held(), path: "/run/sealift/volumes/x".into(), limits };
    assert_eq!(OpenResponse::decode(&opened.encode()).as_ref(), Ok(&opened));
    let commit = CommitRequest {
        volume: volume.clone(),
        sequence: 301,
        base: None,
        digest: Digest::of(b"new"),
    };
    assert_eq!(CommitRequest::decode(&commit.encode()).as_ref(), Ok(&commit));
    let status = StatusResponse {
        volumes: vec![VolumeStatus {
            held: held(),
            age_seconds: 7,
            entries: 3,
            bytes: 99,
            failure: "no-space: full".into(),
        }],
        more: false,
        refused: 12,
    };
    assert_eq!(StatusResponse::decode(&status.encode()).as_ref(), Ok(&status));
    let missing = PutResponse {
        missing: vec![Digest::of(b"a"), Digest::of(b"b")],
        named: vec![Digest::of(b"c")],
    };
    assert_eq!(PutResponse::decode(&missing.encode()).as_ref(), Ok(&missing));
    let committed = CommitResponse { held: held() };
    assert_eq!(CommitResponse::decode(&committed.encode()).as_ref(), Ok(&committed));
    let refused = Response(Err(Refusal::new(Reason::TooSoon, "three are live")));
    assert_eq!(Response::decode(&refused.encode()).as_ref(), Ok(&refused));
    let put_bytes = put.encode();
    let request =
        Request { service: SERVICE, method: "Put", payload: &put_bytes, timeout_ns: 5_000_000_000 };
    assert_eq!(Request::decode(&request.encode()).as_ref(), Ok(&request));
    let asked = HelloRequest { version: VERSION, after: Some(volume.clone()) };
    vec![
        sample("HelloRequest", &asked, decodes!(HelloRequest)),
        sample("HelloResponse", &hello, decodes!(HelloResponse)),
        sample("OpenRequest", &open, decodes!(OpenRequest)),
        sample("OpenResponse", &opened, decodes!(OpenResponse)),
        sample("PutRequest", &put, decodes!(PutRequest)),
        sample("PutResponse", &missing, decodes!(PutResponse)),
        sample("CommitRequest", &commit, decodes!(CommitRequest)),
        sample("CommitResponse", &committed, decodes!(CommitResponse)),
        sample("DropRequest", &DropRequest { volume: volume.clone() }, decodes!(DropRequest)),
        sample("StatusRequest", &StatusRequest { after: Some(volume) }, decodes!(StatusRequest)),
        sample("StatusResponse", &status, decodes!(StatusResponse)),
        sample("Response", &refused, decodes!(Response)),
        sample("Request", &request, decodes!(Request)),
    ]
}

#[test]
fn every_prefix_and_every_changed_byte_is_decoded_or_refused() {
    let mut accepted = 0;
    for (name, bytes, decode) in samples() {
        assert!(decode(&bytes), "{name}");
        for end in 0..bytes.len() {
            accepted += usize::from(decode(&bytes[..end]));
        }
        for position in 0..bytes.len() {
            for value in 0..=u8::MAX {
                let mut changed = bytes.clone();
                changed[position] = value;
                accepted += usize::from(decode(&changed));
            }
        }
    }
    assert!(accepted > 0, "a changed text is another text: some of these are messages");
}

#[test]
fn a_put_is_framed_as_any_request_is() {
    let chunk = |data| Chunk { digest: Digest::of(data), total: 9, offset: 4, data };
    let mut put = PutRequest {
        volume: held().volume,
        sequence: 3,
        upserts: vec![Entry::Root(meta())],
        removals: vec![TreePath::parse("a").expect("a path")],
        chunks: vec![chunk(b"hello"), chunk(b""), chunk(b"!")],
    };
    let payload = put.encode();
    assert_eq!(PutRequest::decode(&payload).as_ref(), Ok(&put));
    let request = Request { service: SERVICE, method: "Put", payload: &payload, timeout_ns: 0 };
    let mut frame = b"what was there".to_vec();
    put.frame_into(5, 0, &mut frame);
    let whole = crate::wire::frame::frame(Kind::Request, 5, &request.encode());
    assert_eq!(frame, whole);
    // The last byte comes from elsewhere.
    put.chunks.last_mut().expect("three").data = b"";
    put.frame_into(5, 1, &mut frame);
    assert_eq!(frame, whole[..whole.len() - 1]);
}

#[test]
fn hostile_entries_and_names_are_refused() {
    let entry = |path: &str, kind: u32, digest: &[u8]| {
        Encoder::default()
            .bytes(1, path)
            .number(2, kind)
            .number(3, 0o644_u32)
            .bytes(7, digest)
            .finish()
    };
    let digest = [1; 32];
    assert!(Entry::decode(&entry("a", 2, &digest)).is_ok());
    assert!(Entry::decode(&entry("", 1, &[])).is_ok(), "the root");
    for (path, kind, digest) in [
        ("", 2, &digest[..]),
        ("a", 0, &digest),
        ("a", 3, &digest),
        ("a", 1, &digest),
        ("a", 2, &[]),
        ("a", 2, &digest[1..]),
        ("../a", 2, &digest),
        ("/a", 2, &digest),
        ("..data", 2, &digest),
        ("a/../../b", 1, &[]),
        ("a\0b", 2, &digest),
    ] {
        assert!(Entry::decode(&entry(path, kind, digest)).is_err(), "{path:?} {kind}");
    }
    for id in ["..", "a/b", "", "/etc"] {
        let request = Encoder::default().bytes(1, id).finish();
        assert!(DropRequest::decode(&request).is_err(), "{id}");
    }
}

#[test]
fn elements_are_counted_before_they_are_kept() {
    let mut encoder = Encoder::default();
    encoder.bytes(1, "pod.volume");
    for _ in 0..=ELEMENTS_MAX {
        encoder.element(4, "a");
    }
    let refused = PutRequest::decode(&encoder.finish()).map(drop);
    assert!(matches!(refused, Err(Error::Limit { .. })), "{refused:?}");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        for (_, _, decode) in samples().drain(..1) {
            decode(&bytes);
        }
        let _ = Request::decode(&bytes);
        let _ = Response::decode(&bytes);
        let _ = PutRequest::decode(&bytes);
        let _ = StatusResponse::decode(&bytes);
    }
}
