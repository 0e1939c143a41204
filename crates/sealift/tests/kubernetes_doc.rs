//! docs/kubernetes.md and docs/quickstart-cluster.md as a newcomer reads them: every block of commands, with stand-ins for the
//! cluster's own programs. What they would be given is checked by tests/interop.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "keys_doc/markdown.rs"]
mod markdown;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use markdown::Kind;

/// Each with how many of its blocks are run at least.
const PAGES: [(&str, &str, usize); 2] = [
    ("docs/kubernetes.md", include_str!("../../../docs/kubernetes.md"), 9),
    ("docs/quickstart-cluster.md", include_str!("../../../docs/quickstart-cluster.md"), 5),
];
/// Takes what it is given, and knows no file that is not there.
const STAND_IN: &str = "#!/bin/sh
for word; do
    case $word in
        -) cat | grep -q '^kind: ' || exit 9 ;;
        *.yaml | deploy/*) test -e \"$word\" || exit 8 ;;
        --from-file=*) test -f \"${word#--from-file=}\" || exit 7 ;;
    esac
done
";

#[test]
fn every_example_of_the_page_works_as_it_is_written() {
    for (name, page, blocks) in PAGES {
        let run = run(name, page);
        assert!(run >= blocks, "{name}: {run}");
    }
}

/// What Kubernetes and KServe say of the example, tests/interop asks: it is the example of `manifest`.
#[test]
fn the_quickstarts_service_is_the_example_of_the_manifests() {
    let mut manifest = Command::new(env!("CARGO_BIN_EXE_sealift"));
    manifest.args(["manifest", "isvc", "--set", "example.runtimeClassName=kata-qemu-snp"]);
    let printed = String::from_utf8(manifest.output().unwrap().stdout).unwrap();
    let lines = printed.lines().filter(|line| !line.trim_start().starts_with('#'));
    let bare: String = lines.map(|line| line.replace('"', "") + "\n").collect();
    let sections = markdown::sections(PAGES[1].1).unwrap();
    let mut blocks = sections.into_iter().flat_map(|section| section.blocks);
    let service = blocks.find_map(|block| match block.kind {
        Kind::File { text, .. } => Some(text),
        _ => None,
    });
    assert_eq!(service.unwrap(), bare);
}

/// Runs a page's blocks, and counts them.
fn run(name: &str, page: &str) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    for name in ["kubectl", "helm"] {
        let path = bin.join(name);
        fs::write(&path, STAND_IN).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let sealift = Path::new(env!("CARGO_BIN_EXE_sealift"));
    symlink(sealift, bin.join("sealift")).unwrap();
    symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy"), dir.path().join("deploy"))
        .unwrap();
    let broker = sealift.with_file_name("sealift-broker");
    if broker.exists() {
        symlink(broker, bin.join("sealift-broker")).unwrap();
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let shell = |commands: &str| {
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", commands]).env("PATH", &path);
        let output = shell.current_dir(dir.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{commands}\n{}: {said}", output.status);
        String::from_utf8(output.stdout).unwrap()
    };
    let mut run = 0;
    for section in markdown::sections(page).unwrap_or_else(|why| panic!("{name}, {why}")) {
        for block in section.blocks {
            match block.kind {
                Kind::Script(commands) if commands.contains("sealift-broker init") => {
                    if bin.join("sealift-broker").exists() {
                        shell(&commands);
                    } else {
                        testkit::skip(format!("{name}: sealift-broker is not built"));
                    }
                }
                Kind::Script(commands) => drop(shell(&commands)),
                Kind::Session(all) => {
                    for shown in all {
                        assert_eq!(Some(shell(&shown.command)), shown.output, "{}", shown.command);
                    }
                }
                Kind::File { name, text } => fs::write(dir.path().join(name), text).unwrap(),
                Kind::NotRun => continue,
            }
            run += 1;
        }
    }
    run
}
