//! docs/scenarios as the people in it read it: each page's commands, in one shell, with a real store
//! and broker. Programs of a cluster and of a cloud have stand-ins; what `kubectl` would be given,
//! tests/interop/manifests_interop.py looks at.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "keys_doc/markdown.rs"]
mod markdown;
#[path = "keys_doc/shell.rs"]
mod shell;

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use shell::Script;
use tempfile::TempDir;
use testkit::s3::S3Server;

/// Takes what it is given, and knows no file that is not there.
const CLUSTER: &str = r#"for word; do
    case $word in
        -) cat | grep -q '^kind: ' || exit 9 ;;
        *.yaml | deploy/*) test -e "$word" || exit 8 ;;
    esac
done
"#;
/// `aws s3 sync DIRECTORY s3://…`: what an upload leaves in the server's directory.
const CLOUD: &str = r#"[ "$1 $2" = "s3 sync" ] && mkdir -p "$BUCKETS/${4#s3://}" && cp -r "$3/." "$BUCKETS/${4#s3://}"
"#;
const PREAMBLE: &str = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n";

#[test]
fn a_platform_engineers_page_works_as_it_is_written() {
    works(
        "ml-platform-engineer.md",
        include_str!("../../../docs/scenarios/ml-platform-engineer.md"),
        [127, 88],
    );
}

#[test]
fn a_security_engineers_page_works_as_it_is_written() {
    works(
        "security-engineer.md",
        include_str!("../../../docs/scenarios/security-engineer.md"),
        [127, 89],
    );
}

/// `network` is this page's own, so that its broker has its port to itself.
fn works(name: &str, page: &str, network: [u8; 2]) {
    let sections = markdown::sections(page).unwrap_or_else(|why| panic!("{name}, {why}"));
    let sealift = Path::new(env!("CARGO_BIN_EXE_sealift"));
    let broker = sealift.with_file_name("sealift-broker");
    if !broker.exists() {
        testkit::skip(format!(
            "docs/scenarios/{name}: sealift-broker was not built beside sealift"
        ));
        return;
    }
    for program in ["curl", "jq"] {
        if Command::new(program).arg("--version").output().is_err() {
            testkit::skip(format!("docs/scenarios/{name}: no {program}"));
            return;
        }
    }
    let Some(s3) = S3Server::start().unwrap() else { return };
    // Not in memory, where programs may not be allowed to run, and the page wants a disk.
    let (dir, memory) = (TempDir::new().unwrap(), TempDir::new_in("/dev/shm").unwrap());
    let [bin, work] = ["bin", "work"].map(|name| dir.path().join(name));
    fs::create_dir(&bin).unwrap();
    fs::create_dir(&work).unwrap();
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    symlink(deploy, work.join("deploy")).unwrap();
    symlink(sealift, bin.join("sealift")).unwrap();
    symlink(broker, bin.join("sealift-broker")).unwrap();
    for (name, script) in [("kubectl", CLUSTER), ("helm", CLUSTER), ("aws", CLOUD)] {
        fs::write(bin.join(name), format!("#!/bin/sh\n{script}")).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let blocks = sections.iter().flat_map(|section| &section.blocks);
    let mut script = Script::new(PREAMBLE, blocks, "", dir.path());
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(network[0], network[1], high, low.max(1));
    script.exchange("127.0.0.1:8080", &format!("{address}:8080"));
    script.exchange("/dev/shm", memory.path().to_str().unwrap());
    let mut bash = Command::new("bash");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    bash.env_clear().env("PATH", path).env("HOME", dir.path()).current_dir(work);
    bash.envs(s3.env()).env("BUCKETS", s3.bucket_dir().parent().unwrap());
    if let Err(why) = script.run(&mut bash) {
        panic!("docs/scenarios/{name}, {why}");
    }
}
