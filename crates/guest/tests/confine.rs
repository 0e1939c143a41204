//! That each part of the confinement binds: from inside of it, one attempt a process.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use guest::confine::{self, Grants, Require};
use publish::volumes::Tmpfs;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open, openat};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const ATTEMPT: &str = "SEALIFT_TEST_ATTEMPT";
const TOP: &str = "SEALIFT_TEST_TOP";

/// What is tried in `top`, which has `root/{new,volumes}`, `outside`, `granted/file` and `socket`.
type Attempt = fn(&Path) -> io::Result<()>;

/// Refused with an error: by Landlock.
const REFUSED: &[(&str, Attempt)] = &[
    ("read a file of the system", |_| fs::read("/etc/passwd").map(drop)),
    ("read its own memory", |_| fs::read("/proc/self/mem").map(drop)),
    ("list /", |_| fs::read_dir("/").map(drop)),
    ("read beside the root", |top| fs::read(top.join("outside")).map(drop)),
    ("write beside the root", |top| {
        fs::File::options().write(true).open(top.join("outside")).map(drop)
    }),
    ("make beside the root", |top| fs::write(top.join("new"), "x")),
    ("make in the root", |top| fs::write(top.join("root/x"), "x")),
    ("follow a link out", |top| {
        rustix::fs::symlinkat(top.join("outside"), CWD, top.join("root/volumes/link"))?;
        fs::read(top.join("root/volumes/link")).map(drop)
    }),
    ("move a place away", |top| {
        Ok(rustix::fs::renameat(CWD, top.join("root/volumes"), CWD, top.join("root/new/v"))?)
    }),
    ("write what may be read", |top| {
        fs::File::options().write(true).open(top.join("granted/file")).map(drop)
    }),
];

/// Killed: by seccomp.
const KILLED: &[(&str, Attempt)] = &[
    ("mount", |top| Ok(mount_bind("/etc", top.join("root/volumes"))?)),
    ("unmount", |top| Ok(unmount(top.join("root/volumes"), UnmountFlags::DETACH)?)),
    ("execute", |_| Err(Command::new("/bin/true").exec())),
    ("start a process", |_| Command::new("/bin/true").status().map(drop)),
    ("a TCP socket", |_| std::net::TcpListener::bind("127.0.0.1:0").map(drop)),
    ("a Unix socket", |_| make(AddressFamily::UNIX, SocketType::STREAM)),
    ("a packet socket", |_| make(AddressFamily::PACKET, SocketType::RAW)),
    ("a vsock socket", |_| make(AddressFamily::VSOCK, SocketType::STREAM)),
    ("change a mode by path", |top| {
        fs::set_permissions(top.join("outside"), fs::Permissions::from_mode(0o666))
    }),
    ("change an owner by path", |top| chown(top.join("outside"), Some(1), Some(1))),
    ("a FIFO", |top| {
        let path = top.join("root/volumes/fifo");
        Ok(mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0)?)
    }),
    ("a signal", |_| Ok(kill_process(Pid::INIT, Signal::CONT)?)),
    ("other capabilities", |_| {
        let none = rustix::thread::CapabilitySet::empty();
        let sets =
            rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
        Ok(rustix::thread::set_capabilities(None, sets)?)
    }),
    ("another root", |top| Ok(rustix::process::chroot(top)?)),
];

fn make(family: AddressFamily, kind: SocketType) -> io::Result<()> {
    socket(family, kind, None)?;
    Ok(())
}

