//! The list of system calls, held against what commands make in their usual work: nothing but what
//! is on it, and everything that is on it or a reason why not.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use common::broker::Broker;
use common::{RESOURCE, Sealed, sealift, succeed, text};
use confine::calls::{OLDER, RARE, USUAL};
use testkit::steps::{confined_calls, numbering, strace, strace_works};

/// Those that a rule looks at the arguments of, or that are there for some programs only.
const CONDITIONAL: [i64; 10] = [
    libc::SYS_accept4,
    libc::SYS_clone,
    libc::SYS_fchown,
    libc::SYS_ioctl,
    libc::SYS_kill,
    libc::SYS_listen,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_prctl,
    libc::SYS_socket,
];

/// `command` to its end, and the calls that it made after it was confined.
fn calls(dir: &Path, command: &Command) -> BTreeSet<i64> {
    let trace = dir.join("trace");
    let mut traced = strace(&numbering(&trace));
    traced.arg(command.get_program()).args(command.get_args());
    let variables = command.get_envs();
    traced.envs(variables.filter_map(|(name, value)| Some((name, value?))));
    let removed = command.get_envs().filter(|(_, value)| value.is_none());
    removed.for_each(|(name, _)| {
        traced.env_remove(name);
    });
    succeed(&mut traced);
    confined_calls(&trace)
}

#[test]
fn every_listed_call_is_made_or_has_its_reason() {
    if !strace_works() {
        return;
    }
    let sealed = Sealed::small();
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    broker.put("kbs:///team/db/password", b"swordfish");
    let at = |name: &str| dir.path().join(name);
    let to = format!("{RESOURCE}={}", text(&sealed.key));
    let keys = ["--resource-id", RESOURCE, "--key-file", text(&sealed.key)];
    let command = |words: &[&str]| {
        let mut command = sealift();
        command.args(words);
        command
    };
    let with_keys = |words: &[&str]| {
        let mut command = command(words);
        command.args(keys);
        command
    };
    let bundle = text(&sealed.bundle).to_owned();
    let (opened, begun) = (sealed.dest("opened"), sealed.dest("begun"));
    let mut init = with_keys(&["init", &bundle, text(&begun)]);
    init.args(["--audit-file", text(&at("init.log"))]);
    let mut sync = command(&["secret", "sync", "--once", "--insecure-dev", "--kbs-url"]);
    sync.arg(broker.url()).args(["--item", "password=kbs:///team/db/password"]);
    sync.args(["--dir", text(&sealed.dir.path().join("secrets"))]);
    let works = [
        with_keys(&["seal", text(&sealed.model), text(&at("bundle"))]),
        with_keys(&["verify", &bundle]),
        command(&["inspect", &bundle]),
        command(&["cache", &bundle, text(&at("cached"))]),
        with_keys(&["open", &bundle, text(&opened)]),
        init,
        with_keys(&["rewrap", &bundle, "--to", &to]),
        sync,
    ];
    let made: BTreeSet<i64> = works.iter().flat_map(|work| calls(dir.path(), work)).collect();
    let rare: BTreeSet<i64> = RARE.iter().map(|(call, _)| *call).collect();
    let listed: BTreeSet<i64> = USUAL.iter().chain(OLDER).chain(&CONDITIONAL).copied().collect();
    let surprising: Vec<_> =
        made.iter().filter(|call| !listed.contains(call) && !rare.contains(call)).collect();
    assert!(surprising.is_empty(), "made, and not listed: {surprising:?}");
    let unmade: Vec<_> = USUAL.iter().filter(|call| !made.contains(call)).collect();
    assert!(unmade.is_empty(), "listed, and made by nobody: {unmade:?}");
    for (call, why) in RARE {
        assert!(!why.is_empty() && !USUAL.contains(call), "{call}");
    }
}
