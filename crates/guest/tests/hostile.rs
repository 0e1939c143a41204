//! A host that breaks every rule of the protocol: refused, and everyone else goes on.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Write;
use std::net::Shutdown;
use std::ops::Range;
use std::time::{Duration, Instant};

use common::{Guest, answer, closed, conversation, frames, say, tree, volume};
use guest::agent::Agent;
use guest::policy::Policy;
use guest::server::Limits;
use volumes::name::Category;
use volumes::refusal::Reason;
use volumes::session::Session;
use volumes::tree::Limits as TreeLimits;
use volumes::wire::frame::{Kind, PAYLOAD_BYTES_MAX, frame};
use volumes::wire::message::{Message, Request, Response, SERVICE};

const FILES: &[(&str, &[u8])] = &[("conf/app.yaml", b"key: value"), ("password", b"hunter2")];

fn start() -> Guest {
    Guest::start(Policy::default(), Limits { frame: Duration::from_secs(5), ..Limits::default() })
}

/// A good conversation about a volume of its own: the guest still works.
fn works(guest: &Guest, name: &str) {
    let messages = conversation(&volume(name), Category::Secret, 1, FILES);
    assert_eq!(say(&mut guest.connect(), &messages), [None; 4]);
    assert_eq!(guest.read(&volume(name)).len(), 2);
}

#[test]
fn every_prefix_of_a_conversation_leaves_nothing_or_all() {
    let guest = start();
    let volume = volume("pod.prefix");
    let bytes = frames(&conversation(&volume, Category::Secret, 1, FILES));
    for end in 0..bytes.len() {
        let mut stream = guest.connect();
        stream.write_all(&bytes[..end]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert!(closed(&mut stream), "{end}");
        assert!(guest.read(&volume).is_empty(), "{end}");
    }
    works(&guest, "pod.prefix");
}

#[test]
fn every_changed_byte_leaves_nothing_or_what_was_said() {
    let guest = start();
    let whole = frames(&conversation(&volume("pod.bytes"), Category::Secret, 1, FILES));
    let mut visible = 0;
    for position in 0..whole.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[position] ^= change;
            let mut stream = guest.connect();
            // The guest may close before everything is written.
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Write);
            assert!(closed(&mut stream), "{position}");
            // Under whatever name it came: the names and contents are the real ones, or the digest
            // would not have fitted.
            let agent = guest.agent.lock().unwrap();
            let held: Vec<_> = volumes::session::Volumes::held(&*agent, None, 100).0;
            drop(agent);
            for held in held {
                let found = guest.read(&held.volume);
                if held.digest.is_some() {
                    visible += 1;
                    assert_eq!(held.digest, Some(tree(FILES).digest()), "{position} {change}");
                    assert_eq!(found["password"], b"hunter2");
                } else {
                    assert!(found.is_empty());
                }
                let agent = &mut *guest.agent.lock().unwrap();
                volumes::session::Volumes::remove(agent, &held.volume).unwrap();
            }
        }
    }
    assert!(visible > 0, "a change of the volume's own name is harmless");
    works(&guest, "pod.after");
}

#[test]
fn frames_that_are_none_end_the_connection_and_empty_ones_are_refused() {
    let guest = start();
    let mut too_long = u32::try_from(PAYLOAD_BYTES_MAX + 1).unwrap().to_be_bytes().to_vec();
    too_long.extend([0, 0, 0, 1, 1, 0]);
    let response = frame(Kind::Response, 1, b"");
    let even = frame(Kind::Request, 2, b"");
    let http = b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n".to_vec();
    for bytes in [too_long, vec![0xff; 10], response, even, http] {
        let mut stream = guest.connect();
        stream.write_all(&bytes).unwrap();
        assert!(closed(&mut stream), "{bytes:?}");
    }
    let mut stream = guest.connect();
    stream.write_all(&frame(Kind::Request, 1, b"")).unwrap();
    let refusal = answer(&mut stream).unwrap().unwrap_err();
    assert_eq!(refusal.reason, Reason::Unsupported);
    works(&guest, "pod.after");
}

#[test]
fn whoever_is_slow_is_cut_off_and_holds_up_nobody() {
    let limits = Limits { connections: 4, frame: Duration::from_millis(300) };
    let guest = Guest::start(Policy::default(), limits);
    // One says nothing at all, one stops in a header, one in a payload, one drips.
    let hello = frames(&conversation(&volume("v"), Category::Secret, 1, FILES)[..1]);
    let mut silent = guest.connect();
    let mut header = guest.connect();
    header.write_all(&hello[..5]).unwrap();
    let mut payload = guest.connect();
    payload.write_all(&hello[..12]).unwrap();
    works(&guest, "pod.meanwhile");
    for stream in [&mut silent, &mut header, &mut payload] {
        assert!(closed(stream));
    }
    let mut dripping = guest.connect();
    let begin = Instant::now();
    let cut = hello.iter().cycle().any(|byte| {
        std::thread::sleep(Duration::from_millis(50));
        dripping.write_all(&[*byte]).is_err()
    });
    assert!(cut && begin.elapsed() >= Duration::from_millis(300));
}

