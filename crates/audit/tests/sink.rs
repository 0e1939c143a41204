//! A sink that is full, slow, failing, panicking or cut off: nothing may follow what it did not
//! accept. SPECIFICATION P8.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::slice::from_ref;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use audit::{Error, Event, Log, PART_BYTES_MAX, PART_BYTES_MIN, Parts, Why, verify};

fn events() -> [Event; 2] {
    let (resource, source) = ("kbs:///a/b/c".to_owned(), "cdh".to_owned());
    [
        Event::KeyReleased {
            resource: resource.clone(),
            source: source.clone(),
            model: None,
            receipt: None,
        },
        Event::KeyRequested { resource, source, purpose: "open".into() },
    ]
}

fn event() -> Event {
    let [event, _] = events();
    event
}

/// Accepts some bytes, then does as it is told.
struct Bad {
    accepts: usize,
    then: fn() -> io::Result<usize>,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Write for Bad {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.accepts);
        if count == 0 && !bytes.is_empty() {
            return (self.then)();
        }
        self.accepts -= count;
        self.seen.lock().unwrap().extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stream_that_fails_anywhere_in_a_record_accepts_none_after_it() {
    let failures: [fn() -> io::Result<usize>; 3] = [
        || Err(io::ErrorKind::StorageFull.into()),
        || Err(io::ErrorKind::BrokenPipe.into()),
        || Ok(0),
    ];
    for then in failures {
        for event in events() {
            for accepts in 0.. {
                let seen = Arc::new(Mutex::new(Vec::new()));
                let log = Log::stream(Box::new(Bad { accepts, then, seen: Arc::clone(&seen) }));
                match log.record(event.clone()) {
                    Ok(()) => {
                        assert_eq!(verify(&seen.lock().unwrap()[..]).unwrap().records, 1);
                        break;
                    }
                    Err(error) => assert!(matches!(error, Error::Sink { .. }), "{error}"),
                }
                // Not even if it would have space again.
                for event in events() {
                    let error = log.record(event).unwrap_err();
                    assert!(matches!(error, Error::FailedBefore { .. }), "{error}");
                }
                assert_eq!(seen.lock().unwrap().len(), accepts);
            }
        }
    }
}

#[test]
fn a_full_device_is_an_error() {
    for event in events() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let log = Log::stream(Box::new(full));
        match log.record(event) {
            Err(Error::Sink { source, .. }) => {
                assert_eq!(source.kind(), io::ErrorKind::StorageFull);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_sink_that_panics_accepts_nothing_after_it() {
    for event in events() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let then = || std::panic::resume_unwind(Box::new("sink"));
        let log = Log::stream(Box::new(Bad { accepts: 10, then, seen }));
        assert!(catch_unwind(AssertUnwindSafe(|| log.record(event.clone()))).is_err());
        assert!(matches!(log.record(event), Err(Error::FailedBefore { .. })));
    }
}

#[test]
fn a_sink_that_does_not_flush_is_an_error() {
    struct NoFlush;
    impl Write for NoFlush {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::Error::other("no"))
        }
    }
    let log = Log::stream(Box::new(NoFlush));
    assert!(matches!(log.record(event()), Err(Error::Sink { .. })));
    assert!(matches!(log.record(event()), Err(Error::FailedBefore { .. })));
}

#[test]
fn recording_waits_for_a_slow_sink() {
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
    let (started, is_started) = channel();
    let (go, may_go) = channel();
    let log = Log::stream(Box::new(Slow(started, may_go)));
    std::thread::scope(|threads| {
        let recording = threads.spawn(|| log.record(event()));
        is_started.recv().unwrap();
        assert!(!recording.is_finished());
        go.send(()).unwrap();
        recording.join().unwrap().unwrap();
    });
}

#[test]
fn a_file_is_continued_and_only_its_owner_reads_it() {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("audit.jsonl");
    for n in 1..=3 {
        let log = Log::file(&path).unwrap();
        log.record(event()).unwrap();
        assert_eq!(verify(&fs::read(&path).unwrap()[..]).unwrap().records, n);
    }
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn writers_of_one_file_make_one_chain() {
    const WRITERS: u64 = 4;
    const RECORDS: u64 = 50;
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("audit.jsonl");
    std::thread::scope(|threads| {
        for _ in 0..WRITERS {
            threads.spawn(|| {
                // Each with a file of its own, as another process has.
                let log = Log::file(&path).unwrap();
                for _ in 0..RECORDS {
                    log.record(event()).unwrap();
                }
            });
        }
    });
    assert_eq!(verify(&fs::read(&path).unwrap()[..]).unwrap().records, WRITERS * RECORDS);
}

#[test]
fn a_torn_end_is_refused_until_it_is_removed() {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("audit.jsonl");
    let log = Log::file(&path).unwrap();
    log.record(event()).unwrap();
    let first = fs::read(&path).unwrap();
    log.record(event()).unwrap();
    let both = fs::read(&path).unwrap();
    for (whole, end) in [(0, 1..first.len()), (first.len(), first.len() + 1..both.len())] {
        for end in end {
            fs::write(&path, &both[..end]).unwrap();
            match Log::file(&path) {
                Err(Error::Torn { offset, .. }) => {
                    assert_eq!(offset, whole as u64);
                    // As the message says.
                    File::options().write(true).open(&path).unwrap().set_len(offset).unwrap();
                }
                other => panic!("{end}: {other:?}"),
            }
            Log::file(&path).unwrap().record(event()).unwrap();
            verify(&fs::read(&path).unwrap()[..]).unwrap();
        }
    }
}

#[test]
fn an_open_log_notices_what_others_did_to_its_file() {
    type Change = fn(&Path, &[u8]);
    let changes: [(&str, Change); 5] = [
        ("shortened", |path, whole| fs::write(path, &whole[..whole.len() / 2]).unwrap()),
        ("emptied", |path, _| fs::write(path, "").unwrap()),
        ("torn", |path, whole| fs::write(path, [whole, b"{\"seq\""].concat()).unwrap()),
        ("appended to", |path, whole| fs::write(path, [whole, b"{}\n"].concat()).unwrap()),
        ("repeated", |path, whole| fs::write(path, [whole, whole].concat()).unwrap()),
    ];
    for (what, change) in changes {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("audit.jsonl");
        let log = Log::file(&path).unwrap();
        log.record(event()).unwrap();
        change(&path, &fs::read(&path).unwrap());
        let changed = fs::read(&path).unwrap();
        let error = log.record(event()).unwrap_err();
        match what {
            "shortened" | "emptied" => {
                assert!(matches!(error, Error::Broken { why: Why::Shortened, .. }), "{what}");
            }
            "torn" => assert!(matches!(error, Error::Torn { .. }), "{what}"),
            _ => assert!(matches!(error, Error::Broken { .. }), "{what}"),
        }
        assert_eq!(fs::read(&path).unwrap(), changed, "{what}");
    }
}

#[test]
fn a_file_that_is_no_log_is_refused_and_not_touched() {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("audit.jsonl");
    for content in
        ["{}\n", "\n", "root:x:0:0::/root:/bin/sh\n", &"x".repeat(100_000), &"x\n".repeat(50_000)]
    {
        fs::write(&path, content).unwrap();
        let error = Log::file(&path).unwrap_err();
        assert!(matches!(error, Error::Broken { .. } | Error::Torn { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
    symlink("elsewhere", top.path().join("link")).unwrap();
    for path in [top.path().join("link"), top.path().into(), "/dev/full".into(), "/dev/null".into()]
    {
        let error = Log::file(&path).unwrap_err();
        assert!(matches!(error, Error::NotAFile { .. }), "{error}");
    }
    assert!(!top.path().join("elsewhere").exists());
    let error = Log::file(&top.path().join("no/such/directory")).unwrap_err();
    assert!(matches!(error, Error::Sink { .. }), "{error}");
}

#[test]
fn a_file_has_a_greatest_size() {
    use std::io::{Seek, SeekFrom};
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("audit.jsonl");
    Log::file(&path).unwrap().record(event()).unwrap();
    // As if it had been written for years, without parts: a hole, and a last record.
    let last = fs::read(&path).unwrap();
    let mut file = File::options().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(PART_BYTES_MAX - last.len() as u64 - 1)).unwrap();
    file.write_all(b"\n").unwrap();
    file.write_all(&last).unwrap();
    // Larger is not to be had.
    let log = Log::file_in_parts(&path, u64::MAX).unwrap();
    log.record(event()).unwrap();
    let part = top.path().join("audit.jsonl.00000000000000000001");
    assert_eq!(fs::metadata(part).unwrap().len(), PART_BYTES_MAX);
    let next = fs::read_to_string(&path).unwrap();
    assert!(next.starts_with("{\"seq\":2,") && next.len() < 1024, "{next}");
}

/// Not a test: what strace runs below, if told where to log.
#[test]
fn child() {
    let Ok(path) = std::env::var("SEALIFT_TEST_LOG") else { return };
    let log = Log::file_in_parts(Path::new(&path), PART_BYTES_MIN).unwrap();
    log.record(event()).unwrap();
}

#[test]
fn every_failing_system_call_leaves_a_whole_log_without_the_record() {
    if Command::new("strace").arg("--version").output().is_err() {
        testkit::skip("strace is not installed");
        return;
    }
    fail_every_call(1);
}

#[test]
fn every_failing_system_call_of_a_rotation_leaves_a_whole_log_without_the_record() {
    if Command::new("strace").arg("--version").output().is_err() {
        testkit::skip("strace is not installed");
        return;
    }
    // As many as fit.
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("audit.jsonl");
    Log::file(&path).unwrap().record(event()).unwrap();
    fail_every_call(PART_BYTES_MIN / fs::metadata(&path).unwrap().len());
}

/// Has every call fail that a process makes on the log's files while it opens a log of so many
/// records and appends one; and kills it there.
fn fail_every_call(records: u64) {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("audit.jsonl");
    let log = Log::file(&path).unwrap();
    (0..records).for_each(|_| log.record(event()).unwrap());
    let before = fs::read(&path).unwrap();
    let mut failures = Vec::new();
    for call in [
        "openat",
        "flock",
        "statx",
        "lseek",
        "read",
        "write",
        "fsync",
        "fdatasync",
        "ftruncate",
        "renameat2",
        "getdents64",
    ] {
        for fault in ["error=EIO", "error=ENOSPC", "signal=KILL"] {
            if fault == "error=ENOSPC" && ["flock", "statx", "lseek", "read"].contains(&call) {
                continue;
            }
            for n in 1.. {
                // The trace is elsewhere: calls on the directory are the log's.
                let (top, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
                let path = top.path().join("audit.jsonl");
                fs::write(&path, &before).unwrap();
                let trace = out.path().join("trace");
                let part = top.path().join("audit.jsonl.00000000000000000001");
                let watched =
                    [path.as_path(), &part, top.path()].map(|path| ["-P", path.to_str().unwrap()]);
                let output = Command::new("strace")
                    .args(["-f", "-qq", "-o", trace.to_str().unwrap()])
                    // Only calls on the log itself, by path or by descriptor.
                    .args(watched.as_flattened())
                    .args([format!("-etrace={call}"), format!("-einject={call}:{fault}:when={n}")])
                    .arg(std::env::current_exe().unwrap())
                    .args(["--exact", "child"])
                    .env("SEALIFT_TEST_LOG", &path)
                    .output()
                    .unwrap();
                let injected = fs::read_to_string(&trace).unwrap();
                if !injected.contains("(INJECTED)") && !injected.contains("killed by SIGKILL") {
                    break;
                }
                let at = format!("{fault} of {call} {n}");
                let found = Parts::of(from_ref(&path)).unwrap().verify().expect(&at);
                // Killed or failed after the write: there is one record too many, never one too few.
                let least = records + u64::from(output.status.success());
                assert!((least..=records + 1).contains(&found.records), "{at}: {found:?}");
                if fault != "signal=KILL" && !output.status.success() {
                    assert_eq!(found.records, records, "{at}");
                }
                let log = Log::file_in_parts(&path, PART_BYTES_MIN).unwrap();
                log.record(event()).unwrap();
                let again = Parts::of(&[path]).unwrap().verify().expect(&at);
                assert_eq!(again.records, found.records + 1, "{at}");
                failures.push(at);
            }
        }
    }
    println!("{failures:?}");
    assert!(failures.len() > 10, "only {failures:?}");
    let rotated = failures.iter().any(|at| at.contains("renameat2"));
    assert_eq!(rotated, records > 1, "{failures:?}");
}
