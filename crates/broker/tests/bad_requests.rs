//! What is recorded of requests that do not come to evidence, and how much of it. SPECIFICATION P8.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Write;
use std::time::Duration;

use broker::server::Limits;
use common::http::Reply;
use common::{Broker, Setup};
use serde_json::Value;

/// The records of refused requests.
fn refused(broker: &Broker) -> Vec<Value> {
    let events = broker.events().into_iter();
    events.filter(|event| event["event"] == "request-refused").collect()
}

#[test]
fn a_bad_request_before_attestation_is_recorded_with_who_and_why() {
    let limits = Limits { body_bytes: 4096, body: Duration::from_millis(200), ..Limits::default() };
    let broker = Setup { limits, ..Setup::default() }.start();
    let long = vec![b' '; 5000];
    let cases: [(&str, &[u8], u16, &str); 6] = [
        ("auth", b"{", 400, "SerdeError: not a Request of the KBS attestation protocol: EOF"),
        (
            "auth",
            br#"{"version":"9.0.0","tee":"snp","extra-params":""}"#,
            401,
            "AttestationError: this broker speaks version 0.4.0 of the protocol: asked for 9.0.0",
        ),
        (
            "auth",
            br#"{"version":"0.4.0","tee":"abacus\n","extra-params":""}"#,
            401,
            "AttestationError: unknown tee: abacus\n",
        ),
        ("attest", b"{}", 401, "AttestationError: "),
        ("auth", &long, 413, "PayloadTooLarge: payload reached size limit"),
        ("resource/a/b/c", &long, 413, "PayloadTooLarge: payload reached size limit"),
    ];
    for (index, (path, body, status, reason)) in cases.iter().enumerate() {
        let path = format!("/kbs/v0/{path}");
        assert_eq!(broker.wire.send("POST", &path, &[], body).status, *status, "{path}");
        let records = refused(&broker);
        assert_eq!(records.len(), index + 1, "{path}: {records:?}");
        let record = records.last().unwrap();
        assert_eq!(record["request"], format!("POST {path}"));
        assert!(record["reason"].as_str().unwrap().starts_with(reason), "{record}");
        assert!(record["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{record}");
        assert!(record.get("left_out").is_none(), "{record}");
    }
    // A body that does not come.
    let mut stream = broker.wire.connect();
    stream
        .write_all(b"POST /kbs/v0/attest HTTP/1.1\r\nHost: b\r\nContent-Length: 9\r\n\r\n")
        .unwrap();
    assert_eq!(Reply::read(&mut stream).status, 408);
    let late = refused(&broker).pop().unwrap();
    assert_eq!(late["reason"], "RequestTimeout: the body did not arrive in time");
    // What nobody asks a guest's key for is only counted.
    assert_eq!(broker.wire.get("/nowhere").status, 404);
    assert_eq!(broker.wire.get("/kbs/v0/resource/a/b/c").status, 401);
    assert_eq!(refused(&broker).len(), cases.len() + 1);
}

#[test]
fn a_flood_of_bad_requests_is_ten_records_a_minute_and_their_count() {
    let broker = Broker::start();
    let bad = || assert_eq!(broker.wire.send("POST", "/kbs/v0/auth", &[], b"{").status, 400);
    let left_out = || -> Vec<u64> {
        refused(&broker).iter().map(|record| record["left_out"].as_u64().unwrap_or(0)).collect()
    };
    (0..37).for_each(|_| bad());
    assert_eq!(left_out(), [0; 10]);
    broker.pass(60);
    (0..2).for_each(|_| bad());
    assert_eq!(left_out()[10..], [27, 0]);
}
