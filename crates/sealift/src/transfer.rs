//! The data path: objects in, opened segments out, under one byte budget.
//!
//! Work is cut into *pieces*: runs of at most eight segments of one file, one ranged request each.
//! A few workers take pieces in turn from several files at once, because writers of one file would
//! only spin on its inode lock. A worker owns one segment buffer; frames are copied into it as they
//! arrive, the segment is opened in place while it is hot in the cache, written, and the buffer is
//! used again: memory is `workers × (segment + the client's own buffers)`, whatever the model's
//! size, and no byte is held longer than one segment's time.
//!
//! Opening and writing happen on the worker's own thread rather than on a second pool: a segment
//! takes about half a millisecond, and handing it to another core costs more in cache misses than
//! it gains (`docs/adr/0003-open-where-it-arrives.md`).

use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use futures::StreamExt;
use publish::{StagedFile, Staging};
use seal::name::{BundlePath, Digest};
use seal::segment::{FileKey, HEADER_BYTES, Header, Layout, SEGMENT_BYTES};
use store::Store;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::code::Code;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::retry::Backoff;
use crate::width::Width;

/// Segments in one ranged request: 8 MiB.
const PIECE_SEGMENTS: u32 = 8;
/// An object of at most so many bytes is one request anyway.
pub const PIECE_BYTES: u64 = PIECE_SEGMENTS as u64 * SEGMENT_BYTES as u64;

/// One object and what is to become of it.
#[derive(Debug)]
pub struct Item {
    /// The object's name below the prefix.
    pub object: String,
    /// How its bytes become the file's.
    pub content: Content,
}

/// How an object's bytes become a file's.
#[derive(Debug)]
pub enum Content {
    /// Sealed segments, opened and authenticated.
    Sealed {
        /// The file, for messages.
        path: BundlePath,
        /// The file's key.
        key: FileKey,
        /// The header that the manifest pins.
        header: Header,
        /// Where the segments lie.
        layout: Layout,
    },
    /// The bytes as they are. Only where the deployer allows plain models.
    Plain {
        /// Length in bytes.
        bytes: u64,
        /// The version that was planned with: nothing else tells that the object was replaced.
        etag: Option<String>,
        /// The server knows no ranges: the object is one request.
        whole: bool,
        /// What all of it must hash to before it counts as fetched, where the place says so.
        sha256: Option<Digest>,
    },
}

impl Content {
    /// Number of segments, at least 1.
    pub fn segments(&self) -> u32 {
        match self {
            Self::Sealed { layout, .. } => layout.segments(),
            Self::Plain { bytes, .. } => plain_segments(*bytes),
        }
    }

    /// Segments that one request asks for.
    fn piece_segments(&self) -> u32 {
        match self {
            // A digest is made in order.
            Self::Plain { whole: true, .. } | Self::Plain { sha256: Some(_), .. } => u32::MAX,
            _ => PIECE_SEGMENTS,
        }
    }

    /// The hash in the making, for what must be held against a digest.
    fn hash(&self) -> Option<digest::Context> {
        let hashed = matches!(self, Self::Plain { sha256: Some(_), .. });
        hashed.then(|| digest::Context::new(&digest::SHA256))
    }

    /// Compares the hash of all of its bytes.
    fn check(&self, hash: Option<digest::Context>) -> Result<(), Failure> {
        let (Self::Plain { sha256: Some(sha256), .. }, Some(hash)) = (self, hash) else {
            return Ok(());
        };
        match hash.finish().as_ref() == sha256.as_bytes() {
            true => Ok(()),
            false => Err(Failure::new(Code::Tampered, format!("its content is not {sha256}"))),
        }
    }

    /// The object's bytes of one segment; those of segment 0 begin with the header.
    fn object_range(&self, segment: u32) -> std::ops::Range<u64> {
        match self {
            Self::Sealed { layout, .. } => {
                let ciphertext = layout.span(segment).ciphertext;
                if segment == 0 { 0..ciphertext.end } else { ciphertext }
            }
            Self::Plain { bytes, .. } => {
                let start = u64::from(segment) * SEGMENT_BYTES as u64;
                start..(*bytes).min(start + SEGMENT_BYTES as u64)
            }
        }
    }

