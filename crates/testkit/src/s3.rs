//! A real S3 server, `s3s-fs`, for tests of what S3 means.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// How long the server may take to listen; it takes some milliseconds.
const START_TIME_MAX: Duration = Duration::from_secs(20);
/// Another process may take the port between our choice and the server's start.
const START_ATTEMPTS_MAX: usize = 5;

/// A running server with one bucket, killed when dropped.
#[derive(Debug)]
pub struct S3Server {
    child: Child,
    port: u16,
    root: TempDir,
}

impl S3Server {
    /// The access key that the server knows.
    pub const ACCESS_KEY: &str = "sealift-test";
    /// Its secret.
    pub const SECRET_KEY: &str = "sealift-test-secret";
    /// The bucket that exists.
    pub const BUCKET: &str = "models";

    /// Starts a server, or gives `None` with a note on standard error if there is no `s3s-fs`: at
    /// the path in `SEALIFT_S3S_FS`, else in `PATH`. With `SEALIFT_TEST_STRICT=1`, as in CI, its
    /// absence is an error.
    ///
    /// # Errors
    /// If the server does not come up.
    pub fn start() -> Result<Option<Self>> {
        let Some(program) = program() else {
            if std::env::var_os("SEALIFT_TEST_STRICT").is_some_and(|strict| strict == "1") {
                bail!("s3s-fs is neither named by SEALIFT_S3S_FS nor in PATH");
            }
            crate::skip("s3s-fs is neither named by SEALIFT_S3S_FS nor in PATH");
            return Ok(None);
        };
        let mut attempt = 1;
        loop {
            match Self::launch(&program) {
                Ok(server) => return Ok(Some(server)),
                Err(error) if attempt == START_ATTEMPTS_MAX => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    fn launch(program: &Path) -> Result<Self> {
        let root = TempDir::new()?;
        std::fs::create_dir(root.path().join(Self::BUCKET))?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let child = Command::new(program)
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--access-key", Self::ACCESS_KEY, "--secret-key", Self::SECRET_KEY])
            .arg(root.path())
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut server = Self { child, port, root };
        server.wait()?;
        Ok(server)
    }

    /// Waits until the server listens.
    fn wait(&mut self) -> Result<()> {
        let since = Instant::now();
        loop {
            match TcpStream::connect(("127.0.0.1", self.port)) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("s3s-fs ended with {status}");
            }
            if since.elapsed() > START_TIME_MAX {
                bail!("s3s-fs does not listen");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The variables with which any S3 client reaches it.
    #[must_use]
    pub fn env(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", Self::ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", Self::SECRET_KEY.to_owned()),
            ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
        ]
    }

    /// The bucket's directory: the server keeps an object as a file of that name, so tests can look
    /// and tamper.
    #[must_use]
    pub fn bucket_dir(&self) -> PathBuf {
        self.root.path().join(Self::BUCKET)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SEALIFT_S3S_FS").filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    let path: OsString = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("s3s-fs")).find(|program| program.is_file())
}
