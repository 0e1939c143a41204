//! A small world on loopback: a directory, a tmpfs, servers, and the promise that all of it is gone
//! afterwards, however the recipe ends.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;
use crate::setup;

/// Longest time that a server may take to listen.
const START_MAX: Duration = Duration::from_secs(60);

/// Cleans up when its stdin ends, so also after an interrupt or a kill of the recipe: stops the
/// processes whose ids it read, unmounts the tmpfs, removes both directories.
const JANITOR: &str = r#"
pids=
while read -r pid; do pids="$pids $pid"; done
if [ -n "$pids" ]; then
    kill $pids
    tries=0
    while kill -0 $pids && [ $((tries += 1)) -le 50 ]; do sleep 0.1; done
    kill -9 $pids
fi
umount "$2"
rm -rf "$1" "$2"
"#;

/// What a recipe runs in.
pub(crate) struct World {
    dir: PathBuf,
    memory: PathBuf,
    mounted: bool,
    programs: PathBuf,
    servers: Vec<Child>,
    janitor: Child,
    janitor_stdin: Option<ChildStdin>,
}

impl World {
    /// A new one for `recipe`, whose tmpfs holds up to `memory_bytes`; `programs` holds ours.
    pub(crate) fn new(recipe: &str, memory_bytes: u64, programs: PathBuf) -> Result<Self> {
        let name = format!("sealift-{recipe}-{}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mount_point = dir.join("memory");
        fs::create_dir(&mount_point)?;
        let mounted = setup::is_root()? && mount_tmpfs(&mount_point, memory_bytes)?;
        let memory = if mounted { mount_point } else { Path::new("/dev/shm").join(&name) };
        let mut janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor"])
            .args([&dir, &memory])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Its own group: an interrupt at the terminal must not reach it.
            .process_group(0)
            .spawn()?;
        let janitor_stdin = janitor.stdin.take();
        if !mounted {
            fs::create_dir(&memory)
                .context("no tmpfs: neither may we mount one nor use /dev/shm")?;
        }
        Ok(Self { dir, memory, mounted, programs, servers: Vec::new(), janitor, janitor_stdin })
    }

    /// A file or directory on disk.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A file or directory in memory.
    pub(crate) fn memory(&self, name: &str) -> PathBuf {
        self.memory.join(name)
    }

    /// What that memory is, for people.
    pub(crate) fn memory_kind(&self) -> String {
        let how = if self.mounted { "mounted" } else { "found" };
        format!("tmpfs, {how} at {}", self.memory.display())
    }

    /// Gives files made from now on pages of 2 MiB, or of 4 KiB again. False where we could not
    /// mount a tmpfs of our own.
    pub(crate) fn huge_pages(&self, on: bool) -> Result<bool> {
        if self.mounted {
            let options = format!("remount,huge={}", if on { "always" } else { "never" });
            process::capture(Command::new("mount").args(["-o", &options]).arg(&self.memory))?;
        }
        Ok(self.mounted)
    }

    /// The directory of our programs.
    pub(crate) fn programs(&self) -> &Path {
        &self.programs
    }

    /// One of our programs, by its name or its path, free of settings that the user's environment
    /// may hold.
    pub(crate) fn program(&self, name: impl AsRef<Path>) -> Command {
        let mut command = Command::new(self.programs.join(name));
        for (variable, _) in std::env::vars_os() {
            let text = variable.to_string_lossy().to_ascii_uppercase();
            let ours = ["SEALIFT_", "CONFIDENTIAL_", "AWS_", "S3_", "CDH_"];
            if ours.iter().any(|prefix| text.starts_with(prefix)) || text.ends_with("_PROXY") {
                command.env_remove(variable);
            }
        }
        command
    }

    /// Starts a server that serves until the world ends. Its output goes to a log file. Its process
    /// id is nobody else's until then, even if it ends.
    pub(crate) fn serve(&mut self, name: &str, command: &mut Command) -> Result<u32> {
        let log = File::create(self.path(&format!("{name}.log")))?;
        let server = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", process::line(command)))?;
        if let Some(stdin) = &mut self.janitor_stdin {
            writeln!(stdin, "{}", server.id())?;
        }
        let pid = server.id();
        self.servers.push(server);
        Ok(pid)
    }

    /// Waits until the server started last has `ready`, and fails with its log if it ends first.
    pub(crate) fn wait<T>(
        &mut self,
        name: &str,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + START_MAX;
        loop {
            if let Some(value) = ready() {
                return Ok(value);
            }
            let server = self.servers.last_mut().context("no server was started")?;
            if server.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("{name} does not start:\n{}", self.log(name));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the server started last listens on `port`.
    pub(crate) fn wait_for_port(&mut self, name: &str, port: u16) -> Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        self.wait(name, || TcpStream::connect(address).ok().map(drop))
    }

    /// What a server has written.
    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.janitor_stdin.take());
        for server in &mut self.servers {
            let _ = server.wait();
        }
        let _ = self.janitor.wait();
    }
}

/// False if this root may not mount, as in most containers.
fn mount_tmpfs(at: &Path, bytes: u64) -> Result<bool> {
    // Pages of 4 KiB: what a memory volume in Kubernetes has.
    let options = format!("size={bytes},mode=0755,nosuid,nodev,huge=never");
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &options, "sealift"]).arg(at);
    Ok(process::output(&mut mount)?.status.success())
}

/// A loopback port that was free a moment ago, for servers that cannot pick one themselves.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
