//! A sealed bundle on a node: as KServe's `localModelDownloadJob` puts it there, and as a mounted
//! volume (`pvc://`) has it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{
    RESOURCE, Sealed, SmallTmpfs, copy_tree, model_tree, refuse, seal, sealift, succeed, text,
    tree, write_tree,
};
use sealift::code::Code;

/// As KServe calls it: the command of the storage container, and the Job's two arguments.
fn cache(source: &str, dest: &Path) -> Command {
    let mut command = sealift();
    command.arg("cache").arg(source).arg(dest).args(["-o", "json"]);
    command
}

fn kept_bytes(command: &mut Command) -> u64 {
    let output = succeed(command);
    let cached: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    cached["kept_bytes"].as_u64().unwrap()
}

fn opens(sealed: &Sealed, cached: &Path) {
    let dest = sealed.dest("opened");
    sealed.open(text(cached), &dest).unwrap();
    assert!(model_tree(&dest) == tree(&sealed.model));
    std::fs::remove_dir_all(&dest).unwrap();
}

#[test]
fn a_bundle_is_cached_sealed_and_opened_from_there() {
    let sealed = Sealed::small();
    let node = sealed.dir.path().join("node");
    let source = format!("sealift+file://{}", sealed.bundle.display());
    assert_eq!(kept_bytes(&mut cache(&source, &node)), 0);
    assert!(tree(&node) == tree(&sealed.bundle), "the node has what was sealed, and nothing else");
    opens(&sealed, &node);
    let sealed_bytes = |dir| {
        let objects = tree(dir).into_iter().filter(|(name, _)| name != "sealift.json");
        objects.map(|(_, bytes)| bytes.len() as u64).sum::<u64>()
    };
    assert_eq!(kept_bytes(&mut cache(&source, &node)), sealed_bytes(&node), "again, for nothing");
}

