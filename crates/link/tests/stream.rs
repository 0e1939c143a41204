//! What a stream promises, over a socket file and over TLS alike.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{World, soon};
use link::Stream;
use link::listen::{Address, Listener};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Both ends, over each transport that there is here.
fn pairs() -> Vec<(&'static str, Stream, Stream)> {
    let world = World::new();
    let (host, guest) = world.pair();
    let path = world.path("socket");
    let listener = Listener::bind(&Address::Unix(path.clone()), None).unwrap();
    let plain = link::dial::Address::Unix(path).connect(None, soon()).unwrap();
    let accepted = listener.accept().unwrap().unwrap().authenticate(soon()).unwrap();
    vec![("tls", host, guest), ("unix", plain, accepted)]
}

/// Whether a poll finds something within `wait`.
fn readable(stream: &Stream, wait: Duration) -> bool {
    let timeout = Timespec::try_from(wait).unwrap();
    let fd = stream.as_fd();
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

#[test]
fn what_is_written_arrives_whole_in_both_directions() {
    for (what, mut host, mut guest) in pairs() {
        let bytes: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_be_bytes).collect();
        let expected = bytes.clone();
        let echo = std::thread::spawn(move || {
            let mut all = vec![0; expected.len()];
            guest.read_exact(&mut all).unwrap();
            assert!(all == expected);
            guest.write_all(&all).unwrap();
            // The end is seen, and is no error.
            assert_eq!(guest.read(&mut [0]).unwrap(), 0);
        });
        host.write_all(&bytes).unwrap();
        let mut back = vec![0; bytes.len()];
        host.read_exact(&mut back).unwrap();
        assert!(back == bytes, "{what}");
        drop(host);
        echo.join().unwrap();
    }
}

/// In pieces that end anywhere in a page, between other bytes, to a peer who reads now and then.
#[test]
fn a_files_bytes_arrive_in_their_order() {
    let bytes: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_be_bytes).collect();
    let file = file_of(&bytes);
    for (what, mut host, mut guest) in pairs() {
        let expected = bytes.clone();
        let reader = std::thread::spawn(move || {
            for (number, piece) in expected.chunks(100_001).enumerate() {
                let mut found = vec![0; piece.len() + 1];
                guest.read_exact(&mut found).unwrap();
                assert!(found[0] == b'>' && &found[1..] == piece, "{what}: {number}");
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(guest.read(&mut [0]).unwrap(), 0);
        });
        let mut file = file.reopen().unwrap();
        for piece in bytes.chunks(100_001) {
            host.write_all(b">").unwrap();
            host.write_file(&file, piece.len() as u64).unwrap();
        }
        assert_eq!(file.stream_position().unwrap(), bytes.len() as u64);
        let error = host.write_file(&file, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{what}");
        drop(host);
        reader.join().unwrap();
    }
}

#[test]
fn a_file_that_nobody_reads_ends_with_its_deadline() {
    let file = file_of(&vec![7; 32 << 20]);
    for (what, mut host, guest) in pairs() {
        let until = Instant::now() + Duration::from_millis(100);
        host.set_deadline(Some(until));
        let error = host.write_file(&file.reopen().unwrap(), 32 << 20).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{what}");
        assert!(Instant::now() >= until);
        drop(guest);
    }
}

fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn a_read_ends_with_its_deadline_and_may_be_tried_again() {
    for (what, mut host, mut guest) in pairs() {
        let until = Instant::now() + Duration::from_millis(50);
        guest.set_deadline(Some(until));
        let error = guest.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{what}");
        assert!(Instant::now() >= until);
        guest.set_deadline(None);
        host.write_all(b"late").unwrap();
        let mut late = [0; 4];
        guest.read_exact(&mut late).unwrap();
        assert_eq!(&late, b"late", "{what}");
    }
}

#[test]
fn a_write_that_nobody_reads_ends_with_its_deadline() {
    for (what, mut host, guest) in pairs() {
        host.set_deadline(Some(Instant::now() + Duration::from_millis(100)));
        let error = (0..1 << 12).find_map(|_| host.write_all(&[0; 64 << 10]).err());
        assert_eq!(error.unwrap().kind(), io::ErrorKind::TimedOut, "{what}");
        drop(guest);
    }
}

/// A deadline is for all that arrives, not for each piece of a TLS record.
#[test]
fn a_dripping_peer_does_not_outlive_a_deadline() {
    let world = World::new();
    let relay = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let guest = world.accept(soon());
    let (from, to) = (relay.local_addr().unwrap(), world.socket());
    let drip = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let dripping = Arc::clone(&drip);
    std::thread::spawn(move || {
        let (mut host, _) = relay.accept().unwrap();
        let mut guest = std::net::TcpStream::connect(to).unwrap();
        let (mut back_in, mut back_out) = (guest.try_clone().unwrap(), host.try_clone().unwrap());
        std::thread::spawn(move || io::copy(&mut back_in, &mut back_out));
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = host.read(&mut buffer) {
            if !dripping.load(std::sync::atomic::Ordering::SeqCst) {
                guest.write_all(&buffer[..count]).unwrap();
                continue;
            }
            for byte in &buffer[..count] {
                if guest.write_all(&[*byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let address: link::dial::Address = format!("tls:{from}").parse().unwrap();
    let mut host = address.connect(Some(&world.host()), soon()).unwrap();
    let mut guest = guest.join().unwrap().unwrap();
    drip.store(true, std::sync::atomic::Ordering::SeqCst);
    // One record, which takes sixteen seconds.
    host.write_all(&[0; 16 << 10]).unwrap();
    guest.set_deadline(Some(Instant::now() + Duration::from_millis(200)));
    assert_eq!(guest.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[test]
fn another_thread_ends_it_and_both_sides_notice() {
    for (what, mut host, mut guest) in pairs() {
        let closer = guest.closer().unwrap();
        let reader = std::thread::spawn(move || guest.read(&mut [0]).map_err(|error| error.kind()));
        assert!(!readable(&host, Duration::from_millis(20)), "{what}");
        closer.close();
        assert_eq!(reader.join().unwrap(), Ok(0), "{what}");
        assert!(readable(&host, Duration::from_secs(30)), "{what}");
        assert_eq!(host.read(&mut [0]).unwrap(), 0, "{what}");
        closer.close();
    }
}

#[test]
fn an_idle_connection_is_readable_only_when_it_is_over() {
    for (what, mut host, mut guest) in pairs() {
        // Right after the handshake, where tickets would come.
        assert!(!readable(&host, Duration::ZERO), "{what}");
        host.write_all(b"?").unwrap();
        guest.read_exact(&mut [0]).unwrap();
        guest.write_all(b"!").unwrap();
        host.read_exact(&mut [0]).unwrap();
        assert!(!readable(&host, Duration::ZERO), "{what}");
        drop(guest);
        assert!(readable(&host, Duration::from_secs(30)), "{what}");
        assert_eq!(host.read(&mut [0]).unwrap(), 0, "{what}");
    }
}
