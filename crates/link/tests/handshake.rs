//! Who is heard, who is believed, and who is refused: each with the reason that both sides see.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{World, files, soon, text, write, write_ca};
use link::dial::Address;
use link::tls;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use testkit::tls::Authority;

#[test]
fn a_host_and_a_guest_with_certificates_talk() {
    let world = World::new();
    world.works();
    let (asked, said) = world.meet(&world.host(), &world.address());
    assert_eq!((asked, said), (Ok(()), Ok(())));
    let named = format!("tls:guest-7.pods.example@{}", world.socket()).parse().unwrap();
    assert_eq!(world.meet(&world.host(), &named), (Ok(()), Ok(())));
}

/// All authorities of a test have the same name, as an impostor's would: the signature tells.
#[track_caller]
fn refused(outcome: (Result<(), String>, Result<(), String>), host: &str, guest: &str) {
    let (Err(asked), Err(said)) = outcome else { panic!("{outcome:?}") };
    assert!(asked.contains(host), "{asked}");
    assert!(said.contains(guest), "{said}");
}

#[test]
fn a_host_of_another_ca_is_refused_and_told() {
    let world = World::new();
    let other = Authority::new().unwrap().issue(&["node-1.example"]).unwrap();
    write(world.dir.path(), "other", &other);
    refused(
        world.meet(&world.host_as("other"), &world.address()),
        "fatal alert: DecryptError",
        "BadSignature",
    );
    // A certificate of the guests' CA is no host's.
    write(world.dir.path(), "peer", &world.guests.issue(&["node-1.example"]).unwrap());
    refused(
        world.meet(&world.host_as("peer"), &world.address()),
        "fatal alert: DecryptError",
        "BadSignature",
    );
    world.works();
}

#[test]
fn an_expired_host_is_refused_and_told() {
    let world = World::new();
    let expired = world.hosts.issue_expired(&["node-1.example"]).unwrap();
    write(world.dir.path(), "expired", &expired);
    refused(
        world.meet(&world.host_as("expired"), &world.address()),
        "fatal alert: CertificateExpired",
        "expired",
    );
}

#[test]
fn a_host_without_a_certificate_is_refused_and_told() {
    let world = World::new();
    let guest = world.accept(soon());
    let mut socket = TcpStream::connect(world.socket()).unwrap();
    let mut tls = raw_client(&world, &TLS13, None);
    tls.complete_io(&mut socket).unwrap();
    let told = rustls::Stream::new(&mut tls, &mut socket).read(&mut [0]).unwrap_err();
    assert!(text(told).contains("CertificateRequired"));
    assert!(guest.join().unwrap().is_err());
    world.works();
}

#[test]
fn a_host_of_another_name_is_refused_and_told() {
    for allowed in ["NODE-1.example", "spiffe://example/host"] {
        World::with_names(&["nobody", allowed]).works();
    }
    let world = World::with_names(&["node-2.example", "spiffe://example/HOST", "a.node.example"]);
    write(world.dir.path(), "wild", &world.hosts.issue(&["*.node.example"]).unwrap());
    write(world.dir.path(), "nameless", &world.hosts.issue(&[]).unwrap());
    for host in ["host", "wild", "nameless"] {
        refused(
            world.meet(&world.host_as(host), &world.address()),
            "fatal alert: AccessDenied",
            "ApplicationVerificationFailure",
        );
    }
}

#[test]
fn a_guest_of_another_ca_is_not_believed() {
    let world = World::new();
    write_ca(&world.path("guests.pem"), &Authority::new().unwrap());
    refused(world.meet(&world.host(), &world.address()), "BadSignature", "DecryptError");
}

#[test]
fn an_expired_guest_is_not_believed() {
    let world = World::new();
    write(world.dir.path(), "guest", &world.guests.issue_expired(&["127.0.0.1"]).unwrap());
    refused(world.meet(&world.host(), &world.address()), "expired", "CertificateExpired");
}

#[test]
fn a_guest_of_another_name_is_not_believed() {
    let world = World::new();
    let port = world.socket().port();
    // The last one is where it is, and not who it is.
    for address in [
        format!("tls:guest-8.pods.example@127.0.0.1:{port}"),
        format!("tls:127.0.0.2@127.0.0.1:{port}"),
        format!("tls:localhost:{port}"),
    ] {
        let address: Address = address.parse().unwrap();
        refused(world.meet(&world.host(), &address), "not valid for name", "BadCertificate");
    }
}

