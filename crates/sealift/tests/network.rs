//! A bucket and a network that misbehave at every offset, and a key source that says no.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{RESOURCE, Sealed, model_tree, open, open_edited, refused_untouched, text, tree};
use sealift::code::Code;
use sealift::failure::Failure;
use sealift::opening::{Accept, Outcome};
use testkit::hostile::{Fault, Hostile};
use testkit::kbs::FakeKbs;

const SOURCE: &str = "s3://models/m";

/// A server that holds the bundle as `s3://models/m`.
fn serve(sealed: &Sealed) -> Hostile {
    let server = Hostile::start().unwrap();
    for (name, bytes) in tree(&sealed.bundle).into_iter().filter(|(name, _)| !name.ends_with('/')) {
        server.put(&format!("models/m/{name}"), bytes);
    }
    server
}

fn fetch(
    sealed: &Sealed,
    server: &Hostile,
    dest: &Path,
    flags: &[&str],
) -> Result<Vec<Outcome>, Failure> {
    let endpoint = server.endpoint();
    let mut all = vec!["--endpoint-url", &endpoint, "--resource-id", RESOURCE];
    all.extend(["--key-file", text(&sealed.key)]);
    all.extend(flags);
    open(&[(SOURCE, dest)], &all)
}

/// Each object's first request is refused until later.
#[test]
fn a_busy_store_is_left_alone_for_as_long_as_it_asks() {
    let sealed = Sealed::tiny();
    let server = serve(&sealed);
    server.plan(|seen| {
        let first = seen.object.ends_with(".sealed") && seen.nth == 0;
        first.then_some(Fault::Busy { after: 1 })
    });
    let began = Instant::now();
    fetch(&sealed, &server, &sealed.dest("dest"), &[]).unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
}

/// At every offset of every object: the connection is cut or reset, or the body turns to garbage,
/// each time that it is asked for.
#[test]
fn an_answer_that_breaks_at_any_offset_publishes_nothing() {
    let sealed = Sealed::tiny();
    let server = serve(&sealed);
    let dest = sealed.dest("dest");
    let untouched = BTreeMap::new();
    for (name, bytes) in tree(&sealed.bundle).into_iter().filter(|(name, _)| !name.ends_with('/')) {
        let length = bytes.len() as u64;
        for after in 0..length {
            let faults = [
                (Fault::Cut { after }, Code::Network),
                (Fault::Reset { after }, Code::Network),
                (Fault::Garbage { after }, Code::Tampered),
            ];
            // A reset may overtake the bytes before it: it is one fault at all offsets of a head.
            for (fault, code) in faults {
                let object = format!("models/m/{name}");
                let planned = fault.clone();
                server.plan(move |seen| (seen.object == object).then(|| planned.clone()));
                let failure = fetch(&sealed, &server, &dest, &["--retries", "0"]).expect_err(&name);
                let fits = failure.code() == code
                    || (code == Code::Tampered && failure.code() == Code::NotSealed);
                assert!(fits, "{name} {fault:?}: {failure}");
                if !failure.is_transient() {
                    refused_untouched::<()>(
                        Err(failure),
                        failure_code(code, &name, after),
                        &dest,
                        &untouched,
                    );
                }
            }
            server.clear_log();
        }
    }
    server.plan(|_| None);
    fetch(&sealed, &server, &dest, &[]).unwrap();
    assert!(model_tree(&dest) == tree(&sealed.model));
}

/// Garbage from the first byte of `sealift.json` on is no bundle at all; later it is a broken one.
fn failure_code(code: Code, name: &str, after: u64) -> Code {
    const PREFIX: u64 = r#"{"format":"sealift/v1""#.len() as u64;
    if code == Code::Tampered && name == "sealift.json" && after < PREFIX {
        Code::NotSealed
    } else {
        code
    }
}

/// The same faults once: the run recovers, and asks again only for what it does not have.
#[test]
fn a_break_at_any_place_is_recovered_from() {
    let sealed = Sealed::small();
    let server = serve(&sealed);
    let object = sealed.bundle.join("sub/w.bin.sealed");
    let length = object.metadata().unwrap().len();
    const SEGMENT: u64 = 1 << 20;
    for after in [0, 1, 40, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, length - 1] {
        for fault in [Fault::Cut { after }, Fault::Reset { after }] {
            // A reset also throws away what had arrived and was not yet read.
            let lost = if matches!(fault, Fault::Cut { .. }) { SEGMENT } else { length };
            let dest = sealed.dest("dest");
            server.clear_log();
            server.plan(move |seen| {
                let first = seen.object.ends_with("w.bin.sealed") && seen.nth == 0;
                (first && seen.method == "GET").then(|| fault.clone())
            });
            let outcome = fetch(&sealed, &server, &dest, &[]).unwrap();
            assert_eq!(outcome[0].retries, 1);
            assert!(model_tree(&dest) == tree(&sealed.model));
            let again = server.bytes("w.bin.sealed").saturating_sub(length);
            assert!(again <= lost, "{again} bytes were fetched twice after a cut at {after}");
            std::fs::remove_dir_all(&dest).unwrap();
        }
    }
}

