//! Does anybody who reads a volume ever see half an update? Readers of three kinds watch a volume in
//! Kubernetes' layout while a [`Writer`] changes it, and judge every single read.
//!
//! | reader | as | must find |
//! | --- | --- | --- |
//! | by path | a program that opens its file each time | every file, whole, never an older one than before |
//! | by directory | a program that opens `..data` and then files in it | also: all of one generation, and no other name |
//! | by event | a program that reloads when `..data` is switched | the same, at the very moment of the switch |
//!
//! At the end each of them must see the last generation. A file may be missing only if the reader
//! took as long as the grace that the writer gives: then it was late, not the writer early.

pub mod planted;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{Dir, DirEntry, Mode, OFlags, Timespec, openat};
use rustix::io::Errno;

/// Names that every generation has; those that belong together are read together.
pub const ALWAYS: [&str; 3] = ["certificate", "key", "nested/deep"];
/// A name that only odd generations have.
pub const ODD: &str = "odd";

/// Something that brings a volume to a generation.
pub trait Writer {
    /// Returns when every reader must see it. Generations rise.
    fn publish(&mut self, generation: u64) -> anyhow::Result<()>;
}

/// The files of a generation: each says of which it is, at both ends, and has another length in the
/// next one.
pub fn contents(generation: u64) -> BTreeMap<&'static str, Vec<u8>> {
    let odd = (generation % 2 == 1).then_some(ODD);
    let filler = "x".repeat(usize::try_from(generation % 7).unwrap_or(0) * 1_500);
    let content = |name| format!("{name} {generation} {filler} {generation}\n").into_bytes();
    ALWAYS.into_iter().chain(odd).map(|name| (name, content(name))).collect()
}

/// What to try.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The volume's directory; the first generation is in it.
    pub data: PathBuf,
    /// That generation.
    pub first: u64,
    /// How many more there will be.
    pub updates: u64,
    /// How long the writer leaves what it replaced.
    pub grace: Duration,
    /// Readers by path, by directory, by event.
    pub readers: [usize; 3],
}

/// What the readers saw.
#[derive(Debug, Default)]
pub struct Report {
    /// Generations published.
    pub updates: u64,
    /// Times that a reader read all that it reads.
    pub passes: u64,
    /// Passes given up because the reader was too slow.
    pub late: u64,
    /// Switches that readers by event reacted to.
    pub events: u64,
    /// What was wrong, the first finding of each reader.
    pub faults: Vec<Fault>,
}

/// What a reader found wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A file that is always there was not.
    Missing,
    /// Part of a file, or of two.
    Torn,
    /// An older generation than before.
    Backwards,
    /// Files of several generations in one directory.
    Mixed,
    /// The last generation did not arrive.
    Stale,
}

/// A finding.
#[derive(Debug)]
pub struct Fault {
    /// The rule that is broken.
    pub what: What,
    /// By what.
    pub text: String,
}

/// Lets the readers watch while `writer` makes `setup.updates` generations, or until one of them
/// finds something wrong.
pub fn watch(setup: &Setup, writer: &mut dyn Writer) -> anyhow::Result<Report> {
    let shared = Shared::default();
    let last = thread::scope(|scope| {
        let mut threads = Vec::new();
        for (kind, count) in
            [Kind::Path, Kind::Directory, Kind::Event].into_iter().zip(setup.readers)
        {
            for _ in 0..count {
                let reader = Reader { kind, setup, shared: &shared, latest: setup.first };
                threads.push(scope.spawn(move || reader.run()));
            }
        }
        // Inotify tells nothing of what was before; so nothing is, until everybody listens.
        while shared.ready.load(Ordering::Acquire) < threads.len() as u64 && !shared.is_broken() {
            thread::yield_now();
        }
        let mut last = Ok(setup.first);
        for generation in setup.first + 1..=setup.first + setup.updates {
            if last.is_err() || shared.is_broken() {
                break;
            }
            last = writer.publish(generation).map(|()| generation);
        }
        let seen = last.as_ref().copied().unwrap_or(0);
        shared.last.store(seen, Ordering::Release);
        shared.stop.store(true, Ordering::Release);
        for thread in threads {
            thread.join().expect("a reader does not panic")?;
        }
        last
    })?;
    Ok(Report {
        updates: last - setup.first,
        passes: shared.passes.into_inner(),
        late: shared.late.into_inner(),
        events: shared.events.into_inner(),
        faults: shared.faults.into_inner().expect("a reader does not panic"),
    })
}

