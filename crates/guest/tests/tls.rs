//! Strangers on the network: many at a time, silent, and still the host is heard.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Guest, answer, closed, conversation, frames, volume};
use guest::policy::Policy;
use guest::server::{Limits, Server};
use link::listen::Listener;
use link::{Stream, tls};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use tempfile::TempDir;
use testkit::tls::Authority;
use volumes::name::Category;

const PATIENCE: Duration = Duration::from_secs(30);

/// A guest that listens at a TCP port, and a host with the right certificate.
struct World {
    _guest: Guest,
    _dir: TempDir,
    socket: SocketAddr,
    host: tls::Client,
}

impl World {
    fn new(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let authority = Authority::new().unwrap();
        std::fs::write(path("ca"), authority.pem()).unwrap();
        authority.issue(&["127.0.0.1"]).unwrap().write(&path("crt"), &path("key")).unwrap();
        let files = tls::Files { chain: path("crt"), key: path("key") };
        let host = tls::Client::new(Box::new(files.clone()), path("ca")).unwrap();
        let server = tls::Server::new(Box::new(files), path("ca"), vec![]).unwrap();
        let address = "tls:127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(&address, Some(&Arc::new(server))).unwrap();
        let socket = listener.tcp_address().unwrap();
        let guest = Guest::start(Policy::default(), Limits::default());
        let server = Server::new(Arc::clone(&guest.agent), limits);
        std::thread::spawn(move || server.run(&listener));
        Self { _guest: guest, _dir: dir, socket, host }
    }

    fn connect(&self) -> std::io::Result<Stream> {
        let address: link::dial::Address = format!("tls:{}", self.socket).parse().unwrap();
        let mut stream = address.connect(Some(&self.host), Instant::now() + PATIENCE)?;
        stream.set_deadline(Some(Instant::now() + PATIENCE));
        Ok(stream)
    }

    /// Somebody on another machine who says nothing.
    fn stranger(&self, from: [u8; 4]) -> TcpStream {
        let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&fd, &SocketAddr::from((from, 0))).unwrap();
        connect(&fd, &self.socket).unwrap();
        let stream = TcpStream::from(fd);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

/// Says one message, and hears that it was done.
fn asks(stream: &mut Stream, message: usize) -> std::io::Result<()> {
    let all = conversation(&volume("pod.v"), Category::Secret, 1, &[("password", b"hunter2")]);
    stream.write_all(&frames(&all[message..=message]))?;
    match answer(stream) {
        Some(answer) => {
            answer.unwrap();
            Ok(())
        }
        None => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// As the host agent does it: until it works.
fn patiently<T>(mut attempt: impl FnMut() -> std::io::Result<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    }
}

#[test]
fn strangers_take_no_place_from_the_host_and_no_turn() {
    // Nobody is cut off for being slow.
    let limits = Limits { connections: 2, frame: Duration::from_secs(600) };
    let world = World::new(limits);
    let mut lasting = world.connect().unwrap();
    asks(&mut lasting, 0).unwrap();
    // A flood from one place displaces itself, and not who waits elsewhere.
    let mut patient = world.stranger([127, 0, 0, 3]);
    let mut strangers: Vec<_> = (0..100).map(|_| world.stranger([127, 0, 0, 2])).collect();
    assert!(closed(&mut strangers[0]));
    patient.set_nonblocking(true).unwrap();
    assert_eq!(patient.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    // One from everywhere displaces strangers, and not the host.
    strangers.extend((0..100).map(|n| world.stranger([127, 1, 0, n])));
    // Another one, while as many strangers as may be are waited for.
    let mut new = patiently(|| {
        let mut stream = world.connect()?;
        asks(&mut stream, 0)?;
        Ok(stream)
    });
    for message in 1..4 {
        asks(&mut lasting, message).unwrap();
    }
    asks(&mut new, 1).unwrap();
    drop(strangers);
}

#[test]
fn a_handshake_is_due_with_the_first_request() {
    let world = World::new(Limits { connections: 2, frame: Duration::from_millis(300) });
    let begin = Instant::now();
    let mut stranger = world.stranger([127, 0, 0, 2]);
    assert!(closed(&mut stranger));
    assert!(begin.elapsed() >= Duration::from_millis(300));
    // Certificates are no greeting: the silence after them ends the connection, too.
    patiently(|| match world.connect()?.read(&mut [0])? {
        0 => Ok(()),
        _ => panic!("nobody asked"),
    });
    patiently(|| asks(&mut world.connect()?, 0));
}
