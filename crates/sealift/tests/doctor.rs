//! `sealift doctor` and `key check`: the first thing that is wrong is named, whatever it is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::broker::Broker;
use common::{RESOURCE, Sealed, sealift, succeed, text, tree};
use sealift::code::Code;

const ALLOW: &str = "package policy\nimport rego.v1\ndefault allow := false\nallow if input.iss\n";
const DENY: &str = "package policy\nimport rego.v1\ndefault allow := false\n";

struct Scene {
    sealed: Sealed,
    broker: Broker,
    dest: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let sealed = Sealed::small();
        let broker = Broker::start(&sealed.dir.path().join("broker"));
        broker.policy(ALLOW);
        succeed(&mut broker.key("put", RESOURCE, &["--key-file", text(&sealed.key)]));
        let dest = sealed.dest("dest");
        Self { sealed, broker, dest }
    }

    fn doctor(&self, source: &str, more: &[&str]) -> Command {
        let mut doctor = sealift();
        doctor.args(["doctor", source, text(&self.dest), "--resource-id", RESOURCE]);
        doctor.args(["--kbs-url", &self.broker.url(), "--insecure-dev", "--key-timeout", "2"]);
        doctor.args(["--output", "json"]).args(more);
        doctor
    }

    /// What became of each check, and that nothing was published.
    fn found(&self, command: &mut Command, code: Option<Code>) -> Vec<(String, String)> {
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let exit = code.map_or(0, Code::exit);
        assert_eq!(output.status.code(), Some(exit.into()), "{stderr}");
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        assert!(tree(&self.dest).is_empty());
        if let Some(code) = code {
            let failed = rows.iter().find(|row| row["outcome"] == "failed").unwrap();
            let detail = failed["detail"].as_str().unwrap();
            assert!(detail.starts_with(&format!("{code} {}: ", code.slug())), "{detail}");
            assert_eq!(stderr.lines().last(), Some(detail));
        }
        let word = |row: &serde_json::Value, member: &str| row[member].as_str().unwrap().to_owned();
        // What the machine is like stands behind, from `place` on; only an error of it is a failure.
        let (chain, machine) = match rows.iter().position(|row| row["check"] == "place") {
            Some(place) => rows.split_at(place),
            None => (&rows[..], &rows[..0]),
        };
        for row in machine {
            assert_ne!(word(row, "outcome"), "not-tried");
            assert_eq!(row.get("fix").is_some(), word(row, "outcome") == "warning", "{row}");
        }
        let door = machine.iter().find(|row| row["check"] == "network.keys");
        assert!(door.is_none_or(|row| row["outcome"] == "ok"), "{door:?}");
        let machine = machine.iter().filter(|row| row["outcome"] == "failed");
        let rows = chain.iter().chain(machine);
        rows.map(|row| (word(row, "check"), word(row, "outcome"))).collect()
    }

    /// The only check that fails, and the code.
    #[track_caller]
    fn fails(&self, command: &mut Command, code: Code, check: &str) {
        let found = self.found(command, Some(code));
        let failed: Vec<_> = found.iter().filter(|(_, outcome)| outcome == "failed").collect();
        assert!(matches!(failed[..], [(failed, _)] if failed == check), "{found:?}");
        let after = found.iter().skip_while(|(name, _)| name != check).skip(1);
        let after: Vec<_> = after.map(|(_, outcome)| outcome.as_str()).collect();
        if check != "destination" && check != "audit log" {
            assert!(after.iter().all(|outcome| *outcome == "not-tried"), "{found:?}");
        }
    }
}

#[test]
fn each_thing_that_is_wrong_is_named() {
    let scene = Scene::new();
    let bundle = text(&scene.sealed.bundle);
    let well = scene.found(&mut scene.doctor(bundle, &[]), None);
    let names: Vec<_> = well.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "audit log",
        "settings",
        "attester",
        "destination",
        "bundle",
        "room",
        "key source",
        "identity",
        "policy",
        "key",
        "key's form",
        "current",
    ];
    assert_eq!(names, expected);
    assert!(well.iter().all(|(_, outcome)| outcome == "ok"), "{well:?}");

    let doctor = |more: &[&str]| scene.doctor(bundle, more);
    scene.fails(&mut doctor(&["--min-generation", "2"]), Code::Stale, "current");
    scene.fails(&mut doctor(&["--audit-file", "/proc/none"]), Code::Audit, "audit log");
    let key = scene.sealed.dir.path().join("sign.pub");
    // A file that is there and no bundle of authorities: the machine's only error.
    let ca = |mut command: Command| {
        command.env("AWS_CA_BUNDLE", scene.sealed.key.as_os_str());
        command
    };
    scene.fails(&mut ca(doctor(&[])), Code::Usage, "network.ca");
    std::fs::write(&key, rcgen::KeyPair::generate().unwrap().public_key_pem()).unwrap();
    scene.fails(&mut doctor(&["--signature-key", text(&key)]), Code::Signature, "bundle");
    scene.broker.policy(DENY);
    scene.fails(&mut doctor(&[]), Code::KeyDenied, "policy");
    scene.broker.policy(ALLOW);
    scene.fails(&mut scene.doctor("/nowhere/at/all", &[]), Code::NotFound, "bundle");
    std::fs::remove_file(scene.sealed.bundle.join("empty.sealed")).unwrap();
    scene.fails(&mut doctor(&[]), Code::Tampered, "bundle");
}

