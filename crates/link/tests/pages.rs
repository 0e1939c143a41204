//! Pages over real sockets.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use link::pages::{Address, Page, Pages, get};

fn serve(address: &Address) {
    let pages = Pages::bind(address).unwrap();
    std::thread::spawn(move || {
        pages.serve(|path| (path == "/metrics").then(|| Page::metrics("up 1\n".into())))
    });
}

#[test]
fn a_page_is_read_and_silent_peers_hold_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status.sock");
    let address = Address::Unix(path.clone());
    serve(&address);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(get(&address, "/metrics").unwrap(), "up 1\n");
    assert!(get(&address, "/other").is_err());
    let silent: Vec<_> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert_eq!(get(&address, "/metrics").unwrap(), "up 1\n");
    drop(silent);
    let mut garbage = UnixStream::connect(&path).unwrap();
    garbage.write_all(b"\0\xff\r\n\r\n").unwrap();
    let mut answer = String::new();
    garbage.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    // Who was killed leaves the file; the next one listens there all the same.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("stale.sock")).unwrap());
    let stale = Address::Unix(dir.path().join("stale.sock"));
    serve(&stale);
    assert_eq!(get(&stale, "/metrics").unwrap(), "up 1\n");
}