#[test]
fn a_lying_source_leaves_no_bundle_and_the_next_run_goes_on() {
    let sealed = Sealed::small();
    let objects = ["config.json.sealed", "empty.sealed", "sub/w.bin.sealed"];
    for object in objects {
        let (lying, node) = (sealed.dir.path().join("lying"), sealed.dir.path().join("node"));
        copy_tree(&sealed.bundle, &lying);
        let mut bytes = std::fs::read(lying.join(object)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(lying.join(object), bytes).unwrap();
        let line = refuse(&mut cache(text(&lying), &node), Code::Mismatch);
        assert!(line.contains(object), "{line}");
        assert!(!node.join("sealift.json").exists() && !node.join(object).exists(), "{object}");
        succeed(&mut cache(text(&sealed.bundle), &node));
        assert!(tree(&node) == tree(&sealed.bundle), "{object}");
        std::fs::remove_dir_all(&node).unwrap();
    }
}

#[test]
fn an_object_that_rots_on_the_node_is_fetched_again() {
    let sealed = Sealed::small();
    let node = sealed.dir.path().join("node");
    succeed(&mut cache(text(&sealed.bundle), &node));
    let mut bytes = std::fs::read(node.join("sub/w.bin.sealed")).unwrap();
    bytes[77] ^= 1;
    std::fs::write(node.join("sub/w.bin.sealed"), &bytes).unwrap();
    std::fs::write(node.join(".sealift-upload-0123456789abcdef"), "of a killed run").unwrap();
    let kept = kept_bytes(&mut cache(text(&sealed.bundle), &node));
    assert!(kept > 0 && kept < bytes.len() as u64, "{kept}");
    assert!(tree(&node) == tree(&sealed.bundle));
}

#[test]
fn what_is_no_bundle_or_another_one_than_asked_for_is_not_cached() {
    let sealed = Sealed::tiny();
    let node = sealed.dir.path().join("node");
    let nothing = |source: &str, code: Code| {
        let line = refuse(&mut cache(source, &node), code);
        assert!(!node.exists(), "{line}");
        line
    };
    nothing(text(&sealed.model), Code::NotSealed);
    let at = text(&sealed.bundle);
    nothing(&format!("{at}#digest=sha256:{}", "ab".repeat(32)), Code::Mismatch);
    nothing(&format!("{at}#name=other"), Code::Stale);
    nothing(&format!("{at}#generation=2"), Code::Stale);
    nothing(&format!("{at}#pins=kbs:///a/b/c"), Code::Usage);
    let line = nothing("pvc://claim/models/llama", Code::Usage);
    assert!(line.contains("mount the claim"), "{line}");
    for change in ["a.sealed", "extra"] {
        let changed = sealed.dir.path().join(change);
        copy_tree(&sealed.bundle, &changed);
        write_tree(&changed, &[(change, b"of another length")]);
        nothing(text(&changed), Code::Tampered);
    }
}

/// A Job that is started twice: the second finds all that the first brought.
#[test]
fn of_two_runs_into_one_directory_one_waits() {
    let sealed = Sealed::small();
    let node = sealed.dir.path().join("node");
    std::fs::create_dir(&node).unwrap();
    let other = std::fs::File::open(&node).unwrap();
    rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let late = refuse(cache(text(&sealed.bundle), &node).args(["--timeout", "1"]), Code::Publish);
    assert!(late.contains("another run"), "{late}");
    assert!(tree(&node).is_empty());

    let mut waiting = cache(text(&sealed.bundle), &node);
    let waiting = waiting.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(tree(&node).is_empty(), "it waits");
    drop(other);
    assert!(waiting.wait_with_output().unwrap().status.success());
    assert!(tree(&node) == tree(&sealed.bundle));
}

#[test]
fn a_directory_without_room_is_refused_before_the_first_object() {
    let sealed = Sealed::small();
    let node = sealed.dest("node");
    let Some(_mounted) = SmallTmpfs::mount(&node) else { return };
    let line = refuse(&mut cache(text(&sealed.bundle), &node), Code::TooSmall);
    assert!(line.contains("are missing here"), "{line}");
    assert!(tree(&node).is_empty());
}

#[test]
fn a_directory_with_something_else_in_it_is_left_alone() {
    let sealed = Sealed::tiny();
    let other = sealed.dir.path().join("next");
    seal(&sealed.model, &other, RESOURCE, &sealed.key, 2);
    let node = sealed.dir.path().join("node");
    copy_tree(&other, &node);
    refuse(&mut cache(text(&sealed.bundle), &node), Code::Publish);
    assert!(tree(&node) == tree(&other));
    std::fs::remove_dir_all(&node).unwrap();
    write_tree(&node, &[("notes.txt", b"mine")]);
    let line = refuse(&mut cache(text(&sealed.bundle), &node), Code::Publish);
    assert!(line.contains("notes.txt"), "{line}");
    assert_eq!(tree(&node).len(), 1);
}

/// Killed at each call that changes a file system, as a node's Job is; run again, it ends in the
/// bundle, and until then there is none.
#[test]
fn killed_at_any_call_there_is_no_bundle_and_the_next_run_completes_it() {
    let strace = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    if !strace.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("SEALIFT_TEST_STRICT").is_none(), "strace does not work here");
        testkit::skip("killing at every system call, since strace does not work here");
        return;
    }
    let sealed = Sealed::tiny();
    let node = sealed.dir.path().join("node");
    let expected = tree(&sealed.bundle);
    let mut kills = 0;
    for call in ["mkdirat", "write", "fsync", "renameat"] {
        for n in 1.. {
            let mut command = Command::new("strace");
            command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e"]);
            command.arg(format!("inject={call}:signal=KILL:when={n}"));
            command.arg(env!("CARGO_BIN_EXE_sealift")).args(["--progress", "none", "cache"]);
            command.args([&sealed.bundle, &node]).env("SEALIFT_CONCURRENCY", "1");
            let killed = !command.output().unwrap().status.success();
            let found = tree(&node);
            let bundle = found.contains_key("sealift.json");
            assert!(!bundle || found == expected, "{call} {n}: {:?}", found.keys());
            succeed(&mut cache(text(&sealed.bundle), &node));
            assert!(tree(&node) == expected, "{call} {n}: {:?}", tree(&node).keys());
            std::fs::remove_dir_all(&node).unwrap();
            kills += usize::from(killed);
            if !killed {
                break;
            }
        }
    }
    assert!(kills >= 10, "only {kills} runs were killed");
}

/// KServe mounts the claim of `pvc://name/path`; ours is mounted elsewhere in our own container, for
/// reading, and the server's volume gets the opened model alone.
#[test]
fn a_mounted_claim_is_opened_into_another_volume_and_left_as_it_was() {
    let sealed = Sealed::small();
    let claim = sealed.dir.path().join("mnt/pvc/models/llama");
    copy_tree(&sealed.bundle, &claim);
    let before = tree(&claim);
    read_only(&claim, true);
    let dest = sealed.dest("models");
    let mut init = sealift();
    init.args(["init", text(&claim), text(&dest), "--resource-id", RESOURCE]);
    init.args(["--key-file", text(&sealed.key), "--termination-log", "/dev/null"]);
    succeed(&mut init);
    assert!(model_tree(&dest) == tree(&sealed.model), "{:?}", model_tree(&dest).keys());
    assert!(tree(&claim) == before);
    let mut by_name = sealift();
    by_name.args(["init", "pvc://claim/models/llama", text(&dest), "--resource-id", RESOURCE]);
    by_name.args(["--key-file", text(&sealed.key), "--termination-log", "/dev/null"]);
    let line = refuse(&mut by_name, Code::Usage);
    assert!(line.contains("mount the claim"), "{line}");
    read_only(&claim, false);
}

fn read_only(dir: &Path, locked: bool) {
    let (files, dirs) = if locked { (0o444, 0o555) } else { (0o644, 0o755) };
    for (name, mode) in tree(dir).into_keys().map(|name| {
        let mode = if name.ends_with('/') { dirs } else { files };
        (name, mode)
    }) {
        std::fs::set_permissions(dir.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    std::fs::set_permissions(dir, PermissionsExt::from_mode(dirs)).unwrap();
}
