//! The pages that lead a person through something, as that person reads them: one shell for all
//! commands of a page, and what a page shows is what they print.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../keys_doc/markdown.rs"]
mod markdown;

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{memory, text, write_tree};
use markdown::{Kind, Shown};
use tempfile::TempDir;
use testkit::tls::Authority;

/// A page's own directory, and what stands there for what it names.
struct Walk {
    page: &'static str,
    work: TempDir,
    memory: TempDir,
    exchanged: Vec<(&'static str, String)>,
    before: String,
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
                testkit::skip(format!("{page}: there is no {program}"));
                return None;
            };
            symlink(found, bin.join(program)).unwrap();
        }
        let exchanged = vec![("/dev/shm/", format!("{}/", text(memory.path())))];
        let before = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n";
        Some(Self { page, work, memory, exchanged, before: before.to_owned() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// Runs the page. A command that fails ends it, and the test.
    fn go(self) {
        let (name, at) = (self.page, self.path("at"));
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
        let page = fs::read_to_string(page).unwrap();
        let sections = markdown::sections(&page).unwrap_or_else(|why| panic!("{name}, {why}"));
        let (mut script, mut printed) = (self.before.clone(), Vec::new());
        for block in sections.into_iter().flat_map(|section| section.blocks) {
            script += &format!("echo {} >{}\n", block.line, at.display());
            match block.kind {
                Kind::Script(text) => script += &text,
                Kind::Session(commands) => {
                    for Shown { command, output } in commands {
                        let file = self.path(&format!("printed-{}", printed.len()));
                        script += &format!("{{\n{command}\n}} >{} 2>&1\n", file.display());
                        printed.push((file, block.line, command, output.unwrap_or_default()));
                    }
                }
                Kind::File { name, text } => {
                    script += &format!("cat >{name} <<'END_OF_THE_FILE'\n{text}END_OF_THE_FILE\n");
                }
                Kind::NotRun => {}
            }
        }
        for (name, here) in &self.exchanged {
            script = script.replace(name, here);
        }
        fs::write(self.path("script"), script).unwrap();
        fs::create_dir(self.path("work")).ok();
        let mut shell = Command::new("bash");
        shell.arg(self.path("script")).current_dir(self.path("work")).stdin(Stdio::null());
        let path = std::env::var("PATH").unwrap();
        shell.env_clear().env("PATH", format!("{}:{path}", self.path("bin").display()));
        let output = shell.env("HOME", self.work.path()).output().unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let last = printed.iter().rev().map(|(file, ..)| read(file)).find(|text| !text.is_empty());
        assert!(
            output.status.success(),
            "{name}:{}: {}\n{}{}{}",
            read(&at).trim(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            last.unwrap_or_default(),
        );
        for (file, line, command, shown) in &printed {
            let found = read(file).replace(text(self.memory.path()), "/dev/shm");
            assert_eq!(found.trim_end(), shown.trim_end(), "{name}:{line}: {command}");
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