#[derive(Default)]
struct Shared {
    ready: AtomicU64,
    stop: AtomicBool,
    /// The generation that everybody must have seen when `stop` is set.
    last: AtomicU64,
    passes: AtomicU64,
    late: AtomicU64,
    events: AtomicU64,
    faults: Mutex<Vec<Fault>>,
}

impl Shared {
    fn is_broken(&self) -> bool {
        self.faults.lock().is_ok_and(|faults| !faults.is_empty())
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Path,
    Directory,
    Event,
}

struct Reader<'a> {
    kind: Kind,
    setup: &'a Setup,
    shared: &'a Shared,
    /// The youngest generation seen.
    latest: u64,
}

/// How a pass ended early.
enum Stop {
    Fault(Fault),
    /// Something was gone, after a time in which it may be.
    Late,
    Other(anyhow::Error),
}

fn fault(what: What, text: String) -> Stop {
    Stop::Fault(Fault { what, text })
}

impl Reader<'_> {
    fn run(mut self) -> anyhow::Result<()> {
        let events = match self.kind {
            Kind::Event => Some(self.listen().context("inotify")?),
            _ => None,
        };
        self.shared.ready.fetch_add(1, Ordering::Release);
        loop {
            // Before the pass, so that the last pass begins after the last update.
            let stop = self.shared.stop.load(Ordering::Acquire);
            let go = stop || events.as_ref().map_or(Ok(true), |events| self.switched(events))?;
            if go && !self.judge(stop)? && stop {
                continue;
            }
            if stop || self.shared.is_broken() {
                return Ok(());
            }
            if events.is_none() {
                thread::sleep(BETWEEN_PASSES);
            }
        }
    }

    /// One pass. False: it was late, and is to be made again if it was the last.
    fn judge(&mut self, is_last: bool) -> anyhow::Result<bool> {
        let passed = match self.kind {
            Kind::Path => self.by_path(),
            Kind::Directory => self.by_directory(),
            Kind::Event => self.by_directory().and_then(|()| self.by_path()),
        };
        let last = self.shared.last.load(Ordering::Acquire);
        let found = match passed {
            Ok(()) if is_last && self.latest < last => {
                fault(What::Stale, format!("generation {} is read after {last}", self.latest))
            }
            Ok(()) => {
                self.shared.passes.fetch_add(1, Ordering::Relaxed);
                return Ok(true);
            }
            Err(stop) => stop,
        };
        match found {
            Stop::Late => {
                self.shared.late.fetch_add(1, Ordering::Relaxed);
                return Ok(false);
            }
            Stop::Other(error) => return Err(error),
            Stop::Fault(fault) => {
                self.shared.faults.lock().expect("a reader does not panic").push(fault);
            }
        }
        Ok(true)
    }

    fn by_path(&mut self) -> Result<(), Stop> {
        for name in ALWAYS {
            let began = Instant::now();
            let path = self.setup.data.join(name);
            let read = rustix::fs::open(&path, READ, Mode::empty()).and_then(all);
            let content = self.there(read, began, name)?;
            self.see(generation(name, &content)?, name)?;
        }
        Ok(())
    }

    fn by_directory(&mut self) -> Result<(), Stop> {
        let began = Instant::now();
        let flags = READ | OFlags::DIRECTORY;
        let opened = rustix::fs::open(self.setup.data.join("..data"), flags, Mode::empty());
        let dir = self.there(opened, began, "..data")?;
        let mut first = None;
        for name in ALWAYS.into_iter().chain([ODD]) {
            let read = openat(&dir, name, READ, Mode::empty()).and_then(all);
            if name == ODD && matches!(read, Err(Errno::NOENT)) {
                continue;
            }
            let content = self.there(read, began, name)?;
            let generation = generation(name, &content)?;
            let expected = *first.get_or_insert(generation);
            if generation != expected {
                let text = format!("{name} of {generation} beside files of {expected}");
                return Err(fault(What::Mixed, text));
            }
        }
        let generation = first.unwrap_or_default();
        let found = self.there(names(&dir), began, "..data")?;
        let top = |name: &str| name.split('/').next().unwrap_or(name).to_owned();
        let expected: BTreeSet<String> = contents(generation).into_keys().map(top).collect();
        // Names vanish below a reader who is late.
        if found != expected && began.elapsed() < self.setup.grace {
            let text = format!("generation {generation} with {found:?}, not {expected:?}");
            return Err(fault(What::Mixed, text));
        }
        self.see(generation, "..data")
    }

    /// What was read, if it was there. What is missing too early is a fault.
    fn there<T>(&self, read: Result<T, Errno>, began: Instant, name: &str) -> Result<T, Stop> {
        match read {
            Ok(read) => Ok(read),
            Err(Errno::NOENT) if began.elapsed() >= self.setup.grace => Err(Stop::Late),
            Err(Errno::NOENT) => {
                let text = format!("{name} is missing after generation {}", self.latest);
                Err(fault(What::Missing, text))
            }
            Err(errno) => Err(Stop::Other(anyhow::Error::new(errno).context(name.to_owned()))),
        }
    }

    fn see(&mut self, generation: u64, name: &str) -> Result<(), Stop> {
        if generation < self.latest {
            let text = format!("{name} of {generation} after {}", self.latest);
            return Err(fault(What::Backwards, text));
        }
        self.latest = generation;
        Ok(())
    }

    fn listen(&self) -> anyhow::Result<OwnedFd> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let kinds = WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&events, &self.setup.data, kinds)?;
        Ok(events)
    }

    /// Waits a moment for `..data` to be switched.
    fn switched(&self, events: &OwnedFd) -> anyhow::Result<bool> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let mut polled = [PollFd::new(events, PollFlags::IN)];
        match poll(&mut polled, Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => return Ok(false),
            other => ensure!(other.is_ok(), "poll: {other:?}"),
        }
        let mut buffer = [MaybeUninit::uninit(); 4_096];
        let mut reader = inotify::Reader::new(events.as_fd(), &mut buffer);
        let mut switched = false;
        loop {
            match reader.next() {
                Ok(event) => switched |= event.file_name().is_some_and(|name| name == c"..data"),
                Err(Errno::WOULDBLOCK) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        self.shared.events.fetch_add(u64::from(switched), Ordering::Relaxed);
        Ok(switched)
    }
}