#[test]
fn a_key_check_goes_as_far_as_it_can() {
    let scene = Scene::new();
    let url = scene.broker.url();
    let check = |resource: &str, url: &str| {
        let mut check = sealift();
        check.args(["key", "check", "--resource-id", resource, "--kbs-url", url]);
        check.args(["--insecure-dev", "--key-timeout", "2", "--output", "json"]);
        check
    };
    let found = scene.found(&mut check(RESOURCE, &url), None);
    assert!(found.iter().all(|(_, outcome)| outcome == "ok") && found.len() == 5, "{found:?}");
    scene.fails(&mut check("kbs:///team/model/none", &url), Code::KeyNotFound, "key");
    scene.fails(&mut check(RESOURCE, "http://127.0.0.1:1"), Code::KeyUnreachable, "key source");
    scene.broker.policy(DENY);
    scene.fails(&mut check(RESOURCE, &url), Code::KeyDenied, "policy");
}

#[test]
fn a_door_that_is_closed_is_said_and_is_no_failure_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut doctor = sealift();
    doctor.args(["doctor", "--at", "pod", "--cdh-addr", "http://127.0.0.1:1", "-o", "json"]);
    doctor.arg("--audit-file").arg(dir.path().join("audit"));
    let output = doctor.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let row = |id: &str| rows.iter().find(|row| row["check"] == id).unwrap();
    assert_eq!(row("place")["detail"], "pod, as --at says");
    assert_eq!(row("network.keys")["outcome"], "warning");
    assert!(row("network.keys")["fix"].as_str().unwrap().contains("api-server-rest"));
}

#[test]
fn a_policy_that_says_why_is_quoted() {
    let scene = Scene::new();
    scene.broker.policy(&format!("{DENY}reasons contains \"not on a Sunday\"\n"));
    let mut check = sealift();
    check.args(["key", "check", "--resource-id", RESOURCE, "--kbs-url", &scene.broker.url()]);
    check.args(["--insecure-dev", "--key-timeout", "2"]);
    let output = check.output().unwrap();
    assert_eq!(output.status.code(), Some(Code::KeyDenied.exit().into()));
    let table = String::from_utf8(output.stdout).unwrap();
    let step = table.lines().find(|line| line.contains("policy")).unwrap();
    assert!(step.contains("Access denied by policy: not on a Sunday"), "{table}");
}

#[test]
fn a_key_is_used_for_its_purposes_only() {
    let scene = Scene::new();
    let bundle = text(&scene.sealed.bundle);
    let key = text(&scene.sealed.key);
    let put = |purposes: &str| {
        let more = ["--key-file", key, "--overwrite", "--purpose", purposes];
        succeed(&mut scene.broker.key("put", RESOURCE, &more));
    };
    let url = scene.broker.url();
    let rewrap = || {
        let out = scene.sealed.dir.path().join("rewrapped.json");
        let mut rewrap = sealift();
        rewrap.args(["rewrap", bundle, "--resource-id", RESOURCE, "--key-file", key]);
        rewrap.args(["--to", RESOURCE, "--kbs-url", &url, "--insecure-dev"]);
        rewrap.args(["--manifest-out", text(&out)]).output().unwrap()
    };
    put("open");
    scene.found(&mut scene.doctor(bundle, &[]), None);
    let refused = rewrap();
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(Code::KeyUnusable.exit().into()), "{stderr}");
    assert!(stderr.contains("`sealift_purposes` do not list `seal`"), "{stderr}");
    put("seal,secret");
    scene.fails(&mut scene.doctor(bundle, &[]), Code::KeyUnusable, "key's form");
    let wrapped = rewrap();
    assert!(wrapped.status.success(), "{}", String::from_utf8_lossy(&wrapped.stderr));
}
