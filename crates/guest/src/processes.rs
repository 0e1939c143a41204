//! The agent's processes: `run` is the mounter. It starts the receiver, which is this program again,
//! with one end of a socket pair as its standard input, and does what that asks for; with a key
//! source, one end of another one, for connections to it, is its standard output. When one ends,
//! the other does: the mounter hears of it over the socket, the receiver is killed by the kernel.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use guest::agent::{Agent, spawn_keeper, unseal_by};
use guest::cdh::Cdh;
use guest::confine::{self, Grants};
use guest::identity::{Released, is_resource};
use guest::mounter::{Bounds, Client, Passed, Switchboard, places, serve};
use guest::policy::Policy;
use guest::server::{Limits, Server};
use guest::unseal::Opener;
use link::listen::{Address, Listener};
use link::pages::Pages;
use link::tls;
use publish::volumes::{Error, Mounter, Options, PlainDirectories, Space, Tmpfs};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use rustix::process::{Signal, set_parent_process_death_signal};
use volumes::chain;
use volumes::name::Category;

use crate::cli::{Audience, Run, Tls};
use crate::status_address;

/// How long what an agent before this one holds is waited for: the kernel takes it from a killed
/// process a moment after the one that was waited for is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// The mounter: starts the receiver and serves it.
pub(crate) fn mount(run: &Run) -> Result<(), String> {
    let tmpfs = Tmpfs::prepare(&run.root, None).map_err(|error| chain(&error))?;
    let places = places(&run.root).map_err(|error| format!("{}: {error}", run.root.display()))?;
    let (ours, theirs) = pair()?;
    let (switchboard, dialled) = match &run.key_source {
        Some(path) => {
            let (ours, theirs) = pair()?;
            // The receiver writes nothing there, and a descriptor that is a standard one needs no
            // number on its command line and survives `exec` without more ado.
            (Some(Switchboard::new(ours, path.clone())), Stdio::from(theirs))
        }
        None => (None, Stdio::inherit()),
    };
    let mut receiver = std::process::Command::new("/proc/self/exe")
        .arg0("sealift-guest")
        .arg("receive")
        .args(std::env::args_os().skip(2))
        // Of glibc: one heap for all threads, of which one at a time works. Else each keeps what it
        // freed to itself, which is a fifth of the memory at its worst.
        .env("MALLOC_ARENA_MAX", "1")
        .stdin(theirs)
        .stdout(dialled)
        .spawn()
        .map_err(|error| format!("cannot start /proc/self/exe (is /proc mounted?): {error}"))?;
    let ended = match confine::mounter(run.confine, switchboard.is_some()) {
        Ok(confined) => {
            tracing::info!(%confined, receiver = receiver.id(), "mounter");
            let (policy, options) = (policy(run), options(run));
            let space = Space::of(policy.limits, options.revisions_max);
            let bounds = Bounds { volumes: policy.volumes, space };
            chain(&serve(&ours, &tmpfs, bounds, places, switchboard.as_ref()))
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

/// A socket of whole messages for each process.
fn pair() -> Result<(OwnedFd, OwnedFd), String> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    socketpair(family, kind, SocketFlags::CLOEXEC, None)
        .map_err(|error| format!("no socket: {error}"))
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
pub(crate) fn receive(run: &Run) -> Result<(), String> {
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
    let own = |fd: &dyn AsFd| {
        fd.as_fd().try_clone_to_owned().map_err(|error| format!("no descriptor: {error}"))
    };
    let source = match &run.key_source {
        Some(path) => {
            let dial = Arc::new(Passed::new(own(&io::stdout())?));
            Some(Cdh::through(dial, path, key_source_timeout(run)))
        }
        None => None,
    };
    hear(run, source, || Ok(Box::new(Client::new(own(&stdin)?))))
}

/// Both in one, where nobody may mount.
pub(crate) fn plain(run: &Run) -> Result<(), String> {
    let mounter = || PlainDirectories::prepare(&run.root, None).map_err(|error| chain(&error));
    mounter()?;
    let source = run.key_source.as_ref().map(|path| Cdh::new(path, key_source_timeout(run)));
    hear(run, source, || Ok(Box::new(mounter()?)))
}

/// Hears the host, confined, for ever.
fn hear(
    run: &Run,
    source: Option<Cdh>,
    mounter: impl Fn() -> Result<Box<dyn Mounter>, String>,
) -> Result<(), String> {
    let tls = tls(run, source.as_ref())?;
    let in_use = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    let mut listeners = Vec::new();
    for address in &run.listen {
        let listener = patiently(|| Listener::bind(address, tls.as_ref()), in_use);
        listeners.push((address, listener.map_err(|error| format!("{address}: {error}"))?));
    }
    let mut all_pages = Vec::new();
    let own = status_address(&run.root);
    for address in run.metrics.iter().chain([&own]) {
        let pages = patiently(|| Pages::bind(address), in_use);
        all_pages.push((*address == own, pages.map_err(|error| format!("{address}: {error}"))?));
    }
    // The cryptography looks at the machine once, where it may still look.
    let _ = volumes::tree::Digest::of(b"");
    aws_lc_rs::rand::fill(&mut [0]).map_err(|_| "the system has no random bytes".to_owned())?;
    let Tls { cert, key, client_ca, .. } = &run.tls;
    let files =
        [cert, key, client_ca].into_iter().flatten().filter(|path| resource(path).is_none());
    let grants = Grants {
        root: run.root.clone(),
        readable: files.cloned().collect(),
        // Otherwise the mounter does it.
        connects_unix: run.plain_directories && source.is_some(),
    };
    let confined = confine::receiver(&grants, run.confine).map_err(|error| chain(&error))?;
    match confined.landlock {
        Some(_) => tracing::info!(%confined, "receiver"),
        None => tracing::warn!(
            %confined,
            "receiver, without Landlock: a host that takes it over may open every file that root may"
        ),
    }

    if let Some(tls) = &tls {
        // A file that may not be read any more would be missed only when somebody connects.
        tls.check().map_err(|error| format!("confined, for a tls: address: {}", chain(&error)))?;
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
    if let Some(source) = source {
        let Audience { namespace, service_account } = run.audience.clone();
        unseal_by(&agent, Opener { cdh: source, namespace, service_account });
    }
    for (for_root, pages) in all_pages {
        let agent = Arc::clone(&agent);
        let thread = std::thread::Builder::new().name("metrics".into()).stack_size(128 << 10);
        let page =
            move |path: &str| guest::report::page(path, for_root, &*guest::server::lock(&agent));
        let spawned = thread.spawn(move || pages.serve(page));
        spawned.map_err(|error| format!("no thread: {error}"))?;
    }
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
    let memory = usize::from(run.max_index_mib) << 20;
    Policy { categories, volumes: usize::from(run.max_volumes), limits, memory }
}

fn options(run: &Run) -> Options {
    let grace = Duration::from_millis(u64::from(run.grace_ms));
    Options { grace, ..Options::default() }
}

/// What `tls:` addresses need, if it is there.
fn tls(run: &Run, source: Option<&Cdh>) -> Result<Option<Arc<tls::Server>>, String> {
    let Tls { cert, key, client_ca, client_names } = &run.tls;
    let (Some(cert), Some(key), Some(ca)) = (cert, key, client_ca) else {
        let needs = |address: &&Address| matches!(address, Address::Tls(_));
        return match run.listen.iter().find(needs) {
            Some(address) => Err(format!(
                "{address} needs --tls-cert, --tls-key and --tls-client-ca: without them anybody \
                 on the network would be the host"
            )),
            None => Ok(None),
        };
    };
    let identity: Box<dyn tls::Identity> = match (resource(cert), resource(key)) {
        (None, None) => Box::new(tls::Files { chain: cert.clone(), key: key.clone() }),
        (Some(cert), Some(key)) => {
            let source = source.ok_or_else(|| format!("{cert} needs --key-source"))?;
            Box::new(Released::new(source.clone(), cert.into(), key.into()))
        }
        _ => return Err("--tls-cert and --tls-key: two files or two resources".into()),
    };
    let server = tls::Server::new(identity, ca.clone(), client_names.clone());
    server.map(|server| Some(Arc::new(server))).map_err(|error| chain(&error))
}

/// A resource's name where a file could be.
fn resource(path: &Path) -> Option<&str> {
    path.to_str().filter(|path| is_resource(path))
}

fn key_source_timeout(run: &Run) -> Duration {
    Duration::from_secs(run.key_source_timeout.into())
}
