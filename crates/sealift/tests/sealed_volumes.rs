//! A sealed value's whole way: kubelet's directory, host agent, guest agent, `sealift unsealer`, key
//! broker, and what a container reads. All parts are the real ones; attestation is the sample one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use common::broker::Broker;
use common::{sealift, text};
use guest::policy::Policy;
use host::agent::{Agent, VolumeReport};
use host::kubelet::{Kubelet, Source};
use serde_json::Value;
use tempfile::TempDir;
use testkit::kubelet::{AtomicWriter, Payload, Projection, make_volume, pod_uid};
use testkit::sealer::Sealer;
use volumes::name::VolumeId;
use volumes::wire::cdh::{Call, PAYLOAD_BYTES_MAX};
use volumes::wire::frame::{Kind, frame};
use volumes::wire::stream::read_frame_up_to;

const PATIENCE: Duration = Duration::from_secs(30);
const SIGNER: &str = "kbs:///team/signer/one";

/// `sealift unsealer run`, killed at the end.
struct Unsealer(Child);

impl Unsealer {
    fn start(dir: &Path, broker: &Broker, more: &[&str]) -> Self {
        let mut command = sealift();
        let listen = format!("unix:{}", text(&dir.join("unsealer.sock")));
        command.args(["unsealer", "run", "--insecure-dev", "--kbs-url", &broker.url()]);
        command.args(["--listen", &listen, "--audit-file", text(&dir.join("audit.log"))]);
        command.args(["--signer-dir", text(dir), "--key-timeout", "10"]).args(more);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line == format!("listening on {listen}")));
        std::thread::spawn(move || lines.for_each(|line| eprintln!("unsealer: {line}")));
        Self(child)
    }
}

impl Drop for Unsealer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Between guest and unsealer: holds back what it is told to.
#[derive(Default)]
struct Gate {
    held: Mutex<BTreeSet<String>>,
    changed: Condvar,
}

impl Gate {
    fn start(path: &Path, inner: PathBuf) -> Arc<Self> {
        let (gate, listener) = (Arc::new(Self::default()), UnixListener::bind(path).unwrap());
        let own = Arc::clone(&gate);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut guest, gate, inner) = (stream.unwrap(), Arc::clone(&own), inner.clone());
                std::thread::spawn(move || {
                    let mut payload = Vec::new();
                    let header = read_frame_up_to(&mut guest, &mut payload, PAYLOAD_BYTES_MAX);
                    let stream = header.unwrap().unwrap().stream;
                    if let Ok(Call::UnsealForItsFile(sealed)) = Call::decode(&payload) {
                        let sealed = String::from_utf8(sealed.to_vec()).unwrap();
                        let held = gate.held.lock().unwrap();
                        drop(gate.changed.wait_while(held, |held| held.contains(&sealed)));
                    }
                    let mut unsealer = UnixStream::connect(inner).unwrap();
                    unsealer.write_all(&frame(Kind::Request, stream, &payload)).unwrap();
                    let _ = std::io::copy(&mut unsealer, &mut guest);
                });
            }
        });
        gate
    }

    fn hold(&self, sealed: &str) {
        self.held.lock().unwrap().insert(sealed.to_owned());
    }

    fn release(&self) {
        self.held.lock().unwrap().clear();
        self.changed.notify_all();
    }
}

/// A node and its guest.
struct World {
    dir: TempDir,
    broker: Broker,
    gate: Arc<Gate>,
    agent: Agent,
    _unsealer: Unsealer,
}

struct Volume {
    id: VolumeId,
    writer: AtomicWriter,
}

impl World {
    fn new(more: &[&str]) -> Self {
        Self::of(None, more)
    }

