//! The programs as their users run them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::{RESOURCE, Sealed, keygen, model_tree, refuse, seal, sealift, succeed, text, tree};
use sealift::code::Code;

fn init(sealed: &Sealed, source: &str, dest: &str) -> Command {
    let mut command = sealift();
    command.args(["init", source, dest, "--resource-id", RESOURCE]);
    command.args(["--key-file", text(&sealed.key)]);
    command
}

#[test]
fn a_model_arrives_as_it_was_with_its_modes() {
    let sealed = Sealed::small();
    let script = sealed.model.join("sub/run.sh");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
    let bundle = sealed.dir.path().join("second");
    seal(&sealed.model, &bundle, RESOURCE, &sealed.key, 1);
    let dest = sealed.dest("dest");
    succeed(&mut init(&sealed, text(&bundle), text(&dest)));
    assert!(model_tree(&dest) == tree(&sealed.model));
    let mode = |name: &str| dest.join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("sub/run.sh"), mode("config.json")), (0o755, 0o644));
}

/// Whoever reads the bucket learns lengths, and not whether content is the same.
#[test]
fn two_sealings_of_one_model_have_nothing_in_common_nor_with_the_model() {
    const WINDOW: usize = 16;
    let sealed = Sealed::small();
    let second = sealed.dir.path().join("second");
    seal(&sealed.model, &second, RESOURCE, &sealed.key, 1);
    let mut seen = std::collections::HashSet::new();
    let plain = tree(&sealed.model);
    let objects = |dir| tree(dir).into_iter().filter(|(name, _)| name.ends_with(".sealed"));
    let contents: Vec<Vec<u8>> = plain
        .into_values()
        .chain(objects(&sealed.bundle).chain(objects(&second)).map(|(_, bytes)| bytes))
        .collect();
    assert_eq!(contents.len(), 3 * 3 + 1, "three files and a directory; their objects, twice");
    for bytes in contents {
        let windows: Vec<&[u8]> = bytes.windows(WINDOW).collect();
        assert!(!windows.iter().any(|window| seen.contains(*window)));
        seen.extend(windows.into_iter().step_by(WINDOW).map(<[u8]>::to_vec));
    }
}

#[test]
fn kserve_starts_it_with_bare_arguments_and_its_own_variables() {
    let sealed = Sealed::small();
    let dest = sealed.dest("dest");
    let run = |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealift"));
        std::os::unix::process::CommandExt::arg0(&mut command, "/usr/bin/storage-initializer");
        command.env_clear().args([text(&sealed.bundle), text(&dest)]);
        command.env("SEALIFT_KEY_FILE", &sealed.key).env("SEALIFT_TERMINATION_LOG", "/dev/null");
        command.envs(variables.iter().copied());
        command
    };
    refuse(&mut run(&[]), Code::NoKeyNamed);
    let confidential = [("CONFIDENTIAL_ENABLED", "true"), ("CONFIDENTIAL_RESOURCE_ID", RESOURCE)];
    succeed(&mut run(&confidential));
    assert!(model_tree(&dest) == tree(&sealed.model));
}

#[test]
fn plain_models_need_the_deployers_word_and_no_confidential_mode() {
    let sealed = Sealed::small();
    let dest = sealed.dest("dest");
    let run = |variables: &[(&str, &str)]| {
        let mut command = sealift();
        command.args(["init", text(&sealed.model), text(&dest), "--termination-log", "/dev/null"]);
        command.envs(variables.iter().copied());
        command
    };
    refuse(&mut run(&[]), Code::NotSealed);
    refuse(&mut run(&[("SEALIFT_REQUIRE_SEALED", "true")]), Code::NotSealed);
    for value in ["true", "1", "yes", ""] {
        let variables = [("SEALIFT_REQUIRE_SEALED", "false"), ("CONFIDENTIAL_ENABLED", value)];
        refuse(&mut run(&variables), Code::NotSealed);
    }
    assert!(tree(&dest).is_empty());
    succeed(&mut run(&[("SEALIFT_REQUIRE_SEALED", "false"), ("CONFIDENTIAL_ENABLED", "false")]));
    let plain = model_tree(&dest);
    assert!(plain == tree(&sealed.model));
}

