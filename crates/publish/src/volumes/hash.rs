//! [`Hash`]: SHA-256 of contents as they arrive; of large ones on a thread of its own, so that the
//! next piece is received and written meanwhile.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use ::volumes::tree::Digest;
use aws_lc_rs::digest::{Context, SHA256};

/// From here on a thread is worth it.
const LARGE_BYTES: u64 = 4 << 20;
/// Such threads at a time, in the process. Contents beyond that are hashed where they are.
const THREADS_MAX: usize = 2;
/// Pieces on their way to a thread.
const PIECES_MAX: usize = 2;
const STACK_BYTES: usize = 64 << 10;

static THREADS: AtomicUsize = AtomicUsize::new(0);

/// A digest in the making.
pub(super) enum Hash {
    Here(Context),
    Beside(Beside),
}

/// The thread's other end. Dropping it ends the thread.
pub(super) struct Beside {
    pieces: SyncSender<Vec<u8>>,
    /// Pieces' memory, to be filled again.
    spare: Receiver<Vec<u8>>,
    thread: JoinHandle<Digest>,
    _permit: Permit,
}

struct Permit;

impl Permit {
    fn take() -> Option<Self> {
        let more = |threads| (threads < THREADS_MAX).then_some(threads + 1);
        THREADS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hash {
    /// Of contents that will be so long.
    pub(super) fn begin(bytes_total: u64) -> Self {
        let large = (bytes_total >= LARGE_BYTES).then(Beside::begin).flatten();
        large.map_or_else(|| Self::Here(Context::new(&SHA256)), Self::Beside)
    }

    pub(super) fn update(&mut self, data: &[u8]) {
        match self {
            Self::Here(context) => context.update(data),
            Self::Beside(beside) => {
                let mut piece = beside.spare.try_recv().unwrap_or_default();
                piece.clear();
                piece.extend_from_slice(data);
                // A thread that is gone has panicked: `finish` says so.
                let _ = beside.pieces.send(piece);
            }
        }
    }

    /// Waits for what is on its way.
    pub(super) fn finish(self) -> Digest {
        match self {
            Self::Here(context) => Digest::finished(context.finish()),
            Self::Beside(Beside { pieces, thread, .. }) => {
                drop(pieces);
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
        }
    }
}

impl Beside {
    /// `None`: there are enough, or there cannot be one.
    fn begin() -> Option<Self> {
        let permit = Permit::take()?;
        let (pieces, incoming) = sync_channel::<Vec<u8>>(PIECES_MAX);
        let (used, spare) = sync_channel(PIECES_MAX);
        let hash = move || {
            let mut context = Context::new(&SHA256);
            for piece in incoming {
                context.update(&piece);
                // Nobody needs it any more, or there is enough of it.
                let _ = used.try_send(piece);
            }
            Digest::finished(context.finish())
        };
        let thread = Builder::new().name("hash".into()).stack_size(STACK_BYTES).spawn(hash);
        Some(Self { pieces, spare, thread: thread.ok()?, _permit: permit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_lead_to_the_same() {
        let bytes: Vec<u8> = (0u32..1_300_000).flat_map(u32::to_le_bytes).collect();
        let digest = Digest::of(&bytes);
        let mut hashes: Vec<_> =
            (0..2 * THREADS_MAX).map(|_| Hash::begin(bytes.len() as u64)).collect();
        for piece in bytes.chunks(190_001) {
            hashes.iter_mut().for_each(|hash| hash.update(piece));
        }
        hashes.into_iter().for_each(|hash| assert_eq!(hash.finish(), digest));
        assert!(matches!(Hash::begin(LARGE_BYTES - 1), Hash::Here(_)));
    }
}