    /// Whose guest knows its pod's namespace, or does not.
    fn of(namespace: Option<&str>, more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::start(dir.path());
        let unsealer = Unsealer::start(dir.path(), &broker, more);
        let cdh = dir.path().join("cdh.sock");
        let gate = Gate::start(&cdh, dir.path().join("unsealer.sock"));
        let root = dir.path().join("guest");
        let mounter = Box::new(publish::volumes::PlainDirectories::prepare(&root, None).unwrap());
        let grace = Duration::from_millis(50);
        let options = publish::volumes::Options { grace, ..Default::default() };
        let guest = guest::agent::Agent::open(&root, Policy::default(), options, mounter).unwrap();
        let guest = Arc::new(Mutex::new(guest));
        guest::agent::spawn_keeper(&guest).unwrap();
        let opener = guest::unseal::Opener {
            cdh: guest::cdh::Cdh::new(cdh, PATIENCE),
            namespace: namespace.map(str::to_owned),
            service_account: None,
        };
        guest::agent::unseal_by(&guest, opener);
        let address = link::listen::Address::Unix(dir.path().join("guest.sock"));
        let listener = link::listen::Listener::bind(&address, None).unwrap();
        let server = guest::server::Server::new(guest, Default::default());
        std::thread::spawn(move || server.run(&listener));
        let agent = Agent::start(host::agent::Options {
            state_dir: dir.path().join("state"),
            timeout: Duration::from_secs(10),
            rescan: Duration::from_secs(3600),
            backoff_max: Duration::from_millis(200),
            tls: None,
        });
        Self { dir, broker, gate, agent: agent.unwrap(), _unsealer: unsealer }
    }

    fn volume(&self, plugin: &'static str, name: &str, files: &[(&str, &str)]) -> Volume {
        let root = self.dir.path().join("kubelet");
        let writer = make_volume(&root, &pod_uid(1), plugin, name).unwrap().writer;
        let id = VolumeId::parse(&format!("{}.{name}", pod_uid(1))).unwrap();
        let volume = Volume { id, writer };
        volume.write(files);
        let kubelet = Kubelet::open(&root).unwrap();
        let Source::Volume(found) = kubelet.classify(volume.writer.target()) else { panic!() };
        let guest = link::dial::Address::Unix(self.dir.path().join("guest.sock"));
        self.agent.attach(&[found], &guest).unwrap();
        volume
    }

    fn read(&self, volume: &Volume, path: &str) -> String {
        let data = self.dir.path().join("guest/volumes").join(volume.id.as_str()).join("data");
        std::fs::read_to_string(data.join(path)).unwrap()
    }

    fn current(&self, volume: &Volume) {
        self.agent.sync(&volume.id, PATIENCE).unwrap();
    }

    fn report(&self, volume: &Volume) -> VolumeReport {
        let mut all = self.agent.status().into_iter();
        all.find(|report| report.volume == volume.id.as_str()).unwrap()
    }

    /// Waits until the volume's status says `what`.
    #[track_caller]
    fn fails(&self, volume: &Volume, what: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.report(volume).failure.is_some_and(|failure| failure.contains(what)) {
            assert!(Instant::now() < until, "{:?}", self.report(volume));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!self.report(volume).current);
    }

    fn events(&self) -> Vec<Value> {
        let log = std::fs::read(self.dir.path().join("audit.log")).unwrap();
        audit::verify(&log[..]).unwrap();
        let lines = log.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice::<Value>(line).unwrap()["event"].clone()).collect()
    }
}

impl Volume {
    fn write(&self, files: &[(&str, &str)]) {
        let projection =
            |content: &str| Projection { bytes: content.into(), mode: 0o444, uid: None };
        let files: Payload =
            files.iter().map(|(path, content)| ((*path).into(), projection(content))).collect();
        self.writer.write(&files).unwrap();
    }
}

