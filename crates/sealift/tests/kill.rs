//! The whole program, killed at every call by which it changes a file system; then run again.
//!
//! `publish` enumerates its own steps; here the calls are counted by strace in the real binary, so
//! that nothing which the code forgot to name is left out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use common::{RESOURCE, Sealed, model_tree, seal, succeed, text, tree};

/// Every call that creates, changes, moves or removes a file.
const MUTATING: &[&str] = &[
    "mkdirat",
    "openat",
    "openat2",
    "ftruncate",
    "fallocate",
    "pwrite64",
    "write",
    "fchmod",
    "fchmodat",
    "renameat",
    "renameat2",
    "linkat",
    "symlinkat",
    "unlinkat",
    "fsync",
    "fdatasync",
];

fn init(sealed: &Sealed, bundle: &Path, dest: &Path, strace: &[&str]) -> Command {
    let program = env!("CARGO_BIN_EXE_sealift");
    let mut command = match strace {
        [] => Command::new(program),
        flags => {
            let mut command = Command::new("strace");
            command.args(["-f", "-qq"]).args(flags).arg(program);
            command
        }
    };
    command.args(["init", text(bundle), text(dest)]);
    command.env("SEALIFT_KEY_FILE", &sealed.key).env("SEALIFT_RESOURCE_ID", RESOURCE);
    command.env("SEALIFT_TERMINATION_LOG", "/dev/null").env("SEALIFT_PROGRESS", "none");
    // One thread, so that the n-th call is the same call in every run.
    command.env("SEALIFT_CONCURRENCY", "1").env("TOKIO_WORKER_THREADS", "1");
    command
}

/// How often one run makes each call. Opening for reading is no change, but counting it does no
/// harm: it is one more moment to be killed at.
fn calls(sealed: &Sealed, bundle: &Path, dest: &Path) -> BTreeMap<String, usize> {
    let trace = sealed.dir.path().join("trace");
    let filter = format!("trace={}", MUTATING.join(","));
    succeed(&mut init(sealed, bundle, dest, &["-o", text(&trace), "-e", &filter]));
    let mut counts = BTreeMap::new();
    for line in std::fs::read_to_string(&trace).unwrap().lines() {
        let call = line.split_whitespace().nth(1).and_then(|rest| rest.split('(').next());
        if let Some(call) = call.filter(|call| MUTATING.contains(call)) {
            *counts.entry(call.to_owned()).or_insert(0) += 1;
        }
    }
    counts
}

fn strace_works() -> bool {
    let tried = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    let works = tried.is_ok_and(|status| status.success());
    if !works {
        assert!(std::env::var_os("SEALIFT_TEST_STRICT").is_none(), "strace does not work here");
        testkit::skip("killing at every system call, since strace does not work here");
    }
    works
}

/// Kills at each call of a run into a destination that `prepare` made; checks what is there, runs
/// again, and requires the new model and nothing else.
fn kill_everywhere(sealed: &Sealed, bundle: &Path, model: &Path, old: Option<&Path>) -> usize {
    let fresh = |name: &str| {
        let dest = sealed.dest(name);
        if let Some(old) = old {
            succeed(&mut init(sealed, old, &dest, &[]));
        }
        dest
    };
    let expected = tree(model);
    let before = model_tree(&fresh("before"));
    let mut kills = 0;
    for (call, count) in calls(sealed, bundle, &fresh("counted")) {
        for n in 1..=count {
            let dest = fresh("dest");
            let filter = format!("trace={call}");
            let inject = format!("inject={call}:signal=KILL:when={n}");
            let flags = ["-o", "/dev/null", "-e", &filter, "-e", &inject];
            let status = init(sealed, bundle, &dest, &flags).output().unwrap().status;
            let at = format!("killed at {call} {n} of {count}");
            kills += usize::from(!status.success());
            let receipt = dest.join(".sealift-receipt.json").exists();
            let mut found = model_tree(&dest);
            found.retain(|name, _| !name.starts_with(".sealift-staging"));
            let whole = found == expected || found == before;
            assert!(!receipt || whole, "{at}: a receipt beside {:?}", found.keys());
            for (name, bytes) in &found {
                let known = expected.get(name) == Some(bytes) || before.get(name) == Some(bytes);
                assert!(known, "{at}: {name} is neither the old file nor the new one");
            }
            succeed(&mut init(sealed, bundle, &dest, &[]));
            assert!(model_tree(&dest) == expected, "{at}: the next run did not end in the model");
            std::fs::remove_dir_all(&dest).unwrap();
        }
    }
    kills
}

#[test]
fn killed_at_any_call_of_a_first_run_the_next_one_completes_it() {
    if !strace_works() {
        return;
    }
    let sealed = Sealed::tiny();
    let kills = kill_everywhere(&sealed, &sealed.bundle, &sealed.model, None);
    assert!(kills >= 30, "only {kills} runs were killed");
    eprintln!("{kills} kills");
}

#[test]
fn killed_at_any_call_of_a_replacement_the_next_one_completes_it() {
    if !strace_works() {
        return;
    }
    let sealed = Sealed::tiny();
    let model = sealed.dest("next-model");
    common::write_tree(&model, &[("a", b"another alpha"), ("c/d", b"delta")]);
    let next = sealed.dir.path().join("next");
    seal(&model, &next, RESOURCE, &sealed.key, 2);
    let kills = kill_everywhere(&sealed, &next, &model, Some(&sealed.bundle));
    assert!(kills >= 30, "only {kills} runs were killed");
    eprintln!("{kills} kills");
}
