//! The pages that lead a person through something, as that person reads them: one shell for all
//! commands of a page, and what a page shows is what they print.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../keys_doc/markdown.rs"]
mod markdown;
#[path = "../keys_doc/shell.rs"]
mod shell;

use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{memory, text, write_tree};
use shell::Script;
use tempfile::TempDir;
use testkit::s3::S3Server;
use testkit::tls::Authority;

/// A page's own directory, and what stands there for what it names.
struct Walk {
    page: &'static str,
    work: TempDir,
    /// What `/dev/shm` is; removed with this.
    _memory: TempDir,
    exchanged: Vec<(&'static str, String)>,
    before: String,
    variables: Vec<(&'static str, OsString)>,
}

impl Walk {
    /// `None` if a program that the page runs was not built, or is not here.
    fn new(page: &'static str, programs: &[&str]) -> Option<Self> {
        let (work, memory) = (TempDir::new().unwrap(), memory());
        let bin = work.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let built = Path::new(env!("CARGO_BIN_EXE_sealift")).parent().unwrap();
        for program in programs {
            let built = built.join(program);
            let found = if built.exists() { Some(built) } else { in_path(program) };
            let Some(found) = found else {
                let strict = std::env::var_os("SEALIFT_TEST_STRICT").is_some();
                assert!(!strict, "{page}: there is no {program}");
                testkit::skip(format!("{page}: there is no {program}"));
                return None;
            };
            symlink(found, bin.join(program)).unwrap();
        }
        let exchanged = vec![("/dev/shm/", format!("{}/", text(memory.path())))];
        let before = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n";
        Some(Self {
            page,
            work,
            _memory: memory,
            exchanged,
            before: before.to_owned(),
            variables: Vec::new(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// Runs the page. A command that fails ends it, and the test.
    fn go(self) {
        let name = self.page;
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
        let page = fs::read_to_string(page).unwrap();
        let sections = markdown::sections(&page).unwrap_or_else(|why| panic!("{name}, {why}"));
        let blocks = sections.iter().flat_map(|section| &section.blocks);
        let mut script = Script::new(&self.before, blocks, "", self.work.path());
        script.show_everything();
        for (name, here) in &self.exchanged {
            script.exchange(name, here);
        }
        fs::create_dir(self.path("work")).ok();
        let mut bash = Command::new("bash");
        bash.env_clear().current_dir(self.path("work")).stdin(Stdio::null());
        bash.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let path = std::env::var("PATH").unwrap();
        bash.env("PATH", format!("{}:{path}", self.path("bin").display()));
        if let Err(why) = script.run(bash.env("HOME", self.work.path())) {
            panic!("{name}, {why}");
        }
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// A loopback address of this process's own, with all of its ports.
fn address(page: u8) -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 78 + page, high, low.max(1))
}

#[test]
fn the_laptop_quickstart_works_as_it_is_written() {
    let page = "docs/quickstart-laptop.md";
    let Some(mut walk) = Walk::new(page, &["sealift", "sealift-broker"]) else { return };
    walk.exchanged.push(("127.0.0.1:8080", format!("{}:8080", address(0))));
    walk.go();
}

/// With a broker for `kbs.example`, whose directory is the one that the page backs up.
#[test]
fn the_drills_of_operations_work_as_they_are_written() {
    let page = "docs/operations.md";
    let programs = ["sealift", "sealift-broker", "openssl"];
    let Some(mut walk) = Walk::new(page, &programs) else { return };
    let address = address(1);
    write_tree(&walk.path("work/llama"), &[("config.json", b"{}"), ("model.bin", &[7; 100_000])]);
    let authority = Authority::new().unwrap();
    fs::write(walk.path("work/ca.pem"), authority.pem()).unwrap();
    let issued = authority.issue(&[&address.to_string()]).unwrap();
    issued.write(&walk.path("work/tls.crt"), &walk.path("work/tls.key")).unwrap();
    walk.exchanged.push(("kbs.example", address.to_string()));
    walk.before += "export SEALIFT_QUIET=true SEALIFT_AUDIT_FILE=$PWD/audit.log
        sealift-broker init --data-dir ./broker
        cp broker-keys/admin.key admin.pem
        sealift-broker serve --data-dir ./broker --master-key-file ./broker-keys/master.key \
            --admin-public-key ./broker-keys/admin.pub --listen kbs.example:8443 \
            --tls-cert tls.crt --tls-key tls.key --insecure-dev --ready-file ready &
        until [ -e ready ]; do kill -0 $!; sleep 0.05; done\n";
    walk.go();
}

/// Both agents are the real ones; the stand-ins are in `cluster.sh`.
#[test]
fn the_node_operators_day_works_as_it_is_written() {
    let page = "docs/scenarios/node-operator.md";
    let programs = ["sealift", "sealift-host", "sealift-guest", "jq"];
    let Some(mut walk) = Walk::new(page, &programs) else { return };
    walk.before += &format!("at={}\n{}", text(walk.work.path()), include_str!("cluster.sh"));
    walk.go();
}

/// Takes what it is given, and knows no file that is not there. What it is given is looked at by
/// tests/interop/manifests_interop.py.
const CLUSTER: &str = r#"for word; do
    case $word in
        -) cat | grep -q '^kind: ' || exit 9 ;;
        *.yaml | deploy/*) test -e "$word" || exit 8 ;;
    esac
done
"#;
/// `aws s3 sync DIRECTORY s3://…`: what an upload leaves in the server's directory.
const CLOUD: &str = r#"[ "$1 $2" = "s3 sync" ] || exit 9
to=$BUCKETS/${4#s3://}
mkdir -p "$to" && cp -r "$3/." "$to"
"#;

#[test]
fn the_platform_engineers_day_works_as_it_is_written() {
    let page = "docs/scenarios/ml-platform-engineer.md";
    let Some(mut walk) = Walk::new(page, &["sealift", "sealift-broker"]) else { return };
    let Some(s3) = S3Server::start().unwrap() else { return };
    walk.exchanged.push(("127.0.0.1:8080", format!("{}:8080", address(2))));
    walk.variables.extend(s3.env().map(|(name, value)| (name, value.into())));
    walk.variables.push(("BUCKETS", s3.bucket_dir().parent().unwrap().into()));
    for (name, script) in [("kubectl", CLUSTER), ("helm", CLUSTER), ("aws", CLOUD)] {
        let program = walk.path("bin").join(name);
        fs::write(&program, format!("#!/bin/sh\n{script}")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir(walk.path("work")).unwrap();
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    symlink(deploy, walk.path("work/deploy")).unwrap();
    walk.go();
}

#[test]
fn the_security_engineers_review_works_as_it_is_written() {
    let page = "docs/scenarios/security-engineer.md";
    let programs = ["sealift", "sealift-broker", "curl", "jq"];
    let Some(mut walk) = Walk::new(page, &programs) else { return };
    walk.exchanged.push(("127.0.0.1:8080", format!("{}:8080", address(3))));
    walk.go();
}
