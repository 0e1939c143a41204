//! `sealift secret sync` with a real key broker: once and as a daemon, through rotation, revocation,
//! outages and kills.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::broker::Broker;
use common::{memory, refuse, sealift, succeed, text};
use rustix::process::{Pid, Signal, kill_process};
use sealift::code::Code;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::sealer::Sealer;
use testkit::torn::{ALWAYS, Setup, Writer, contents, watch};

const PATIENCE: Duration = Duration::from_secs(60);
const SIGNER: &str = "kbs:///team/signer/one";
const DENY: &str = "package policy\ndefault allow = false\n";
const ALLOW: &str = "package policy\ndefault allow = true\n";

struct World {
    dir: TempDir,
    broker: Broker,
    memory: TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::start(dir.path());
        Self { dir, broker, memory: memory() }
    }

    fn secrets(&self) -> PathBuf {
        self.memory.path().join("secrets")
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.secrets().join("data").join(path)).ok()
    }

    fn status(&self) -> Value {
        let json = std::fs::read(self.secrets().join("status.json")).unwrap();
        serde_json::from_slice(&json).unwrap()
    }

    fn sync_with(&self, url: &str, more: &[&str]) -> Command {
        let mut sync = sealift();
        sync.args(["secret", "sync", "--dir", text(&self.secrets()), "--insecure-dev"]);
        sync.args(["--kbs-url", url, "--key-timeout", "2"]);
        sync.args(["--termination-log", text(&self.dir.path().join("termination"))]);
        sync.args(["--audit-file", text(&self.dir.path().join("sync.log"))]).args(more);
        sync
    }

    fn sync(&self, more: &[&str]) -> Command {
        self.sync_with(&self.broker.url(), more)
    }

    /// How often somebody was attested.
    fn attested(&self) -> usize {
        let log = std::fs::read_to_string(self.dir.path().join("broker.log")).unwrap();
        log.matches(r#""event":"attested""#).count()
    }

    fn published(&self) -> Vec<Value> {
        let log = std::fs::read(self.dir.path().join("sync.log")).unwrap();
        audit::verify(&log[..]).unwrap();
        let lines = log.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice::<Value>(line).unwrap()["event"].clone())
            .filter(|event| event["event"] == "secrets-published")
            .collect()
    }
}

/// A sidecar; killed at the end.
struct Daemon {
    child: Child,
    lines: Receiver<String>,
}

