//! `sealift-guest`: flags in, volumes out. The whole life of both processes is on this page.
//!
//! `run` is the mounter. It starts the receiver, which is this program again, with one end of a
//! socket pair as its standard input, and does what that asks for. When one ends, the other does:
//! the mounter hears of it over the socket, the receiver is killed by the kernel.

mod cli;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ExitCode, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use cli::{Bind, Cli, Command, Run};
use guest::agent::{Agent, spawn_keeper};
use guest::bind::bind;
use guest::confine::{self, Grants};
use guest::mounter::{Bounds, Client, places, serve};
use guest::policy::Policy;
use guest::server::{Limits, Server};
use guest::socket::Listener;
use publish::volumes::{Error, Mounter, Options, PlainDirectories, Space, Tmpfs};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use rustix::process::{Signal, set_parent_process_death_signal};
use volumes::chain;
use volumes::name::Category;

/// Exit code of whatever keeps the agent from its work.
const FAILED: u8 = 42;
/// How long what an agent before this one holds is waited for: the kernel takes it from a killed
/// process a moment after the one that was waited for is gone.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(run) if run.plain_directories => {
            start_log(&run);
            plain(&run)
        }
        Command::Run(run) => {
            start_log(&run);
            mount(&run)
        }
        Command::Receive(run) => {
            start_log(&run);
            receive(&run)
        }
        Command::Bind(Bind { root, volume, target }) => {
            bind(&root, &volume, &target).map_err(|error| chain(&error))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            // Nobody reads it: then nobody is to be told.
            let _ = writeln!(io::stderr(), "E{FAILED}: {what}. Run: sealift explain E{FAILED}");
            ExitCode::from(FAILED)
        }
    }
}

/// The mounter: starts the receiver and serves it.
fn mount(run: &Run) -> Result<(), String> {
    let tmpfs = Tmpfs::prepare(&run.root, None).map_err(|error| chain(&error))?;
    let places = places(&run.root).map_err(|error| format!("{}: {error}", run.root.display()))?;
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let (ours, theirs) = socketpair(family, kind, SocketFlags::CLOEXEC, None)
        .map_err(|error| format!("no socket: {error}"))?;
    let mut receiver = std::process::Command::new("/proc/self/exe")
        .arg0("sealift-guest")
        .arg("receive")
        .args(std::env::args_os().skip(2))
        .stdin(theirs)
        .spawn()
        .map_err(|error| format!("cannot start /proc/self/exe (is /proc mounted?): {error}"))?;
    let ended = match confine::mounter(run.confine) {
        Ok(confined) => {
            tracing::info!(%confined, receiver = receiver.id(), "mounter");
            let (policy, options) = (policy(run), options(run));
            let space = Space::of(policy.limits, options.revisions_max);
            let bounds = Bounds { volumes: policy.volumes, space };
            chain(&serve(&ours, &tmpfs, bounds, places))
        }
        Err(error) => chain(&error),
    };
    // It may be about to end by itself, and say why. It may also have only hung up, and then it is
    // not ours any more.
    for _ in 0..100 {
        if !matches!(receiver.try_wait(), Ok(None)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let status = receiver.kill().and_then(|()| receiver.wait());
    Err(match status {
        Ok(status) => format!("{ended}: {}", how(status)),
        Err(error) => format!("{ended}: {error}"),
    })
}

/// What a process's end says.
fn how(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) if signal == Signal::SYS.as_raw() => {
            "killed for a system call that it has no business with".into()
        }
        _ => status.to_string(),
    }
}

/// The receiver: hears the host.
fn receive(run: &Run) -> Result<(), String> {
    let stdin = io::stdin();
    // Under a name of its own for `ps`; without one it goes by the link that it was started by.
    let _ = rustix::thread::set_name(c"sealift-receive");
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("cannot have this end with its parent: {error}"))?;
    // Only now is it certain that its end will be told: it may have been before.
    match recv(stdin.as_fd(), &mut [0_u8][..], RecvFlags::DONTWAIT | RecvFlags::PEEK) {
        Err(rustix::io::Errno::AGAIN) => {}
        _ => return Err("standard input is no mounter; start `sealift-guest run`".into()),
    }
    hear(run, || {
        let socket = stdin.as_fd().try_clone_to_owned();
        let socket = socket.map_err(|error| format!("no descriptor: {error}"))?;
        Ok(Box::new(Client::new(socket)))
    })
}