#[test]
fn a_host_that_knows_only_tls_1_2_is_refused() {
    let world = World::new();
    let error = world.refuses(|mut socket| {
        let of_host = ("host.crt", "host.key");
        let mut tls = raw_client(&world, &TLS12, Some(of_host));
        let told = tls.complete_io(&mut socket).unwrap_err();
        assert!(text(told).contains("ProtocolVersion"));
    });
    assert!(text(error).contains("peer is incompatible"));
}

#[test]
fn a_guest_that_knows_only_tls_1_2_is_not_believed() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (chain, key) = raw_identity(&world, "guest.crt", "guest.key");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let address: Address = format!("tls:{}", listener.local_addr().unwrap()).parse().unwrap();
    let guest = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        ServerConnection::new(Arc::new(config)).unwrap().complete_io(&mut socket).map(drop)
    });
    address.connect(Some(&world.host()), soon()).unwrap_err();
    assert!(guest.join().unwrap().is_err());
}

#[test]
fn whatever_is_not_tls_is_refused() {
    let world = World::new();
    let mut noise = vec![0; 4096];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for byte in &mut noise {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state.to_le_bytes()[0];
    }
    let handshake = [&[22, 3, 1, 0x10, 0][..], &noise].concat();
    let hello = [&[22, 3, 1, 0, 4, 1, 0, 0, 0][..], &noise].concat();
    let frame = b"\0\0\0\x04\0\0\0\x01\x01\0abcd".to_vec();
    let http = b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n".to_vec();
    for bytes in [frame, http, noise, handshake, hello, vec![0; 4096], vec![0xff; 4096]] {
        let error = world.refuses(|mut socket| {
            // It may be refused before all of it is written; nobody waits for more.
            let _ = socket.write_all(&bytes);
            let _ = socket.read_to_end(&mut Vec::new());
        });
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
    world.works();
}

#[test]
fn a_greeting_without_end_is_refused_at_its_first_bytes() {
    let world = World::new();
    let error = world.refuses(|mut socket| {
        // Sixteen megabytes are announced, in records as long as may be.
        let mut record = vec![22, 3, 1, 0x40, 0];
        record.extend([1, 0xff, 0xff, 0xff]);
        record.resize(5 + 0x4000, 0);
        let flooded = (0..4096).try_for_each(|_| {
            socket.write_all(&record)?;
            record[5..9].fill(0);
            Ok::<_, io::Error>(())
        });
        assert!(flooded.is_err(), "64 MiB were taken");
    });
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    world.works();
}

#[test]
fn a_peer_that_hangs_up_in_the_middle_is_over_at_once() {
    let world = World::new();
    let mut hello = Vec::new();
    raw_client(&world, &TLS13, None).write_tls(&mut hello).unwrap();
    for end in (0..hello.len()).step_by(29).chain([hello.len()]) {
        let error = world.refuses(|mut socket| {
            socket.write_all(&hello[..end]).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            // Until the guest has ended it: else its answer would be lost, and that is another case.
            let _ = socket.read_to_end(&mut Vec::new());
        });
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{end}: {error}");
    }
    world.works();
}

#[test]
fn whoever_drips_is_cut_off_and_holds_up_nobody() {
    let world = World::new();
    let mut hello = Vec::new();
    raw_client(&world, &TLS13, None).write_tls(&mut hello).unwrap();
    let mut socket = TcpStream::connect(world.socket()).unwrap();
    let incoming = world.listener.accept().unwrap().unwrap();
    let begin = Instant::now();
    let until = begin + Duration::from_millis(400);
    let dripping = std::thread::spawn(move || incoming.authenticate(until));
    let peer = std::thread::spawn(move || {
        for byte in hello.iter().cycle() {
            if socket.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    while !dripping.is_finished() {
        world.works();
    }
    let error = dripping.join().unwrap().map(drop).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    assert!(begin.elapsed() >= Duration::from_millis(400));
    peer.join().unwrap();
}

#[test]
fn a_guest_that_is_silent_is_given_up() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: Address = format!("tls:{}", listener.local_addr().unwrap()).parse().unwrap();
    let until = Instant::now() + Duration::from_millis(200);
    let error = address.connect(Some(&world.host()), until).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    let unconfigured = address.connect(None, soon()).unwrap_err();
    assert!(text(unconfigured).contains("TLS needs a certificate"));
}

#[test]
fn rotated_files_are_seen_by_the_next_connection() {
    let world = World::new();
    let host = world.host();
    let (mut lasting, mut guest) = world.pair();
    // Everything anew: both CAs and both certificates, in the files that were there.
    let (hosts, guests) = (Authority::new().unwrap(), Authority::new().unwrap());
    let (of_host, of_guest) =
        (hosts.issue(&["node-1.example"]).unwrap(), guests.issue(&["127.0.0.1"]).unwrap());
    write_ca(&world.path("guests.pem"), &guests);
    refused(world.meet(&host, &world.address()), "BadSignature", "DecryptError");
    // Halfway: the certificate is another key's. Refused, by either side, until it is done.
    fs::write(world.path("guest.crt"), &of_guest.certificate).unwrap();
    let (asked, said) = world.meet(&host, &world.address());
    assert!(asked.is_err() && said.unwrap_err().contains("cannot be used"));
    write(world.dir.path(), "guest", &of_guest);
    assert_eq!(world.meet(&host, &world.address()), (Ok(()), Ok(())));
    write_ca(&world.path("hosts.pem"), &hosts);
    refused(world.meet(&host, &world.address()), "DecryptError", "BadSignature");
    write(world.dir.path(), "host", &of_host);
    assert_eq!(world.meet(&host, &world.address()), (Ok(()), Ok(())));
    // One that was there before goes on.
    lasting.write_all(b"!").unwrap();
    guest.read_exact(&mut [0]).unwrap();
}

#[test]
fn files_that_cannot_be_used_are_named_at_the_start() {
    let world = World::new();
    let ca = world.path("guests.pem");
    let fails = |chain: &str, key: &str, ca: &str| {
        let identity = tls::Files { chain: world.path(chain), key: world.path(key) };
        let error = tls::Client::new(Box::new(identity), world.path(ca)).unwrap_err();
        let identity = tls::Files { chain: world.path(chain), key: world.path(key) };
        let server = tls::Server::new(Box::new(identity), world.path(ca), vec![]).unwrap_err();
        assert_eq!(error.to_string(), server.to_string());
        error
    };
    fs::write(world.path("empty"), "").unwrap();
    fs::write(world.path("long"), vec![b'\n'; (1 << 20) + 1]).unwrap();
    fs::write(world.path("broken"), "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    let not_a_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(world.path("nonsense"), not_a_certificate).unwrap();
    for name in ["empty", "broken", "long", "nonsense"] {
        fs::set_permissions(world.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let (crt, key, ca_name) = ("host.crt", "host.key", "guests.pem");
    assert!(matches!(fails("none", key, ca_name), tls::Error::Read { .. }));
    assert!(matches!(fails(crt, "none", ca_name), tls::Error::Read { .. }));
    assert!(matches!(fails(crt, key, "none"), tls::Error::Read { .. }));
    for broken in ["empty", "broken"] {
        assert!(matches!(fails(broken, key, ca_name), tls::Error::Pem { .. }), "{broken}");
        assert!(matches!(fails(crt, broken, ca_name), tls::Error::Pem { .. }), "{broken}");
        assert!(matches!(fails(crt, key, broken), tls::Error::Pem { .. }), "{broken}");
    }
    assert!(matches!(fails(key, key, ca_name), tls::Error::Pem { .. }));
    assert!(matches!(fails("long", key, ca_name), tls::Error::TooLong(_)));
    assert!(matches!(fails("nonsense", key, ca_name), tls::Error::Unusable { .. }));
    assert!(matches!(fails(crt, key, "nonsense"), tls::Error::Unusable { .. }));
    assert!(matches!(fails(crt, "guest.key", ca_name), tls::Error::Unusable { .. }));
    for mode in [0o640, 0o604, 0o620, 0o660, 0o644] {
        fs::set_permissions(world.path(key), fs::Permissions::from_mode(mode)).unwrap();
        let error = fails(crt, key, ca_name);
        assert!(matches!(error, tls::Error::Exposed { .. }), "{error}");
    }
    fs::set_permissions(world.path(key), fs::Permissions::from_mode(0o400)).unwrap();
    tls::Client::new(Box::new(files(world.dir.path(), "host")), ca).unwrap();
}

fn raw_identity(
    world: &World,
    chain: &str,
    key: &str,
) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = vec![CertificateDer::from_pem_file(world.path(chain)).unwrap()];
    (chain, PrivateKeyDer::from_pem_file(world.path(key)).unwrap())
}

/// A host of another make.
fn raw_client(
    world: &World,
    version: &'static rustls::SupportedProtocolVersion,
    identity: Option<(&str, &str)>,
) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(world.path("guests.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        Some((chain, key)) => {
            let (chain, key) = raw_identity(world, chain, key);
            config.with_client_auth_cert(chain, key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    ClientConnection::new(Arc::new(config), "127.0.0.1".try_into().unwrap()).unwrap()
}
