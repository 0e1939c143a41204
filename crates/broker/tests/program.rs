//! The program itself: `init`, `serve`, its signals and its exit codes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

fn program(dir: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealift-broker"));
    command.env_clear().current_dir(dir.path());
    command
}

fn init(dir: &TempDir) -> Output {
    program(dir).args(["init", "--data-dir", "data"]).output().unwrap()
}

fn serve(dir: &TempDir, more: &[&str]) -> Command {
    let mut command = program(dir);
    command.args(["serve", "--data-dir", "data", "--master-key-file", "data-keys/master.key"]);
    command.args(more);
    command
}

/// A broker that is killed if a test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Reads standard error up to the line that says the address: the address, and what came first.
    fn address(&mut self) -> (String, Vec<String>) {
        let mut lines = Vec::new();
        for line in BufReader::new(self.0.stderr.as_mut().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(address) = line.strip_prefix("listening on ") {
                return (address.to_owned(), lines);
            }
            lines.push(line);
        }
        panic!("not listening: {lines:?}");
    }

    fn terminate(mut self) -> i32 {
        let id = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap().code().expect("it ends by itself, not by the signal")
    }

    /// The exit code and last words of a broker that must not start.
    fn refused(mut self) -> (i32, String) {
        let mut last = String::new();
        for line in BufReader::new(self.0.stderr.take().unwrap()).lines() {
            last = line.unwrap();
            assert!(!last.starts_with("listening on"), "it started");
        }
        (self.0.wait().unwrap().code().unwrap(), last)
    }
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn it_initialises_serves_says_where_and_stops_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let output = init(&dir);
    assert!(output.status.success());
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("sealift-broker serve --data-dir data"), "{words}");

    let keys = ["--admin-public-key", "data-keys/admin.pub"];
    let more = ["--listen", "127.0.0.1:0", "--ready-file", "ready", "--log-format", "json"];
    let mut broker = Running::start(&mut serve(&dir, &[&keys[..], &more].concat()));
    let (address, _) = broker.address();
    assert_eq!(std::fs::read_to_string(dir.path().join("ready")).unwrap(), format!("{address}\n"));
    assert!(get(&address, "/healthz").ends_with("ok\n"));
    assert!(get(&address, "/readyz").ends_with("ready\n"));
    assert!(Path::new(&dir.path().join("data/audit.log")).exists());
    assert_eq!(broker.terminate(), 0);
}

#[test]
fn it_is_confined_before_it_listens() {
    let dir = tempfile::tempdir().unwrap();
    assert!(init(&dir).status.success());
    let own = testkit::filter::confinement(std::process::id());
    for (confine, expected) in [("true", ["2", "1"].map(str::to_owned)), ("false", own)] {
        let more = ["--listen", "127.0.0.1:0", "--confine", confine];
        let mut broker = Running::start(&mut serve(&dir, &more));
        broker.address();
        assert_eq!(testkit::filter::confinement(broker.0.id()), expected, "{confine}");
        assert!(testkit::filter::is_hidden(broker.0.id()), "{confine}");
        assert_eq!(broker.terminate(), 0);
    }
}

#[test]
fn its_work_makes_no_call_that_is_not_on_its_list() {
    use testkit::steps::{confined_calls, numbering, signal_traced, strace, strace_works};
    if !strace_works() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(init(&dir).status.success());
    let trace = dir.path().join("trace");
    let mut traced = strace(&numbering(&trace));
    let serve = serve(&dir, &["--listen", "127.0.0.1:0", "--ready-file", "ready"]);
    traced.arg(serve.get_program()).args(serve.get_args()).current_dir(dir.path());
    let mut broker = Running::start(&mut traced);
    let (address, _) = broker.address();
    assert!(get(&address, "/readyz").ends_with("ready\n"));
    signal_traced(&broker.0, rustix::process::Signal::TERM);
    assert!(broker.0.wait().unwrap().success());
    let made = confined_calls(&trace);
    for call in [libc::SYS_accept4, libc::SYS_listen, libc::SYS_linkat] {
        assert!(made.contains(&call), "{call}: {made:?}");
    }
}

