//! What the kernel writes, and what it never would, understood.

use std::path::Path;

use volumes::name::VolumeId;

use super::record::Records;
use super::{Event, Watch};

const MOVED_TO: u32 = 0x80;
const CREATE: u32 = 0x100;
const DELETE_SELF: u32 = 0x400;
const UNMOUNT: u32 = 0x2000;
const OVERFLOW: u32 = 0x4000;
const IGNORED: u32 = 0x8000;

fn record(descriptor: i32, happened: u32, name: &str) -> Vec<u8> {
    let padded = if name.is_empty() { 0 } else { (name.len() + 1).next_multiple_of(16) };
    let mut bytes = descriptor.to_ne_bytes().to_vec();
    let length = u32::try_from(padded).expect("short");
    for word in [happened, 0, length] {
        bytes.extend(word.to_ne_bytes());
    }
    let start = bytes.len();
    bytes.extend(name.as_bytes());
    bytes.resize(start + padded, 0);
    bytes
}

/// Watches as if the kernel had given descriptor 1 to `a` and 2 to `b`.
fn watch() -> Watch {
    let mut watch = Watch::new().expect("an instance");
    for (descriptor, name) in [(1, "a"), (2, "b")] {
        watch.volumes.insert(descriptor, vec![id(name)]);
        watch.descriptors.insert(id(name), descriptor);
    }
    watch
}

fn id(name: &str) -> VolumeId {
    VolumeId::parse(name).expect("a name")
}

#[test]
fn records_mean_what_the_kernel_says() {
    let changed = |name| Event::Changed(id(name));
    let gone = |name| Event::Gone(id(name));
    let table: [(&[Vec<u8>], &[Event]); 11] = [
        (&[], &[]),
        (&[record(1, MOVED_TO, "..data")], &[changed("a")]),
        (&[record(1, CREATE, "..data")], &[changed("a")]),
        (&[record(1, MOVED_TO, "..data_tmp"), record(2, CREATE, "data")], &[]),
        (&[record(1, MOVED_TO, ""), record(9, MOVED_TO, "..data")], &[]),
        (
            &[
                record(2, MOVED_TO, "..data"),
                record(1, MOVED_TO, "..data"),
                record(2, MOVED_TO, "..data"),
            ],
            &[changed("a"), changed("b")],
        ),
        (&[record(-1, OVERFLOW, "")], &[Event::Overflow]),
        (
            &[record(1, MOVED_TO, "..data"), record(-1, OVERFLOW, "")],
            &[Event::Overflow, changed("a")],
        ),
        (
            &[
                record(1, MOVED_TO, "..data"),
                record(1, DELETE_SELF, ""),
                record(1, IGNORED, ""),
                record(1, MOVED_TO, "..data"),
            ],
            &[gone("a")],
        ),
        (&[record(2, UNMOUNT, ""), record(2, IGNORED, "")], &[gone("b")]),
        (&[record(7, IGNORED, ""), record(-1, IGNORED, "")], &[]),
    ];
    for (records, expected) in table {
        assert_eq!(watch().understand(&records.concat()), expected, "{records:?}");
    }
}

#[test]
fn what_is_cut_short_is_an_overflow() {
    let (first, second) = (record(1, MOVED_TO, "..data"), record(2, MOVED_TO, "..data"));
    for cut in 1..second.len() {
        let bytes = [&first[..], &second[..cut]].concat();
        let expected = [Event::Overflow, Event::Changed(id("a"))];
        assert_eq!(watch().understand(&bytes), expected, "{cut} bytes of the second");
    }
    // A name without an end, and one longer than all of memory.
    let mut endless = record(1, MOVED_TO, "..data");
    endless[12..16].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert_eq!(watch().understand(&endless), [Event::Overflow]);
    let full = [&[1, 0, 0, 0][..], &[0; 8], &6_u32.to_ne_bytes(), b"..data"].concat();
    let names: Vec<_> = Records::new(&full).flatten().map(|record| record.name).collect();
    assert_eq!(names, [b"..data"]);
}

#[test]
fn no_bytes_are_a_panic_or_an_endless_loop() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for length in 0..2_000 {
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Small numbers too, or nearly every length would be too long.
            let word = state.to_ne_bytes();
            if state & 1 == 0 { word[1] } else { word[1] & 1 }
        };
        let bytes: Vec<u8> = (0..length % 300).map(|_| next()).collect();
        assert!(Records::new(&bytes).count() <= bytes.len() / 16 + 1);
        watch().understand(&bytes);
    }
}

#[test]
fn an_exhausted_kernel_says_which_sysctl() {
    let refused = |errno| super::refused(errno, Path::new("v")).to_string();
    assert!(refused(rustix::io::Errno::NOSPC).contains("fs.inotify.max_user_watches"));
    assert!(refused(rustix::io::Errno::ACCESS).contains("inotify_add_watch"));
    assert!(crate::Error::InstancesExhausted.to_string().contains("max_user_instances"));
}