#[test]
fn a_sealed_value_is_plaintext_in_the_guest_and_nowhere_before() {
    let world = World::new(&[]);
    let sealer = Sealer::new(SIGNER);
    world.broker.put(SIGNER, sealer.jwk().to_string().as_bytes());
    world.broker.put("kbs:///team/db/password-1", b"hunter2");
    world.broker.put("kbs:///team/kek/one", &[9; 32]);
    let vault = |n: u32| sealer.vault(&format!("kbs:///team/db/password-{n}"));
    let envelope = sealer.envelope("kbs:///team/kek/one", &[9; 32], "A256GCM", b"from an envelope");
    let file_signer = Sealer::new("local.jwk");
    std::fs::write(world.dir.path().join("local.jwk"), file_signer.jwk().to_string()).unwrap();
    let local = file_signer.vault("kbs:///team/db/password-1");
    let db = world.volume(
        "secret",
        "db",
        &[
            ("password", &vault(1)),
            ("copy", &vault(1)),
            ("token", &envelope),
            ("local", &local),
            ("user", "me"),
        ],
    );
    let other = world.volume("configmap", "other", &[("a", "1")]);
    world.current(&db);
    let read = |path: &str| world.read(&db, path);
    assert_eq!(
        [read("password"), read("copy"), read("token"), read("local"), read("user")],
        ["hunter2", "hunter2", "from an envelope", "hunter2", "me"]
    );

    // Rotated: another sealed text, another resource.
    world.broker.put("kbs:///team/db/password-2", b"correct horse");
    let begin = Instant::now();
    db.write(&[("password", &vault(2)), ("user", "me")]);
    while world.read(&db, "password") != "correct horse" {
        assert!(begin.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    eprintln!("rotated within {:?}", begin.elapsed());

    // What cannot be opened: the revision before stays, and says why; another volume goes on.
    let lies = [
        (vault(3), "sealed: password: E22 key-not-found"),
        (Sealer::new(SIGNER).vault("kbs:///team/db/password-1"), "sealed: password: E32"),
        (sealer.vault("kbs:///team/../password"), "sealed: password: E30 tampered"),
        ("sealed.no.such.thing".to_owned(), "sealed: password: E30 tampered"),
        (vault(1) + "\n", "line break"),
    ];
    for (turn, (text, why)) in lies.iter().enumerate() {
        db.write(&[("password", text), ("user", "nobody")]);
        world.fails(&db, why);
        assert_eq!([read("password"), read("user")], ["correct horse", "me"], "{why}");
        let content = format!("turn {turn}");
        other.write(&[("a", &content)]);
        world.current(&other);
        assert_eq!(world.read(&other, "a"), content);
    }
    // The missing one appears: nothing else has to be done.
    db.write(&[("password", &vault(3)), ("user", "me")]);
    world.fails(&db, "E22 key-not-found");
    world.broker.put("kbs:///team/db/password-3", b"third");
    world.current(&db);
    assert_eq!(read("password"), "third");
    assert!(world.report(&db).failure.is_none());

    let events = world.events();
    let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
    assert!(of("secret-opened") >= 5 && of("secret-refused") >= 5, "{events:?}");
    assert!(of("key-requested") >= of("key-released") + of("key-refused"));
    let log = std::fs::read_to_string(world.dir.path().join("audit.log")).unwrap();
    assert!(!log.contains("hunter2") && !log.contains("correct horse"));
}

#[test]
fn an_opening_that_hangs_is_its_own_volumes_affair() {
    let world = World::new(&[]);
    let sealer = Sealer::new(SIGNER);
    world.broker.put(SIGNER, sealer.jwk().to_string().as_bytes());
    for n in 0..6 {
        world.broker.put(&format!("kbs:///team/db/{n}"), format!("secret {n}").as_bytes());
    }
    let sealed: Vec<String> =
        (0..6).map(|n| sealer.vault(&format!("kbs:///team/db/{n}"))).collect();
    let slow = world.volume("secret", "slow", &[("a", &sealed[0])]);
    let quick = world.volume("secret", "quick", &[("a", &sealed[1])]);
    let plain = world.volume("configmap", "plain", &[("a", "1")]);
    [&slow, &quick, &plain].into_iter().for_each(|volume| world.current(volume));
    world.gate.hold(&sealed[2]);
    slow.write(&[("a", &sealed[2])]);
    for (n, text) in sealed.iter().enumerate().skip(3) {
        quick.write(&[("a", text)]);
        plain.write(&[("a", &n.to_string())]);
        world.current(&quick);
        world.current(&plain);
        assert_eq!(world.read(&quick, "a"), format!("secret {n}"));
        assert_eq!(world.read(&plain, "a"), n.to_string());
    }
    assert!(!world.report(&slow).current);
    assert_eq!(world.read(&slow, "a"), "secret 0");
    world.gate.release();
    world.current(&slow);
    assert_eq!(world.read(&slow, "a"), "secret 2");
}

#[test]
fn only_named_signers_count_and_nothing_leaves_unrecorded() {
    let world = World::new(&["--signer", SIGNER]);
    let (sealer, stranger) = (Sealer::new(SIGNER), Sealer::new("kbs:///team/signer/two"));
    world.broker.put(SIGNER, sealer.jwk().to_string().as_bytes());
    world.broker.put("kbs:///team/signer/two", stranger.jwk().to_string().as_bytes());
    world.broker.put("kbs:///team/db/one", b"hunter2");
    let name = "kbs:///team/db/one";
    let db = world.volume("secret", "db", &[("a", &stranger.vault(name))]);
    world.fails(&db, "E32 digest-mismatch: it is signed by kbs:///team/signer/two");
    db.write(&[("a", &sealer.vault(name))]);
    world.current(&db);
    assert_eq!(world.read(&db, "a"), "hunter2");
    // A log that somebody else wrote to cannot be continued.
    let log = world.dir.path().join("audit.log");
    std::fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(b"{}\n").unwrap();
    db.write(&[("a", &sealer.vault(name))]);
    world.fails(&db, "E50 audit-failed");
}

/// Containerd's ttrpc as its own crate speaks it, which is how kata-agent asks upstream's data hub.
#[test]
fn the_unsealer_answers_as_the_data_hub_does() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let _unsealer = Unsealer::start(dir.path(), &broker, &[]);
    broker.put("kbs:///team/db/one", b"hunter2");
    let path = dir.path().join("unsealer.sock");
    let client = ttrpc::Client::connect(&format!("unix://{}", text(&path))).unwrap();
    let ask = |service: &str, method: &str, argument: &[u8]| {
        let mut request = ttrpc::Request::new();
        (request.service, request.method) = (service.into(), method.into());
        request.payload = [&[0x0a, u8::try_from(argument.len()).unwrap()], argument].concat();
        request.timeout_nano = 20_000_000_000;
        match client.request(request) {
            Ok(response) => Ok(response.payload),
            Err(ttrpc::Error::RpcStatus(status)) => Err((status.code.value(), status.message)),
            Err(error) => panic!("{error}"),
        }
    };
    let resource = |name: &[u8]| ask("api.GetResourceService", "GetResource", name);
    assert_eq!(resource(b"kbs:///team/db/one").unwrap(), b"\x0a\x07hunter2");
    let (code, message) = resource(b"kbs:///team/db/two").unwrap_err();
    assert!(code == 5 && message.starts_with("[CDH] [ERROR]: E22 "), "{message}");
    assert_eq!(resource(b"kbs:///team/../two").unwrap_err().0, 3);
    let (code, message) = ask("api.SealedSecretService", "UnsealSecret", b"sealed.x").unwrap_err();
    assert!(code == 9 && message.starts_with("[CDH] [ERROR]: E30 "), "{message}");
    assert_eq!(ask("api.ImagePullService", "PullImage", b"x").unwrap_err().0, 12);
    // Whoever speaks something else is cut off, and nobody else notices.
    let request = frame(Kind::Request, 1, &Call::Resource("kbs:///team/db/one").encode(0));
    let long = u32::try_from(PAYLOAD_BYTES_MAX + 1).unwrap().to_be_bytes();
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        [&long[..], &[0, 0, 0, 1, 1, 0]].concat(),
        frame(Kind::Response, 1, b""),
        frame(Kind::Request, 2, b""),
        request[..request.len() - 1].to_vec(),
    ] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(matches!(stream.read(&mut [0; 16]), Ok(0) | Err(_)), "{bytes:?}");
    }
    let waiting: Vec<_> = (0..40).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert_eq!(resource(b"kbs:///team/db/one").unwrap(), b"\x0a\x07hunter2");
    drop(waiting);
    let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

