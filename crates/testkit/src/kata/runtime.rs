//! Emulations of how Kata's two runtimes keep a volume current with `CopyFile`: their calls, in
//! their order, on their triggers and timers, after kata-containers 4.1.0. None of Kata's own code
//! is in here, and its policy, virtual machine and vsock are not either: for comparing speeds only.
//!
//! | | Go (`src/runtime/virtcontainers/fs_share_linux.go`) | runtime-rs (`src/runtime-rs/crates/resource/src/volume/share_fs_volume.rs`) |
//! |---|---|---|
//! | watches | timestamped directories, with one inotify instance | the volume's directory, with an instance for each volume |
//! | is triggered by | the old timestamped directory's removal, at once | 500 ms of quiet, looked for every 100 ms |
//! | then sends | the new directory, each file, `..data`: K + 2 calls for K keys | everything that is at the top, `..data` included, then each file: 2 K + 2 calls |
//! | a file is | in pieces of 1 MiB | in one call |

use std::fs;
use std::io::{Error, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use ttrpc::Client;
use ttrpc::proto::{Code, Request};

use crate::proto::{put, put_number};

/// Which runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// The one in Go.
    Go,
    /// The one in Rust.
    Rs,
}

/// A volume on the host, and where it is in the guest.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The directory that kubelet writes.
    pub host: PathBuf,
    /// Its copy.
    pub guest: String,
}

impl Runtime {
    /// What it takes to make the first copies of `volumes` in the kata-agent that listens at
    /// `socket`, and keeps them current, on threads that end with the process.
    pub fn start(self, socket: &Path, volumes: Vec<Shared>) -> anyhow::Result<()> {
        let connect = || Agent::connect(socket);
        match self {
            Self::Go => {
                let mut sandbox =
                    Go { agent: connect()?, watch: watch(true)?, watched: Vec::new() };
                for volume in volumes {
                    sandbox.begin(volume)?;
                }
                spawn("go", move || sandbox.run())
            }
            Self::Rs => volumes.into_iter().try_for_each(|volume| {
                let mut task = Rs { agent: connect()?, watch: watch(false)?, volume };
                task.begin()?;
                spawn("runtime-rs", move || task.run())
            }),
        }
    }
}

fn spawn(
    name: &'static str,
    work: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    thread::Builder::new().name(name.into()).spawn(move || {
        if let Err(error) = work() {
            eprintln!("Kata's {name} sequence ended: {error:#}");
        }
    })?;
    Ok(())
}

fn watch(blocks: bool) -> anyhow::Result<OwnedFd> {
    let flags = if blocks { CreateFlags::empty() } else { CreateFlags::NONBLOCK };
    inotify::init(CreateFlags::CLOEXEC | flags).context("inotify")
}

/// As many events as any update causes.
const EVENTS_BYTES: usize = 64 << 10;

/// All volumes of a sandbox of the Go runtime.
struct Go {
    agent: Agent,
    watch: OwnedFd,
    /// By watch: an update replaces its own.
    watched: Vec<(i32, Shared)>,
}

impl Go {
    fn begin(&mut self, volume: Shared) -> anyhow::Result<()> {
        self.agent.directory(&volume.host, &volume.guest)?;
        let stamped = self.stamped(&volume)?;
        self.watch(&volume.host.join(&stamped), volume.clone())?;
        for name in sorted(&volume.host)?.iter().filter(|name| **name != stamped) {
            self.agent.link(&volume.host.join(name), &format!("{}/{name}", volume.guest))?;
        }
        Ok(())
    }

    fn run(mut self) -> anyhow::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
        loop {
            let gone = {
                let mut events = inotify::Reader::new(&self.watch, &mut buffer);
                let event = events.next()?;
                event.events().contains(ReadFlags::DELETE_SELF).then(|| event.wd())
            };
            let found = self.watched.iter().position(|(watch, _)| Some(*watch) == gone);
            if let Some(index) = found {
                let (_, volume) = self.watched.swap_remove(index);
                let stamped = self.stamped(&volume)?;
                self.watch(&volume.host.join(&stamped), volume.clone())?;
                // Names at the top are those that were there: no update here adds one.
                let data = format!("{}/..data", volume.guest);
                self.agent.link(&volume.host.join("..data"), &data)?;
            }
        }
    }

    /// Copies the current timestamped directory, and says which one it is.
    fn stamped(&mut self, volume: &Shared) -> anyhow::Result<String> {
        let name = fs::read_link(volume.host.join("..data"))?;
        let name = name.to_str().context("not UTF-8")?.to_owned();
        let (from, to) = (volume.host.join(&name), format!("{}/{name}", volume.guest));
        self.agent.directory(&from, &to)?;
        for file in sorted(&from)? {
            self.agent.file(&from.join(&file), &format!("{to}/{file}"), 1 << 20)?;
        }
        Ok(name)
    }

    fn watch(&mut self, directory: &Path, volume: Shared) -> anyhow::Result<()> {
        let watch = inotify::add_watch(&self.watch, directory, WatchFlags::DELETE_SELF)?;
        self.watched.push((watch, volume));
        Ok(())
    }
}