impl Daemon {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (said, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                eprintln!("sync: {line}");
                let _ = said.send(line);
            }
        });
        Self { child, lines }
    }

    /// The next line that holds `what`.
    #[track_caller]
    fn says(&self, what: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("never: {what}"));
            if line.contains(what) {
                return line;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that can be told something; killed at the end.
struct Told(Child);

impl Told {
    fn start(pid_file: &Path) -> Self {
        let mut sleep = Command::new("sleep");
        let child = sleep.arg("600").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::fs::write(pid_file, format!("{}\n", child.id())).unwrap();
        Self(child)
    }

    /// The signal that ended it.
    fn ended_by(mut self) -> Option<i32> {
        std::os::unix::process::ExitStatusExt::signal(&self.0.wait().unwrap())
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `what` is so.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_init_container_brings_all_items_under_one_attestation() {
    let world = World::new();
    let sealer = Sealer::new(SIGNER);
    world.broker.put(SIGNER, sealer.jwk().to_string().as_bytes());
    world.broker.put("kbs:///team/tls/key", b"private");
    world.broker.put("kbs:///team/db/password", b"hunter2");
    let mut payload = Sealer::vault_payload("kbs:///team/db/password");
    payload["annotations"]["sealift.audience"] =
        json!({"namespace": "team-a", "service_account": "db", "key": "db/password"});
    let sealed = world.dir.path().join("sealed");
    std::fs::write(&sealed, sealer.sign(&payload)).unwrap();
    let item = format!("db/password=sealed:{},mode=0400", text(&sealed));
    let ready = world.memory.path().join("ready");
    let more = ["--once", "--item", "tls.key=kbs:///team/tls/key", "--item", &item];
    let pod = ["--audience-namespace", "team-a", "--audience-service-account", "db"];
    succeed(world.sync(&[&more[..], &pod, &["--ready-file", text(&ready)]].concat()).arg("-q"));
    assert_eq!(world.read("tls.key").as_deref(), Some("private"));
    assert_eq!(world.read("db/password").as_deref(), Some("hunter2"));
    assert_eq!(world.attested(), 1, "one attestation for all items");
    assert!(ready.exists());
    let stat = |path: &str| std::fs::metadata(world.secrets().join("data").join(path)).unwrap();
    assert_eq!(stat("tls.key").permissions().mode() & 0o777, 0o440);
    assert_eq!(stat("db/password").permissions().mode() & 0o777, 0o400);
    assert_eq!(stat("db").uid(), rustix::process::geteuid().as_raw());
    let link = std::fs::read_link(world.secrets().join("data/..data")).unwrap();
    assert_eq!(link, Path::new("..1"));
    let published = world.published();
    assert_eq!((published.len(), &published[0]["revision"]), (1, &json!(1)));
    assert_eq!(published[0]["items"][0], "tls.key=kbs:///team/tls/key");
    for file in ["sync.log", "broker.log"] {
        let log = std::fs::read_to_string(world.dir.path().join(file)).unwrap();
        assert!(!log.contains("hunter2") && !log.contains("private"), "{file}");
    }

    // Each binding, wrong and unknown: nothing changes, and the line says which.
    for (pod, why) in [
        (&["--audience-namespace", "team-b"][..], "for the namespace team-a alone"),
        (&["--audience-namespace", "team-a"], "service account db alone, and nobody says"),
        (&[], "namespace team-a alone, and nobody says"),
    ] {
        let line = refuse(&mut world.sync(&[&more[..], pod].concat()), Code::Audience);
        assert!(line.contains("db/password: ") && line.contains(why), "{line}");
    }
    let item = format!("password=sealed:{}", text(&sealed));
    let other = ["--once", "--item", &item];
    let line = refuse(&mut world.sync(&[&other[..], &pod].concat()), Code::Audience);
    assert!(line.contains("for the file db/password alone, and this is password"), "{line}");
    assert_eq!(world.status()["failure"]["code"], "E36");
    assert_eq!(world.read("db/password").as_deref(), Some("hunter2"));
    let left = std::fs::read_to_string(world.dir.path().join("termination"));
    assert!(left.is_err(), "only where Kubernetes has made that file");

    // An item that is not asked for any more is gone, and nothing of the revision before remains.
    let fewer = ["--once", "--item", "tls.key=kbs:///team/tls/key"];
    succeed(&mut world.sync(&fewer));
    assert_eq!((world.read("tls.key"), world.read("db/password")), (Some("private".into()), None));
    let names = std::fs::read_dir(world.secrets().join("data")).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["..2", "..data", "tls.key"]);
    // Nothing new is no new revision.
    succeed(&mut world.sync(&fewer));
    assert_eq!(world.published().len(), 2);
}

#[test]
fn what_cannot_be_fetched_or_may_not_be_written_fails_by_name() {
    let world = World::new();
    world.broker.put("kbs:///team/db/password", b"hunter2");
    let items = ["--once", "--item", "password=kbs:///team/db/password"];
    // Nobody listens there.
    let nowhere = format!(
        "http://{}",
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    );
    let line = refuse(&mut world.sync_with(&nowhere, &items), Code::KeyUnreachable);
    assert!(line.contains("password: "), "{line}");
    assert_eq!(world.read("password"), None);
    assert_eq!(world.status()["failure"]["code"], "E23");
    refuse(&mut world.sync_with(&nowhere, &items[1..]), Code::KeyUnreachable);
    // All or nothing.
    let two = [&items[..], &["--item", "other=kbs:///team/db/other"]].concat();
    let line = refuse(&mut world.sync(&two), Code::KeyNotFound);
    assert!(line.contains("other: ") && world.read("password").is_none(), "{line}");
    world.broker.policy(DENY);
    refuse(&mut world.sync(&items), Code::KeyDenied);
    world.broker.policy(ALLOW);
    let twice = [&items[..], &["--item", "password=kbs:///team/db/other"]].concat();
    refuse(&mut world.sync(&twice), Code::Usage);
    let inside = [&items[..], &["--item", "password/x=kbs:///team/db/password"]].concat();
    refuse(&mut world.sync(&inside), Code::Usage);
    // What is sealed in a resource by mistake is shown to nobody.
    world.broker.put("kbs:///team/db/sealed", b"sealed.x.y.z");
    refuse(&mut world.sync(&["--once", "--item", "a=kbs:///team/db/sealed"]), Code::Publish);
    assert_eq!(world.read("a"), None);
    // No record, no secret.
    let full = ["--once", "--item", "b=kbs:///team/db/password", "--audit-file", "/dev/full"];
    let mut sync = sealift();
    sync.args(["secret", "sync", "--dir", text(&world.secrets()), "--insecure-dev"]);
    refuse(sync.args(["--kbs-url", &world.broker.url()]).args(full), Code::Audit);
    assert_eq!(world.read("b"), None);
    // A disk, unless it is allowed.
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let at = |dir: &Path, more: &[&str]| {
        let mut sync = sealift();
        sync.args(["secret", "sync", "--dir", text(dir), "--insecure-dev", "--kbs-url"]);
        sync.arg(world.broker.url()).args(items).args(more);
        sync
    };
    let filesystem = rustix::fs::statfs(disk.path()).unwrap().f_type;
    if filesystem == 0x0102_1994 {
        testkit::skip("no disk here: the target directory is a tmpfs");
        return;
    }
    refuse(&mut at(disk.path(), &[]), Code::NotMemory);
    succeed(&mut at(disk.path(), &["--allow-disk"]));
    let data = disk.path().join("data/password");
    assert_eq!(std::fs::read_to_string(data).unwrap(), "hunter2");
}

#[test]
fn a_sidecar_rotates_keeps_what_was_good_and_tells_of_changes() {
    let world = World::new();
    let (first, second) = ("kbs:///team/db/password", "kbs:///team/db/user");
    world.broker.put(first, b"one");
    world.broker.put(second, b"me");
    let told = world.dir.path().join("told");
    let script = format!(
        "echo $SEALIFT_SECRETS_REVISION >>{}; cat {}/data/password >>{0}",
        text(&told),
        text(&world.secrets())
    );
    let pid_file = world.dir.path().join("pid");
    let receiver = Told::start(&pid_file);
    let ready = world.memory.path().join("ready");
    let items =
        ["--item", "password=kbs:///team/db/password", "--item", "user=kbs:///team/db/user"];
    let rest = ["--interval", "3600", "--ready-file", text(&ready)];
    let signal = format!("{}:SIGUSR1", text(&pid_file));
    let more = [&items[..], &rest, &["--signal", &signal, "--exec", "sh", "-c", &script]].concat();
    let daemon = Daemon::start(&mut world.sync(&more));
    until("ready", || ready.exists());
    assert_eq!(world.read("password").as_deref(), Some("one"));
    assert!(!told.exists(), "nobody has the first revision yet");
    let attested = world.attested();

    // Rotated: now, at once, and whoever asked for it hears of it.
    world.broker.put(first, b"two");
    daemon.signal(Signal::HUP);
    daemon.says("revision 2: 2 files");
    let until_told =
        |what: &str| until(what, || std::fs::read_to_string(&told).is_ok_and(|text| text == what));
    until_told("2\ntwo");
    assert_eq!(receiver.ended_by(), Some(Signal::USR1.as_raw()));
    assert_eq!(world.attested(), attested, "the session serves on");

    // Revoked: the last revision stays, and status says so, since when.
    world.broker.policy(DENY);
    world.broker.put(first, b"three");
    daemon.signal(Signal::HUP);
    daemon.says("revision 2 stays: E21 key-denied: password: ");
    until("status", || world.status()["failure"]["code"] == "E21");
    assert_eq!(
        (world.read("password"), world.read("user")),
        (Some("two".into()), Some("me".into()))
    );
    let status = world.status();
    assert_eq!((&status["revision"], status["refreshed"].is_string()), (&json!(2), true));

    // One that is told in vain is told again: the process of the file is gone.
    world.broker.policy(ALLOW);
    daemon.signal(Signal::HUP);
    daemon.says("nobody was told of revision 3");
    assert_eq!(world.read("password").as_deref(), Some("three"));
    until("status", || world.status()["notice"].is_string());
    let receiver = Told::start(&pid_file);
    daemon.signal(Signal::HUP);
    until_told("2\ntwo3\nthree");
    assert_eq!(receiver.ended_by(), Some(Signal::USR1.as_raw()));
    until("status", || world.status()["notice"].is_null());

    // Asked to end, it ends well, and what is there stays.
    let mut daemon = daemon;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
    assert_eq!(world.read("password").as_deref(), Some("three"));
    // While the broker is away, what the run before left serves on, if it is what is asked for.
    let nowhere = format!(
        "http://{}",
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    );
    let daemon = Daemon::start(&mut world.sync_with(&nowhere, &[&items[..], &rest].concat()));
    daemon.says("revision 3 stays: E23 ");
    until("ready", || ready.exists());
    drop(daemon);
    refuse(&mut world.sync_with(&nowhere, &items[..2]), Code::KeyUnreachable);
    assert!(world.read("user").is_some());
}

/// Killed at any moment: what is there is one whole revision, and the next run goes on from it.
#[test]
fn a_kill_leaves_a_whole_revision() {
    let world = World::new();
    let items = [
        "--item",
        "a=kbs:///team/pair/a",
        "--item",
        "b/c=kbs:///team/pair/b",
        "--interval",
        "3600",
    ];
    let put = |turn: u32| {
        for name in ["a", "b"] {
            let content = format!("{turn} ").repeat(1_000);
            world.broker.put(&format!("kbs:///team/pair/{name}"), content.as_bytes());
        }
    };
    put(0);
    succeed(&mut world.sync(&[&items[..4], &["--once"]].concat()));
    let mut last = 0;
    for turn in 1..=12_u32 {
        put(turn);
        let mut child = world.sync(&items).stderr(Stdio::null()).spawn().unwrap();
        // Somewhere between its start and well after its commit.
        std::thread::sleep(Duration::from_millis(u64::from(turn) * 8));
        child.kill().unwrap();
        child.wait().unwrap();
        let (a, b) = (world.read("a").unwrap(), world.read("b/c").unwrap());
        assert_eq!(a, b, "half of {turn}");
        let found: u32 = a.split(' ').next().unwrap().parse().unwrap();
        assert!(found == turn || found == last, "{found} at {turn}");
        assert_eq!(a, format!("{found} ").repeat(1_000));
        last = found;
    }
    put(99);
    succeed(&mut world.sync(&[&items[..4], &["--once"]].concat()));
    assert!(world.read("a").unwrap().starts_with("99 "));
}

/// A sidecar that is told to look, and is waited for.
struct Looked<'a>(&'a World, Daemon);

impl Writer for Looked<'_> {
    fn publish(&mut self, generation: u64) -> anyhow::Result<()> {
        put_generation(&self.0.broker, generation);
        self.1.signal(Signal::HUP);
        self.1.says("revision ");
        Ok(())
    }
}

/// Even ones only: they all have the same names, as a sidecar's items do.
fn put_generation(broker: &Broker, generation: u64) {
    for (name, content) in contents(2 * generation) {
        broker.put(&format!("kbs:///team/torn/{}", name.replace('/', "-")), &content);
    }
}

/// Readers of every kind see whole revisions only, forwards only.
#[test]
fn no_reader_sees_half_a_rotation() {
    let world = World::new();
    put_generation(&world.broker, 1);
    let items = ALWAYS.map(|name| format!("{name}=kbs:///team/torn/{}", name.replace('/', "-")));
    let items: Vec<&str> = items.iter().flat_map(|item| ["--item", item]).collect();
    let daemon = Daemon::start(&mut world.sync(&[&items[..], &["--interval", "3600"]].concat()));
    daemon.says("revision 1");
    let setup = Setup {
        data: world.secrets().join("data"),
        first: 1,
        updates: 5,
        grace: Duration::from_secs(2),
        readers: [2, 2, 2],
    };
    let report = watch(&setup, &mut Looked(&world, daemon)).unwrap();
    assert!(report.faults.is_empty(), "{:#?}", report.faults);
    assert_eq!(report.updates, 5);
}
