//! [`Log`]: where events go.

mod file;

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::{fmt, iter, slice};

use jiff::Timestamp;

pub use self::file::FILE_BYTES_MAX;
use self::file::LogFile;
use crate::error::Error;
use crate::event::Event;
use crate::record::Head;

/// An audit log that can be appended to, from any thread.
///
/// Threads that record at the same time share one write and one flush: whoever comes first writes
/// for all who wait by then.
pub struct Log {
    clock: fn() -> Timestamp,
    queue: Mutex<Queue>,
    /// Some records of the queue have been tried.
    tried: Condvar,
    sink: Mutex<Sink>,
    /// For messages.
    name: String,
}

/// Those who wait for their record.
#[derive(Default)]
struct Queue {
    last: u64,
    waiting: Vec<(u64, Entry)>,
    /// A thread writes, for itself and others.
    writing: bool,
    results: HashMap<u64, Result<(), Error>>,
}

/// What happened, and when.
type Entry = (Timestamp, Event);

enum Sink {
    File(LogFile),
    Stream {
        writer: Box<dyn Write + Send>,
        head: Head,
    },
    /// Part of a record may have been written, and nothing may follow that.
    Failed,
}

impl Log {
    /// Appends to the file at `path`, or makes it, readable by its owner only. Several processes may
    /// append to one file: each write is under a lock, as a continuation of the last.
    pub fn file(path: &Path) -> Result<Self, Error> {
        Ok(Self::new(Sink::File(LogFile::open(path)?), path.display().to_string(), Timestamp::now))
    }

    /// Writes a chain of its own to a stream, flushing it after each write.
    pub fn stream(writer: Box<dyn Write + Send>) -> Self {
        let head = Head::start();
        Self::new(Sink::Stream { writer, head }, "stream".to_owned(), Timestamp::now)
    }

    fn new(sink: Sink, name: String, clock: fn() -> Timestamp) -> Self {
        let (queue, tried, sink) = (Mutex::default(), Condvar::new(), Mutex::new(sink));
        Self { clock, queue, tried, sink, name }
    }

    /// Records an event. On return it is in the file and flushed to the device, or accepted by the
    /// stream. An error means: it is not recorded, do not go on.
    pub fn record(&self, event: Event) -> Result<(), Error> {
        let mut queue = self.queue();
        queue.last += 1;
        let own = queue.last;
        let time = (self.clock)();
        queue.waiting.push((own, (time, event)));
        loop {
            if let Some(result) = queue.results.remove(&own) {
                return result;
            }
            if queue.writing {
                queue = self.tried.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            queue.writing = true;
            let (numbers, entries): (_, Vec<_>) =
                std::mem::take(&mut queue.waiting).into_iter().unzip();
            drop(queue);
            let mut turn = Turn { log: self, numbers, results: Vec::new() };
            turn.results = self.write(&entries);
            drop(turn);
            queue = self.queue();
        }
    }

    /// Writes all of them at once, or, if that fails, each alone: an error is that of one record.
    fn write(&self, entries: &[Entry]) -> Vec<Result<(), Error>> {
        // Poisoned: a writer panicked, perhaps within a record.
        let Ok(mut sink) = self.sink.lock() else {
            return entries.iter().map(|_| Err(self.failed_before())).collect();
        };
        if entries.len() > 1 && self.append(&mut sink, entries).is_ok() {
            return entries.iter().map(|_| Ok(())).collect();
        }
        entries.iter().map(|entry| self.append(&mut sink, slice::from_ref(entry))).collect()
    }

    fn append(&self, sink: &mut Sink, entries: &[Entry]) -> Result<(), Error> {
        match sink {
            Sink::File(file) => file.append(entries),
            Sink::Stream { writer, head } => {
                let (lines, next) = head.append_all(entries)?;
                match writer.write_all(lines.as_bytes()).and_then(|()| writer.flush()) {
                    Ok(()) => {
                        *head = next;
                        Ok(())
                    }
                    Err(source) => {
                        *sink = Sink::Failed;
                        Err(Error::Sink { sink: self.name.clone(), source })
                    }
                }
            }
            Sink::Failed => Err(self.failed_before()),
        }
    }

    fn failed_before(&self) -> Error {
        Error::FailedBefore { sink: self.name.clone() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nobody panics while holding it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread's turn to write. However it ends, those who wait learn of it.
struct Turn<'a> {
    log: &'a Log,
    numbers: Vec<u64>,
    results: Vec<Result<(), Error>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.log.queue();
        let failed = iter::repeat_with(|| Err(self.log.failed_before()));
        let results = self.results.drain(..).chain(failed);
        queue.results.extend(self.numbers.iter().copied().zip(results));
        queue.writing = false;
        self.log.tried.notify_all();
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("sink", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
