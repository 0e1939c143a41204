//! That the agent is confined before its first thread, and that each rule binds and lets its work go
//! on: from inside of it, one attempt a process.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use host::confinement::{Grants, confine};
use rustix::fs::inotify;
use rustix::net::{AddressFamily, SocketType};
use tempfile::TempDir;

const ATTEMPT: &str = "SEALIFT_TEST_ATTEMPT";
const TOP: &str = "SEALIFT_TEST_TOP";

/// What is tried in `top`: `kubelet/pods/token`, `state/`, `tls/`, `outside` and a `socket`.
type Attempt = fn(&Path) -> io::Result<()>;

/// Refused by Landlock, or by what root is without its capabilities.
const REFUSED: &[(&str, Attempt)] = &[
    ("read the node's passwords", |_| fs::read("/etc/shadow").map(drop)),
    ("read anything else", |_| fs::read("/etc/passwd").map(drop)),
    ("list the root", |_| fs::read_dir("/").map(drop)),
    ("read a process's variables", |_| fs::read("/proc/1/environ").map(drop)),
    ("write a volume", |top| fs::write(top.join("kubelet/pods/token"), "x")),
    ("make a file in a volume", |top| fs::write(top.join("kubelet/pods/new"), "x")),
    ("remove from a volume", |top| fs::remove_file(top.join("kubelet/pods/token"))),
    ("follow a link out of a volume", |top| fs::read(top.join("kubelet/pods/link")).map(drop)),
    ("write outside", |top| fs::write(top.join("outside"), "x")),
    ("move its state out", |top| fs::rename(top.join("state/a"), top.join("a"))),
    ("make a socket file", |top| UnixListener::bind(top.join("state/socket")).map(drop)),
    ("read certificates without TLS", |top| fs::read(top.join("tls/ca.pem")).map(drop)),
];

/// Answered as by a kernel that does not have the call.
const MISSING: &[(&str, Attempt)] = &[
    ("connect to a host", |_| TcpStream::connect("127.0.0.1:1").map(drop)),
    ("listen", |_| TcpListener::bind("127.0.0.1:0").map(drop)),
    ("look a host up", |_| socket(AddressFamily::NETLINK)),
    ("a packet socket", |_| socket(AddressFamily::PACKET)),
    ("a file's owner", |top| chown(top.join("state/a"), Some(1), None)),
];

/// Killed.
const KILLED: &[(&str, Attempt)] = &[
    ("execute", |_| Err(Command::new("/bin/true").exec())),
    ("mount", |top| {
        let flags = rustix::mount::MountFlags::empty();
        Ok(rustix::mount::mount("tmpfs", top.join("state"), "tmpfs", flags, None)?)
    }),
    ("another root", |top| Ok(rustix::process::chroot(top)?)),
];