/// The generation that a file is of, if it is whole.
fn generation(name: &str, content: &[u8]) -> Result<u64, Stop> {
    let text = String::from_utf8_lossy(content);
    let stamp = text.strip_prefix(name).and_then(|rest| rest.trim_start().split(' ').next());
    let generation = stamp.and_then(|stamp| stamp.parse().ok());
    match generation {
        Some(generation)
            if contents(generation).get(name).is_some_and(|whole| whole == content) =>
        {
            Ok(generation)
        }
        _ => {
            let begin: String = text.chars().take(40).collect();
            let text = format!("{name} is not whole: {} bytes, {begin:?}", content.len());
            Err(fault(What::Torn, text))
        }
    }
}

fn all(fd: OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut content = Vec::new();
    let read = File::from(fd).read_to_end(&mut content);
    read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(content)
}

fn names(dir: &OwnedFd) -> Result<BTreeSet<String>, Errno> {
    let name =
        |entry: Result<DirEntry, Errno>| Ok(entry?.file_name().to_string_lossy().into_owned());
    let names: Result<BTreeSet<String>, Errno> = Dir::read_from(dir)?.map(name).collect();
    Ok(names?.into_iter().filter(|name| !matches!(name.as_str(), "." | "..")).collect())
}

/// Writes all files of a generation below `top`, each as `write` does it.
pub(crate) fn each_file(
    top: &Path,
    generation: u64,
    mut write: impl FnMut(&Path, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for (name, content) in contents(generation) {
        let path = top.join(name);
        std::fs::create_dir_all(path.parent().expect("it is below the top"))?;
        write(&path, &content)?;
    }
    Ok(())
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC);

/// Leaves the writer some of the processor; too short for a gap of one file's length to hide in.
const BETWEEN_PASSES: Duration = Duration::from_micros(100);
