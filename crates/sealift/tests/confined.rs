//! That commands are confined when they speak to somebody for the first time, and what that binds.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use common::{Sealed, sealift, text};
use sealift::code::Code;
use testkit::filter::{confinement, is_hidden};

#[test]
fn whoever_speaks_to_a_store_or_a_key_source_is_confined_before() {
    let sealed = Sealed::small();
    let (dest, key) = (sealed.dest("dest"), text(&sealed.key));
    let to = format!("{}={key}", common::RESOURCE);
    let keys = ["--resource-id", common::RESOURCE, "--key-file", key];
    let source = |place: &str| vec![place.to_owned()];
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    type Words = Vec<String>;
    let command = |name: &str, url: &str| -> Words {
        let model = source(&format!("{url}/model"));
        let from = |more: &[&str]| [words(&[name]), model.clone(), words(more)].concat();
        match name {
            "init" | "open" => [from(&[text(&dest)]), words(&keys)].concat(),
            "cache" => from(&[text(&dest)]),
            "inspect" => from(&[]),
            "verify" => from(&keys),
            "rewrap" => [from(&keys), words(&["--to", &to])].concat(),
            "seal" => {
                let store = ["--endpoint-url", url, "--anonymous", "--region", "us-east-1"];
                let seal = words(&["seal", text(&sealed.model), "s3://models/m"]);
                [seal, words(&keys), words(&store)].concat()
            }
            "key" => words(&["key", "check", keys[0], keys[1], "--kbs-url", url, "--insecure-dev"]),
            _ => {
                let item = "a=kbs:///team/a/one";
                let sync = ["secret", "sync", "--dir", text(&dest), "--item", item];
                [words(&sync), words(&["--kbs-url", url, "--insecure-dev"])].concat()
            }
        }
    };
    for name in COMMANDS {
        for (confine, expected) in [("true", ["2", "1"].map(str::to_owned)), ("false", own())] {
            let server = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", server.local_addr().unwrap());
            let mut running = sealift()
                .args(command(name, &url))
                .args(["--confine", confine])
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // Who connects has begun to speak.
            let connection = accepted(&server, &mut running, name);
            assert_eq!(confinement(running.id()), expected, "{name} {confine}");
            assert!(is_hidden(running.id()), "{name} {confine}");
            drop(connection);
            running.kill().unwrap();
            running.wait().unwrap();
        }
    }
}

const COMMANDS: [&str; 9] =
    ["init", "open", "cache", "inspect", "verify", "rewrap", "seal", "key", "secret"];

/// The first connection. A command that ends without one has failed.
fn accepted(server: &TcpListener, running: &mut Child, name: &str) -> TcpStream {
    server.set_nonblocking(true).unwrap();
    loop {
        match server.accept() {
            Ok((connection, _)) => return connection,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert_eq!(running.try_wait().unwrap(), None, "{name} ended");
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

#[test]
fn a_confined_command_writes_where_it_was_told_to_and_nowhere_else() {
    let sealed = Sealed::small();
    let key = ["--resource-id", common::RESOURCE, "--key-file", text(&sealed.key)];
    // What it may write is a link to what it may not.
    let outside = sealed.dest("outside");
    std::fs::create_dir_all(&outside).unwrap();
    let dir = sealed.dest("bundle");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(outside.join("manifest"), "theirs").unwrap();
    std::os::unix::fs::symlink(outside.join("manifest"), dir.join("manifest")).unwrap();
    let to = format!("{}={}", common::RESOURCE, text(&sealed.key));
    let rewrap = |place: &std::path::Path, confine: &str| {
        let mut command = sealift();
        command.args(["rewrap", text(&sealed.bundle), "--to", &to, "--confine", confine]);
        command.args(key).args(["--manifest-out", text(place)]);
        command
    };
    if rewrap(&dir.join("manifest"), "true").output().unwrap().status.success() {
        testkit::skip("this kernel has no Landlock");
        return;
    }
    let said = common::refuse(&mut rewrap(&dir.join("manifest"), "true"), Code::Publish);
    assert!(said.contains("ermission denied"), "{said}");
    assert_eq!(std::fs::read(outside.join("manifest")).unwrap(), b"theirs");
    common::succeed(&mut rewrap(&dir.join("other"), "true"));
    common::succeed(&mut rewrap(&dir.join("manifest"), "false"));
}

/// What this process is started with, and who it starts, too.
fn own() -> [String; 2] {
    confinement(std::process::id())
}

#[test]
fn a_destination_that_would_be_made_in_the_root_is_refused_with_advice() {
    let sealed = Sealed::small();
    let mut command = sealift();
    command.args(["init", text(&sealed.bundle), "/sealift-is-not-there/model"]);
    command.args(["--resource-id", common::RESOURCE, "--key-file", text(&sealed.key)]);
    let said = common::refuse(&mut command, Code::Usage);
    assert!(said.contains("make a directory for it first"), "{said}");
    assert!(!std::path::Path::new("/sealift-is-not-there").exists());
}