/// Both in one, where nobody may mount.
fn plain(run: &Run) -> Result<(), String> {
    let mounter = || PlainDirectories::prepare(&run.root, None).map_err(|error| chain(&error));
    mounter()?;
    hear(run, || Ok(Box::new(mounter()?)))
}

/// Hears the host, confined, for ever.
fn hear(run: &Run, mounter: impl Fn() -> Result<Box<dyn Mounter>, String>) -> Result<(), String> {
    let mut listeners = Vec::new();
    for address in &run.listen {
        let in_use = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
        let listener = patiently(|| Listener::bind(address), in_use);
        listeners.push((address, listener.map_err(|error| format!("{address}: {error}"))?));
    }
    // The cryptography looks at the machine once, where it may still look.
    let _ = volumes::tree::Digest::of(b"");
    aws_lc_rs::rand::fill(&mut [0]).map_err(|_| "the system has no random bytes".to_owned())?;
    let grants = Grants { root: run.root.clone(), ..Grants::default() };
    let confined = confine::receiver(&grants, run.confine).map_err(|error| chain(&error))?;
    match confined.landlock {
        Some(_) => tracing::info!(%confined, "receiver"),
        None => tracing::warn!(
            %confined,
            "receiver, without Landlock: a host that takes it over may open every file that root may"
        ),
    }

    let open = || {
        let mounter = mounter().map_err(Opening::Other)?;
        Agent::open(&run.root, policy(run), options(run), mounter).map_err(Opening::Store)
    };
    let busy = |error: &Opening| {
        matches!(error, Opening::Store(Error::System(publish::Error::Busy { .. })))
    };
    let agent = patiently(open, busy).map_err(|error| match error {
        Opening::Store(error) => chain(&error),
        Opening::Other(what) => what,
    })?;
    let agent = Arc::new(Mutex::new(agent));
    spawn_keeper(&agent).map_err(|error| format!("no thread: {error}"))?;
    let server = Arc::new(Server::new(agent, Limits::default()));
    // The first listener that ends is the end of the agent: half of it would go unnoticed.
    let (ended, first) = std::sync::mpsc::channel();
    for (address, listener) in listeners {
        tracing::info!(%address, root = %run.root.display(), "listening");
        let (server, ended, address) = (Arc::clone(&server), ended.clone(), address.clone());
        std::thread::spawn(move || {
            let result = server.run(&listener);
            // Nobody waits any more: then another one was first.
            let _ = ended.send((address, result));
        });
    }
    drop(ended);
    match first.recv() {
        Ok((address, Err(error))) => Err(format!("{address}: {error}")),
        Ok((address, Ok(()))) => Err(format!("{address} is not listened to any more")),
        Err(_) => Err("a listener's thread panicked".into()),
    }
}

/// Why the volumes cannot be opened.
enum Opening {
    Store(Error),
    Other(String),
}

/// Tries again while the error is a passing one.
fn patiently<T, E>(
    attempt: impl Fn() -> Result<T, E>,
    is_passing: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let until = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(error) if is_passing(&error) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

fn policy(run: &Run) -> Policy {
    let categories = match run.categories.is_empty() {
        true => Category::ALL.into(),
        false => run.categories.iter().copied().collect(),
    };
    let limits = volumes::tree::Limits { entries: run.max_entries, bytes: run.max_mib << 20 };
    Policy { categories, volumes: usize::from(run.max_volumes), limits }
}

fn options(run: &Run) -> Options {
    let grace = Duration::from_millis(u64::from(run.grace_ms));
    Options { grace, ..Options::default() }
}

fn start_log(run: &Run) {
    let log = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(run.log_level)
        .with_target(false);
    match run.log_json {
        true => log.json().init(),
        false => log.with_ansi(false).init(),
    }
}
