//! A host and a guest on the loopback interface, each with a CA, a certificate and a key in files.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use link::dial::Address;
use link::listen::{self, Listener};
use link::{Stream, tls};
use tempfile::TempDir;
use testkit::tls::{Authority, Issued};

pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn soon() -> Instant {
    Instant::now() + PATIENCE
}

pub struct World {
    pub dir: TempDir,
    pub hosts: Authority,
    pub guests: Authority,
    pub listener: Arc<Listener>,
}

impl World {
    pub fn new() -> Self {
        Self::with_names(&[])
    }

    /// A guest that hears only hosts of these names.
    pub fn with_names(names: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (hosts, guests) = (Authority::new().unwrap(), Authority::new().unwrap());
        write_ca(&dir.path().join("hosts.pem"), &hosts);
        write_ca(&dir.path().join("guests.pem"), &guests);
        let of_guest = guests.issue(&["127.0.0.1", "guest-7.pods.example"]).unwrap();
        let of_host = hosts.issue(&["node-1.example", "spiffe://example/host"]).unwrap();
        write(dir.path(), "guest", &of_guest);
        write(dir.path(), "host", &of_host);
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let identity = Box::new(files(dir.path(), "guest"));
        let server = tls::Server::new(identity, dir.path().join("hosts.pem"), names).unwrap();
        let address = "tls:127.0.0.1:0".parse::<listen::Address>().unwrap();
        let listener = Arc::new(Listener::bind(&address, Some(&Arc::new(server))).unwrap());
        Self { dir, hosts, guests, listener }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn host(&self) -> tls::Client {
        self.host_as("host")
    }

    /// A host with another certificate of this directory.
    pub fn host_as(&self, name: &str) -> tls::Client {
        let identity = Box::new(files(self.dir.path(), name));
        tls::Client::new(identity, self.path("guests.pem")).unwrap()
    }

    pub fn socket(&self) -> SocketAddr {
        self.listener.tcp_address().unwrap()
    }

    pub fn address(&self) -> Address {
        format!("tls:{}", self.socket()).parse().unwrap()
    }

    /// The guest's side of the next connection.
    pub fn accept(&self, until: Instant) -> JoinHandle<io::Result<Stream>> {
        let listener = Arc::clone(&self.listener);
        std::thread::spawn(move || listener.accept().unwrap().unwrap().authenticate(until))
    }

    /// Both sides of a connection that works.
    pub fn pair(&self) -> (Stream, Stream) {
        let guest = self.accept(soon());
        let host = self.address().connect(Some(&self.host()), soon()).unwrap();
        (host, guest.join().unwrap().unwrap())
    }

    /// What each side has of an attempt: a question from the host, an answer from the guest.
    pub fn meet(
        &self,
        host: &tls::Client,
        address: &Address,
    ) -> (Result<(), String>, Result<(), String>) {
        let listener = Arc::clone(&self.listener);
        let guest = std::thread::spawn(move || {
            listener.accept().unwrap().unwrap().authenticate(soon()).map(drop)
        });
        let asked = address.connect(Some(host), soon()).and_then(|mut stream| ask(&mut stream));
        let said = guest.join().unwrap();
        (asked.map_err(text), said.map_err(text))
    }

    /// What the guest says to a peer that is told only its socket.
    pub fn refuses(&self, peer: impl FnOnce(TcpStream)) -> io::Error {
        let guest = self.accept(soon());
        peer(TcpStream::connect(self.socket()).unwrap());
        guest.join().unwrap().map(drop).unwrap_err()
    }

    /// A good host is heard.
    #[track_caller]
    pub fn works(&self) {
        let (mut host, mut guest) = self.pair();
        host.write_all(b"question").unwrap();
        let mut question = [0; 8];
        guest.read_exact(&mut question).unwrap();
        assert_eq!(&question, b"question");
    }
}

/// Waits until the guest has said something, or why it does not.
fn ask(stream: &mut Stream) -> io::Result<()> {
    stream.set_deadline(Some(soon()));
    stream.write_all(b"question")?;
    // A guest that agrees closes at once: that is an answer, too.
    stream.read(&mut [0]).map(drop)
}

pub fn text(error: io::Error) -> String {
    error.to_string()
}

pub fn write(dir: &Path, name: &str, issued: &Issued) {
    let Ok(()) = issued.write(&dir.join(format!("{name}.crt")), &dir.join(format!("{name}.key")))
    else {
        panic!("cannot write {name}'s files")
    };
}

pub fn write_ca(path: &Path, authority: &Authority) {
    std::fs::write(path, authority.pem()).unwrap();
}

pub fn files(dir: &Path, name: &str) -> tls::Files {
    tls::Files { chain: dir.join(format!("{name}.crt")), key: dir.join(format!("{name}.key")) }
}
