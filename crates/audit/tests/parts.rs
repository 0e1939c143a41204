//! A log in parts: rotated by us, by several of us, by half, and by others. SPECIFICATION P8.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use audit::{Error, Event, Head, Log, PART_BYTES_MIN, Parts, Summary, Why};
use tempfile::TempDir;

fn event(name: impl ToString) -> Event {
    Event::PolicyChanged { digest: name.to_string() }
}

/// A log with the smallest parts.
fn open(path: &Path) -> Result<Log, Error> {
    Log::file_in_parts(path, PART_BYTES_MIN)
}

fn record(path: &Path, records: u64) {
    let log = open(path).unwrap();
    (0..records).for_each(|n| log.record(event(n)).unwrap());
}

fn parts(path: &Path) -> Parts {
    Parts::of(&[path.to_owned()]).unwrap()
}

fn verify(path: &Path) -> Summary {
    parts(path).verify().unwrap()
}

/// A log of so many records, and its files.
fn scene(records: u64) -> (TempDir, PathBuf, Vec<PathBuf>) {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("audit.log");
    record(&path, records);
    let files = parts(&path).files().to_vec();
    (top, path, files)
}

#[test]
fn a_full_file_becomes_a_part_and_the_chain_goes_on() {
    let (top, path, files) = scene(200);
    assert!(files.len() > 3, "{files:?}");
    assert_eq!(files.last(), Some(&path));
    let (mut next, alone) = (Head { seq: 0, hash: "0".repeat(64) }, top.path().join("alone"));
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        assert!(text.len() as u64 <= PART_BYTES_MIN, "{}", text.len());
        assert!(text.starts_with(&format!("{{\"seq\":{},", next.seq + 1)), "{file:?}");
        if *file != path {
            let name = format!("audit.log.{:020}", next.seq + 1);
            assert_eq!(file.file_name().unwrap(), &name[..]);
            // Nothing more would have fitted.
            assert!(text.len() as u64 > PART_BYTES_MIN - 512, "{}", text.len());
        }
        // Each alone, after what is before it.
        fs::copy(file, &alone).unwrap();
        let alone = parts(&alone).after(next).verify().unwrap();
        next = Head { seq: alone.seq, hash: alone.head };
    }
    let whole = verify(&path);
    assert_eq!((whole.records, whole.seq, whole.head), (200, 200, next.hash));
}

#[test]
fn a_rotation_cut_short_anywhere_is_gone_on_with() {
    type Cut = fn(&Path, &Path);
    let cuts: [(&str, Cut); 3] = [
        ("renamed", |path, part| fs::rename(path, part).unwrap()),
        ("a new file", |path, part| {
            fs::rename(path, part).unwrap();
            fs::write(path, "").unwrap();
        }),
        ("before", |_, _| {}),
    ];
    for (what, cut) in cuts {
        let (top, path, _) = scene(3);
        cut(&path, &top.path().join("audit.log.00000000000000000001"));
        assert_eq!(verify(&path).seq, 3, "{what}");
        record(&path, 1);
        assert_eq!(verify(&path).seq, 4, "{what}");
    }
    // Half a record in the new file: as in any.
    let (top, path, _) = scene(3);
    fs::rename(&path, top.path().join("audit.log.00000000000000000001")).unwrap();
    fs::write(&path, "{\"seq\":4,").unwrap();
    assert!(matches!(open(&path), Err(Error::Torn { offset: 0, .. })));
    let broken = parts(&path).verify().unwrap_err();
    assert_eq!((broken.path, broken.line), (Some(path), 1));
}

#[test]
fn who_missed_rotations_catches_up() {
    let (_top, path, _) = scene(1);
    let idle = open(&path).unwrap();
    record(&path, 300);
    idle.record(event("late")).unwrap();
    assert_eq!(verify(&path).records, 302);
    // And to a file that is renamed, with nobody having begun the next.
    let first = parts(&path).files().len();
    fs::rename(&path, part_after(&path)).unwrap();
    idle.record(event("later")).unwrap();
    assert_eq!(verify(&path).records, 303);
    assert_eq!(parts(&path).files().len(), first + 1);
}

