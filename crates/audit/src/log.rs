//! [`Log`]: where events go.

mod file;

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use jiff::Timestamp;

pub use self::file::FILE_BYTES_MAX;
use self::file::LogFile;
use crate::error::Error;
use crate::event::Event;
use crate::record::Head;

/// An audit log that can be appended to, from any thread.
pub struct Log {
    clock: fn() -> Timestamp,
    sink: Mutex<Sink>,
    /// For messages.
    name: String,
}

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
    /// append to one file: each record is written under a lock, as a continuation of the last.
    pub fn file(path: &Path) -> Result<Self, Error> {
        Ok(Self::new(Sink::File(LogFile::open(path)?), path.display().to_string(), Timestamp::now))
    }

    /// Writes a chain of its own to a stream, flushing it after each record.
    pub fn stream(writer: Box<dyn Write + Send>) -> Self {
        let head = Head::start();
        Self::new(Sink::Stream { writer, head }, "stream".to_owned(), Timestamp::now)
    }

    fn new(sink: Sink, name: String, clock: fn() -> Timestamp) -> Self {
        Self { clock, sink: Mutex::new(sink), name }
    }

    /// Records an event. On return it is in the file and flushed to the device, or accepted by the
    /// stream. An error means: it is not recorded, do not go on.
    pub fn record(&self, event: Event) -> Result<(), Error> {
        let failed_before = || Error::FailedBefore { sink: self.name.clone() };
        // Poisoned: a writer panicked, perhaps within a record.
        let mut sink = self.sink.lock().map_err(|_| failed_before())?;
        let time = (self.clock)();
        match &mut *sink {
            Sink::File(file) => file.append(time, &event),
            Sink::Stream { writer, head } => {
                let (line, next) = head.append(time, &event)?;
                match writer.write_all(line.as_bytes()).and_then(|()| writer.flush()) {
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
            Sink::Failed => Err(failed_before()),
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("sink", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