/// One volume of runtime-rs.
struct Rs {
    agent: Agent,
    watch: OwnedFd,
    volume: Shared,
}

impl Rs {
    /// It sends everything twice: once when the volume is made, once when its watcher starts.
    fn begin(&mut self) -> anyhow::Result<()> {
        self.agent.directory(&self.volume.host, &self.volume.guest)?;
        self.copy()?;
        let events = WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE;
        inotify::add_watch(&self.watch, &self.volume.host, events | WatchFlags::MODIFY)?;
        self.copy()
    }

    fn run(mut self) -> anyhow::Result<()> {
        const POLL: Duration = Duration::from_millis(100);
        const QUIET: Duration = Duration::from_millis(500);
        let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
        let mut changed: Option<Instant> = None;
        loop {
            thread::sleep(POLL);
            let mut events = inotify::Reader::new(&self.watch, &mut buffer);
            loop {
                match events.next() {
                    Ok(_) => changed = Some(Instant::now()),
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            if changed.is_some_and(|changed| changed.elapsed() >= QUIET) {
                changed = None;
                // It meets kubelet in the middle of its work: not tried again before the next event.
                if let Err(error) = self.copy() {
                    eprintln!("Kata's runtime-rs sequence: {error:#}");
                }
            }
        }
    }

    /// As the directory is read: what is at the top, and then what is below.
    fn copy(&mut self) -> anyhow::Result<()> {
        let Shared { host, guest } = &self.volume;
        let mut below = Vec::new();
        for entry in fs::read_dir(host)? {
            let (entry, name) = named(entry)?;
            let to = format!("{guest}/{name}");
            if entry.file_type()?.is_dir() {
                self.agent.directory(&entry.path(), &to)?;
                below.push((entry.path(), to));
            } else {
                self.agent.link(&entry.path(), &to)?;
            }
        }
        for (from, to) in below {
            for entry in fs::read_dir(from)? {
                let (entry, name) = named(entry)?;
                self.agent.file(&entry.path(), &format!("{to}/{name}"), usize::MAX)?;
            }
        }
        Ok(())
    }
}

fn named(entry: std::io::Result<fs::DirEntry>) -> anyhow::Result<(fs::DirEntry, String)> {
    let entry = entry?;
    let name = entry.file_name().into_string();
    Ok((entry, name.map_err(|_| Error::from(ErrorKind::InvalidData))?))
}

fn sorted(directory: &Path) -> anyhow::Result<Vec<String>> {
    let names = fs::read_dir(directory)?.map(|entry| Ok(named(entry)?.1));
    let mut names: Vec<String> = names.collect::<anyhow::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// A connection to a kata-agent.
struct Agent(Client);

impl Agent {
    fn connect(socket: &Path) -> anyhow::Result<Self> {
        Ok(Self(Client::connect(&format!("unix://{}", socket.display()))?))
    }

    fn directory(&mut self, from: &Path, to: &str) -> anyhow::Result<()> {
        self.call(&fs::symlink_metadata(from)?, to, 0, &[])
    }

    fn link(&mut self, from: &Path, to: &str) -> anyhow::Result<()> {
        let target = fs::read_link(from)?;
        self.call(&fs::symlink_metadata(from)?, to, 0, target.as_os_str().as_bytes())
    }

    fn file(&mut self, from: &Path, to: &str, piece_bytes: usize) -> anyhow::Result<()> {
        let (meta, bytes) = (fs::symlink_metadata(from)?, fs::read(from)?);
        if bytes.is_empty() {
            return self.call(&meta, to, 0, &[]);
        }
        for (index, piece) in bytes.chunks(piece_bytes).enumerate() {
            self.call(&meta, to, index.saturating_mul(piece_bytes), piece)?;
        }
        Ok(())
    }

    fn call(
        &mut self,
        meta: &fs::Metadata,
        to: &str,
        offset: usize,
        data: &[u8],
    ) -> anyhow::Result<()> {
        const DIR_MODE: u64 = 0o750;
        let mut message = Vec::with_capacity(data.len() + 256);
        put(&mut message, 1, to);
        let size = if meta.is_file() { meta.len() } else { 0 };
        let (mode, uid, gid) = (meta.mode().into(), meta.uid().into(), meta.gid().into());
        let numbers = [(2, size), (3, mode), (4, DIR_MODE), (5, uid), (6, gid), (7, offset as u64)];
        // What is zero is left out, as protobuf's own encoders do.
        for (number, value) in numbers.into_iter().filter(|(_, value)| *value != 0) {
            put_number(&mut message, number, value);
        }
        if !data.is_empty() {
            put(&mut message, 8, data);
        }
        let mut request = Request::new();
        request.service = "grpc.AgentService".into();
        request.method = "CopyFile".into();
        request.payload = message;
        let response = self.0.request(request)?;
        let status = response.status();
        ensure!(status.code() == Code::OK, "{to}: {}", status.message);
        Ok(())
    }
}
