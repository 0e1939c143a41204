//! The form of a record, with the clock stopped.

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
