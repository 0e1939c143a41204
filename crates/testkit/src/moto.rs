//! AWS KMS as `moto` plays it, for tests of what KMS means. It encrypts for real and checks key and
//! context; it checks no signature.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// How long the server may take to answer; Python takes some seconds.
const START_TIME_MAX: Duration = Duration::from_secs(120);
/// Another process may take the port between our choice and the server's start.
const START_ATTEMPTS_MAX: usize = 5;

/// A running server, killed when dropped.
#[derive(Debug)]
pub struct Moto {
    child: Child,
    port: u16,
}

impl Moto {
    /// The region of its keys.
    pub const REGION: &str = "eu-central-1";

    /// Starts a server; `None`, and a note, if `SEALIFT_MOTO` names no program.
    ///
    /// # Errors
    /// If the server does not come up.
    pub fn start() -> Result<Option<Self>> {
        let Some(program) = std::env::var_os("SEALIFT_MOTO").filter(|path| !path.is_empty()) else {
            crate::skip("SEALIFT_MOTO names no moto_server");
            return Ok(None);
        };
        let mut attempt = 1;
        loop {
            match Self::launch(Path::new(&program)) {
                Ok(server) => return Ok(Some(server)),
                Err(error) if attempt == START_ATTEMPTS_MAX => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    fn launch(program: &Path) -> Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut server = Self { child, port };
        let since = Instant::now();
        while !matches!(server.call("ListKeys", json!({})), Ok((200, _))) {
            if let Some(status) = server.child.try_wait()? {
                bail!("moto ended with {status}");
            }
            ensure!(since.elapsed() < START_TIME_MAX, "moto is not ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
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
        let (status, answer) = self.call(operation, body)?;
        ensure!(status == 200, "{operation}: {status} {answer}");
        Ok(answer)
    }

    fn call(&self, operation: &str, body: Value) -> Result<(u16, Value)> {
        let body = body.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(START_TIME_MAX))?;
        write!(
            stream,
            "POST / HTTP/1.0\r\nX-Amz-Target: TrentService.{operation}\r\n\
             Content-Type: application/x-amz-json-1.1\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=a/20260101/{}/kms/aws4_request, \
             SignedHeaders=host, Signature=0\r\nContent-Length: {}\r\n\r\n{body}",
            Self::REGION,
            body.len(),
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, serde_json::from_str(body).unwrap_or_default()))
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