#[test]
fn half_open_connections_make_room_for_new_ones() {
    let limits = Limits { connections: 4, frame: Duration::from_secs(600) };
    let guest = Guest::start(Policy::default(), limits);
    let hello = frames(&conversation(&volume("v"), Category::Secret, 1, FILES)[..1]);
    let mut idle: Vec<_> = (0..40)
        .map(|_| {
            let mut stream = guest.connect();
            stream.write_all(&hello).unwrap();
            assert!(answer(&mut stream).unwrap().is_ok());
            stream
        })
        .collect();
    works(&guest, "pod.new");
    let open = idle.iter_mut().filter_map(|stream| {
        stream.set_nonblocking(true).unwrap();
        let read = std::io::Read::read(stream, &mut [0]);
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock).then_some(())
    });
    assert!(open.count() <= 4);
}

#[test]
fn a_flood_of_refused_requests_costs_no_memory() {
    let guest = start();
    let messages = conversation(&volume("pod.flood"), Category::Secret, 1, FILES);
    let mut stream = guest.connect();
    assert_eq!(say(&mut stream, &messages[..1]), [None]);
    let peak = |field: &str| -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let before = peak("VmRSS:");
    for turn in 0..200 {
        // Of volumes that do not exist, each time others.
        let flood: Vec<_> = (0..100)
            .map(|n| {
                let volume = volume(&format!("pod.{turn}-{n}"));
                conversation(&volume, Category::Secret, 1, FILES).swap_remove(2)
            })
            .collect();
        assert!(say(&mut stream, &flood).iter().all(|reason| *reason == Some(Reason::Unknown)));
    }
    let grown = peak("VmHWM:").saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB");
    works(&guest, "pod.after");
}

#[test]
fn policy_and_limits_refuse_one_volume_and_serve_the_others() {
    let policy = Policy {
        categories: [Category::Secret].into(),
        volumes: 2,
        limits: TreeLimits { entries: 4, bytes: 64 },
        ..Policy::default()
    };
    let guest = Guest::start(policy, Limits::default());
    works(&guest, "pod.good");
    let refused = |name: &str, category, files: &[(&str, &[u8])]| {
        say(&mut guest.connect(), &conversation(&volume(name), category, 2, files))
    };
    let of_category = refused("pod.config", Category::ConfigMap, FILES);
    assert_eq!(
        of_category[1..],
        [Some(Reason::Policy), Some(Reason::Unknown), Some(Reason::Unknown)]
    );
    // In the middle of a revision: the content does not fit, so nothing of it is seen.
    let large = [("a", &[7; 65][..])];
    let reasons = refused("pod.good", Category::Secret, &large);
    assert_eq!(reasons[2], Some(Reason::Limit), "{reasons:?}");
    let many: [(&str, &[u8]); 5] =
        [("a", b"1"), ("b", b"2"), ("c", b"3"), ("d", b"4"), ("e", b"5")];
    let reasons = refused("pod.good", Category::Secret, &many);
    assert_eq!(reasons[2], Some(Reason::Limit), "{reasons:?}");
    assert_eq!(guest.read(&volume("pod.good"))["password"], b"hunter2", "as it was");
    works(&guest, "pod.second");
    let third = refused("pod.third", Category::Secret, FILES);
    assert_eq!(third[1], Some(Reason::Limit));
    assert_eq!(guest.read(&volume("pod.second")).len(), 2);
}

/// The host comes back before the guest has heard that the connection before is gone.
#[test]
fn the_late_end_of_a_connection_takes_nothing_from_a_newer_one() {
    let guest = start();
    let agent = &mut *guest.agent.lock().unwrap();
    let told = |session: &mut Session, agent: &mut Agent, sequence, files, calls: Range<usize>| {
        for (method, payload) in
            &conversation(&volume("pod.v"), Category::Secret, sequence, files)[calls]
        {
            let request = Request { service: SERVICE, method, payload, timeout_ns: 0 };
            let answer = session.answer(&request.encode(), agent);
            let refused = Response::decode(&answer).unwrap().0.err();
            assert_eq!(refused, None, "{method} of {sequence}");
        }
    };
    let other: &[(&str, &[u8])] = &[("password", b"another one")];
    let (mut old, mut new, mut newest) = (Session::new(1), Session::new(2), Session::new(3));
    told(&mut old, agent, 1, FILES, 0..3);
    told(&mut new, agent, 1, FILES, 0..3);
    old.end(agent);
    told(&mut new, agent, 1, FILES, 3..4);
    // The newest one's end leaves nothing, and an older one can begin again.
    told(&mut newest, agent, 2, other, 0..3);
    newest.end(agent);
    let staging = guest.data(&volume("pod.v")).with_file_name("staging");
    assert_eq!(std::fs::read_dir(&staging).unwrap().count(), 0);
    told(&mut new, agent, 2, other, 2..3);
    assert_eq!(std::fs::read_dir(&staging).unwrap().count(), 1);
    new.end(agent);
    assert_eq!(std::fs::read_dir(&staging).unwrap().count(), 0);
}