    /// Turns one segment's bytes into the file's, in place; also says where in the file they go.
    fn open<'a>(&self, segment: u32, wire: &'a mut [u8]) -> Result<(u64, &'a [u8]), Failure> {
        match self {
            Self::Sealed { path, key, header, layout } => {
                let span = layout.span(segment);
                let sealed = if segment == 0 {
                    let (found, rest) = wire.split_at_mut(HEADER_BYTES);
                    if found != header.as_bytes() {
                        return Err(seal::Error::Header { path: path.clone() }.into());
                    }
                    rest
                } else {
                    wire
                };
                let opened = key
                    .open(segment, span.last, sealed)
                    .map_err(|error| Failure::from(error).at(path))?;
                Ok((span.plaintext.start, opened))
            }
            Self::Plain { .. } => Ok((self.object_range(segment).start, wire)),
        }
    }
}

/// Number of pieces of [`SEGMENT_BYTES`] that a plain file is fetched in, at least 1.
pub fn plain_segments(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(SEGMENT_BYTES as u64).max(1)).unwrap_or(u32::MAX)
}

/// How patient a transfer is, and how wide.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most requests in flight; fewer while the store cannot bear as many (`width.rs`).
    pub workers: usize,
    /// Attempts at one piece that bring nothing new, before giving up.
    pub retries: u32,
    /// Longest time for one segment, however slowly it drips.
    pub segment: Duration,
    /// Longest time for the whole transfer.
    pub total: Duration,
}

/// Where opened segments go.
#[derive(Debug, Clone)]
pub enum Sink {
    /// Into the destination's staging directory.
    Staging(Arc<Staging>),
    /// Nowhere: authenticate and forget (`verify --key-file`).
    Discard,
    /// To somebody who needs each file's bytes in their order, and so from one worker.
    InOrder(Arc<dyn InOrder>),
}

/// Takes the bytes of files.
pub trait InOrder: std::fmt::Debug + Send + Sync {
    /// The next bytes of a file, by its index among the items.
    fn take(&self, file: usize, bytes: &[u8]);
}

impl Sink {
    fn is_done(&self, file: usize, segment: u32) -> bool {
        match self {
            Self::Staging(staging) => staging.is_done(file, segment),
            Self::Discard | Self::InOrder(_) => false,
        }
    }

    fn place(&self, file: usize) -> Result<Place, Failure> {
        Ok(match self {
            Self::Staging(staging) => Place::Staged(staging.open_file(file)?),
            Self::Discard => Place::Nowhere,
            Self::InOrder(taker) => Place::InOrder(Arc::clone(taker), file),
        })
    }
}

/// Where the bytes of one file go.
enum Place {
    Staged(StagedFile),
    InOrder(Arc<dyn InOrder>, usize),
    Nowhere,
}

/// Fetches, opens and writes every segment that the sink does not have yet. Ends with the first
/// failure that is not worth a retry.
pub async fn run(
    store: Store,
    items: Vec<Item>,
    sink: Sink,
    limits: Limits,
    progress: Arc<Progress>,
) -> Result<(), Failure> {
    let total = limits.total;
    let workers = match store.is_local() {
        // They read on the runtime's own threads; more would only take turns, each pushing the
        // others' segments out of the cache.
        true => limits.workers.min(Handle::current().metrics().num_workers()),
        false => limits.workers,
    };
    let workers = workers.max(1);
    let whole = matches!(sink, Sink::InOrder(_));
    let queue = Mutex::new(Queue::new(&items, workers, whole));
    let width = Width::new(workers);
    let transfer = Arc::new(Transfer { store, items, sink, limits, progress, queue, width });
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..workers {
        tasks.spawn(work(Arc::clone(&transfer)));
    }
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            ended
                .map_err(|error| Failure::new(Code::Bug, format!("a worker ended: {error}")))??;
        }
        Ok(())
    };
    let result = timeout(total, all).await.unwrap_or_else(|_| {
        Err(Failure::new(Code::Network, format!("not finished within {} s", total.as_secs()))
            .hint("Raise --timeout, or look at the store's rate in the progress lines"))
    });
    // Whoever is still under way ends before the caller decides what becomes of the sink.
    tasks.shutdown().await;
    result
}