/// Silence at every offset of every object, 16 runs at a time: most of each is waiting.
#[test]
fn silence_from_any_offset_on_is_noticed_and_publishes_nothing() {
    const AT_A_TIME: usize = 16;
    std::thread::scope(|scope| {
        for turn in 0..AT_A_TIME {
            scope.spawn(move || {
                let sealed = Sealed::tiny();
                let server = serve(&sealed);
                let dest = sealed.dest("dest");
                let objects = tree(&sealed.bundle).into_iter();
                let offsets = objects.flat_map(|(name, bytes)| {
                    (0..bytes.len() as u64).map(move |after| (name.clone(), after))
                });
                for (name, after) in offsets.skip(turn).step_by(AT_A_TIME) {
                    let object = format!("models/m/{name}");
                    server.plan(move |seen| {
                        (seen.object == object && seen.method == "GET")
                            .then_some(Fault::Stall { after })
                    });
                    let endpoint = server.endpoint();
                    let mut flags = vec!["--endpoint-url", &endpoint, "--retries", "0"];
                    flags.extend(["--resource-id", RESOURCE, "--key-file", text(&sealed.key)]);
                    let opened =
                        open_edited(Accept::SEALED_ONLY, &[(SOURCE, &dest)], &flags, |opening| {
                            opening.patience.stall_timeout = Duration::from_millis(50);
                        });
                    refused_untouched(opened, Code::Network, &dest, &BTreeMap::new());
                    // The other object had arrived, and the next run would not ask for it again.
                    std::fs::remove_dir_all(&dest).unwrap();
                    std::fs::create_dir(&dest).unwrap();
                    server.clear_log();
                }
            });
        }
    });
}

#[test]
fn a_stalled_connection_is_given_up_and_asked_again() {
    let sealed = Sealed::small();
    let server = serve(&sealed);
    let dest = sealed.dest("dest");
    server.plan(|seen| {
        let first = seen.object.ends_with("w.bin.sealed") && seen.nth == 0;
        (first && seen.method == "GET").then_some(Fault::Stall { after: 1_500_000 })
    });
    let outcome = fetch(&sealed, &server, &dest, &["--stall-timeout", "1"]).unwrap();
    assert_eq!(outcome[0].retries, 1);
    assert!(model_tree(&dest) == tree(&sealed.model));
}

#[test]
fn answers_that_lie_about_ranges_and_lengths_are_refused() {
    let sealed = Sealed::small();
    let server = serve(&sealed);
    for fault in [
        Fault::IgnoreRange,
        Fault::ClaimRange { value: "bytes 0-9/10".into() },
        Fault::ShiftRange { by: 1 },
        Fault::ClaimLength { off_by: 1 },
        Fault::ClaimLength { off_by: -1 },
        Fault::Longer { by: 1 },
        Fault::Endless,
        Fault::ClaimEncoding { value: "gzip" },
        Fault::HugeHeader { bytes: 1 << 20 },
        Fault::NotHttp,
        Fault::Status { status: 403, code: "AccessDenied" },
        Fault::Status { status: 404, code: "NoSuchKey" },
        Fault::Status { status: 503, code: "SlowDown" },
    ] {
        let planned = fault.clone();
        let dest = sealed.dest("dest");
        server.plan(move |seen| {
            let data = seen.object.ends_with("w.bin.sealed") && seen.method == "GET";
            data.then(|| planned.clone())
        });
        let result = fetch(&sealed, &server, &dest, &["--retries", "0", "--stall-timeout", "2"]);
        let failure = result.expect_err(&format!("{fault:?}"));
        let expected = match fault {
            Fault::Status { status: 403, .. } => Code::AccessDenied,
            Fault::Status { status: 404, .. } => Code::NotFound,
            _ => Code::Network,
        };
        assert_eq!(failure.code(), expected, "{fault:?}: {failure}");
        assert!(tree(&dest).keys().all(|name| name.starts_with(".sealift-staging/")));
        std::fs::remove_dir_all(&dest).unwrap();
    }
}

