//! The form of a record, with the clock stopped.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use super::*;
use crate::record::{LINE_BYTES_MAX, TEXT_BYTES_MAX};

/// A stream whose content can be looked at.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn stopped() -> (Log, Shared) {
    let shared = Shared::default();
    let sink = Sink::Stream { writer: Box::new(shared.clone()), head: Head::start() };
    let log = Log::new(sink, "stream".into(), || "2026-01-31T12:00:00.5Z".parse().unwrap());
    (log, shared)
}

#[test]
fn a_record_is_this_line_byte_for_byte() {
    let (log, shared) = stopped();
    log.record(Event::PolicyChanged { digest: "ab".into() }).unwrap();
    log.record(Event::KeyRefused {
        resource: "kbs:///a/b/c".into(),
        source: "cdh".into(),
        code: "E20".into(),
        reason: "a \"quoted\"\nreason\u{1b}[31m".into(),
    })
    .unwrap();
    // The hashes were computed by another program, over each line up to `,"hash"`, and a `}`.
    let expected = concat!(
        r#"{"seq":1,"time":"2026-01-31T12:00:00.500000Z","#,
        r#""prev":"0000000000000000000000000000000000000000000000000000000000000000","#,
        r#""event":{"event":"policy-changed","digest":"ab"},"#,
        r#""hash":"2b22bcf698cb1efc6592de67ad941bdd39612e454ac34196f3ce0bbd53ca00fc"}"#,
        "\n",
        r#"{"seq":2,"time":"2026-01-31T12:00:00.500000Z","#,
        r#""prev":"2b22bcf698cb1efc6592de67ad941bdd39612e454ac34196f3ce0bbd53ca00fc","#,
        r#""event":{"event":"key-refused","resource":"kbs:///a/b/c","source":"cdh","code":"E20","#,
        r#""reason":"a \"quoted\"\nreason\u001b[31m"},"#,
        r#""hash":"edc6faa6636e9e4b9932ca39698fa36d9c3734142d1c12bdb83398d4479db6ba"}"#,
        "\n",
    );
    assert_eq!(String::from_utf8(shared.0.lock().unwrap().clone()).unwrap(), expected);
}

