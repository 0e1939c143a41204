//! Journal, syslog and HTTP collectors, each a server of the test's own. SPECIFICATION P8.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use audit::{Error, Event, PART_BYTES_DEFAULT, Target, verify};

fn event(n: usize) -> Event {
    Event::PolicyChanged { digest: n.to_string() }
}

/// A daemon's socket, and how a log is named that writes to it.
fn daemon() -> (tempfile::TempDir, UnixDatagram, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let socket = UnixDatagram::bind(&path).unwrap();
    (dir, socket, path)
}

#[test]
fn each_record_is_a_message_to_syslog() {
    let (_dir, socket, path) = daemon();
    let log = Target::parse(Path::new(&format!("syslog:{}", path.display())))
        .open(PART_BYTES_DEFAULT)
        .unwrap();
    let mut lines = String::new();
    for n in 0..3 {
        log.record(event(n)).unwrap();
        let mut buffer = vec![0; 32 << 10];
        let count = socket.recv(&mut buffer).unwrap();
        let message = std::str::from_utf8(&buffer[..count]).unwrap();
        // As syslog(3) writes it: priority, time, name and process.
        let (head, line) = message.split_once(": ").unwrap();
        let name = format!(" sealift-audit[{}]", std::process::id());
        let time = head.strip_prefix("<85>").unwrap().strip_suffix(&name).unwrap();
        assert_eq!(time.len(), "Jan  1 00:00:00".len(), "{time}");
        lines += &format!("{line}\n");
    }
    assert_eq!(verify(lines.as_bytes()).unwrap().records, 3);
}

#[test]
fn a_daemon_that_is_gone_is_an_error() {
    let (dir, socket, path) = daemon();
    let target = Target::Syslog(path);
    let log = target.open(PART_BYTES_DEFAULT).unwrap();
    log.record(event(0)).unwrap();
    drop(socket);
    drop(dir);
    assert!(matches!(log.record(event(1)), Err(Error::Sink { .. })));
    assert!(matches!(log.record(event(2)), Err(Error::Sink { .. })));
    assert!(matches!(target.open(PART_BYTES_DEFAULT), Err(Error::Sink { .. })));
}

#[test]
fn a_daemon_that_comes_back_is_sent_the_chain_from_where_it_was() {
    let (_dir, socket, path) = daemon();
    let log = Target::Syslog(path.clone()).open(PART_BYTES_DEFAULT).unwrap();
    let mut lines = String::new();
    let mut receive = |socket: &UnixDatagram| {
        let mut buffer = vec![0; 32 << 10];
        let count = socket.recv(&mut buffer).unwrap();
        let message = std::str::from_utf8(&buffer[..count]).unwrap();
        lines += &format!("{}\n", message.split_once(": ").unwrap().1);
    };
    log.record(event(0)).unwrap();
    receive(&socket);
    drop(socket);
    std::fs::remove_file(&path).unwrap();
    for n in 1..3 {
        let error = log.record(event(n)).unwrap_err();
        let Error::Sink { source, .. } = error else { panic!("{error:?}") };
        assert!(source.to_string().starts_with("nothing was accepted"), "{source}");
    }
    let socket = UnixDatagram::bind(&path).unwrap();
    for n in 3..5 {
        log.record(event(n)).unwrap();
        receive(&socket);
    }
    assert_eq!(verify(lines.as_bytes()).unwrap().records, 3);
}