#[test]
fn bursts_of_503_are_waited_out() {
    let sealed = Sealed::small();
    let server = serve(&sealed);
    let dest = sealed.dest("dest");
    server.plan(|seen| (seen.nth < 2).then_some(Fault::Status { status: 503, code: "SlowDown" }));
    let outcome = fetch(&sealed, &server, &dest, &[]).unwrap();
    assert!(outcome[0].retries >= 2);
    assert!(model_tree(&dest) == tree(&sealed.model));
}

#[test]
fn an_interrupted_run_is_resumed_and_fetches_no_segment_twice() {
    const SEGMENT: u64 = 1 << 20;
    let sealed = Sealed::small();
    let server = serve(&sealed);
    let dest = sealed.dest("dest");
    server.plan(|seen| {
        (seen.object.ends_with("w.bin.sealed") && seen.method == "GET")
            .then_some(Fault::Cut { after: if seen.nth == 0 { SEGMENT + 10 } else { 0 } })
    });
    let failure = fetch(&sealed, &server, &dest, &["--retries", "1"]).unwrap_err();
    assert_eq!(failure.code(), Code::Network, "{failure}");
    assert!(tree(&dest).keys().all(|name| name.starts_with(".sealift-staging/")));
    server.plan(|_| None);
    server.clear_log();
    let outcome = fetch(&sealed, &server, &dest, &[]).unwrap();
    assert!(outcome[0].resumed_bytes > 0, "{outcome:?}");
    let length = sealed.bundle.join("sub/w.bin.sealed").metadata().unwrap().len();
    assert_eq!(server.bytes("w.bin.sealed"), length - SEGMENT);
    assert!(model_tree(&dest) == tree(&sealed.model));
}

/// The directory of the sealed key on a data hub that this test controls.
fn with_hub<T>(test: impl FnOnce(&FakeKbs) -> T) -> T {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let hub = runtime.block_on(FakeKbs::start()).unwrap();
    let result = test(&hub);
    drop(hub);
    result
}

#[test]
fn no_byte_of_a_model_is_asked_for_before_its_key() {
    let sealed = Sealed::small();
    let server = serve(&sealed);
    let dest = sealed.dest("dest");
    with_hub(|hub| {
        let (endpoint, kbs) = (server.endpoint(), hub.url());
        let flags = [
            "--endpoint-url",
            &endpoint,
            "--resource-id",
            RESOURCE,
            "--kbs-url",
            &kbs,
            "--insecure-dev",
            "--key-timeout",
            "2",
        ];
        let asked = || server.log().iter().any(|served| served.request.object.ends_with(".sealed"));
        let untouched = BTreeMap::new();
        let refuse = |code| {
            let result = open(&[(SOURCE, dest.as_path())], &flags);
            refused_untouched(result, code, &dest, &untouched);
            assert!(!asked(), "{code}: an object was asked for");
        };
        refuse(Code::KeyNotFound);
        let key = std::fs::read(&sealed.key).unwrap();
        hub.put("team/model/v1", &key);
        hub.deny("team/model/v1");
        refuse(Code::KeyDenied);
        hub.set_down(true);
        refuse(Code::KeyUnreachable);
    });
}

#[test]
fn a_key_is_asked_for_once_however_many_models_it_opens() {
    let sealed = Sealed::small();
    let server = serve(&sealed);
    with_hub(|hub| {
        hub.put("team/model/v1", &std::fs::read(&sealed.key).unwrap());
        let (endpoint, kbs) = (server.endpoint(), hub.url());
        let flags = [
            "--endpoint-url",
            &endpoint,
            "--resource-id",
            RESOURCE,
            "--kbs-url",
            &kbs,
            "--insecure-dev",
        ];
        let dests = [sealed.dest("one"), sealed.dest("two"), sealed.dest("three")];
        let pairs: Vec<_> = dests.iter().map(|dest| (SOURCE, dest.as_path())).collect();
        open(&pairs, &flags).unwrap();
        for dest in &dests {
            assert!(model_tree(dest) == tree(&sealed.model));
        }
        let releases = hub.requests().iter().filter(|path| path.contains("/resource/")).count();
        assert_eq!((hub.attestations(), releases), (1, 1), "{:?}", hub.requests());
        assert!(hub.complaints().is_empty(), "{:?}", hub.complaints());
    });
}
