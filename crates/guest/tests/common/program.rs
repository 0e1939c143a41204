//! The program itself, its places and its processes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use publish::volumes::Tmpfs;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use volumes::name::Category;
use volumes::wire::message::{DropRequest, HelloRequest, Message, VERSION};

use super::{answer, conversation, frames, read, say, volume};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_sealift-guest");

/// A place for an agent, and the agents that were there.
pub struct World(pub TempDir);

impl World {
    pub fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").unwrap())
    }

    /// `None`, said aloud: nobody may mount here.
    pub fn with_mounts() -> Option<Self> {
        let world = Self::new();
        match Tmpfs::prepare(&world.root(), None) {
            Ok(_) => Some(world),
            Err(error) => {
                testkit::skip(format!("mounts: {error}"));
                None
            }
        }
    }

    pub fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    pub fn data(&self, name: &str) -> PathBuf {
        self.root().join("volumes").join(name).join("data")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        let socket = self.0.path().join("socket");
        command.arg("run").arg("--root").arg(self.root());
        command.args(["--grace-ms", "0", "--listen"]).arg(format!("unix:{}", socket.display()));
        command.args(arguments).env_remove("SEALIFT_LOG").stderr(Stdio::piped());
        command
    }

    pub fn start(&self, arguments: &[&str]) -> Agent {
        Agent(Some(self.command(arguments).spawn().unwrap()))
    }

    /// A connection to the agent, which may still be starting.
    pub fn connect(&self, agent: &mut Agent) -> UnixStream {
        loop {
            if let Ok(mut stream) = UnixStream::connect(self.0.path().join("socket")) {
                stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                // A killed one's socket may still take a connection, and never answers.
                let hello = HelloRequest { version: VERSION, after: None }.encode();
                if std::io::Write::write_all(&mut stream, &frames(&[("Hello", hello)])).is_ok()
                    && answer(&mut stream).is_some_and(|answer| answer.is_ok())
                {
                    return stream;
                }
            }
            agent.still_runs();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn bring(&self, agent: &mut Agent, name: &str, sequence: u64, files: &[(&str, &[u8])]) {
        let messages = conversation(&volume(name), Category::Secret, sequence, files);
        self.say(agent, &messages);
    }

    /// Says a whole conversation on a connection of its own.
    pub fn say(&self, agent: &mut Agent, messages: &[(&str, Vec<u8>)]) {
        let refusals = say(&mut self.connect(agent), messages);
        assert!(refusals.iter().all(Option::is_none), "{refusals:?}");
    }

    pub fn shows(&self, name: &str, files: &[(&str, &[u8])]) {
        let files: BTreeMap<_, _> =
            files.iter().map(|(path, content)| ((*path).to_owned(), content.to_vec())).collect();
        assert_eq!(read(&self.data(name)), files);
    }

    pub fn drop_volume(&self, agent: &mut Agent, name: &str) {
        let hello = HelloRequest { version: VERSION, after: None }.encode();
        let request = DropRequest { volume: volume(name) }.encode();
        let messages = [("Hello", hello), ("Drop", request)];
        self.say(agent, &messages);
    }

    /// Where something is mounted below the root, and the names that are there.
    pub fn residue(&self) -> (Vec<String>, Vec<String>) {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let prefix = format!("{}/", self.root().display());
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let mounts = points.filter_map(|point| point.strip_prefix(&prefix)).map(str::to_owned);
        let mut names = Vec::new();
        for place in ["new", "volumes"] {
            for entry in fs::read_dir(self.root().join(place)).unwrap() {
                names.push(entry.unwrap().file_name().into_string().unwrap());
            }
        }
        (mounts.collect(), names)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        unmount_below(self.0.path());
    }
}

/// So that a place can be removed.
pub fn unmount_below(place: &Path) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    for point in points.filter(|point| Path::new(point).starts_with(place)).rev() {
        let _ = unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }
}

/// One that was started; killed when the test forgets it.
pub struct Agent(pub Option<Child>);

impl Agent {
    pub fn id(&self) -> i32 {
        i32::try_from(self.0.as_ref().unwrap().id()).unwrap()
    }

    pub fn still_runs(&mut self) {
        let child = self.0.as_mut().unwrap();
        if let Some(status) = child.try_wait().unwrap() {
            let (_, said) = self.end();
            panic!("it ended, {status}: {said}");
        }
    }

    /// The process that it started.
    pub fn receiver(&self) -> i32 {
        let path = format!("/proc/{0}/task/{0}/children", self.id());
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    /// Its end, awaited, and what it said.
    pub fn end(&mut self) -> (ExitStatus, String) {
        let mut child = self.0.take().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (child.wait().unwrap(), said)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn kill(process: i32) {
    kill_process(Pid::from_raw(process).unwrap(), Signal::KILL).unwrap();
}

/// Waits until a process that is not our child is gone, or waits for whoever should bury it.
pub fn gone(process: i32) {
    // Far longer than it takes: else it never ends.
    for _ in 0..12_000 {
        match fs::read_to_string(format!("/proc/{process}/stat")) {
            Ok(stat) if !stat.contains(") Z ") => std::thread::sleep(Duration::from_millis(5)),
            _ => return,
        }
    }
    panic!("{process} goes on alone");
}