/// A collector that answers as it is told, and tells what it was sent.
fn collector() -> (String, Sender<String>, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/audit", listener.local_addr().unwrap());
    let (tell, told) = channel();
    let (answer, answers) = channel::<String>();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            while let Ok(answer) = answers.recv() {
                let mut length = 0;
                let mut head = String::new();
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap() <= 2 {
                        break;
                    }
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    head += &line;
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                assert!(head.starts_with("POST /audit HTTP/1.1"), "{head}");
                tell.send(String::from_utf8(body).unwrap()).unwrap();
                reader.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    (url, answer, told)
}

const OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";

#[test]
fn records_are_posted_and_accepted_with_2xx() {
    let (url, answer, told) = collector();
    let log = Target::parse(Path::new(&url)).open(PART_BYTES_DEFAULT).unwrap();
    for n in 0..3 {
        answer.send(OK.into()).unwrap();
        log.record(event(n)).unwrap();
    }
    let lines: String = (0..3).map(|_| told.recv().unwrap()).collect();
    assert_eq!(verify(lines.as_bytes()).unwrap().records, 3);
    // Within a runtime, too.
    answer.send(OK.into()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { log.record(event(3)) }).unwrap();
}

#[test]
fn any_other_answer_is_an_error_and_nothing_follows_it() {
    for refusal in [
        "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 400 A line is bad\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        "not HTTP at all\r\n\r\n",
    ] {
        let (url, answer, told) = collector();
        let log = Target::parse(Path::new(&url)).open(PART_BYTES_DEFAULT).unwrap();
        answer.send(refusal.into()).unwrap();
        assert!(matches!(log.record(event(0)), Err(Error::Sink { .. })), "{refusal}");
        answer.send(OK.into()).unwrap();
        let error = log.record(event(1)).unwrap_err();
        assert!(matches!(error, Error::FailedBefore { seq: 1, .. }), "{refusal}: {error:?}");
        // What somebody can do about it is said.
        assert!(error.to_string().contains("start this process anew"), "{error}");
        assert_eq!(told.recv().unwrap().lines().count(), 1);
        assert!(told.try_recv().is_err());
    }
    // Nobody listens there.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let log = Target::Http(format!("http://{free}/")).open(PART_BYTES_DEFAULT).unwrap();
    assert!(matches!(log.record(event(0)), Err(Error::Sink { .. })));
}

#[test]
fn a_collector_that_turned_a_record_away_may_be_given_the_next() {
    for status in [401, 403, 404, 413, 429, 503] {
        let (url, answer, told) = collector();
        let log = Target::parse(Path::new(&url)).open(PART_BYTES_DEFAULT).unwrap();
        answer.send(OK.into()).unwrap();
        log.record(event(0)).unwrap();
        let mut accepted = told.recv().unwrap();
        answer.send(format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n")).unwrap();
        assert!(matches!(log.record(event(1)), Err(Error::Sink { .. })), "{status}");
        told.recv().unwrap();
        answer.send(OK.into()).unwrap();
        log.record(event(2)).unwrap();
        accepted += &told.recv().unwrap();
        // What was turned away is not there, and the chain is whole.
        let summary = verify(accepted.as_bytes()).unwrap();
        assert_eq!((summary.records, summary.seq), (2, 2), "{status}: {accepted}");
    }
}

#[test]
fn a_collector_that_was_not_there_may_be_given_the_next() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let log = Target::Http(format!("http://{free}/")).open(PART_BYTES_DEFAULT).unwrap();
    for n in 0..2 {
        assert!(matches!(log.record(event(n)), Err(Error::Sink { .. })));
    }
    let listener = TcpListener::bind(free).unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = vec![0; 4096];
        let count = stream.read(&mut bytes).unwrap();
        stream.write_all(OK.as_bytes()).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    });
    log.record(event(2)).unwrap();
    let request = serving.join().unwrap();
    assert!(request.starts_with("POST / HTTP/1.1"), "{request}");
}

#[test]
fn a_collector_that_closes_in_the_middle_is_given_nothing_more() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
    });
    let log = Target::Http(url).open(PART_BYTES_DEFAULT).unwrap();
    assert!(matches!(log.record(event(0)), Err(Error::Sink { .. })));
    assert!(matches!(log.record(event(1)), Err(Error::FailedBefore { seq: 1, .. })));
}

#[test]
fn records_do_not_leave_the_machine_in_the_clear() {
    for url in ["http://collector.example/", "http://127.0.0.1.example/", "http://10.0.0.1/"] {
        assert!(
            matches!(Target::Http(url.into()).open(PART_BYTES_DEFAULT), Err(Error::Sink { .. })),
            "{url}"
        );
    }
    assert!(Target::Http("https://collector.example/".into()).open(PART_BYTES_DEFAULT).is_ok());
}
