//! HTTP/1.1 by hand: a server library would not let us break its rules.

use std::io::{Error, Result};
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Fault, State};

/// Longest request line or header line, and most of them, that the fake reads.
const LINE_BYTES_MAX: u64 = 16 * 1024;
const LINES_MAX: usize = 64;
/// Longest request body that the fake reads.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// A request as received.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// An answer as the fake's honest half means it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

pub(super) async fn accept(listener: TcpListener, state: Arc<State>) {
    // Connections live in the set, so that they end with the server.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&state)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = Request::read(&mut stream).await? {
        let Some((answer, fault)) = state.answer(&request) else { return Ok(()) };
        let keep = deliver(stream.get_mut(), answer, fault).await?;
        if !keep || request.header("connection") == Some("close") {
            break;
        }
    }
    stream.get_mut().shutdown().await
}

impl Request {
    async fn read(stream: &mut BufReader<TcpStream>) -> Result<Option<Self>> {
        let start = read_line(stream).await?;
        let mut words = start.split(' ');
        let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
        let (method, path) = (method.to_owned(), path.to_owned());
        let mut headers = Vec::new();
        loop {
            let line = read_line(stream).await?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            if headers.len() > LINES_MAX {
                return Err(Error::other("too many headers"));
            }
        }
        let mut request = Self { method, path, headers, body: Vec::new() };
        let length: usize =
            request.header("content-length").map_or(Ok(0), str::parse).map_err(Error::other)?;
        if length > BODY_BYTES_MAX {
            return Err(Error::other("request body too large"));
        }
        request.body.resize(length, 0);
        stream.read_exact(&mut request.body).await?;
        Ok(Some(request))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    stream.take(LINE_BYTES_MAX).read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}

impl Answer {
    fn head(&self, framing: &str) -> String {
        let mut head = format!("HTTP/1.1 {} fake\r\n{framing}\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head + "\r\n"
    }
}

/// Sends `answer`, or what `fault` makes of it. Says whether the connection is still of use.
async fn deliver(stream: &mut TcpStream, answer: Answer, fault: Option<Fault>) -> Result<bool> {
    let head = answer.head(&format!("content-length: {}", answer.body.len()));
    match fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Close) => return Ok(false),
        Some(Fault::NotHttp) => {
            stream.write_all(b"220 mail.example ESMTP\r\n").await?;
            return Ok(false);
        }
        Some(Fault::Announce(length)) => {
            let head = answer.head(&format!("content-length: {length}"));
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&answer.body).await?;
            std::future::pending().await
        }
        Some(Fault::Endless) => {
            stream.write_all(answer.head("transfer-encoding: chunked").as_bytes()).await?;
            let chunk = format!("1000\r\n{}\r\n", "e".repeat(0x1000));
            loop {
                stream.write_all(chunk.as_bytes()).await?;
            }
        }
        Some(Fault::Cut) => {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&answer.body[..answer.body.len() / 2]).await?;
            return Ok(false);
        }
        Some(Fault::Slow(pause)) => {
            stream.set_nodelay(true)?;
            stream.write_all(head.as_bytes()).await?;
            for byte in answer.body {
                stream.write_all(&[byte]).await?;
                tokio::time::sleep(pause).await;
            }
        }
        _ => {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&answer.body).await?;
        }
    }
    Ok(true)
}
