//! AWS KMS as `moto` plays it, for tests of what KMS means. It encrypts for real and checks key and
//! context; it checks no signature.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::server::{Server, named_by};

/// How long the server may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// A running server, killed when dropped.
#[derive(Debug)]
pub struct Moto {
    server: Server,
}

impl Moto {
    /// The region of its keys.
    pub const REGION: &str = "eu-central-1";

    /// Starts a server; `None`, and a note, if `SEALIFT_MOTO` names no program.
    ///
    /// # Errors
    /// If the server does not come up.
    pub fn start() -> Result<Option<Self>> {
        let Some(program) = named_by("SEALIFT_MOTO") else { return Ok(None) };
        let command = |port: u16| {
            let mut command = Command::new(&program);
            command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
            command
        };
        let ready = |port| matches!(call(port, "ListKeys", json!({})), Ok((200, _)));
        Ok(Some(Self { server: Server::start_until(command, ready)? }))
    }

    /// `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.port())
    }

    /// A new symmetric key's id.
    ///
    /// # Errors
    /// If the server makes none.
    pub fn key(&self) -> Result<String> {
        let made = self.must("CreateKey", json!({}))?;
        Ok(made["KeyMetadata"]["KeyId"].as_str().context("no key id")?.to_owned())
    }

    /// One operation of KMS, which must succeed.
    ///
    /// # Errors
    /// If it does not.
    pub fn must(&self, operation: &str, body: Value) -> Result<Value> {
        let (status, answer) = call(self.server.port(), operation, body)?;
        ensure!(status == 200, "{operation}: {status} {answer}");
        Ok(answer)
    }
}

fn call(port: u16, operation: &str, body: Value) -> Result<(u16, Value)> {
    let body = body.to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    write!(
        stream,
        "POST / HTTP/1.0\r\nX-Amz-Target: TrentService.{operation}\r\n\
         Content-Type: application/x-amz-json-1.1\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=a/20260101/{}/kms/aws4_request, \
         SignedHeaders=host, Signature=0\r\nContent-Length: {}\r\n\r\n{body}",
        Moto::REGION,
        body.len(),
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, serde_json::from_str(body).unwrap_or_default()))
}
