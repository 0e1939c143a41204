use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::rego::EVALUATION_TIME_MAX;

fn uri() -> ResourceUri {
    ResourceUri::from_path("default/key/one").unwrap()
}

fn claims(status: &str, evidence: Value) -> Value {
    json!({ "submods": { "cpu0": {
        "ear.status": status, "ear.veraison.annotated-evidence": evidence,
    } } })
}

fn compile(text: &str) -> Result<Compiled, Error> {
    Compiled::parse(text.to_owned())
}

fn master(dir: &TempDir) -> MasterKey {
    let path = dir.path().join("master.key");
    std::fs::write(&path, [1; 32]).unwrap();
    MasterKey::load(&path).unwrap()
}

#[test]
fn the_default_releases_to_affirming_guests_only() {
    let policy = compile(DEFAULT).unwrap();
    let allows = |claims: Value| policy.allows(&uri(), &json!({}), &claims).unwrap();
    assert!(allows(claims("affirming", json!({ "snp": {} }))));
    assert!(!allows(claims("warning", json!({ "snp": {} }))));
    assert!(!allows(claims("contraindicated", json!({ "sample": { "svn": "1" } }))));
    for nothing in [json!({}), json!({ "submods": {} }), json!({ "submods": { "cpu0": {} } })] {
        assert!(!allows(nothing));
    }
    let mut two = claims("affirming", json!({}));
    two["submods"]["gpu0"] = json!({ "ear.status": "warning" });
    assert!(!allows(two));
}

#[test]
fn insecure_dev_adds_sample_and_nothing_else() {
    let policy = compile(&format!("{DEFAULT}{INSECURE_DEV}")).unwrap();
    let allows = |claims: Value| policy.allows(&uri(), &json!({}), &claims).unwrap();
    assert!(allows(claims("contraindicated", json!({ "sample": { "svn": "1" } }))));
    assert!(allows(claims("affirming", json!({ "snp": {} }))));
    assert!(!allows(claims("contraindicated", json!({ "snp": {} }))));
}

#[test]
fn upstreams_affirming_policy_runs_unchanged_and_sees_upstreams_data() {
    let policy = compile(
        r#"package policy
           import rego.v1
           default allow = false
           allow if {
               not any_not_affirming
               count(input.submods) > 0
               data["resource-path"] == ["default", "key", "one"]
               data.plugin == "resource"
               data.query.a == "b"
           }
           any_not_affirming if {
               some _, submod in input.submods
               submod["ear.status"] != "affirming"
           }"#,
    )
    .unwrap();
    let good = claims("affirming", json!({}));
    assert!(policy.allows(&uri(), &json!({ "a": "b" }), &good).unwrap());
    assert!(!policy.allows(&uri(), &json!({}), &good).unwrap());
    assert!(!policy.allows(&uri(), &json!({ "a": "b" }), &claims("warning", json!({}))).unwrap());
}

#[test]
fn a_client_cannot_bring_data_that_stands_for_a_rule() {
    let policy = compile("package policy\ndefault allow := false").unwrap();
    let query = json!({ "policy": "x", "allow": "true" });
    let claims = json!({ "policy": { "allow": true }, "allow": true });
    assert!(!policy.allows(&uri(), &query, &claims).unwrap());
}

#[test]
fn only_true_is_yes() {
    for value in ["\"true\"", "1", "null", "[true]", "false"] {
        let policy = compile(&format!("package policy\nallow := {value}")).unwrap();
        assert!(!policy.allows(&uri(), &json!({}), &json!({})).unwrap(), "{value}");
    }
}

#[test]
fn unusable_policies_are_refused_when_they_are_set() {
    for text in [
        "",
        "package other\ndefault allow := true",
        "package policy\ndefault permit := true",
        "package policy\nallow {",
        "package policy\nallow if { undefined_function(1) }",
        &"#".repeat(POLICY_BYTES_MAX + 1),
    ] {
        assert!(matches!(compile(text), Err(Error::Policy(_))), "{text:.40}");
    }
}

#[test]
fn an_evaluation_that_takes_too_long_is_ended_and_releases_nothing() {
    let policy = compile(
        r#"package policy
           default allow := false
           allow if {
               input.slow
               some a in numbers.range(1, 3000)
               some b in numbers.range(1, 3000)
               a * b == 0
           }"#,
    )
    .unwrap();
    let started = Instant::now();
    assert!(policy.allows(&uri(), &json!({}), &json!({ "slow": true })).is_err());
    assert!(started.elapsed() < EVALUATION_TIME_MAX * 20);
}

#[test]
fn a_changed_file_is_in_force_at_once_and_a_broken_one_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.rego");
    let put = |text: &str| files::write(&file, text.as_bytes(), Existing::Replace).unwrap();
    put("package policy\nallow := true");
    let policy = Policy::open(dir.path(), &master(&dir), Some(file.clone()), false).unwrap();
    let allows = || policy.current()?.allows(&uri(), &json!({}), &json!({}));
    assert!(allows().unwrap());
    put("package policy\nallow := false");
    assert!(!allows().unwrap());
    put("package policy\nallow :=");
    assert!(allows().is_err());
    std::fs::remove_file(&file).unwrap();
    assert!(allows().is_err());
    put("package policy\nallow := true");
    assert!(allows().unwrap());
    assert!(matches!(policy.store(&compile(DEFAULT).unwrap()), Err(Error::PolicyIsFile(_))));
}

#[test]
fn a_posted_policy_is_kept_encrypted_and_seen_by_other_replicas() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Policy::open(dir.path(), &master(&dir), None, false).unwrap();
    let (one, other) = (open(), open());
    let text = "package policy\nallow := true # a remark to look for";
    one.store(&compile(text).unwrap()).unwrap();
    for policy in [&one, &other, &open()] {
        assert_eq!(policy.current().unwrap().text(), text);
    }
    let path = dir.path().join("policy.rego.sealed");
    let mut file = std::fs::read(&path).unwrap();
    assert!(!file.windows(6).any(|window| window == b"remark"));
    file[20] ^= 1;
    std::fs::write(&path, file).unwrap();
    assert!(matches!(one.current(), Err(Error::Tampered { .. })));
    assert!(Policy::open(dir.path(), &master(&dir), None, false).is_err());
}

#[test]
fn a_rule_may_have_a_default_for_each_name() {
    let text = "package policy\nimport rego.v1\ndefault allow := false\n\
        default known[\"a\"] := false\nknown[\"a\"] := true if input.a\nallow if known.a\n";
    let policy = compile(text).unwrap();
    for (claims, allowed) in [(json!({ "a": true }), true), (json!({}), false)] {
        assert_eq!(policy.allows(&uri(), &json!({}), &claims).unwrap(), allowed);
    }
}

#[test]
fn evaluating_a_parsed_policy_is_fast() {
    let policy = compile(DEFAULT).unwrap();
    let claims = claims("affirming", json!({ "snp": {} }));
    let started = Instant::now();
    for _ in 0..100 {
        policy.allows(&uri(), &json!({}), &claims).unwrap();
    }
    let each = started.elapsed() / 100;
    println!("{each:?} for each evaluation");
    assert!(each < Duration::from_millis(20));
}
