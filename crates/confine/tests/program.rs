//! That each part of a program's confinement binds, and that its work goes on: from inside of it, one
//! attempt a process.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use confine::files::Files;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const ATTEMPT: &str = "SEALIFT_TEST_ATTEMPT";
const TOP: &str = "SEALIFT_TEST_TOP";

/// What is tried in `top`, which has `kept/`, `outside` and `message`.
type Attempt = fn(&Path) -> io::Result<()>;

/// Refused with an error: by Landlock.
const REFUSED: &[(&str, Attempt)] = &[
    ("write beside what is kept", |top| fs::write(top.join("outside"), "x")),
    ("make beside what is kept", |top| fs::write(top.join("new"), "x")),
    ("remove beside what is kept", |top| fs::remove_file(top.join("outside"))),
    ("follow a link out", |top| {
        symlink(top.join("outside"), top.join("kept/link"))?;
        fs::write(top.join("kept/link"), "x")
    }),
    ("move out", |top| {
        fs::write(top.join("kept/a"), "x")?;
        fs::rename(top.join("kept/a"), top.join("a"))
    }),
    ("remove what may be written", |top| fs::remove_file(top.join("message"))),
    ("listen", |_| TcpListener::bind("127.0.0.1:0").map(drop)),
];

/// Answered as by a kernel that does not have the call.
const MISSING: &[(&str, Attempt)] = &[
    ("a packet socket", |_| socket(libc::AF_PACKET, libc::SOCK_RAW)),
    ("a vsock socket", |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM)),
    ("a Unix socket", |_| socket(libc::AF_UNIX, libc::SOCK_STREAM)),
    ("listen without a port", |_| {
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::STREAM,
            None,
        )?;
        Ok(rustix::net::listen(socket, 1)?)
    }),
    ("a signal to another", |_| Ok(kill_process(Pid::INIT, Signal::CONT)?)),
    ("other limits", |_| {
        let limit = rustix::process::Rlimit { current: Some(1), maximum: Some(1) };
        Ok(rustix::process::setrlimit(rustix::process::Resource::Core, limit)?)
    }),
];

/// Killed.
const KILLED: &[(&str, Attempt)] = &[
    ("execute", |_| Err(Command::new("/bin/true").exec())),
    ("a device", |top| {
        let path = top.join("kept/null");
        Ok(mknodat(CWD, path, FileType::CharacterDevice, Mode::RUSR, 0x103)?)
    }),
    ("other capabilities", |_| {
        let none = rustix::thread::CapabilitySet::empty();
        let sets =
            rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
        Ok(rustix::thread::set_capabilities(None, sets)?)
    }),
    ("another root", |top| Ok(rustix::process::chroot(top)?)),
    ("namespaces", |_| {
        let mounts = rustix::thread::UnshareFlags::NEWNS;
        #[allow(deprecated, reason = "the safe one is to be had in a later version only")]
        Ok(rustix::thread::unshare(mounts)?)
    }),
];

/// Allowed: what a program does.
const ALLOWED: &[(&str, Attempt)] = &[
    ("keep files", |top| {
        let kept = top.join("kept");
        fs::create_dir(kept.join("d"))?;
        fs::write(kept.join("d/a"), "content")?;
        fs::File::options().write(true).open(kept.join("d/a"))?.set_len(3)?;
        fs::set_permissions(kept.join("d/a"), fs::Permissions::from_mode(0o640))?;
        fs::rename(kept.join("d/a"), kept.join("b"))?;
        symlink("b", kept.join("c"))?;
        assert_eq!(fs::read(kept.join("c"))?, b"con");
        fs::remove_file(kept.join("b"))?;
        fs::remove_dir(kept.join("d"))
    }),
    ("write a message", |top| fs::write(top.join("message"), "why")),
    ("read what the user may", |_| fs::read("/etc/passwd").map(drop)),
    ("a thread", |_| {
        std::thread::Builder::new().name("one".into()).spawn(|| {})?.join().unwrap();
        Ok(())
    }),
    ("look a name up", |_| ("localhost", 1).to_socket_addrs().map(drop)),
    ("connect", |_| match TcpStream::connect("127.0.0.1:1") {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }),
    ("a pair of sockets", |_| UnixStream::pair().map(drop)),
];

/// Refused to somebody else's code.
const FORBIDDEN: &[(&str, Attempt)] = &[
    ("a stranger executes", |_| Err(Command::new("/bin/true").exec())),
    ("a stranger's devices", |top| {
        let path = top.join("kept/null");
        Ok(mknodat(CWD, path, FileType::CharacterDevice, Mode::RUSR, 0x103)?)
    }),
    ("a stranger's root", |top| Ok(rustix::process::chroot(top)?)),
];

/// Left to it.
const LEFT: &[(&str, Attempt)] = &[
    ("a stranger's files", |top| fs::write(top.join("outside"), "x")),
    ("a stranger's sockets", |_| {
        socket(libc::AF_UNIX, libc::SOCK_STREAM)?;
        TcpListener::bind("127.0.0.1:0").map(drop)
    }),
    ("a stranger's thread", |_| {
        std::thread::spawn(|| {}).join().unwrap();
        Ok(())
    }),
];

