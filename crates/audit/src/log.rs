//! [`Log`]: where events go.

mod file;

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fmt, io, iter, mem, slice};

use jiff::Timestamp;

use self::file::LogFile;
pub use self::file::{PART_BYTES_DEFAULT, PART_BYTES_MAX, PART_BYTES_MIN};
use crate::error::{Error, NotAccepted};
use crate::event::Event;
use crate::record::Head;

/// An audit log that can be appended to, from any thread.
///
/// Threads that record at the same time share one write and one flush: whoever comes first writes
/// for itself, and then one of those who have come meanwhile for all of them.
pub struct Log {
    clock: fn() -> Timestamp,
    queue: Mutex<Queue>,
    sink: Mutex<Sink>,
    /// For messages.
    name: String,
}

/// Those who wait for their record.
#[derive(Default)]
struct Queue {
    waiting: Vec<(Sender<Word>, Entry)>,
    /// A thread writes, or has been told to.
    writing: bool,
}

/// What a waiting thread is told.
enum Word {
    /// What became of its record.
    Tried(Result<Head, Error>),
    /// It is to write, for all who wait.
    Write,
}

/// What happened, and when.
type Entry = (Timestamp, Event);

enum Sink {
    File(LogFile),
    Stream {
        writer: Box<dyn Write + Send>,
        head: Head,
    },
    /// Part of a record, of this number, may have been written, and nothing may follow that.
    Failed(u64),
}

impl Log {
    /// Appends to the file at `path`, or makes it, readable by its owner only. Several processes may
    /// append to one file: each write is under a lock, as a continuation of the last. A full file is
    /// renamed, and the next continues its chain: see [`Parts`](crate::Parts).
    pub fn file(path: &Path) -> Result<Self, Error> {
        Self::file_in_parts(path, PART_BYTES_DEFAULT)
    }

    /// The same, in files of at most so many bytes, from [`PART_BYTES_MIN`] to [`PART_BYTES_MAX`].
    pub fn file_in_parts(path: &Path, part_bytes: u64) -> Result<Self, Error> {
        let file = LogFile::open(path, part_bytes)?;
        Ok(Self::new(Sink::File(file), path.display().to_string(), Timestamp::now))
    }

    /// Writes a chain of its own to a stream, flushing it after each write.
    pub fn stream(writer: Box<dyn Write + Send>) -> Self {
        let head = Head::start();
        Self::new(Sink::Stream { writer, head }, "stream".to_owned(), Timestamp::now)
    }

    fn new(sink: Sink, name: String, clock: fn() -> Timestamp) -> Self {
        Self { clock, queue: Mutex::default(), sink: Mutex::new(sink), name }
    }

    /// Records an event. On return it is in the file and flushed to the device, or accepted by the
    /// stream. An error means: it is not recorded, do not go on.
    pub fn record(&self, event: Event) -> Result<(), Error> {
        self.record_at(event).map(drop)
    }

    /// The same; and says which record it is.
    pub fn record_at(&self, event: Event) -> Result<Head, Error> {
        let (tell, told) = channel();
        let mut queue = self.queue();
        let entry = ((self.clock)(), event);
        queue.waiting.push((tell, entry));
        let is_first = !mem::replace(&mut queue.writing, true);
        drop(queue);
        if is_first {
            self.write_all();
        }
        loop {
            match told.recv() {
                Ok(Word::Tried(result)) => return result,
                Ok(Word::Write) => self.write_all(),
                // Whoever wrote it panicked.
                Err(_) => return Err(self.panicked()),
            }
        }
    }

    /// Writes for all who wait now, and has one of those who come meanwhile go on.
    fn write_all(&self) {
        let _turn = Turn(self);
        let (tell, entries): (Vec<_>, Vec<_>) =
            mem::take(&mut self.queue().waiting).into_iter().unzip();
        for (tell, result) in tell.iter().zip(self.write(&entries)) {
            // It waits.
            let _ = tell.send(Word::Tried(result));
        }
    }

    /// Writes all of them at once. If one of them is too much, each alone: that is no fault of the
    /// others. Any other error is everybody's.
    fn write(&self, entries: &[Entry]) -> Vec<Result<Head, Error>> {
        // Poisoned.
        let Ok(mut sink) = self.sink.lock() else {
            return entries.iter().map(|_| Err(self.panicked())).collect();
        };
        let failed = match self.append(&mut sink, entries) {
            Ok(heads) => return heads.into_iter().map(Ok).collect(),
            Err(failed) => failed,
        };
        if entries.len() > 1 && matches!(failed, Error::TooLong { .. }) {
            return entries.iter().map(|entry| self.append_one(&mut sink, entry)).collect();
        }
        let (sink, why) = (&self.name, failed.to_string());
        let other = |_| Error::Sink { sink: sink.clone(), source: io::Error::other(why.clone()) };
        let others = entries.iter().skip(1).map(other);
        iter::once(failed).chain(others).map(Err).collect()
    }

    fn append_one(&self, sink: &mut Sink, entry: &Entry) -> Result<Head, Error> {
        let mut heads = self.append(sink, slice::from_ref(entry))?;
        Ok(heads.pop().expect("one for each entry"))
    }

    /// The head after each.
    fn append(&self, sink: &mut Sink, entries: &[Entry]) -> Result<Vec<Head>, Error> {
        match sink {
            Sink::File(file) => file.append(entries),
            Sink::Stream { writer, head } => {
                let (lines, heads) = head.append_all(entries)?;
                match writer.write_all(lines.as_bytes()).and_then(|()| writer.flush()) {
                    Ok(()) => {
                        head.clone_from(heads.last().expect("one for each entry"));
                        Ok(heads)
                    }
                    Err(source) => {
                        if !NotAccepted::is(&source) {
                            *sink = Sink::Failed(head.next());
                        }
                        Err(Error::Sink { sink: self.name.clone(), source })
                    }
                }
            }
            Sink::Failed(seq) => Err(self.failed_before(*seq)),
        }
    }

    fn failed_before(&self, seq: u64) -> Error {
        Error::FailedBefore { sink: self.name.clone(), seq }
    }

    /// A writer panicked, perhaps within a record.
    fn panicked(&self) -> Error {
        let sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        self.failed_before(match &*sink {
            Sink::Stream { head, .. } => head.next(),
            Sink::File(file) => file.next(),
            Sink::Failed(seq) => *seq,
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nobody panics while holding it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread's turn to write. However it ends, there is a next one if somebody waits.
struct Turn<'a>(&'a Log);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.writing =
            queue.waiting.first().is_some_and(|(tell, _)| tell.send(Word::Write).is_ok());
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("sink", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
