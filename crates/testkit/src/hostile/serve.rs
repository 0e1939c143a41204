//! Connections: reading requests, writing answers, and breaking off.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::answer::{Answer, Body, answer, decoded};
use super::{Fault, Seen, Served, Shared, lock, slice};

/// The longest request head that is read.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How much of a body is written at once.
const WRITE_BYTES: usize = 256 * 1024;
const TRICKLE: Duration = Duration::from_millis(20);

pub(super) async fn run(listener: TcpListener, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (shared, tls) = (shared.clone(), tls.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            // How a connection ends is the client's business.
            let _ = match tls {
                None => connection(stream, &shared).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => connection(stream, &shared).await,
                    Err(error) => Err(error),
                },
            };
        });
    }
}

/// A connection whose socket can be reached below TLS.
trait Socket: AsyncRead + AsyncWrite + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl Socket for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Socket for tokio_rustls::server::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

enum After {
    Next,
    Close,
}

async fn connection(mut stream: impl Socket, shared: &Shared) -> io::Result<()> {
    let mut input = Vec::new();
    while let Some(head) = head(&mut stream, &mut input).await? {
        let Some((mut seen, body_bytes)) = parse(&head) else { return Ok(()) };
        while input.len() < body_bytes {
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        }
        let body: Bytes = input.drain(..body_bytes).collect();

        let slot = {
            let mut log = lock(&shared.log);
            seen.index = log.len();
            let same = |served: &&Served| {
                served.request.method == seen.method && served.request.object == seen.object
            };
            seen.nth = log.iter().filter(same).count();
            log.push(Served { request: seen.clone(), bytes: 0 });
            seen.index
        };
        let plan = lock(&shared.plan).clone();
        let fault = plan.and_then(|plan| plan(&seen));
        let answer = answer(shared, &seen, body, fault.as_ref());
        let count = |bytes: usize| {
            if let Some(served) = lock(&shared.log).get_mut(slot) {
                served.bytes += bytes as u64;
            }
        };
        match reply(&mut stream, answer, seen.method == "HEAD", fault, &count).await? {
            After::Next => {}
            After::Close => break,
        }
    }
    stream.shutdown().await
}

/// The next request's head, without the empty line; what was read beyond it stays in `input`.
async fn head(stream: &mut impl Socket, input: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        if let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&input[..end]).into_owned();
            input.drain(..end + 4);
            return Ok(Some(head));
        }
        if input.len() > HEAD_BYTES_MAX || stream.read_buf(input).await? == 0 {
            return Ok(None);
        }
        if !input[0].is_ascii_uppercase() {
            // TLS, most likely. What web servers say to that.
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await?;
            return Ok(None);
        }
    }
}

fn parse(head: &str) -> Option<(Seen, usize)> {
    let mut lines = head.split("\r\n");
    let mut start = lines.next()?.split(' ');
    let (method, target) = (start.next()?, start.next()?);
    // A client that takes us for a proxy sends the whole URL.
    let target = target
        .strip_prefix("http://")
        .map_or(target, |url| url.find('/').map_or("/", |at| &url[at..]));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut seen = Seen {
        index: 0,
        nth: 0,
        method: method.to_owned(),
        host: String::new(),
        object: decoded(path.strip_prefix('/')?),
        query: query.to_owned(),
        range: None,
        if_match: None,
        authorization: None,
    };
    let mut body_bytes = 0;
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => body_bytes = value.parse().ok()?,
            "host" => seen.host = value.to_owned(),
            "authorization" => seen.authorization = Some(value.to_owned()),
            "if-match" => seen.if_match = Some(value.to_owned()),
            "range" => {
                let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
                seen.range = Some(first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?);
            }
            _ => {}
        }
    }
    Some((seen, body_bytes))
}

