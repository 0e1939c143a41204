//! A proxy that takes every name for one server of this machine: so clients that insist on a
//! cloud's own names reach an emulator, with nothing of the machine changed.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

/// A running proxy for `CONNECT`, until the process ends.
#[derive(Debug)]
pub struct Tunnel {
    url: String,
}

impl Tunnel {
    /// Connects whoever asks, whatever name they ask for, with this port of the loopback address.
    ///
    /// # Errors
    /// If no port is free.
    pub fn start(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // How it ends is the client's business.
                thread::spawn(move || connect(client, port));
            }
        });
        Ok(Self { url })
    }

    /// `http://127.0.0.1:<port>`, for `HTTPS_PROXY`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

fn connect(mut client: TcpStream, port: u16) -> io::Result<()> {
    let mut head = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    // Nothing follows the head before our answer, so nothing is lost in the reader.
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let server = TcpStream::connect(("127.0.0.1", port))?;
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    let (back, forth) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || pass(back, client));
    pass(forth, server);
    Ok(())
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
