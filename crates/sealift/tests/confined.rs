//! That the initializer is confined when it speaks to somebody for the first time.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::TcpListener;
use std::process::Stdio;

use common::{Sealed, sealift, text};
use sealift::code::Code;
use testkit::filter::confinement;

#[test]
fn the_initializer_is_confined_before_it_speaks_to_anybody() {
    let sealed = Sealed::small();
    let dest = sealed.dest("dest");
    for (confine, expected) in [("true", ["2", "1"].map(str::to_owned)), ("false", own())] {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let source = format!("http://{}/model", server.local_addr().unwrap());
        let mut init = sealift()
            .args(["init", &source, text(&dest), "--confine", confine])
            .args(["--resource-id", common::RESOURCE, "--key-file", text(&sealed.key)])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Who connects has begun to speak.
        let connection = server.accept().unwrap();
        assert_eq!(confinement(init.id()), expected, "{confine}");
        drop(connection);
        init.kill().unwrap();
        init.wait().unwrap();
    }
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
