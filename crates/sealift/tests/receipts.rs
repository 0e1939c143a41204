//! A guest's log, countersigned by the broker that released its key: SPECIFICATION P8.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use common::broker::Broker;
use common::{RESOURCE, Sealed, refuse, sealift, succeed, text};
use sealift::code::Code;

fn public_keys(broker: &Broker, into: &Path) {
    let mut stream = TcpStream::connect(broker.address).unwrap();
    let head = "GET /.well-known/jwks.json HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    std::fs::write(into, answer.split_once("\r\n\r\n").unwrap().1).unwrap();
}

#[test]
fn a_guests_log_is_tied_to_its_brokers() {
    let sealed = Sealed::new(&[("config.json", b"{}")]);
    let at = |name: &str| sealed.dir.path().join(name);
    let (broker, other) = (Broker::start(&at("broker")), Broker::start(&at("other")));
    let (log, keys, theirs) = (at("guest.log"), at("keys"), at("theirs"));
    public_keys(&broker, &keys);
    public_keys(&other, &theirs);
    let url = broker.url();
    succeed(&mut broker.key("put", RESOURCE, &["--key-file", text(&sealed.key)]));
    let open = |dest: &str, source: &[&str]| {
        let mut open = sealift();
        open.args(["init", text(&sealed.bundle), text(&at(dest)), "--resource-id", RESOURCE]);
        open.args(["--audit-file", text(&log), "--termination-log", "/dev/null"]).args(source);
        succeed(&mut open);
    };
    for dest in ["one", "two"] {
        open(dest, &["--kbs-url", &url, "--insecure-dev"]);
    }
    open("three", &["--key-file", text(&sealed.key)]);
    let verify = |log: &Path, more: &[&str]| {
        let mut verify = sealift();
        verify.args(["audit", "verify", text(log), "-o", "json"]).args(more);
        verify
    };
    let whole = [
        "--broker-keys",
        text(&keys),
        "--require-receipts",
        "--broker-log",
        text(&broker.audit_log),
    ];
    let shown: serde_json::Value =
        serde_json::from_slice(&succeed(&mut verify(&log, &whole)).stdout).unwrap();
    assert_eq!((&shown["broker_releases"], &shown["countersigned"]), (&2.into(), &2.into()));

    refuse(&mut verify(&log, &["--broker-keys", text(&theirs)]), Code::Mismatch);
    let others_log = ["--broker-keys", text(&keys), "--broker-log", text(&other.audit_log)];
    refuse(&mut verify(&log, &others_log), Code::Mismatch);
    refuse(&mut verify(&log, &["--broker-keys", text(&log)]), Code::Usage);
    // Nobody is told that receipts are good which nothing was there to check with.
    assert!(!verify(&log, &["--require-receipts"]).output().unwrap().status.success());
    refuse(&mut verify(Path::new("-"), &["--broker-keys", text(&keys)]), Code::Usage);
    // A broker that signs nothing, as Trustee: good, unless receipts are required.
    let bare = at("bare.log");
    let released = audit::Event::KeyReleased {
        resource: RESOURCE.into(),
        source: "kbs".into(),
        model: None,
        receipt: None,
    };
    audit::Log::file(&bare).unwrap().record(released).unwrap();
    succeed(&mut verify(&bare, &["--broker-keys", text(&keys)]));
    let required = ["--broker-keys", text(&keys), "--require-receipts"];
    refuse(&mut verify(&bare, &required), Code::Mismatch);
}
