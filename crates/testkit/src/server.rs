//! A server of somebody else's, on a free port of this machine, that ends with its test.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long a server may take to listen; those in Python and JavaScript take some seconds.
const START_TIME_MAX: Duration = Duration::from_secs(120);
/// Another process may take the port between our choice and the server's start.
const START_ATTEMPTS_MAX: usize = 5;

/// A running server, killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// Starts what `command` makes for a port, and waits until it listens there.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(command: impl Fn(u16) -> Command) -> Result<Self> {
        Self::start_until(command, |port| TcpStream::connect(("127.0.0.1", port)).is_ok())
    }

    /// The same, waiting until `ready` says so.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start_until(
        command: impl Fn(u16) -> Command,
        ready: impl Fn(u16) -> bool,
    ) -> Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::launch(&command, &ready) {
                Ok(server) => return Ok(server),
                Err(error) if attempt == START_ATTEMPTS_MAX => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    fn launch(command: impl Fn(u16) -> Command, ready: impl Fn(u16) -> bool) -> Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut command = command(port);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let name = command.get_program().display().to_string();
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let mut server = Self { child, port };
        let since = Instant::now();
        while !ready(port) {
            if let Some(status) = server.child.try_wait()? {
                bail!("{name} ended with {status}");
            }
            ensure!(since.elapsed() < START_TIME_MAX, "{name} is not ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Ends it now.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program that a variable names, or `None` with a note.
#[must_use]
pub fn named_by(variable: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).filter(|path| !path.is_empty());
    if program.is_none() {
        crate::skip(format!("{variable} names no program"));
    }
    program.map(PathBuf::from)
}
