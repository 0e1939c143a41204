//! A real software TPM 2.0, `swtpm`.

use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// How long the TPM may take to listen; it takes some tens of milliseconds.
const START_TIME_MAX: Duration = Duration::from_secs(20);

/// A running TPM with a state of its own, started and empty. Killed when dropped.
#[derive(Debug)]
pub struct Swtpm {
    child: Child,
    dir: TempDir,
}

impl Swtpm {
    /// Starts a TPM, or gives `None` with a note on standard error if there is no `swtpm`: at the
    /// path in `SEALIFT_SWTPM`, else in `PATH`. With `SEALIFT_TEST_STRICT=1`, as in CI, its absence
    /// is an error.
    ///
    /// # Errors
    /// If the TPM does not come up.
    pub fn start() -> Result<Option<Self>> {
        let program = std::env::var_os("SEALIFT_SWTPM").unwrap_or_else(|| OsString::from("swtpm"));
        let dir = TempDir::new()?;
        let at = |name: &str| dir.path().join(name).display().to_string();
        let started = Command::new(&program)
            .args(["socket", "--tpm2", "--flags", "startup-clear", "--tpmstate"])
            .arg(format!("dir={}", dir.path().display()))
            .args(["--server", &format!("type=unixio,path={}", at("tpm"))])
            // tpm2-tools ask there first.
            .args(["--ctrl", &format!("type=unixio,path={}", at("tpm.ctrl"))])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match started {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let why = "swtpm is neither named by SEALIFT_SWTPM nor in PATH";
                if std::env::var_os("SEALIFT_TEST_STRICT").is_some_and(|strict| strict == "1") {
                    bail!(why);
                }
                crate::skip(why);
                return Ok(None);
            }
            started => started.with_context(|| format!("cannot start {program:?}"))?,
        };
        let mut swtpm = Self { child, dir };
        let deadline = Instant::now() + START_TIME_MAX;
        while UnixStream::connect(swtpm.socket()).is_err() {
            if let Some(status) = swtpm.child.try_wait()? {
                bail!("swtpm ended with {status}");
            }
            if Instant::now() > deadline {
                bail!("swtpm does not listen");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(swtpm))
    }

    /// Where it takes commands.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("tpm")
    }

    /// A directory for files of the test's.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs one of the tpm2-tools against it and gives back its standard output: a second opinion,
    /// and a hand for what only tests need. `None`, with a note, if they are not installed.
    ///
    /// # Errors
    /// If the tool fails.
    pub fn tool(&self, name: &str, arguments: &[&str]) -> Result<Option<String>> {
        let output = Command::new(name)
            .args(arguments)
            .current_dir(self.dir.path())
            .env("TPM2TOOLS_TCTI", format!("swtpm:path={}", self.socket().display()))
            .output();
        let output = match output {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if std::env::var_os("SEALIFT_TEST_STRICT").is_some_and(|strict| strict == "1") {
                    bail!("{name} is not in PATH");
                }
                crate::skip(format!("{name} is not in PATH"));
                return Ok(None);
            }
            output => output?,
        };
        if !output.status.success() {
            bail!("{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