/// From `sealift secret seal` to what a container reads: who is meant gets it, and nobody else. What
/// the guest's agent would let pass for want of a name, the unsealer does not.
#[test]
fn a_value_is_shown_to_whom_it_is_for_and_to_nobody_else() {
    let world = World::of(Some("team-a"), &["--audience-namespace", "team-a"]);
    let dir = world.dir.path();
    let (signing, public) = (dir.join("signing.pem"), dir.join("signer.jwk"));
    let mut keygen = sealift();
    keygen.args(["secret", "keygen", "--signing-key", text(&signing)]);
    common::succeed(keygen.args(["--public-key", text(&public)]));
    let put = |file: &Path, resource: &str| {
        let mut put = sealift();
        put.args(["secret", "put", text(file), "--resource", resource]);
        put.args(["--kbs-url", &world.broker.url(), "--admin-key"]).arg(&world.broker.admin_key);
        put
    };
    common::succeed(&mut put(&public, SIGNER));
    let password = dir.join("password");
    std::fs::write(&password, "hunter2").unwrap();
    common::succeed(&mut put(&password, "kbs:///team/db/password"));
    assert!(!put(&public, "kbs:///team/db/password").output().unwrap().status.success());
    let seal = |more: &[&str]| {
        let mut seal = sealift();
        seal.args(["secret", "seal", "--resource", "kbs:///team/db/password", "--kid", SIGNER]);
        let output = common::succeed(seal.args(["--signing-key", text(&signing)]).args(more));
        String::from_utf8(output.stdout).unwrap()
    };
    let own = seal(&[
        "--audience-namespace",
        "team-a",
        "--audience-key",
        "password",
        "--expires",
        "9999-01-01T00:00:00Z",
    ]);
    let db = world.volume("secret", "db", &[("password", &own), ("user", "me")]);
    world.current(&db);
    assert_eq!(world.read(&db, "password"), "hunter2");
    // The host moves it, copies it, and swaps it with another; and what is for others.
    let other = seal(&["--audience-namespace", "team-b"]);
    let account = seal(&["--audience-service-account", "db"]);
    let expired = seal(&["--expires", "2020-01-01T00:00:00Z"]);
    let lies: [(&[(&str, &str)], &str); 5] = [
        (&[("user", &own)], "sealed: user: what is sealed in it is for the file password alone"),
        (&[("password", &own), ("user", &own)], "is for the file password alone"),
        (&[("password", &other)], "sealed: password: it is for the namespace team-b alone"),
        (&[("password", &account)], "service account db alone, and nobody says which this is"),
        (&[("password", &expired)], "sealed: password: it expired at 2020-01-01T00:00:00Z"),
    ];
    for (files, why) in lies {
        db.write(files);
        world.fails(&db, why);
        assert_eq!([world.read(&db, "password"), world.read(&db, "user")], ["hunter2", "me"]);
    }
    // By the unsealer itself, which knows the namespace, and a file only from who keeps to it.
    let cdh = guest::cdh::Cdh::new(dir.join("unsealer.sock"), PATIENCE);
    assert_eq!(**cdh.unseal(own.as_bytes()).unwrap(), *b"hunter2");
    for sealed in [&other, &account, &expired] {
        let refused = cdh.unseal(sealed.as_bytes()).unwrap_err().to_string();
        assert!(refused.starts_with("E36 not-for-here: "), "{refused}");
    }
    let mut stream = UnixStream::connect(dir.join("unsealer.sock")).unwrap();
    let upstreams = Call::Unseal(own.as_bytes()).encode(0);
    stream.write_all(&frame(Kind::Request, 1, &upstreams)).unwrap();
    let mut payload = Vec::new();
    read_frame_up_to(&mut stream, &mut payload, PAYLOAD_BYTES_MAX).unwrap().unwrap();
    let refused = volumes::wire::cdh::decode_answer(&payload).unwrap().unwrap_err();
    assert!(refused.message.contains("E36 not-for-here: "), "{}", refused.message);
}