/// What the named file would be called.
fn part_after(path: &Path) -> PathBuf {
    let text = fs::read_to_string(path).unwrap();
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let name = format!("audit.log.{:020}", first["seq"].as_u64().unwrap());
    path.with_file_name(name)
}

#[test]
fn who_missed_rotations_notices_what_is_wrong_with_the_parts() {
    type Change = fn(&[PathBuf]);
    let changes: [(&str, Change); 5] = [
        ("changed", |files| {
            let text = fs::read_to_string(&files[1]).unwrap();
            fs::write(&files[1], text.replacen("policy", "police", 1)).unwrap();
        }),
        ("removed", |files| fs::remove_file(&files[1]).unwrap()),
        ("emptied", |files| fs::write(&files[1], "").unwrap()),
        ("cut", |files| {
            let text = fs::read_to_string(&files[1]).unwrap();
            let last = text.trim_end().rfind('\n').unwrap();
            fs::write(&files[1], &text[..=last]).unwrap();
        }),
        ("the log removed", |files| fs::remove_file(files.last().unwrap()).unwrap()),
    ];
    for (what, change) in changes {
        let (_top, path, _) = scene(1);
        let idle = open(&path).unwrap();
        record(&path, 300);
        change(parts(&path).files());
        let result = idle.record(event("late"));
        if what == "the log removed" {
            // The chain's end is gone, which nobody can see who did not know it.
            result.unwrap();
            continue;
        }
        assert!(matches!(result, Err(Error::Broken { .. })), "{what}: {result:?}");
    }
}

/// Not a test: a process that records, if told where.
#[test]
fn child() {
    let Ok(path) = std::env::var("SEALIFT_TEST_LOG") else { return };
    let log = open(Path::new(&path)).unwrap();
    for n in 0..CHILD_RECORDS {
        log.record(event(format!("{} {n}", std::process::id()))).unwrap();
    }
}

const CHILD_RECORDS: usize = 300;

#[test]
fn processes_that_rotate_one_log_lose_no_record_and_have_none_twice() {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("audit.log");
    let child = || {
        let program = std::env::current_exe().unwrap();
        Command::new(program)
            .args(["--exact", "child"])
            .env("SEALIFT_TEST_LOG", &path)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut children = [child(), child(), child()];
    assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
    let records = children.len() * CHILD_RECORDS;
    assert_eq!(verify(&path).records, records as u64);
    let files = parts(&path).files().to_vec();
    assert!(files.len() > 10, "{files:?}");
    let mut seen = HashSet::new();
    for file in files {
        for line in fs::read_to_string(file).unwrap().lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(seen.insert(record["event"]["digest"].as_str().unwrap().to_owned()));
        }
    }
    assert_eq!(seen.len(), records);
}

#[test]
fn what_another_program_rotated_is_not_continued() {
    for other in ["audit.log.1", "audit.log.2.gz", "audit.log-20260131", "audit.log-20260131.zst"] {
        // copytruncate, and create.
        for moved in [false, true] {
            let (top, path, _) = scene(3);
            let running = open(&path).unwrap();
            let other = top.path().join(other);
            match moved {
                false => {
                    fs::copy(&path, &other).unwrap();
                    fs::write(&path, "").unwrap();
                }
                true => {
                    fs::rename(&path, &other).unwrap();
                    fs::write(&path, "").unwrap();
                }
            }
            let result = running.record(event("next"));
            assert!(matches!(result, Err(Error::Broken { why: Why::Shortened, .. })), "{result:?}");
            match open(&path) {
                Err(Error::MovedByOther { other: found, .. }) => assert_eq!(found, other),
                result => panic!("{result:?}"),
            }
            // As the message says.
            fs::create_dir(top.path().join("old")).unwrap();
            fs::rename(&other, top.path().join("old/audit.log")).unwrap();
            record(&path, 1);
        }
    }
    // A part that was compressed is in the way only if it is the newest.
    let (_top, path, files) = scene(200);
    let compressed = |file: &Path| {
        let mut name = file.as_os_str().to_owned();
        name.push(".gz");
        fs::rename(file, name).unwrap();
    };
    compressed(&files[0]);
    fs::write(&path, "").unwrap();
    record(&path, 1);
    compressed(&files[files.len() - 2]);
    fs::write(&path, "").unwrap();
    assert!(matches!(open(&path), Err(Error::MovedByOther { .. })));
    // Other logs are none of ours.
    for other in ["audit.log.new", "audit.log-a", "audit.log-1", "audit.logs.1", "other.log.1"] {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join(other), "x").unwrap();
        record(&top.path().join("audit.log"), 1);
    }
}