/// Allowed: what the agent does.
const ALLOWED: &[(&str, Attempt)] = &[
    ("read what is a pod's user's alone", |top| {
        assert_eq!(fs::read(top.join("kubelet/pods/token"))?, b"secret");
        fs::read_dir(top.join("kubelet/pods")).map(drop)
    }),
    ("watch a volume", |top| {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        let watched = inotify::WatchFlags::CREATE;
        let watch = inotify::add_watch(&fd, top.join("kubelet/pods"), watched)?;
        Ok(inotify::remove_watch(&fd, watch)?)
    }),
    ("remember", |top| {
        let state = top.join("state");
        let dir = fs::File::open(&state)?;
        rustix::fs::flock(&dir, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        fs::write(state.join("new"), "x")?;
        fs::rename(state.join("new"), state.join("a"))?;
        dir.sync_all()
    }),
    ("connect to a socket file", |top| UnixStream::connect(top.join("socket")).map(drop)),
    ("a socket of vsock", |_| match socket(AddressFamily::VSOCK) {
        // A kernel without it.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(()),
        other => other,
    }),
    ("a thread", |_| {
        std::thread::Builder::new().name("one".into()).spawn(|| {})?.join().unwrap();
        Ok(())
    }),
];

/// Allowed with TLS only.
const WITH_TLS: &[(&str, Attempt)] = &[
    ("read a certificate that was renewed", |top| {
        assert_eq!(fs::read(top.join("tls/ca.pem"))?, b"renewed");
        Ok(())
    }),
    ("connect with TLS", |_| match TcpStream::connect("127.0.0.1:1") {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        other => other.map(drop),
    }),
    ("look a name up", |_| ("localhost", 1).to_socket_addrs().map(drop)),
];

/// Refused with TLS, too.
const DESPITE_TLS: &[(&str, Attempt)] = &[
    ("read passwords despite TLS", |_| fs::read("/etc/shadow").map(drop)),
    ("write a certificate", |top| fs::write(top.join("tls/ca.pem"), "x")),
    ("bind despite TLS", |_| TcpListener::bind("127.0.0.1:0").map(drop)),
];

fn socket(family: AddressFamily) -> io::Result<()> {
    Ok(rustix::net::socket(family, SocketType::STREAM, None).map(drop)?)
}

/// Not a test, unless this process was started by [`World::attempt`]: an attempt, from inside.
#[test]
fn child() {
    let Ok(name) = std::env::var(ATTEMPT) else { return };
    let top = PathBuf::from(std::env::var(TOP).unwrap());
    let ca = top.join("tls/ca.pem");
    let tls = [WITH_TLS, DESPITE_TLS].concat();
    let with_tls = tls.iter().any(|(known, _)| *known == name);
    let all = [REFUSED, MISSING, KILLED, ALLOWED, &tls].concat();
    let (_, attempt) = all.into_iter().find(|(known, _)| *known == name).unwrap();
    let grants = Grants {
        kubelet_root: &top.join("kubelet"),
        state_dir: &top.join("state"),
        tls: if with_tls { vec![&ca] } else { vec![] },
    };
    let confined = confine(&grants).unwrap();
    println!("landlock: {}", confined.landlock.unwrap_or_default());
    // As kubelet does it.
    if with_tls {
        println!("renew: now");
        let mut line = String::new();
        io::stdin().read_line(&mut line).unwrap();
    }
    match attempt(&top) {
        Ok(()) => println!("outcome: done"),
        Err(error) => println!("outcome: {:?}", error.raw_os_error()),
    }
}

struct World(TempDir, #[expect(dead_code, reason = "listens until the end")] UnixListener);

impl World {
    fn new() -> Self {
        let top = tempfile::tempdir_in("/dev/shm").unwrap();
        let at = |name: &str| top.path().join(name);
        for dir in ["kubelet/pods", "state", "tls/..1", "tls/..2"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        let token = at("kubelet/pods/token");
        for (path, content) in [
            (token.clone(), "secret"),
            (at("outside"), "theirs"),
            (at("state/a"), "x"),
            (at("tls/..1/ca.pem"), "first"),
            (at("tls/..2/ca.pem"), "renewed"),
        ] {
            fs::write(path, content).unwrap();
        }
        symlink(at("outside"), at("kubelet/pods/link")).unwrap();
        symlink("..1", at("tls/..data")).unwrap();
        symlink("..data/ca.pem", at("tls/ca.pem")).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(&token, Some(65_534), Some(65_534)).unwrap();
            fs::set_permissions(&token, fs::Permissions::from_mode(0o400)).unwrap();
        }
        let listener = UnixListener::bind(at("socket")).unwrap();
        Self(top, listener)
    }

    /// How it ended, what it said or the signal; and Landlock's version, 0 for none.
    fn attempt(&self, attempt: &str) -> (Result<String, i32>, u8) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--quiet", "--nocapture"])
            .env(ATTEMPT, attempt)
            .env(TOP, self.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let (mut outcome, mut landlock) = (None, None);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let said =
                |what: &str| line.split_once(&format!("{what}: ")).map(|said| said.1.to_owned());
            landlock = landlock.or(said("landlock"));
            outcome = outcome.or(said("outcome"));
            if said("renew").is_some() {
                let data = self.0.path().join("tls/..data");
                fs::remove_file(&data).unwrap();
                symlink("..2", data).unwrap();
                io::Write::write_all(&mut stdin, b"\n").unwrap();
            }
        }
        let outcome = match child.wait().unwrap().signal() {
            Some(signal) => Err(signal),
            None => Ok(outcome.unwrap()),
        };
        (outcome, landlock.unwrap().parse().unwrap())
    }
}

fn is_refused(attempts: &[(&str, Attempt)]) {
    for (name, _) in attempts {
        let world = World::new();
        let (outcome, landlock) = world.attempt(name);
        if landlock < 4 {
            testkit::skip("this kernel has no Landlock, or none that knows ports");
            return;
        }
        let refused = [libc::EACCES, libc::EXDEV, libc::EPERM].map(|no| Ok(format!("Some({no})")));
        assert!(refused.contains(&outcome), "{name}: {outcome:?}");
        assert_eq!(fs::read(world.0.path().join("outside")).unwrap(), b"theirs");
    }
}

#[test]
fn nothing_is_read_but_volumes_nor_written_but_state() {
    is_refused(REFUSED);
}

#[test]
fn with_tls_certificates_are_read_and_hosts_reached_and_no_more() {
    for (name, _) in WITH_TLS {
        assert_eq!(World::new().attempt(name).0, Ok("done".into()), "{name}");
    }
    is_refused(DESPITE_TLS);
}

#[test]
fn calls_that_the_agent_does_not_make_do_not_exist() {
    for (name, _) in MISSING {
        let missing = Ok(format!("Some({})", libc::ENOSYS));
        assert_eq!(World::new().attempt(name).0, missing, "{name}");
    }
}

#[test]
fn an_intruder_in_the_agent_is_killed() {
    for (name, _) in KILLED {
        assert_eq!(World::new().attempt(name).0, Err(libc::SIGSYS), "{name}");
    }
}

#[test]
fn the_agents_work_goes_on() {
    for (name, _) in ALLOWED {
        assert_eq!(World::new().attempt(name).0, Ok("done".into()), "{name}");
    }
}

/// The program, with all that it can listen on; ends with the test.
struct Program(std::process::Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    /// As this user, once it answers. `None`: that user may not run it.
    fn start(world: &World, uid: u32, more: &[&str]) -> Option<Self> {
        let at = |name: &str| world.0.path().join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealift-host"));
        command.uid(uid).stderr(Stdio::null());
        command.arg("--socket").arg(at("state/host.sock")).arg("run");
        command.arg("--kubelet-root").arg(at("kubelet")).arg("--state-dir").arg(at("state"));
        command.arg("--metrics").arg(format!("unix:{}", at("state/pages").display())).args(more);
        let mut program = match command.spawn() {
            Ok(child) => Self(child),
            Err(error) => {
                testkit::skip(format!("a process of another user: {error}"));
                return None;
            }
        };
        while host::api::ask(&at("state/host.sock"), &host::api::Request::Status).is_err() {
            assert_eq!(program.0.try_wait().unwrap(), None, "it ended");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Some(program)
    }
}

#[test]
fn every_thread_of_the_agent_is_confined_when_it_first_answers() {
    let own = testkit::filter::confinement(std::process::id());
    let uid = rustix::process::geteuid().as_raw();
    for (confine, expected) in [("true", ["2", "1"].map(str::to_owned)), ("false", own)] {
        let world = World::new();
        let program = Program::start(&world, uid, &["--confine", confine]).unwrap();
        let threads = fs::read_dir(format!("/proc/{}/task", program.0.id())).unwrap();
        let threads: Vec<u32> = threads
            .map(|thread| thread.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect();
        assert!(threads.len() > 2, "{threads:?}");
        for thread in threads {
            assert_eq!(testkit::filter::confinement(thread), expected, "{confine}");
            if confine == "true" && uid == 0 {
                // CAP_DAC_READ_SEARCH.
                let left = ["0000000000000004"; 2];
                assert_eq!(testkit::filter::capabilities(thread), left);
            }
        }
        let pages = world.0.path().join("state/pages");
        link::pages::get(&link::pages::Address::Unix(pages), "/metrics").unwrap();
    }
}

#[test]
fn nobody_traces_the_agent_nor_reads_its_core() {
    if !rustix::process::geteuid().is_root() {
        testkit::skip("only root starts a process of another user");
        return;
    }
    let world = World::new();
    for path in ["", "kubelet", "kubelet/pods", "state"] {
        let path = world.0.path().join(path);
        chown(path, Some(65_534), Some(65_534)).unwrap();
    }
    for confine in ["true", "false"] {
        let Some(program) = Program::start(&world, 65_534, &["--confine", confine]) else { return };
        assert!(testkit::filter::is_hidden(program.0.id()), "{confine}");
    }
}

#[test]
fn what_is_not_there_cannot_be_granted_and_is_named() {
    let world = World::new();
    let at = |name: &str| world.0.path().join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealift-host"));
    command.arg("--socket").arg(at("state/host.sock")).arg("run");
    command.arg("--kubelet-root").arg(at("nowhere")).arg("--state-dir").arg(at("state"));
    let mut program = Program(command.stderr(Stdio::piped()).spawn().unwrap());
    let code = loop {
        if let Some(status) = program.0.try_wait().unwrap() {
            break status.code();
        }
        if host::api::ask(&at("state/host.sock"), &host::api::Request::Status).is_ok() {
            testkit::skip("this kernel has no Landlock");
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    let mut said = String::new();
    io::Read::read_to_string(program.0.stderr.as_mut().unwrap(), &mut said).unwrap();
    assert!(said.contains("nowhere") && said.contains("--kubelet-root"), "{said}");
    assert_eq!(code, Some(42), "{said}");
}