struct Transfer {
    store: Store,
    items: Vec<Item>,
    sink: Sink,
    limits: Limits,
    progress: Arc<Progress>,
    queue: Mutex<Queue>,
    width: Width,
}

async fn work(transfer: Arc<Transfer>) -> Result<(), Failure> {
    let mut buffer = Vec::with_capacity(SEGMENT_BYTES);
    loop {
        let piece = transfer.queue.lock().expect("no holder of the queue panics").next();
        let Some(piece) = piece else { return Ok(()) };
        let begun = SystemTime::now();
        let done = transfer.piece(&piece, &mut buffer).await;
        transfer.progress.took(piece.file, begun);
        done?;
    }
}

impl Transfer {
    /// One piece to its end, over as many attempts as it takes while each brings something.
    async fn piece(&self, piece: &Piece, buffer: &mut Vec<u8>) -> Result<(), Failure> {
        let item = &self.items[piece.file];
        let mut out = Output { place: self.sink.place(piece.file)?, hash: item.content.hash() };
        let mut backoff = Backoff::new();
        let mut fruitless = 0;
        let mut next = piece.first;
        while let Some(run) = self.missing(piece, next) {
            next = run.start;
            let (failure, wish) = match self.turn(item, &mut out, &mut next, run.end, buffer).await
            {
                Ok(()) => continue,
                Err(Interruption::Final(failure)) => return Err(failure),
                Err(Interruption::Transient(failure, wish)) => (failure, wish),
            };
            if next > run.start {
                fruitless = 0;
                backoff = Backoff::new();
            }
            fruitless += 1;
            if fruitless > self.limits.retries {
                return Err(failure.at(format!("gave up after {fruitless} attempts")));
            }
            self.progress.retried();
            let delay = backoff.next_delay(wish.unwrap_or_default());
            tracing::warn!(
                object = %item.object,
                segment = next,
                attempt = fruitless,
                delay_ms = delay.as_millis(),
                reason = failure.what(),
                "retrying a range",
            );
            tokio::time::sleep(delay).await;
        }
        item.content.check(out.hash).map_err(|failure| failure.at(&item.object))?;
        self.progress.piece_done(piece.last_of_file);
        Ok(())
    }

    /// The next run of segments of `piece` from `from` on that the sink does not have.
    fn missing(&self, piece: &Piece, from: u32) -> Option<std::ops::Range<u32>> {
        let done = |segment: &u32| self.sink.is_done(piece.file, *segment);
        let start = (from..piece.end).find(|segment| !done(segment))?;
        let end = (start..piece.end).find(done).unwrap_or(piece.end);
        Some(start..end)
    }

