//! A real OpenBao server, for tests of what Vault means. It keeps everything in memory.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::{Server, named_by};

/// How long the server may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A running server, killed when dropped.
#[derive(Debug)]
pub struct Bao {
    server: Server,
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
        let Some(program) = named_by("SEALIFT_BAO") else { return Ok(None) };
        let home = TempDir::new()?;
        let command = |port: u16| {
            let mut command = Command::new(&program);
            command.args(["server", "-dev", "-dev-no-store-token"]).env("HOME", home.path());
            command.arg(format!("-dev-root-token-id={}", Self::ROOT));
            command.arg(format!("-dev-listen-address=127.0.0.1:{port}"));
            command
        };
        // The engines of dev mode are there.
        let ready = |port| {
            let answer = call(port, Self::ROOT, "GET", "sys/mounts/secret", Value::Null);
            matches!(answer, Ok((200, _)))
        };
        let server = Server::start_until(command, ready)?;
        let this = Self { server, _home: home };
        this.must("POST", "sys/mounts/transit", json!({"type": "transit"}))?;
        Ok(Some(this))
    }

    /// `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.port())
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
        call(self.server.port(), token, method, path, body)
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
        self.server.kill();
    }
}

fn call(port: u16, token: &str, method: &str, path: &str, body: Value) -> Result<(u16, Value)> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
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