/// Allowed: what a receiver does.
const ALLOWED: &[(&str, Attempt)] = &[
    ("a store's work", |top| {
        let volume = top.join("root/new/v");
        let fd = open(top.join("root/new"), OFlags::DIRECTORY, Mode::empty())?;
        rustix::fs::mkdirat(&fd, "v", Mode::RWXU)?;
        rustix::fs::mkdirat(&fd, "v/d", Mode::RWXU)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let file = openat(&fd, "v/a", flags, Mode::RWXU)?;
        rustix::io::write(&file, b"content")?;
        rustix::fs::ftruncate(&file, 3)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o640))?;
        rustix::fs::linkat(&fd, "v/a", &fd, "v/d/a", rustix::fs::AtFlags::empty())?;
        rustix::fs::symlinkat("d", &fd, "v/..data")?;
        assert_eq!(fs::read(volume.join("..data/a"))?, b"con");
        let volumes = open(top.join("root/volumes"), OFlags::DIRECTORY, Mode::empty())?;
        rustix::fs::renameat(&fd, "v", &volumes, "v")?;
        rustix::fs::unlinkat(&volumes, "v/a", rustix::fs::AtFlags::empty())?;
        Ok(())
    }),
    ("a thread", |_| {
        std::thread::Builder::new().name("one".into()).spawn(|| {})?.join().unwrap();
        Ok(())
    }),
    ("read what is granted, renewed by a rename, too", |top| {
        println!("ready");
        io::stdin().read_exact(&mut [0])?;
        assert_eq!(fs::read(top.join("granted/file"))?, b"renewed");
        Ok(())
    }),
    ("a volume that is mounted later", |top| {
        println!("ready");
        io::stdin().read_exact(&mut [0])?;
        let fd = open(top.join("root/volumes/later"), OFlags::DIRECTORY, Mode::empty())?;
        // It is the mount, not the directory below it.
        assert_eq!(rustix::fs::fstatfs(&fd)?.f_blocks, 1);
        drop(openat(&fd, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR)?);
        rustix::fs::mkdirat(&fd, "d", Mode::RWXU)?;
        rustix::fs::renameat(&fd, "file", &fd, "d/file")?;
        Ok(())
    }),
];

/// The same without the grant, as with a mounter that connects instead.
const UNGRANTED: [(&str, Attempt); 2] =
    [("a socket file, ungranted", GRANTED[0].1), ("an abstract socket, ungranted", GRANTED[1].1)];

/// With sockets granted: those with a name in the file system, and with Landlock 6 no others.
const GRANTED: [(&str, Attempt); 2] = [
    ("connect to a socket file", |top| UnixStream::connect(top.join("socket")).map(drop)),
    ("connect to an abstract socket", |top| {
        UnixStream::connect_addr(&abstract_name(top)).map(drop)
    }),
];

fn abstract_name(top: &Path) -> SocketAddr {
    SocketAddr::from_abstract_name(top.as_os_str().as_bytes()).unwrap()
}

/// Not a test, unless this process was started by [`start`]: an attempt, from inside.
#[test]
fn child() {
    let Ok(name) = std::env::var(ATTEMPT) else { return };
    let top = PathBuf::from(std::env::var(TOP).unwrap());
    let all = [REFUSED, KILLED, ALLOWED, &GRANTED, &UNGRANTED].concat();
    let (_, attempt) = all.into_iter().find(|(known, _)| *known == name).unwrap();
    let grants = Grants {
        root: top.join("root"),
        readable: vec![top.join("granted/file")],
        connects_unix: GRANTED.iter().any(|(granted, _)| *granted == name),
    };
    let confined = confine::receiver(&grants, Require::Seccomp).unwrap();
    assert!(confined.seccomp);
    println!("landlock: {}", confined.landlock.unwrap_or_default());
    match attempt(&top) {
        Ok(()) => println!("outcome: done"),
        Err(error) => println!("outcome: {:?}", error.raw_os_error()),
    }
}

struct World(TempDir);

impl World {
    fn new() -> Self {
        let top = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = top.path().join("root");
        for place in ["new", "volumes", "volumes/later"] {
            fs::create_dir_all(root.join(place)).unwrap();
        }
        fs::create_dir(top.path().join("granted")).unwrap();
        fs::write(top.path().join("granted/file"), "first").unwrap();
        fs::write(top.path().join("outside"), "secret").unwrap();
        Self(top)
    }