#[test]
fn upstreams_jwe_files_open_when_the_deployer_accepts_their_limits() {
    let sealed = Sealed::small();
    let jwe = sealed.dir.path().join("jwe");
    let mut jwk = std::fs::read(&sealed.key).unwrap();
    let kek = seal::key::Kek::parse(&secret::Secret::take(&mut jwk).unwrap()).unwrap();
    let files = tree(&sealed.model);
    for (name, bytes) in files.iter().filter(|(name, _)| !name.ends_with('/')) {
        let wrap = seal::jwe::KeyWrap::A256Kw;
        let token = seal::jwe::encrypt(bytes, kek.expose(), wrap, "k", None).unwrap();
        let part = |member: &str| token[member].as_str().unwrap().to_owned();
        let members = ["protected", "encrypted_key", "iv", "ciphertext", "tag"];
        let compact = members.map(part).join(".");
        common::write_tree(&jwe, &[(&format!("{name}.jwe"), compact.as_bytes())]);
    }
    let dest = sealed.dest("dest");
    let accepting = |command: &mut Command| {
        command.env("SEALIFT_ACCEPT_JWE", "true").env("CONFIDENTIAL_ENABLED", "true");
    };
    refuse(&mut init(&sealed, text(&jwe), text(&dest)), Code::NotSealed);
    let mut command = init(&sealed, text(&jwe), text(&dest));
    accepting(&mut command);
    succeed(&mut command);
    assert!(model_tree(&dest) == files);

    // A key that is for something else.
    let mut jwk: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&sealed.key).unwrap()).unwrap();
    jwk["sealift_purposes"] = serde_json::json!(["seal"]);
    let sealing = sealed.dir.path().join("sealing.jwk");
    std::fs::write(&sealing, jwk.to_string()).unwrap();
    let nowhere = sealed.dest("nowhere");
    let mut command = sealift();
    command.args(["init", text(&jwe), text(&nowhere), "--resource-id", RESOURCE]);
    accepting(command.args(["--key-file", text(&sealing)]));
    refuse(&mut command, Code::KeyUnusable);

    // Somebody puts them where a bundle was pinned: what is accepted does not let them past that.
    let digest = format!("#digest=sha256:{}", "00".repeat(32));
    for pin in ["#name=model", "#generation=1", "#pins=kbs:///team/pins/model", &digest] {
        let mut command = init(&sealed, &format!("{}{pin}", text(&jwe)), text(&nowhere));
        accepting(&mut command);
        refuse(&mut command, Code::NotSealed);
        // Nor does leave to fetch plain models.
        let mut command = init(&sealed, &format!("{}{pin}", text(&sealed.model)), text(&nowhere));
        refuse(command.env("SEALIFT_REQUIRE_SEALED", "false"), Code::NotSealed);
    }

    let token = jwe.join("config.json.jwe");
    let mut bytes = std::fs::read(&token).unwrap();
    let last = bytes.len() - 1;
    bytes[last] = if bytes[last] == b'A' { b'Q' } else { b'A' };
    std::fs::write(&token, bytes).unwrap();
    let other = sealed.dest("other");
    let mut command = init(&sealed, text(&jwe), text(&other));
    accepting(&mut command);
    refuse(&mut command, Code::Tampered);
    assert!(tree(&other).is_empty());
}

#[test]
fn the_reason_is_left_for_kubernetes() {
    let sealed = Sealed::small();
    let log = sealed.dir.path().join("termination-log");
    std::fs::write(&log, "").unwrap();
    let dest = sealed.dest("dest");
    let mut command = init(&sealed, text(&sealed.model), text(&dest));
    let last = refuse(command.args(["--termination-log", text(&log)]), Code::NotSealed);
    let message = std::fs::read_to_string(&log).unwrap();
    assert_eq!(message, last);
    assert!(message.len() <= 1024 && message.ends_with("Run: sealift explain E31"), "{message}");
}

