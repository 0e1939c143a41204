//! The same conversation by containerd's ttrpc, as its own crate speaks it: our frames and envelopes
//! are not only what we think they are.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Guest, conversation, volume};
use guest::policy::Policy;
use guest::server::Limits;
use ttrpc::{Client, Error, Request};
use volumes::name::Category;
use volumes::wire::message::{CommitResponse, Message, SERVICE};

const FILES: &[(&str, &[u8])] = &[("password", b"hunter2")];

fn request(method: &str, payload: Vec<u8>) -> Request {
    let mut request = Request::new();
    request.service = SERVICE.into();
    request.method = method.into();
    request.payload = payload;
    request.timeout_nano = 10_000_000_000;
    request
}

#[test]
fn the_ttrpc_crate_is_understood_and_understands() {
    let guest = Guest::start(Policy::default(), Limits::default());
    let client = Client::connect(&format!("unix://{}", guest.socket().display())).unwrap();
    let mut last = Vec::new();
    for (method, payload) in conversation(&volume("pod.v"), Category::Secret, 1, FILES) {
        last = client.request(request(method, payload)).unwrap().payload;
    }
    let held = CommitResponse::decode(&last).unwrap().held;
    assert_eq!(held.sequence, 1);
    assert_eq!(guest.read(&volume("pod.v"))["password"], b"hunter2");
    let refused = client.request(request("Drop", b"\x0a\x02..".to_vec())).unwrap_err();
    let Error::RpcStatus(status) = refused else { panic!("{refused}") };
    assert_eq!(status.code.value(), 3, "INVALID_ARGUMENT");
    assert!(status.message.starts_with("invalid: "), "{}", status.message);
}