async fn reply(
    stream: &mut impl Socket,
    answer: Answer,
    head_only: bool,
    fault: Option<Fault>,
    count: &(dyn Fn(usize) + Sync),
) -> io::Result<After> {
    if fault == Some(Fault::NotHttp) {
        stream.write_all(&[0xa5; 512]).await?;
        return Ok(After::Close);
    }
    let chunked = matches!(fault, Some(Fault::Longer { .. } | Fault::Endless)) && !head_only;
    let mut head = format!("HTTP/1.1 {} Planned\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let length = answer.body.length();
    let off_by = if let Some(Fault::ClaimLength { off_by }) = fault { off_by } else { 0 };
    match chunked {
        true => head.push_str("Transfer-Encoding: chunked\r\n"),
        false => {
            head.push_str(&format!("Content-Length: {}\r\n", length.saturating_add_signed(off_by)))
        }
    }
    head.push_str("\r\n");
    if let Some(Fault::CutHead { after }) = fault {
        stream.write_all(&head.as_bytes()[..after.min(head.len())]).await?;
        return Ok(After::Close);
    }
    stream.write_all(head.as_bytes()).await?;
    if head_only {
        return Ok(After::Next);
    }

    let good = match fault {
        Some(
            Fault::Cut { after }
            | Fault::Reset { after }
            | Fault::Stall { after }
            | Fault::Garbage { after },
        ) => after.min(length),
        _ => length,
    };
    let mut offset = 0;
    while offset < good {
        let room = usize::try_from(good - offset).unwrap_or(usize::MAX).min(WRITE_BYTES);
        let (room, pause) = match fault {
            Some(Fault::Slow { bytes_per_second }) => {
                let step = usize::try_from(bytes_per_second / 50).unwrap_or(usize::MAX).max(1);
                (room.min(step), TRICKLE)
            }
            _ => (room, Duration::ZERO),
        };
        let bytes = piece(&answer.body, offset, room);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        if chunked {
            stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes()).await?;
        }
        stream.write_all(&bytes).await?;
        if chunked {
            stream.write_all(b"\r\n").await?;
        }
        count(bytes.len());
        offset += bytes.len() as u64;
    }

    match fault {
        Some(Fault::Cut { .. }) => Ok(After::Close),
        Some(Fault::ClaimLength { .. }) => Ok(After::Close),
        Some(Fault::Reset { .. }) => {
            stream.flush().await?;
            stream.tcp().set_zero_linger()?;
            // Closed here, with the reset, since the caller would say goodbye first.
            Err(io::ErrorKind::ConnectionReset.into())
        }
        Some(Fault::Stall { .. }) => {
            stream.flush().await?;
            // Until the client gives up.
            while stream.read(&mut [0; 64]).await? > 0 {}
            Ok(After::Close)
        }
        Some(Fault::Garbage { .. }) => {
            let rest = usize::try_from(length - good).unwrap_or(usize::MAX);
            for start in (0..rest).step_by(WRITE_BYTES) {
                let bytes = vec![0xa5; WRITE_BYTES.min(rest - start)];
                stream.write_all(&bytes).await?;
                count(bytes.len());
            }
            Ok(After::Next)
        }
        Some(Fault::Longer { by }) => {
            let extra = vec![0xa5; usize::try_from(by).unwrap_or(0)];
            stream.write_all(format!("{by:x}\r\n").as_bytes()).await?;
            stream.write_all(&extra).await?;
            stream.write_all(b"\r\n0\r\n\r\n").await?;
            count(extra.len());
            Ok(After::Next)
        }
        Some(Fault::Endless) => loop {
            stream.write_all(b"1000\r\n").await?;
            stream.write_all(&[0xa5; 0x1000]).await?;
            stream.write_all(b"\r\n").await?;
            count(0x1000);
        },
        _ => Ok(After::Next),
    }
}

fn piece(body: &Body, offset: u64, room: usize) -> Bytes {
    match body {
        Body::Bytes(bytes) => slice(bytes, offset, room),
        Body::Object(object, range) => {
            let mut bytes = (object.make)(range.start + offset, room);
            bytes.truncate(room);
            bytes
        }
    }
}
