//! The socket: frames in, answers out, a few at a time.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::geteuid;
use seal::name::ResourceUri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use volumes::audience::File;
use volumes::wire::cdh::{Call, ERROR_PREFIX, PAYLOAD_BYTES_MAX, Status, answer_head};
use volumes::wire::frame::{HEADER_BYTES, Header, Kind, frame};
use zeroize::Zeroizing;

use super::metrics::Metrics;
use crate::code::Code;
use crate::failure::{Failure, chain};
use crate::opener::Opener;

/// Connections at a time; further ones are closed.
const CONNECTIONS_MAX: usize = 32;
/// Requests at a time, of all connections: each may take three times its value's memory.
const REQUESTS_MAX: usize = 16;
/// From a frame's first byte to its last, either way.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause when a connection cannot be accepted: out of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Binds `path`. A socket that nobody listens to any more is replaced.
pub(super) async fn bind(path: &Path) -> Result<UnixListener, Failure> {
    let stale = UnixStream::connect(path).await.is_err_and(|error| {
        let is_socket = || path.symlink_metadata().is_ok_and(|it| it.file_type().is_socket());
        error.kind() == io::ErrorKind::ConnectionRefused && is_socket()
    });
    let bind = || {
        if stale {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().map_err(|error: io::Error| {
        Failure::usage(error.to_string())
            .at(path.display())
            .hint("Name a path in a directory that exists, where nobody listens yet")
    })
}

/// Serves whoever may ask, until the runtime ends.
pub(super) async fn serve(
    listener: &UnixListener,
    opener: Arc<Opener>,
    metrics: Arc<Metrics>,
) -> Result<(), Failure> {
    let served = Arc::new(Served { opener, metrics });
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let uid = stream.peer_cred().map(|peer| peer.uid());
        if !uid.is_ok_and(|uid| uid == 0 || uid == geteuid().as_raw()) {
            tracing::warn!("turned away a peer that is neither root nor this user");
            continue;
        }
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            tracing::warn!("turned away a connection: there are {CONNECTIONS_MAX}");
            continue;
        };
        let (served, requests) = (Arc::clone(&served), Arc::clone(&requests));
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &served, &requests).await {
                tracing::debug!(error = %chain(&*error), "a connection ended");
            }
            drop(permit);
        });
    }
}

struct Served {
    opener: Arc<Opener>,
    metrics: Arc<Metrics>,
}

type Ended = Box<dyn std::error::Error + Send + Sync>;

/// One connection to its end. Requests are answered as they are done, in any order.
async fn converse(
    stream: UnixStream,
    served: &Arc<Served>,
    requests: &Arc<Semaphore>,
) -> Result<(), Ended> {
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(Mutex::new(writer));
    loop {
        let mut header = [0; HEADER_BYTES];
        // Between two requests a peer may be silent for as long as it likes.
        if reader.read(&mut header[..1]).await? == 0 {
            return Ok(());
        }
        // Before the request takes any memory.
        let permit = Arc::clone(requests).acquire_owned().await?;
        let (header, payload) = timeout(FRAME_TIMEOUT, rest(&mut reader, header)).await??;
        let (served, writer) = (Arc::clone(served), Arc::clone(&writer));
        tokio::spawn(answer(served, writer, header.stream, payload, permit));
    }
}

async fn rest(
    reader: &mut OwnedReadHalf,
    mut header: [u8; HEADER_BYTES],
) -> Result<(Header, Vec<u8>), Ended> {
    reader.read_exact(&mut header[1..]).await?;
    let header = Header::parse_up_to(&header, PAYLOAD_BYTES_MAX)?;
    if header.kind != Kind::Request {
        return Err("a response that nobody asked for".into());
    }
    let mut payload = vec![0; header.payload_bytes];
    reader.read_exact(&mut payload).await?;
    Ok((header, payload))
}

async fn answer(
    served: Arc<Served>,
    writer: Arc<Mutex<OwnedWriteHalf>>,
    stream: u32,
    payload: Vec<u8>,
    _permit: OwnedSemaphorePermit,
) {
    let value = match Call::decode(&payload) {
        Ok(Call::Unseal(sealed)) => served.unseal(sealed, File::Unknown).await,
        Ok(Call::UnsealForItsFile(sealed)) => served.unseal(sealed, File::KeptByCaller).await,
        Ok(Call::Resource(name)) => served.resource(name).await,
        Ok(Call::Other) => Err(status(12, "only UnsealSecret and GetResource are served here")),
        Err(error) => Err(status(3, &error.to_string())),
    };
    let bytes = match value {
        Ok(value) => {
            let head = answer_head(stream, value.len());
            let mut bytes = Zeroizing::new(Vec::with_capacity(head.len() + value.len()));
            bytes.extend_from_slice(&head);
            bytes.extend_from_slice(&value);
            bytes
        }
        Err(status) => Zeroizing::new(frame(Kind::Response, stream, &status.encode())),
    };
    let mut writer = writer.lock().await;
    if !matches!(timeout(FRAME_TIMEOUT, writer.write_all(&bytes)).await, Ok(Ok(()))) {
        // Half an answer may be out: nothing can follow it.
        let _ = writer.shutdown().await;
    }
}

impl Served {
    async fn unseal(&self, sealed: &[u8], file: File<'_>) -> Result<Zeroizing<Vec<u8>>, Status> {
        let asked = Instant::now();
        let opened = self.opener.unseal(sealed, file).await;
        self.metrics.opened(opened.as_ref().err().map(Failure::code), asked.elapsed());
        opened.map(|opened| opened.plaintext).map_err(|failure| refused(&failure))
    }

    async fn resource(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, Status> {
        let asked = Instant::now();
        let released = match ResourceUri::parse(name) {
            Ok(resource) => self.opener.resource(&resource, "GetResource").await,
            Err(error) => Err(Failure::from(error).recode(Code::Usage)),
        };
        self.metrics.fetched(released.as_ref().err().map(Failure::code), asked.elapsed());
        let released = released.map_err(|failure| refused(&failure))?;
        Ok(Zeroizing::new(released.expose().to_vec()))
    }
}

/// The failure as upstream's clients expect it, with our code in front.
fn refused(failure: &Failure) -> Status {
    // google.rpc.Code
    let code = match failure.code() {
        Code::Usage => 3,
        Code::KeyNotFound => 5,
        Code::KeyDenied => 7,
        Code::Tampered | Code::Mismatch | Code::KeyUnusable | Code::Audience => 9,
        Code::Network | Code::KeyUnreachable => 14,
        Code::Attestation => 16,
        _ => 13,
    };
    status(code, &format!("{} {}: {}", failure.code(), failure.code().slug(), failure.what()))
}

fn status(code: u32, message: &str) -> Status {
    Status { code, message: format!("{ERROR_PREFIX}{message}") }
}