/// Holds each write until it may go on; `Err`: it is to fail.
struct Gate {
    at: Sender<()>,
    go: Receiver<std::io::Result<()>>,
    written: Shared,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.at.send(());
        let go = self.go.recv();
        go.unwrap_or_else(|_| std::panic::resume_unwind(Box::new("sink")))?;
        self.written.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// One thread writes while `more` come to wait; then `go` lets the writes go on, one after the other.
/// Returns what became of the first and of the others, and what is written.
fn together(
    more: Vec<Event>,
    go: impl FnOnce(Sender<std::io::Result<()>>),
) -> (Vec<std::thread::Result<Result<(), Error>>>, Vec<u8>) {
    let (at, is_at) = channel();
    let (may_go, waits) = channel();
    let written = Shared::default();
    let gate = Gate { at, go: waits, written: written.clone() };
    let log = Log::stream(Box::new(gate));
    let results = std::thread::scope(|threads| {
        let log = &log;
        let first = threads.spawn(|| log.record(Event::PolicyChanged { digest: "first".into() }));
        is_at.recv().unwrap();
        let count = more.len();
        let mut all = vec![first];
        all.extend(more.into_iter().map(|event| threads.spawn(|| log.record(event))));
        while log.queue().waiting.len() < count {
            std::thread::yield_now();
        }
        go(may_go);
        all.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    let bytes = written.0.lock().unwrap().clone();
    (results, bytes)
}

fn events(count: usize) -> Vec<Event> {
    (0..count).map(|n| Event::PolicyChanged { digest: n.to_string() }).collect()
}

#[test]
fn those_who_wait_share_a_write() {
    let (results, bytes) = together(events(8), |go| {
        go.send(Ok(())).unwrap();
        go.send(Ok(())).unwrap();
    });
    assert!(results.iter().all(|result| matches!(result, Ok(Ok(())))), "{results:?}");
    assert_eq!(crate::verify(&bytes[..]).unwrap().records, 9);
}

#[test]
fn what_cannot_be_recorded_fails_alone() {
    let mut events = events(8);
    events.push(Event::Rewrapped {
        location: "x".repeat(5_000),
        manifest_digest: "x".repeat(5_000),
        recipients: vec!["x".repeat(5_000); 31],
    });
    let (results, bytes) = together(events, |go| (0..9).for_each(|_| go.send(Ok(())).unwrap()));
    let failed: Vec<_> = results.iter().filter(|result| !matches!(result, Ok(Ok(())))).collect();
    assert!(matches!(failed[..], [Ok(Err(Error::TooLong { .. }))]), "{failed:?}");
    assert_eq!(crate::verify(&bytes[..]).unwrap().records, 9);
}

#[test]
fn a_failed_write_is_nobodys_record() {
    let (results, bytes) = together(events(8), |go| {
        go.send(Ok(())).unwrap();
        go.send(Err(std::io::ErrorKind::StorageFull.into())).unwrap();
    });
    assert!(matches!(results[0], Ok(Ok(()))));
    let failed = |result: &std::thread::Result<_>| {
        matches!(result, Ok(Err(Error::Sink { .. } | Error::FailedBefore { .. })))
    };
    assert!(results[1..].iter().all(failed), "{results:?}");
    assert_eq!(crate::verify(&bytes[..]).unwrap().records, 1);
}

#[test]
fn a_writer_that_panics_leaves_nobody_waiting() {
    let (results, _) = together(events(8), drop);
    assert!(results[0].is_err());
    let failed =
        |result: &std::thread::Result<_>| matches!(result, Ok(Err(Error::FailedBefore { .. })));
    assert!(results[1..].iter().all(failed), "{results:?}");
}

#[test]
fn a_long_text_is_cut_so_that_nobody_can_prevent_its_record() {
    let hostile =
        ["x".repeat(1 << 20), "\u{0}".repeat(1 << 20), "\"".repeat(9_000), "€".repeat(9_000)];
    for text in hostile {
        let (log, shared) = stopped();
        let same = || text.clone();
        log.record(Event::ResourceReleased {
            resource: same(),
            tee: same(),
            claims_digest: same(),
            policy_digest: same(),
            client: same(),
            key_thumbprint: same(),
        })
        .unwrap();
        let line = shared.0.lock().unwrap().clone();
        assert!(line.len() <= LINE_BYTES_MAX);
        let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
        let cut = line["event"]["tee"].as_str().unwrap();
        assert!(cut.ends_with('…'));
        let escaped = serde_json::to_string(cut).unwrap().len() - 2;
        assert!(escaped <= TEXT_BYTES_MAX && escaped > TEXT_BYTES_MAX - 10, "{escaped}");
    }
    // What just fits is not cut.
    let (log, shared) = stopped();
    log.record(Event::PolicyChanged { digest: "x".repeat(TEXT_BYTES_MAX) }).unwrap();
    let line = shared.0.lock().unwrap().clone();
    assert!(String::from_utf8(line).unwrap().contains(&"x".repeat(TEXT_BYTES_MAX)));
}

#[test]
fn a_long_list_is_cut_too() {
    let (log, shared) = stopped();
    let recipients = (0..5_000).map(|n| format!("kbs:///default/key/{n}")).collect();
    log.record(Event::Rewrapped {
        location: "s3://a/b".into(),
        manifest_digest: "00".into(),
        recipients,
    })
    .unwrap();
    let line = shared.0.lock().unwrap().clone();
    assert!(line.len() <= LINE_BYTES_MAX);
    let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(line["event"]["recipients"][31], "… and 4969 more");
}

#[test]
fn what_does_not_fit_even_so_is_an_error_and_leaves_the_chain_as_it_was() {
    let (log, shared) = stopped();
    log.record(Event::Rewrapped {
        location: "x".repeat(5_000),
        manifest_digest: "x".repeat(5_000),
        recipients: vec!["x".repeat(5_000); 31],
    })
    .unwrap_err();
    log.record(Event::PolicyChanged { digest: "ab".into() }).unwrap();
    assert_eq!(crate::verify(&shared.0.lock().unwrap()[..]).unwrap().records, 1);
}