#[test]
fn a_file_that_has_a_parts_name_is_not_replaced() {
    let (top, path, _) = scene(1);
    let other = top.path().join("audit.log.00000000000000000001");
    fs::write(&other, "other").unwrap();
    let log = open(&path).unwrap();
    let error = (0..100).find_map(|n| log.record(event(n)).err()).unwrap();
    assert!(matches!(&error, Error::Sink { sink, .. } if sink.ends_with("01")), "{error:?}");
    assert_eq!(fs::read_to_string(&other).unwrap(), "other");
    // Once it is gone, the log goes on.
    fs::remove_file(&other).unwrap();
    (0..100).for_each(|n| log.record(event(n)).unwrap());
    assert!(verify(&path).records > 100);
}

#[test]
fn a_verifier_says_which_file_and_which_of_its_lines() {
    let (top, path, files) = scene(200);
    let whole = verify(&path);
    let broken = |line: u64, file: &Path| {
        let broken = parts(&path).verify().unwrap_err();
        assert_eq!((broken.line, broken.path.as_deref()), (line, Some(file)), "{broken:?}");
        broken.why
    };
    let text = fs::read_to_string(&files[1]).unwrap();
    fs::write(&files[1], text.replacen(r#""digest":""#, r#""digest":"9"#, 3)).unwrap();
    assert!(matches!(broken(1, &files[1]), Why::WrongHash));
    let third = text.match_indices('\n').nth(2).unwrap().0;
    fs::write(&files[1], &text[..third]).unwrap();
    assert!(matches!(broken(3, &files[1]), Why::Torn));
    // A part that is missing is missing before the next.
    fs::rename(&files[1], top.path().join("elsewhere")).unwrap();
    assert!(matches!(broken(1, &files[2]), Why::WrongSequence { .. }));
    fs::write(&files[1], &text).unwrap();
    assert_eq!(verify(&path), whole);
    // The first moved to an archive: said, and either is enough, its end or the part itself.
    let archive = top.path().join("archive");
    fs::create_dir(&archive).unwrap();
    let archived = archive.join(files[0].file_name().unwrap());
    fs::rename(&files[0], &archived).unwrap();
    let missing = broken(1, &files[1]);
    assert!(matches!(missing, Why::WrongSequence { expected: 1, .. }), "{missing}");
    let before = Parts::of(&[archive.join("audit.log")]).unwrap().verify().unwrap();
    let after: Head = format!("{}:{}", before.seq, before.head).parse().unwrap();
    let rest = parts(&path).after(after.clone()).verify().unwrap();
    assert_eq!((rest.seq, &rest.head), (200, &whole.head));
    assert_eq!(rest.records + before.records, 200);
    let both = Parts::of(&[archive.join("audit.log"), path.clone()]).unwrap();
    assert_eq!(both.verify().unwrap(), whole);
    for wrong in [
        Head { seq: after.seq + 1, ..after.clone() },
        Head { hash: whole.head.clone(), ..after.clone() },
    ] {
        parts(&path).after(wrong).verify().unwrap_err();
    }
    Parts::of(&[top.path().join("none")]).unwrap_err();
}

#[test]
fn a_head_is_a_number_and_a_hash() {
    let hash = "0123456789abcdef".repeat(4);
    let head: Head = format!("7:{hash}").parse().unwrap();
    assert_eq!(head, Head { seq: 7, hash: hash.clone() });
    for bad in ["", "7", "7:", &hash, &format!(":{hash}"), &format!("-1:{hash}")] {
        bad.parse::<Head>().unwrap_err();
    }
    format!("7:{}", hash.to_uppercase()).parse::<Head>().unwrap_err();
    format!("7:{hash}0").parse::<Head>().unwrap_err();
}
