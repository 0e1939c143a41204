//! [`record`]: an audit record from within the runtime.

use audit::{Error, Event, Log};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

/// [`Log::record`], which waits for a disk or a collector: meanwhile the runtime's other tasks go on
/// in other threads, where it has more than one.
pub(crate) fn record(log: &Log, event: Event) -> Result<(), Error> {
    let moves = Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    match moves {
        true => block_in_place(|| log.record(event)),
        false => log.record(event),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use tokio::runtime::Builder;

    use super::*;

    /// Says that it is written to, and waits until it may go on.
    struct Slow(Sender<()>, Receiver<()>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(()).unwrap();
            self.1.recv().unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn event() -> Event {
        Event::PolicyChanged { digest: "d".into() }
    }

    #[test]
    fn other_tasks_go_on_while_a_record_waits() {
        let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let ((at, is_at), (go, may_go)) = (channel(), channel());
        let log = Log::stream(Box::new(Slow(at, may_go)));
        let recording = runtime.spawn(async move { record(&log, event()) });
        is_at.recv().unwrap();
        // On the one worker there is: it would wait for itself.
        runtime.spawn(async move { go.send(()).unwrap() });
        runtime.block_on(recording).unwrap().unwrap();
    }

    #[test]
    fn it_records_without_threads_to_move_to() {
        let log = Log::stream(Box::new(io::sink()));
        record(&log, event()).unwrap();
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { record(&log, event()) }).unwrap();
    }
}
