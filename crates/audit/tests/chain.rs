//! What a verifier sees, and what it cannot: SPECIFICATION P8.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;

use audit::{Event, LINE_BYTES_MAX, Log, Why, verify};

fn event(n: usize) -> Event {
    Event::KeyReleased {
        resource: format!("kbs:///a/b/{n}"),
        source: "file".into(),
        model: None,
        receipt: None,
    }
}

/// A log of `records`.
fn log(records: usize) -> Vec<u8> {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("audit.jsonl");
    let log = Log::file(&path).unwrap();
    for n in 0..records {
        log.record(event(n)).unwrap();
    }
    fs::read(path).unwrap()
}

fn lines(log: &[u8]) -> Vec<&[u8]> {
    log.split_inclusive(|byte| *byte == b'\n').collect()
}

#[test]
fn a_whole_log_is_summarised() {
    let log = log(5);
    let summary = verify(&log[..]).unwrap();
    assert_eq!(summary.records, 5);
    let last: serde_json::Value = serde_json::from_slice(lines(&log)[4]).unwrap();
    assert_eq!(last["hash"], summary.head);
    assert_eq!(last["seq"], 5);
    assert_eq!(last["time"], summary.last.unwrap());
    let empty = verify(&b""[..]).unwrap();
    assert_eq!((empty.records, empty.first, empty.head), (0, None, "0".repeat(64)));
}

#[test]
fn any_flipped_bit_is_found_and_its_line_named() {
    let log = log(3);
    for byte in 0..log.len() {
        for bit in 0..8 {
            let mut changed = log.clone();
            changed[byte] ^= 1 << bit;
            let broken = verify(&changed[..]).unwrap_err();
            let line = log[..byte].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
            // A newline that is gone or new makes its neighbour part of the damage.
            assert!(broken.line.abs_diff(line) <= 1, "byte {byte} bit {bit}: {broken:?}");
        }
    }
}

#[test]
fn removed_moved_repeated_and_foreign_records_are_found() {
    let log = log(4);
    let lines = lines(&log);
    let other = self::log(4);
    let foreign: Vec<&[u8]> = self::lines(&other);
    let cases: [(&str, Vec<&[u8]>, u64); 8] = [
        ("first removed", vec![lines[1], lines[2], lines[3]], 1),
        ("one removed", vec![lines[0], lines[2], lines[3]], 2),
        ("two swapped", vec![lines[0], lines[2], lines[1], lines[3]], 2),
        ("one twice", vec![lines[0], lines[1], lines[1]], 3),
        ("one of another log", vec![lines[0], foreign[1], lines[2]], 2),
        ("another log after it", vec![lines[0], foreign[0]], 2),
        ("an empty line", vec![lines[0], b"\n", lines[1]], 2),
        ("not a record", vec![lines[0], b"{}\n"], 2),
    ];
    for (what, lines, line) in cases {
        let broken = verify(&lines.concat()[..]).unwrap_err();
        assert_eq!(broken.line, line, "{what}: {broken:?}");
    }
}

#[test]
fn a_changed_record_with_a_hash_made_anew_breaks_the_next() {
    let log = log(3);
    let lines = lines(&log);
    // Whoever can write a record can: the second is replaced by that of a log with another second.
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("audit.jsonl");
    fs::write(&path, lines[0]).unwrap();
    Log::file(&path).unwrap().record(event(9)).unwrap();
    let forged = fs::read(&path).unwrap();
    verify(&forged[..]).unwrap();
    let forged = [&forged[..], lines[2]].concat();
    let broken = verify(&forged[..]).unwrap_err();
    assert!(matches!((broken.line, broken.why), (3, Why::WrongPrevious)));
}

#[test]
fn a_cut_log_is_torn_or_only_shorter_which_its_kept_head_tells() {
    let log = log(3);
    let whole = verify(&log[..]).unwrap();
    for end in 0..log.len() {
        match verify(&log[..end]) {
            // The chain has no end of its own: this is why the head has to be kept elsewhere.
            Ok(summary) => {
                assert!(end == 0 || log[end - 1] == b'\n', "cut at {end}");
                assert_ne!(summary.head, whole.head);
            }
            Err(broken) => assert!(matches!(broken.why, Why::Torn), "cut at {end}: {broken:?}"),
        }
    }
}

#[test]
fn an_endless_line_is_refused_without_being_read() {
    let endless = std::io::BufReader::new(std::io::repeat(b'x'));
    assert!(matches!(verify(endless).unwrap_err().why, Why::TooLong));
    let mut long = vec![b'x'; LINE_BYTES_MAX - 1];
    long.push(b'\n');
    assert!(matches!(verify(&long[..]).unwrap_err().why, Why::NotARecord));
    long.insert(0, b'x');
    assert!(matches!(verify(&long[..]).unwrap_err().why, Why::TooLong));
}

#[test]
fn a_reader_that_fails_is_an_error() {
    struct Failing;
    impl std::io::Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("bad sector"))
        }
    }
    let broken = verify(std::io::BufReader::new(Failing)).unwrap_err();
    assert!(matches!(broken.why, Why::Unreadable(_)));
}

/// The documentation's examples are all events that there are, each as it is written.
#[test]
fn every_event_is_documented_with_what_it_holds() {
    let documentation = include_str!("../../../docs/audit.md");
    let examples: Vec<&str> =
        documentation.lines().filter(|line| line.starts_with("{\"event\":")).collect();
    let mut documented = Vec::new();
    for example in examples {
        let event: Event = serde_json::from_str(example).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), example);
        let name: serde_json::Value = serde_json::from_str(example).unwrap();
        documented.push(name["event"].as_str().unwrap().to_owned());
    }
    // What serde offers for an event that there is not: every name, in backticks, after the wrong one.
    let error = serde_json::from_str::<Event>(r#"{"event":"none"}"#).unwrap_err().to_string();
    let all: Vec<&str> = error.split('`').skip(1).step_by(2).skip(1).collect();
    assert_eq!(documented, all, "{error}");
}

#[test]
fn an_event_of_a_later_version_does_not_break_the_chain() {
    // Built here, since no event of ours is unknown to us.
    use aws_lc_rs::digest::{SHA256, digest};
    let body = format!(
        r#"{{"seq":1,"time":"2030-01-01T00:00:00.000000Z","prev":"{}","event":{{"event":"teleported","to":[1,{{}}]}}}}"#,
        "0".repeat(64)
    );
    let hash: String =
        digest(&SHA256, body.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let line = format!("{},\"hash\":\"{hash}\"}}\n", &body[..body.len() - 1]);
    let summary = verify(line.as_bytes()).unwrap();
    assert_eq!((summary.records, summary.head), (1, hash));
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("audit.jsonl");
    fs::write(&path, line).unwrap();
    append(&path);
    assert_eq!(verify(&fs::read(&path).unwrap()[..]).unwrap().records, 2);
}

fn append(path: &Path) {
    Log::file(path).unwrap().record(event(0)).unwrap();
}