/// Everything below a directory: path, mode and content.
fn tree(dir: &Path) -> Vec<(String, u32, Vec<u8>)> {
    use std::os::unix::fs::PermissionsExt;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        if path.is_dir() {
            let below = tree(&path).into_iter();
            found
                .extend(below.map(|(below, mode, bytes)| (format!("{name}/{below}"), mode, bytes)));
        } else {
            found.push((name, mode, std::fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn what_is_exported_is_imported_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    assert!(init(&dir).status.success());
    let run = |command: &str, data: &str, place: &str, more: &[&str]| {
        let mut run = program(&dir);
        run.args([command, "--data-dir", data, "--master-key-file"]);
        run.arg(format!("{data}-keys/master.key")).arg(place).args(more).output().unwrap()
    };
    let from = dir.path().join("from");
    for (path, value) in [("a/b/c", "one"), ("a/b/d", "two"), ("e/f/g", "three")] {
        let path = from.join("resources").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value).unwrap();
    }
    std::fs::write(from.join("policy.rego"), "package policy\nallow := false").unwrap();
    let imported = run("import", "data", "from", &[]);
    assert!(imported.status.success(), "{imported:?}");
    assert!(run("export", "data", "out", &[]).status.success());
    let contents = |dir: &Path| -> Vec<_> {
        tree(dir).into_iter().map(|(path, _, bytes)| (path, bytes)).collect()
    };
    assert_eq!(contents(&dir.path().join("out")), contents(&from));
    assert!(tree(&dir.path().join("out")).iter().all(|(_, mode, _)| *mode == 0o600));

    // To another broker, with another master key.
    let other = program(&dir).args(["init", "--data-dir", "other"]).output().unwrap();
    assert!(other.status.success());
    assert!(run("import", "other", "out", &[]).status.success());
    assert!(run("export", "other", "again", &[]).status.success());
    assert_eq!(contents(&dir.path().join("again")), contents(&from));

    // What is there stays, and a directory that exists is not filled.
    assert_eq!(refused_output(&run("import", "other", "out", &[])), 2);
    assert!(run("import", "other", "out", &["--overwrite"]).status.success());
    let before = contents(&dir.path().join("out"));
    assert_eq!(refused_output(&run("export", "data", "out", &[])), 2);
    assert_eq!(contents(&dir.path().join("out")), before);
    // A damaged resource is not left out silently, and nothing is left half-written.
    std::fs::write(dir.path().join("data/resources/a/b/d"), "damaged").unwrap();
    assert_eq!(refused_output(&run("export", "data", "third", &[])), 30);
    assert!(!dir.path().join("third").exists());
    // What is no resource is refused before anything is stored.
    std::fs::write(from.join("resources/a/stray"), "x").unwrap();
    assert_eq!(refused_output(&run("import", "third-data", "from", &[])), 2);
    std::fs::remove_file(from.join("resources/a/stray")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", from.join("resources/a/b/link")).unwrap();
    assert_eq!(refused_output(&run("import", "other", "from", &["--overwrite"])), 2);

    let log = std::fs::read(dir.path().join("data/audit.log")).unwrap();
    audit::verify(&log[..]).unwrap();
    let log = String::from_utf8(log).unwrap();
    assert_eq!(log.matches("\"resource-exported\"").count(), 3 + 2, "{log}");
    assert_eq!(log.matches("\"resource-stored\"").count(), 3, "{log}");
    assert!(!log.contains("three"));
}

fn refused_output(output: &Output) -> i32 {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code().unwrap();
    assert!(
        stderr.lines().last().unwrap_or_default().starts_with(&format!("E{code:02} ")),
        "{stderr}"
    );
    code
}

#[test]
fn insecure_dev_is_loud() {
    let dir = tempfile::tempdir().unwrap();
    init(&dir);
    let mut broker =
        Running::start(&mut serve(&dir, &["--insecure-dev", "--listen", "127.0.0.1:0"]));
    let (_, before) = broker.address();
    assert!(before.iter().any(|line| line.starts_with("INSECURE: --insecure-dev")), "{before:?}");
    assert_eq!(broker.terminate(), 0);
}

#[test]
fn variables_do_what_flags_do() {
    let dir = tempfile::tempdir().unwrap();
    init(&dir);
    let mut command = program(&dir);
    command
        .arg("serve")
        .env("SEALIFT_BROKER_DATA_DIR", "data")
        .env("SEALIFT_BROKER_MASTER_KEY_FILE", "data-keys/master.key")
        .env("SEALIFT_BROKER_LISTEN", "127.0.0.1:0")
        .env("SEALIFT_BROKER_AUDIT_FILE", "elsewhere/audit.log");
    let mut broker = Running::start(&mut command);
    broker.address();
    assert!(dir.path().join("elsewhere/audit.log").exists());
    assert_eq!(broker.terminate(), 0);
}

#[test]
fn each_reason_not_to_start_has_its_code() {
    let dir = tempfile::tempdir().unwrap();
    init(&dir);
    let put = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    put("short.key", &[1; 31]);
    put("other.key", &[1; 32]);
    put("policy.rego", b"package other");
    put("empty", b"");
    let key = rcgen::KeyPair::generate().unwrap();
    let stranger = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    put("stranger.pem", stranger.pem().as_bytes());
    let port = ["--listen", "127.0.0.1:0"];
    for (more, code, word) in [
        (&["--listen", "0.0.0.0:0"][..], 2, "loopback"),
        (&["--log-level", "loud=?"], 2, "--log-level"),
        (&["--policy", "policy.rego"], 2, "package"),
        (&["--policy", "absent.rego"], 2, "absent.rego"),
        (&["--attestation-policy", "policy.rego"], 2, "attestation policy"),
        (&["--reference-values", "empty"], 2, "reference values"),
        (&["--tdx-collateral-dir", "absent"], 2, "absent"),
        (&["--amd-certificates", "empty"], 2, "AMD"),
        (&["--amd-certificates", "stranger.pem"], 2, "stranger.pem"),
        (&["--admin-public-key", "empty"], 2, "Ed25519"),
        (&["--tls-cert", "empty", "--tls-key", "empty"], 13, "TLS"),
        (&["--listen", "192.0.2.1:1", "--insecure-dev"], 12, "192.0.2.1:1"),
    ] {
        let (found, line) = Running::start(&mut serve(&dir, more)).refused();
        assert_eq!(found, code, "{more:?}: {line}");
        assert!(line.starts_with(&format!("E{code:02} ")) && line.contains(word), "{line}");
    }
    let refused = |command: &mut Command| Running::start(command).refused().0;
    let with_master = |file: &str| {
        let mut command = program(&dir);
        command.args(["serve", "--data-dir", "data", "--master-key-file", file]).args(port);
        refused(&mut command)
    };
    assert_eq!(with_master("short.key"), 24);
    // The first start made the token key under the right master key.
    let mut broker = Running::start(&mut serve(&dir, &port));
    broker.address();
    broker.terminate();
    assert_eq!(with_master("other.key"), 30);
    assert_eq!(refused(&mut serve(&dir, &["--tls-cert", "empty"])), 2);
    put("data/audit.log", b"not a record\n");
    assert_eq!(refused(&mut serve(&dir, &port)), 50);
    assert_eq!(init(&dir).status.code(), Some(2));
}