fn socket(family: i32, kind: i32) -> io::Result<()> {
    let family = rustix::net::AddressFamily::from_raw(u16::try_from(family).unwrap());
    let kind = rustix::net::SocketType::from_raw(kind.cast_unsigned());
    rustix::net::socket(family, kind, None)?;
    Ok(())
}

/// Not a test, unless this process was started by [`World::attempt`]: an attempt, from inside.
#[test]
fn child() {
    let Ok(name) = std::env::var(ATTEMPT) else { return };
    let top = PathBuf::from(std::env::var(TOP).unwrap());
    let all = [REFUSED, MISSING, KILLED, ALLOWED, FORBIDDEN, LEFT].concat();
    let (_, attempt) = all.into_iter().find(|(known, _)| *known == name).unwrap();
    if [FORBIDDEN, LEFT].concat().iter().any(|(known, _)| *known == name) {
        confine::stranger().unwrap();
        println!("landlock: 0");
        return end(attempt(&top));
    }
    let files = Files::new()
        .read("/")
        .connect()
        // The second is not there yet.
        .keep_or_make(&top.join("kept"))
        .and_then(|files| files.keep_or_make(&top.join("kept/not/yet")))
        .unwrap()
        .keep_if_there(&top.join("nothing"))
        .unwrap()
        .write_if_there(top.join("message"))
        .write_if_there(top.join("nothing"));
    let confined = confine::program(&files, confine::KEEPER).unwrap();
    println!("landlock: {}", confined.landlock.unwrap_or_default());
    end(attempt(&top));
}

fn end(attempted: io::Result<()>) {
    match attempted {
        Ok(()) => println!("outcome: done"),
        Err(error) => println!("outcome: {:?}", error.raw_os_error()),
    }
}

struct World(TempDir);

impl World {
    fn new() -> Self {
        let top = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::create_dir(top.path().join("kept")).unwrap();
        fs::write(top.path().join("outside"), "theirs").unwrap();
        fs::write(top.path().join("message"), "").unwrap();
        Self(top)
    }

    /// How it ended, what it said or the signal; and Landlock's version, 0 for none.
    fn attempt(&self, attempt: &str) -> (Result<String, i32>, u8) {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--quiet", "--nocapture"])
            .env(ATTEMPT, attempt)
            .env(TOP, self.0.path())
            .output()
            .unwrap();
        let said = |what: &str| {
            let output = String::from_utf8_lossy(&output.stdout);
            let said = output.lines().find_map(|line| line.split_once(&format!("{what}: ")));
            said.unwrap_or_else(|| panic!("{output}")).1.to_owned()
        };
        let outcome = match output.status.signal() {
            Some(signal) => Err(signal),
            None => Ok(said("outcome")),
        };
        (outcome, said("landlock").parse().unwrap())
    }
}

#[test]
fn only_what_is_granted_is_written() {
    for (name, _) in REFUSED {
        let world = World::new();
        let (outcome, landlock) = world.attempt(name);
        if landlock < 4 {
            testkit::skip("this kernel has no Landlock, or none that knows ports");
            return;
        }
        // A move to where one may do less is refused as one between file systems.
        let refused = [libc::EACCES, libc::EXDEV].map(|errno| Ok(format!("Some({errno})")));
        assert!(refused.contains(&outcome), "{name}: {outcome:?}");
        assert_eq!(fs::read(world.0.path().join("outside")).unwrap(), b"theirs");
    }
}

#[test]
fn all_of_the_file_system_is_never_granted() {
    let made = Files::new().keep_or_make(Path::new("/sealift-is-not-there/a"));
    assert!(matches!(made, Err(confine::Error::TooMuch { .. })), "{made:?}");
    for root in ["/", "//", "/tmp/..", "/proc/self/root"] {
        let kept = Files::new().keep_if_there(Path::new(root));
        assert!(matches!(kept, Err(confine::Error::TooMuch { .. })), "{root}: {kept:?}");
    }
    let top = tempfile::tempdir_in("/dev/shm").unwrap();
    let files = Files::new().read("/").keep_or_make(&top.path().join("a/b")).unwrap();
    assert_eq!(files.written().collect::<Vec<_>>(), [top.path()]);
}

#[test]
fn calls_that_are_not_listed_do_not_exist() {
    for (name, _) in MISSING {
        let missing = Ok(format!("Some({})", libc::ENOSYS));
        assert_eq!(World::new().attempt(name).0, missing, "{name}");
    }
}

#[test]
fn what_only_an_intruder_does_kills() {
    for (name, _) in KILLED {
        assert_eq!(World::new().attempt(name).0, Err(libc::SIGSYS), "{name}");
    }
}

#[test]
fn the_work_goes_on() {
    for (name, _) in ALLOWED {
        assert_eq!(World::new().attempt(name).0, Ok("done".into()), "{name}");
    }
}

#[test]
fn somebody_elses_code_starts_nothing_and_works_on() {
    for (name, _) in FORBIDDEN {
        let refused = Ok(format!("Some({})", libc::EPERM));
        assert_eq!(World::new().attempt(name).0, refused, "{name}");
    }
    for (name, _) in LEFT {
        assert_eq!(World::new().attempt(name).0, Ok("done".into()), "{name}");
    }
}