#[test]
fn a_second_run_finds_the_model_and_a_new_generation_replaces_it() {
    let sealed = Sealed::small();
    let dest = sealed.dest("dest");
    succeed(&mut init(&sealed, text(&sealed.bundle), text(&dest)));
    let inode =
        |name: &str| std::os::unix::fs::MetadataExt::ino(&dest.join(name).metadata().unwrap());
    let before = inode("config.json");
    succeed(&mut init(&sealed, text(&sealed.bundle), text(&dest)));
    assert_eq!(inode("config.json"), before, "an unchanged model was written again");

    std::fs::remove_file(sealed.model.join("empty")).unwrap();
    std::fs::write(sealed.model.join("config.json"), r#"{"generation":2}"#).unwrap();
    let next = sealed.dir.path().join("next");
    seal(&sealed.model, &next, RESOURCE, &sealed.key, 2);
    succeed(&mut init(&sealed, text(&next), text(&dest)));
    assert!(model_tree(&dest) == tree(&sealed.model), "old files stayed or new ones are missing");
}

#[test]
fn audit_records_chain_over_runs_and_a_full_log_stops_the_opening() {
    let sealed = Sealed::small();
    let (log, dest) = (sealed.dir.path().join("audit.jsonl"), sealed.dest("dest"));
    let run = |log: &str| {
        let mut command = init(&sealed, text(&sealed.bundle), text(&dest));
        command.args(["--audit-file", log, "--termination-log", "/dev/null"]);
        command
    };
    refuse(&mut run("/dev/full"), Code::Audit);
    assert!(tree(&dest).is_empty(), "published although the record was refused");
    succeed(&mut run(text(&log)));
    succeed(&mut run(text(&log)));
    let verify = || {
        let mut command = sealift();
        command.args(["audit", "verify", text(&log), "-o", "json"]);
        command
    };
    let verified: serde_json::Value =
        serde_json::from_slice(&succeed(&mut verify()).stdout).unwrap();
    assert_eq!(verified["records"], 6);
    let records = std::fs::read_to_string(&log).unwrap();
    for secret in ["\"k\":", "config.json"] {
        assert!(!records.contains(secret), "{secret} in {records}");
    }
    std::fs::write(&log, records.replacen("key-released", "key-refused", 1)).unwrap();
    refuse(&mut verify(), Code::Mismatch);
}

#[test]
fn rewrapping_changes_the_keys_and_nothing_else() {
    let sealed = Sealed::small();
    let (new, other) = ("kbs:///team/model/v2", sealed.dir.path().join("new.jwk"));
    keygen(&other, new, "model@1");
    let inspect = || -> serde_json::Value {
        let output = succeed(sealift().args(["inspect", text(&sealed.bundle), "-o", "json"]));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (before, objects) = (inspect(), tree(&sealed.bundle));
    let rewrap = |key: &std::path::Path| {
        let mut command = sealift();
        command.args(["rewrap", text(&sealed.bundle), "--resource-id", RESOURCE]);
        command.args(["--key-file", text(key), "--to", &format!("{new}={}", text(&other))]);
        command
    };
    refuse(&mut rewrap(&other), Code::Tampered);
    assert!(tree(&sealed.bundle) == objects, "a refused rewrap changed the bundle");
    succeed(&mut rewrap(&sealed.key));
    let after = inspect();
    assert_eq!((&before["digest"], &before["files"]), (&after["digest"], &after["files"]));
    assert_eq!(after["recipients"], serde_json::json!([new]));
    let mut kept = tree(&sealed.bundle);
    kept.retain(|name, _| name != "sealift.json");
    assert!(kept.iter().all(|(name, bytes)| objects[name] == *bytes), "data was touched");
    let dest = sealed.dest("dest");
    refuse(&mut init(&sealed, text(&sealed.bundle), text(&dest)), Code::Tampered);
    let mut command = sealift();
    command.args(["init", text(&sealed.bundle), text(&dest), "--resource-id", new]);
    succeed(command.args(["--key-file", text(&other)]));
    assert!(model_tree(&dest) == tree(&sealed.model));
}

#[test]
fn verify_needs_no_key_and_finds_the_changed_object() {
    let sealed = Sealed::small();
    let verify = |flags: &[&str]| {
        let mut command = sealift();
        command.args(["verify", text(&sealed.bundle)]).args(flags);
        command
    };
    let with_key = ["--key-file", text(&sealed.key), "--resource-id", RESOURCE];
    succeed(&mut verify(&[]));
    succeed(&mut verify(&with_key));
    let object = sealed.bundle.join("sub/w.bin.sealed");
    let mut bytes = std::fs::read(&object).unwrap();
    bytes[1_500_000] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    let line = refuse(&mut verify(&[]), Code::Mismatch);
    assert!(line.contains("sub/w.bin.sealed"), "{line}");
    refuse(&mut verify(&with_key), Code::Tampered);
}

#[test]
fn sealing_refuses_what_it_could_not_give_back() {
    let sealed = Sealed::small();
    let dest = sealed.dir.path().join("new");
    let seal = |model: &std::path::Path| {
        let mut command = sealift();
        command.arg("seal").args([model, &dest]).args(["--resource-id", RESOURCE]);
        command.args(["--key-file", text(&sealed.key)]);
        command
    };
    refuse(&mut seal(&sealed.dir.path().join("absent")), Code::NotFound);
    let model = sealed.dest("odd");
    refuse(&mut seal(&model), Code::NotFound);
    std::fs::write(model.join("ok"), "ok").unwrap();
    let odd = |name: &std::ffi::OsStr| {
        std::fs::write(model.join(name), "x").unwrap();
        refuse(&mut seal(&model), Code::Usage);
        std::fs::remove_file(model.join(name)).unwrap();
    };
    odd("back\\slash".as_ref());
    odd("OK".as_ref());
    odd(".sealift-receipt.json".as_ref());
    odd(std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\xfe"));
    std::os::unix::fs::symlink("/dev/zero", model.join("zero")).unwrap();
    refuse(&mut seal(&model), Code::Usage);
    std::fs::remove_file(model.join("zero")).unwrap();
    assert!(!dest.join("sealift.json").exists(), "a refused sealing left a bundle");
    succeed(&mut seal(&model));
    refuse(&mut seal(&model), Code::Usage);
    succeed(seal(&model).arg("--overwrite"));
}

#[test]
fn a_key_is_never_overwritten_and_is_readable_by_its_owner_only() {
    let sealed = Sealed::tiny();
    assert_eq!(sealed.key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let before = std::fs::read(&sealed.key).unwrap();
    let mut command = sealift();
    command.args(["keygen", "--resource-id", RESOURCE, "-f", text(&sealed.key)]);
    refuse(&mut command, Code::Publish);
    assert_eq!(std::fs::read(&sealed.key).unwrap(), before);
}

#[test]
fn usage_errors_exit_with_two() {
    for line in [
        &["init", "s3://b/m"][..],
        &["init", "s3://b/m", "/dev/shm/x", "s3://b/n"],
        &["init", "bundle#key=nonsense", "/dev/shm/x"],
        &["explain", "E99"],
        &["seal"],
        &["frobnicate"],
    ] {
        let output = sealift().args(line).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{line:?}");
        assert!(output.stdout.is_empty(), "{line:?}: words belong on stderr");
    }
}

#[test]
fn help_pages_completions_and_man_pages_are_there() {
    for line in [&["--help"][..], &["init", "--help"], &["--version"], &["explain"], &["man"]] {
        assert!(!succeed(sealift().args(line)).stdout.is_empty(), "{line:?}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(!succeed(sealift().args(["completion", shell])).stdout.is_empty());
    }
    for &code in Code::ALL {
        let page = succeed(sealift().args(["explain", &code.to_string()])).stdout;
        assert!(page.starts_with(format!("# {code} ").as_bytes()));
    }
}

/// Somebody who seals for a name with another key's file has made something that nobody opens; and
/// what was done with keys in files is on record, too.
#[test]
fn a_rewrap_is_recorded_and_names_the_key_that_it_is() {
    let sealed = Sealed::tiny();
    let (next, log) = (sealed.dir.path().join("next.jwk"), sealed.dir.path().join("log"));
    keygen(&next, "kbs:///team/model/v2", "model@1");
    let rewrap = |to: &str| {
        let mut rewrap = sealift();
        rewrap.args(["rewrap", text(&sealed.bundle), "--resource-id", RESOURCE]);
        rewrap.args(["--key-file", text(&sealed.key), "--audit-file", text(&log)]);
        rewrap.args(["--to", &format!("{to}={}", text(&next))]);
        rewrap
    };
    let before = tree(&sealed.bundle);
    refuse(&mut rewrap("kbs:///team/model/v3"), Code::Usage);
    assert!(tree(&sealed.bundle) == before);
    succeed(&mut rewrap("kbs:///team/model/v2"));
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(log.matches(r#""event":"rewrapped""#).count(), 1, "{log}");
    assert!(log.contains(r#""recipients":["kbs:///team/model/v2"]"#), "{log}");
    assert_eq!(log.matches(r#""event":"key-released""#).count(), 4, "{log}");
}
