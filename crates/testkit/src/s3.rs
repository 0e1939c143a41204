//! A real S3 server, `s3s-fs`, for tests of what S3 means.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::server::Server;

/// A running server with one bucket, killed when dropped.
#[derive(Debug)]
pub struct S3Server {
    server: Server,
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
        let root = TempDir::new()?;
        std::fs::create_dir(root.path().join(Self::BUCKET))?;
        let server = Server::start(|port| {
            let mut command = Command::new(&program);
            command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
            command.args(["--access-key", Self::ACCESS_KEY, "--secret-key", Self::SECRET_KEY]);
            command.arg(root.path()).env("RUST_LOG", "error");
            command
        })?;
        Ok(Some(Self { server, root }))
    }

    /// `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.port())
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

fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SEALIFT_S3S_FS").filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    let path: OsString = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("s3s-fs")).find(|program| program.is_file())
}
