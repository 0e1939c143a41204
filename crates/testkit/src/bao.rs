//! A real OpenBao server, for tests of what Vault means. It keeps everything in memory.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long the server may take to be ready; it takes a second.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// Another process may take the port between our choice and the server's start.
const START_ATTEMPTS_MAX: usize = 5;

/// A running server, killed when dropped.
#[derive(Debug)]
pub struct Bao {
    child: Child,
    port: u16,
    _home: TempDir,
}

impl Bao {
    /// The token that may do everything.
    pub const ROOT: &str = "root-of-the-tests";

    /// Starts a server with the engines `transit` and `secret` (KV version 2); `None`, and a note,
    /// if `SEALIFT_BAO` names no program.
    ///
    /// # Errors
    /// If the server does not come up.
    pub fn start() -> Result<Option<Self>> {
        let Some(program) = std::env::var_os("SEALIFT_BAO").filter(|path| !path.is_empty()) else {
            crate::skip("SEALIFT_BAO names no OpenBao");
            return Ok(None);
        };
        let mut attempt = 1;
        loop {
            match Self::launch(&PathBuf::from(&program)) {
                Ok(server) => return Ok(Some(server)),
                Err(error) if attempt == START_ATTEMPTS_MAX => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    fn launch(program: &PathBuf) -> Result<Self> {
        let home = TempDir::new()?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let child = Command::new(program)
            .args(["server", "-dev", "-dev-no-store-token"])
            .arg(format!("-dev-root-token-id={}", Self::ROOT))
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut server = Self { child, port, _home: home };
        server.wait()?;
        server.must("POST", "sys/mounts/transit", json!({"type": "transit"}))?;
        Ok(server)
    }

    /// Waits until the engines of dev mode are there.
    fn wait(&mut self) -> Result<()> {
        let since = Instant::now();
        while !matches!(
            self.call(Self::ROOT, "GET", "sys/mounts/secret", Value::Null),
            Ok((200, _))
        ) {
            if let Some(status) = self.child.try_wait()? {
                bail!("OpenBao ended with {status}");
            }
            ensure!(since.elapsed() < START_TIME_MAX, "OpenBao is not ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// One request by the root, which must succeed: the answer's `data` or `auth`.
    ///
    /// # Errors
    /// If it does not.
    pub fn must(&self, method: &str, path: &str, body: Value) -> Result<Value> {
        let (status, mut answer) = self.call(Self::ROOT, method, path, body)?;
        ensure!((200..300).contains(&status), "{path}: {status} {answer}");
        Ok(match &answer["auth"] {
            Value::Null => answer["data"].take(),
            _ => answer["auth"].take(),
        })
    }

    /// One request for `/v1/<path>`: status and body.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn call(&self, token: &str, method: &str, path: &str, body: Value) -> Result<(u16, Value)> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(START_TIME_MAX))?;
        // HTTP/1.0, so that the answer is neither chunked nor followed by another.
        write!(
            stream,
            "{method} /v1/{path} HTTP/1.0\r\nX-Vault-Token: {token}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, serde_json::from_str(body).unwrap_or_default()))
    }

    /// A token that may do what `rules` say, in the server's policy language.
    ///
    /// # Errors
    /// If the server makes none.
    pub fn token(&self, name: &str, rules: &str) -> Result<String> {
        self.must("POST", &format!("sys/policies/acl/{name}"), json!({"policy": rules}))?;
        let auth = self.must("POST", "auth/token/create", json!({"policies": [name]}))?;
        Ok(auth["client_token"].as_str().context("no token")?.to_owned())
    }

    /// Ends the server as a crash does.
    pub fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        self.kill();
    }
}