    /// One attempt when the source can bear another request, which learns from how it went.
    async fn turn(
        &self,
        item: &Item,
        out: &mut Output,
        next: &mut u32,
        end: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Interruption> {
        let turn = self.width.enter().await;
        let result = self.attempt(item, out, next, end, buffer).await;
        match &result {
            Ok(()) => turn.went_well(),
            Err(Interruption::Transient(_, Some(wish))) => turn.was_too_much(*wish),
            // Says nothing about the source's strength.
            Err(_) => {}
        }
        result
    }

    /// One request for segments `*next..end`; `*next` counts up with every segment written.
    async fn attempt(
        &self,
        item: &Item,
        out: &mut Output,
        next: &mut u32,
        end: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Interruption> {
        if let Some(local) = self.store.local_file(&item.object) {
            let local = local?;
            return self.read_local(&local, item, out, next, end, buffer).await;
        }
        let range = item.content.object_range(*next).start..item.content.object_range(end - 1).end;
        // The store tells silence from slowness by itself; ours is the limit on slowness.
        let etag = match &item.content {
            // Segments prove by themselves what they are.
            Content::Sealed { .. } => None,
            Content::Plain { etag, .. } => etag.as_deref(),
        };
        let mut stream = self.store.stream(&item.object, range, etag).await?;
        buffer.clear();
        let mut wanted = segment_bytes(item, *next);
        let mut deadline = Instant::now() + self.limits.segment;
        // A plain file may be empty: its one segment is complete before the first frame.
        while *next < end && wanted == 0 {
            self.segment(item, out, *next, buffer)?;
            *next += 1;
        }
        while *next < end {
            let mut frame = timeout_at(deadline, stream.next())
                .await
                .map_err(|_| slow(item, self.limits.segment))?
                .expect("a stream ends with an error if it ends early")?;
            while !frame.is_empty() && *next < end {
                let part = frame.split_to(frame.len().min(wanted - buffer.len()));
                buffer.extend_from_slice(&part);
                if buffer.len() == wanted {
                    self.segment(item, out, *next, buffer)?;
                    *next += 1;
                    buffer.clear();
                    deadline = Instant::now() + self.limits.segment;
                    if *next < end {
                        wanted = segment_bytes(item, *next);
                    }
                }
            }
        }
        // The end of the body too: then the connection is used again.
        match timeout_at(deadline, stream.next()).await {
            Ok(None) => Ok(()),
            Ok(Some(frame)) => Ok(frame.map(drop)?),
            Err(_) => Err(slow(item, self.limits.segment)),
        }
    }

    async fn read_local(
        &self,
        local: &std::fs::File,
        item: &Item,
        out: &mut Output,
        next: &mut u32,
        end: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Interruption> {
        while *next < end {
            let range = item.content.object_range(*next);
            buffer.resize(segment_bytes(item, *next), 0);
            local.read_exact_at(buffer, range.start).map_err(|error| {
                let short = error.kind() == std::io::ErrorKind::UnexpectedEof;
                let code = if short { Code::Tampered } else { Code::NotFound };
                let what = if short {
                    "is shorter than its manifest says".into()
                } else {
                    error.to_string()
                };
                Interruption::Final(Failure::new(code, what).at(&item.object))
            })?;
            self.segment(item, out, *next, buffer)?;
            *next += 1;
            // Reading a local file never waits: let the progress line and signals have a turn.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn segment(
        &self,
        item: &Item,
        out: &mut Output,
        segment: u32,
        wire: &mut [u8],
    ) -> Result<(), Interruption> {
        let (offset, opened) = item.content.open(segment, wire).map_err(Interruption::Final)?;
        if let Some(hash) = &mut out.hash {
            hash.update(opened);
        }
        match &out.place {
            Place::Staged(file) => file
                .write_segment(segment, offset, opened)
                .map_err(|error| Interruption::Final(error.into()))?,
            Place::InOrder(taker, file) => taker.take(*file, opened),
            Place::Nowhere => {}
        }
        self.progress.add(opened.len() as u64);
        Ok(())
    }
}

/// Where the segments of a piece go.
struct Output {
    place: Place,
    hash: Option<digest::Context>,
}

/// Why an attempt ended early.
enum Interruption {
    /// The network or the store: worth another attempt. Where the store is asked for too much,
    /// how long it wants to be left alone.
    Transient(Failure, Option<Duration>),
    /// Not authentic, not writable, not allowed, not there.
    Final(Failure),
}

impl From<store::Error> for Interruption {
    fn from(error: store::Error) -> Self {
        match error.is_transient() {
            true => {
                let wish = error.overload();
                Self::Transient(error.into(), wish)
            }
            false => Self::Final(error.into()),
        }
    }
}

fn slow(item: &Item, limit: Duration) -> Interruption {
    let what = format!("one segment took over {} s", limit.as_secs());
    let failure = Failure::new(Code::Network, what).at(&item.object);
    Interruption::Transient(failure, Some(Duration::ZERO))
}

/// Bytes of one segment's range; at most [`SEGMENT_BYTES`].
fn segment_bytes(item: &Item, segment: u32) -> usize {
    let range = item.content.object_range(segment);
    usize::try_from(range.end - range.start).expect("a segment is at most 1 MiB")
}

/// A run of segments of one file.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    file: usize,
    first: u32,
    end: u32,
    last_of_file: bool,
}

/// Hands out pieces in turn from a few files at a time, small files first.
struct Queue {
    waiting: VecDeque<Cursor>,
    active: VecDeque<Cursor>,
    width: usize,
}

struct Cursor {
    file: usize,
    next: u32,
    segments: u32,
    piece: u32,
}

impl Queue {
    fn new(items: &[Item], width: usize, whole: bool) -> Self {
        let mut cursors: Vec<_> = items
            .iter()
            .enumerate()
            .map(|(file, Item { content, .. })| Cursor {
                file,
                next: 0,
                segments: content.segments(),
                piece: if whole { u32::MAX } else { content.piece_segments() },
            })
            .collect();
        cursors.sort_by_key(|cursor| cursor.segments);
        Self { waiting: cursors.into(), active: VecDeque::new(), width }
    }

    fn next(&mut self) -> Option<Piece> {
        while self.active.len() < self.width {
            let Some(cursor) = self.waiting.pop_front() else { break };
            self.active.push_back(cursor);
        }
        let mut cursor = self.active.pop_front()?;
        let first = cursor.next;
        let end = cursor.segments.min(first.saturating_add(cursor.piece));
        let piece = Piece { file: cursor.file, first, end, last_of_file: end == cursor.segments };
        if !piece.last_of_file {
            cursor.next = end;
            self.active.push_back(cursor);
        }
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(bytes: u64) -> Item {
        Item {
            object: "o".into(),
            content: Content::Plain { bytes, etag: None, whole: false, sha256: None },
        }
    }

    #[test]
    fn every_segment_is_handed_out_exactly_once() {
        let items: Vec<_> = [0, 1, 1 << 20, (1 << 20) + 1, 40 << 20, 100 << 20, 9 << 20]
            .map(plain)
            .into_iter()
            .collect();
        let mut queue = Queue::new(&items, 3, false);
        let mut seen = vec![Vec::new(); items.len()];
        let mut last_pieces = 0;
        while let Some(piece) = queue.next() {
            assert!(piece.end - piece.first <= PIECE_SEGMENTS);
            seen[piece.file].extend(piece.first..piece.end);
            last_pieces += usize::from(piece.last_of_file);
        }
        for (item, segments) in items.iter().zip(&mut seen) {
            segments.sort_unstable();
            assert_eq!(*segments, (0..item.content.segments()).collect::<Vec<_>>());
        }
        assert_eq!(last_pieces, items.len());
    }

    #[test]
    fn what_is_held_against_a_digest_is_one_piece() {
        let mut item = plain(100 << 20);
        let Content::Plain { sha256, .. } = &mut item.content else { unreachable!("it is plain") };
        *sha256 = Some(Digest::of(b""));
        let mut queue = Queue::new(&[item], 3, false);
        let piece = queue.next().unwrap();
        assert!(piece.first == 0 && piece.end == 100 && queue.next().is_none());
    }

    #[test]
    fn workers_are_spread_over_files() {
        let items = [plain(64 << 20), plain(64 << 20), plain(64 << 20)];
        let mut queue = Queue::new(&items, 3, false);
        let files: Vec<_> = std::iter::from_fn(|| queue.next()).take(6).map(|p| p.file).collect();
        assert_eq!(files, [0, 1, 2, 0, 1, 2]);
    }
}
