//! Sockets: limits, TLS, and the orderly end.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::TlsFiles;
use broker::server::Limits;
use common::guest::{Key, attestation};
use common::http::Reply;
use common::{Broker, Setup};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

fn with(limits: Limits) -> Broker {
    Setup { limits, ..Setup::default() }.start()
}

/// Waits for the server to close, and says how long that took.
fn closed_after(mut stream: TcpStream) -> Duration {
    let started = Instant::now();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    started.elapsed()
}

#[test]
fn a_body_over_two_mebibytes_is_413_whether_announced_or_not() {
    let broker = Broker::start();
    let reply = broker.wire.send("POST", "/kbs/v0/auth", &[], &vec![b' '; 2 * 1024 * 1024 + 1]);
    assert_eq!(reply.refusal(), (413, "PayloadTooLarge".to_owned()));
    let reply = broker.wire.send("POST", "/kbs/v0/auth", &[], &vec![b' '; 2 * 1024 * 1024]);
    assert_eq!(reply.status, 400);

    let mut stream = broker.wire.connect();
    stream
        .write_all(b"POST /kbs/v0/auth HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
    while stream.write_all(&chunk).is_ok() {
        if stream.set_nonblocking(true).is_ok() && stream.peek(&mut [0; 1]).is_ok() {
            break;
        }
        stream.set_nonblocking(false).unwrap();
    }
    stream.set_nonblocking(false).unwrap();
    assert_eq!(Reply::read(&mut stream).status, 413);
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let broker = Broker::start();
    let path = format!("/kbs/v0/resource/{}", "a".repeat(70_000));
    let status = broker.wire.get(&path).status;
    assert!(status == 431 || status == 414, "{status}");
    let cookie = format!("kbs-session-id={}", "A".repeat(20_000));
    assert_eq!(broker.get_with_cookie(&cookie, "a/b/c").status, 401);
}

#[test]
fn a_client_that_dribbles_its_head_is_cut_off() {
    let broker = with(Limits { head: Duration::from_millis(300), ..Limits::default() });
    for begun in ["", "G", "GET /healthz HTTP/1.1\r\nHost: b\r\n"] {
        let mut stream = broker.wire.connect();
        stream.write_all(begun.as_bytes()).unwrap();
        let took = closed_after(stream);
        assert!(took < Duration::from_secs(10), "{begun:?} was tolerated for {took:?}");
    }
}

#[test]
fn an_idle_connection_is_closed() {
    let broker = with(Limits { head: Duration::from_millis(300), ..Limits::default() });
    let mut stream = broker.wire.connect();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: b\r\n\r\n").unwrap();
    let took = closed_after(stream);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_client_that_dribbles_its_body_gets_408() {
    let broker = with(Limits { body: Duration::from_millis(300), ..Limits::default() });
    let mut stream = broker.wire.connect();
    stream
        .write_all(b"POST /kbs/v0/auth HTTP/1.1\r\nHost: b\r\nContent-Length: 100\r\n\r\n{")
        .unwrap();
    assert_eq!(Reply::read(&mut stream).refusal(), (408, "RequestTimeout".to_owned()));
}

#[test]
fn a_connection_ends_however_busy_it_is() {
    let broker = with(Limits { connection: Duration::from_millis(500), ..Limits::default() });
    let mut stream = broker.wire.connect();
    let started = Instant::now();
    let mut answered = 0;
    while started.elapsed() < Duration::from_secs(10) {
        let request = b"GET /healthz HTTP/1.1\r\nHost: b\r\n\r\n";
        if stream.write_all(request).is_err() || !matches!(stream.read(&mut [0; 1024]), Ok(1..)) {
            break;
        }
        answered += 1;
    }
    assert!(answered > 0);
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// A session is in its cookie: the broker keeps nothing of one, and forgets none for another.
#[test]
fn ten_thousand_sessions_are_live_at_once_and_leave_nothing_behind() {
    const CONNECTIONS: usize = 100;
    const EACH: usize = 100;
    let broker = Broker::start();
    broker.put("default/key/one", b"key");
    let files = || std::fs::read_dir(broker.dirs.data()).unwrap().count();
    let (files_before, events_before) = (files(), broker.events().len());
    let body = r#"{"version":"0.4.0","tee":"sample","extra-params":""}"#;
    let request = |connection: &str| {
        format!(
            "POST /kbs/v0/auth HTTP/1.1\r\nHost: b\r\nConnection: {connection}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let sent = request("keep-alive").repeat(EACH - 1) + &request("close");
    let mut sessions = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = broker.wire.connect();
        stream.write_all(sent.as_bytes()).unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        let answers = answers.split("HTTP/1.1 ").skip(1);
        sessions.extend(answers.map(|answer| {
            let reply = Reply::read(&mut format!("HTTP/1.1 {answer}").as_bytes());
            (reply.cookie(), reply.json()["nonce"].as_str().unwrap().to_owned())
        }));
    }
    assert_eq!(sessions.len(), CONNECTIONS * EACH);
    let key = Key::p256();
    for (cookie, nonce) in sessions.iter().step_by(997) {
        let reply = broker.attest(cookie, &attestation(nonce, &key.jwk()));
        let released = broker.get_with_cookie(&reply.cookie(), "default/key/one");
        assert_eq!(key.open(&released.json()), b"key");
    }
    let attested = sessions.len().div_ceil(997);
    assert_eq!((files(), broker.events().len()), (files_before, events_before + 2 * attested));
}

#[test]
fn clients_that_send_nothing_more_hold_up_nobody() {
    let hour = Duration::from_secs(3600);
    let broker = with(Limits {
        connections: 208,
        head: hour,
        body: hour,
        connection: hour,
        ..Limits::default()
    });
    let slow: Vec<TcpStream> = (0..200)
        .map(|number| {
            let mut stream = broker.wire.connect();
            let begun =
                b"POST /kbs/v0/auth HTTP/1.1\r\nHost: b\r\nContent-Length: 2000000\r\n\r\n{";
            stream.write_all(&begun[..number % begun.len()]).unwrap();
            stream
        })
        .collect();
    broker.put("default/key/one", b"key");
    let key = Key::p256();
    let (cookie, _) = broker.attested(&key);
    let released = broker.get_with_cookie(&cookie, "default/key/one");
    assert_eq!(key.open(&released.json()), b"key");
    drop(slow);
}

#[test]
fn connections_over_the_limit_wait_and_are_served_when_others_end() {
    let broker =
        with(Limits { connections: 2, head: Duration::from_millis(700), ..Limits::default() });
    // Two clients that say nothing hold all places until they are cut off.
    let held = [broker.wire.connect(), broker.wire.connect()];
    assert_eq!(broker.wire.get("/healthz").status, 200);
    drop(held);
}

#[test]
fn a_stopped_broker_finishes_what_was_begun_and_takes_nothing_new() {
    let mut broker = Broker::start();
    let mut stream = broker.wire.connect();
    stream
        .write_all(b"POST /kbs/v0/auth HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\n")
        .unwrap();
    let address = broker.wire.address;
    // The request is in flight once its connection counts.
    while !String::from_utf8(broker.wire.get("/metrics").body).unwrap().contains("connections 2") {}
    let finisher = std::thread::spawn(move || {
        while TcpStream::connect(address).is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
        stream.write_all(b"{}").unwrap();
        Reply::read(&mut stream)
    });
    broker.stop();
    assert_eq!(finisher.join().unwrap().status, 400);
}

fn certificate() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(["broker.test".to_owned()]).unwrap()
}

fn tls_files(dirs: &common::Dirs) -> TlsFiles {
    TlsFiles { certificates: dirs.root().join("tls.crt"), key: dirs.root().join("tls.key") }
}

/// As Kubernetes and certbot do: another file under the same name.
fn replace(path: &std::path::Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Whether the broker shows this certificate.
fn shows(broker: &common::Broker, certificate: &rcgen::Certificate) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certificate.der().to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("broker.test").unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(client, broker.wire.connect());
    let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n");
    if asked.is_err() {
        return false;
    }
    let reply = Reply::read(&mut stream);
    assert_eq!((reply.status, &reply.body[..]), (200, &b"ok\n"[..]));
    true
}

#[test]
fn a_replaced_certificate_counts_without_a_restart_and_a_broken_one_does_not() {
    let dirs = Arc::new(common::Dirs::new());
    let (first, second) = (certificate(), certificate());
    let files = tls_files(&dirs);
    replace(&files.certificates, &first.cert.pem());
    replace(&files.key, &first.signing_key.serialize_pem());
    let broker = Setup { tls: Some(files.clone()), dirs, ..Setup::default() }.start();
    assert!(shows(&broker, &first.cert));
    assert!(!shows(&broker, &second.cert));
    for text in [second.cert.pem(), "not a certificate".to_owned()] {
        replace(&files.certificates, &text);
        // Longer than it takes to be looked at.
        std::thread::sleep(Duration::from_millis(1_100));
        assert!(shows(&broker, &first.cert));
    }
    std::fs::remove_file(&files.certificates).unwrap();
    std::thread::sleep(Duration::from_millis(1_100));
    assert!(shows(&broker, &first.cert));
    replace(&files.key, &second.signing_key.serialize_pem());
    replace(&files.certificates, &second.cert.pem());
    let patience = std::time::Instant::now() + Duration::from_secs(30);
    while !shows(&broker, &second.cert) {
        assert!(std::time::Instant::now() < patience);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!shows(&broker, &first.cert));
}

#[test]
fn tls_is_spoken_with_the_given_certificate_and_plain_http_is_not() {
    let dirs = Arc::new(common::Dirs::new());
    let made = certificate();
    let files = tls_files(&dirs);
    std::fs::write(&files.certificates, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let limits = Limits { handshake: Duration::from_millis(500), ..Limits::default() };
    let broker = Setup { tls: Some(files), dirs, limits, ..Setup::default() }.start();
    assert!(shows(&broker, &made.cert));

    let mut plain = broker.wire.connect();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: b\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{}", answer.escape_ascii());
    assert!(closed_after(broker.wire.connect()) < Duration::from_secs(10));
}