    fn start(&self, attempt: &str) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--quiet", "--nocapture"])
            .env(ATTEMPT, attempt)
            .env(TOP, self.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// How it ended: what it said, or the signal.
    fn attempt(&self, attempt: &str) -> Result<String, i32> {
        let output = self.start(attempt).wait_with_output().unwrap();
        match output.status.signal() {
            Some(signal) => Err(signal),
            None => Ok(said(&output.stdout, "outcome")),
        }
    }

    /// The version of Landlock; 0: none.
    fn landlock(&self) -> u8 {
        let output = self.start(ALLOWED[1].0).wait_with_output().unwrap();
        said(&output.stdout, "landlock").parse().unwrap()
    }
}

fn said(output: &[u8], what: &str) -> String {
    let output = String::from_utf8_lossy(output);
    let said = output.lines().find_map(|line| line.split_once(&format!("{what}: ")));
    said.unwrap_or_else(|| panic!("{output}")).1.to_owned()
}

#[test]
fn files_of_others_are_out_of_the_receivers_reach() {
    let world = World::new();
    if world.landlock() == 0 {
        testkit::skip("this kernel has no Landlock");
        return;
    }
    // A move into where one may do more is refused as one between file systems.
    let refused = [libc::EACCES, libc::EXDEV].map(|errno| Ok(format!("Some({errno})")));
    for (name, _) in REFUSED {
        let outcome = world.attempt(name);
        assert!(refused.contains(&outcome), "{name}: {outcome:?}");
    }
    let seen = |path: &str| fs::read_to_string(world.0.path().join(path)).unwrap();
    assert_eq!((seen("outside"), seen("granted/file")), ("secret".into(), "first".into()));
}

#[test]
fn calls_that_no_receiver_makes_kill_it() {
    for (name, _) in KILLED {
        assert_eq!(World::new().attempt(name), Err(libc::SIGSYS), "{name}");
    }
}

#[test]
fn a_receiver_can_do_its_work() {
    for (name, _) in [ALLOWED[0], ALLOWED[1]] {
        assert_eq!(World::new().attempt(name), Ok("done".into()), "{name}");
    }
}

#[test]
fn sockets_are_as_granted() {
    let world = World::new();
    let _file = UnixListener::bind(world.0.path().join("socket")).unwrap();
    let _abstract = UnixListener::bind_addr(&abstract_name(world.0.path())).unwrap();
    for (name, _) in UNGRANTED {
        assert_eq!(world.attempt(name), Err(libc::SIGSYS), "{name}");
    }
    assert_eq!(world.attempt(GRANTED[0].0), Ok("done".into()));
    match world.landlock() {
        6.. => assert_eq!(world.attempt(GRANTED[1].0), Ok(format!("Some({})", libc::EPERM))),
        version => testkit::skip(format!("abstract sockets: Landlock {version}, not 6")),
    }
}

/// Waits until it is confined, does something outside, lets it go on.
fn meanwhile(world: &World, attempt: &str, outside: impl FnOnce(&Path)) -> Result<String, i32> {
    let mut child = world.start(attempt);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "{attempt}: it ended");
    }
    outside(world.0.path());
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    match child.wait().unwrap().signal() {
        Some(signal) => Err(signal),
        None => Ok(said(&rest, "outcome")),
    }
}

#[test]
fn a_renewed_certificate_is_read() {
    let done = meanwhile(&World::new(), ALLOWED[2].0, |top| {
        fs::write(top.join("granted/other"), "renewed").unwrap();
        fs::rename(top.join("granted/other"), top.join("granted/file")).unwrap();
    });
    assert_eq!(done, Ok("done".into()));
}

#[test]
fn a_volume_that_is_mounted_later_is_within_reach() {
    let world = World::new();
    if let Err(error) = Tmpfs::prepare(&world.0.path().join("root"), None) {
        testkit::skip(format!("mounts: {error}"));
        return;
    }
    let done = meanwhile(&world, ALLOWED[3].0, |top| {
        let flags = rustix::mount::MountFlags::NOSUID;
        let place = top.join("root/volumes/later");
        rustix::mount::mount("tmpfs", &place, "tmpfs", flags, c"size=4k").unwrap();
    });
    let _ = unmount(world.0.path().join("root"), UnmountFlags::DETACH);
    assert_eq!(done, Ok("done".into()));
}
