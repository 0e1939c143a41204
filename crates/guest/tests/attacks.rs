//! A root process in a container to which somebody has bound a volume read-write: it can hurt its own
//! volume, and nothing else. The agent refuses or repairs, follows no planted link, and goes on.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::program::World;
use common::{conversation, read, say, volume};
use rustix::mount::mount_bind;
use volumes::name::Category;
use volumes::refusal::Reason;

const ONE: &[(&str, &[u8])] = &[("user", b"app-1"), ("conf/a", b"1"), ("kept", b"same")];
const TWO: &[(&str, &[u8])] = &[("user", b"app-2"), ("conf/b", b"2"), ("kept", b"same")];

/// What is done to `data`; the second path is a directory that nobody may touch.
type Attack = fn(&Path, &Path);

const ATTACKS: [(&str, Attack); 12] = [
    ("renames the revision", |data, _| fs::rename(data.join("..1"), data.join("stolen")).unwrap()),
    ("removes the revision", |data, _| fs::remove_dir_all(data.join("..1")).unwrap()),
    ("puts a link in its place", |data, outside| {
        fs::remove_dir_all(data.join("..1")).unwrap();
        symlink(outside, data.join("..1")).unwrap();
    }),
    ("points ..data elsewhere", |data, outside| {
        fs::remove_file(data.join("..data")).unwrap();
        symlink(outside, data.join("..data")).unwrap();
    }),
    ("makes ..data a directory", |data, _| {
        fs::remove_file(data.join("..data")).unwrap();
        fs::create_dir_all(data.join("..data/x")).unwrap();
    }),
    ("plants the next revision", |data, outside| symlink(outside, data.join("..2")).unwrap()),
    ("plants the next link", |data, outside| symlink(outside, data.join("..data_tmp")).unwrap()),
    ("points names elsewhere", |data, outside| {
        fs::remove_file(data.join("user")).unwrap();
        symlink(outside.join("secret"), data.join("user")).unwrap();
    }),
    ("plants a link in the revision", |data, outside| {
        fs::remove_file(data.join("..1/kept")).unwrap();
        symlink(outside.join("secret"), data.join("..1/kept")).unwrap();
    }),
    ("links a directory out", |data, outside| {
        fs::remove_dir_all(data.join("..1/conf")).unwrap();
        symlink(outside, data.join("..1/conf")).unwrap();
    }),
    ("mounts over the revision", |data, outside| mount_bind(outside, data.join("..1")).unwrap()),
    ("fills the memory and the names", |data, _| {
        let _ = fs::write(data.join("full"), vec![7; 400 << 20]);
        (0..).find(|n| fs::create_dir(data.join(format!("n{n}"))).is_err());
    }),
];

#[test]
fn a_container_that_writes_hurts_nothing_but_its_own_volume() {
    for (what, attack) in ATTACKS {
        let Some(world) = World::with_mounts() else { return };
        let outside = world.0.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "untouched").unwrap();
        let arguments = ["--log-level", "error", "--max-mib", "1", "--max-entries", "64"];
        let mut agent = world.start(&arguments);
        world.bring(&mut agent, "v", 1, ONE);
        world.bring(&mut agent, "other", 1, ONE);
        // A reader that holds what it has.
        let held = fs::File::open(world.data("v").join("user")).unwrap();
        attack(&world.data("v"), &outside);
        let messages = conversation(&volume("v"), Category::Secret, 2, TWO);
        let refused = say(&mut world.connect(&mut agent), &messages);
        println!("{what}: {refused:?}");
        match refused.iter().flatten().next() {
            None => {
                let current = world.data("v").join("..data");
                assert_eq!(fs::read_link(&current).unwrap(), Path::new("..2"), "{what}");
                let found = read(&current);
                assert_eq!(found.len(), TWO.len(), "{what}: {found:?}");
                TWO.iter().for_each(|(path, content)| assert_eq!(found[*path], *content, "{what}"));
            }
            Some(reason) => {
                let known = matches!(reason, Reason::Internal | Reason::NoSpace | Reason::Missing);
                assert!(known, "{what}: {reason}");
            }
        }
        world.bring(&mut agent, "other", 2, TWO);
        world.shows("other", TWO);
        assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "untouched", "{what}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{what}");
        drop(held);
        // It can always be taken away, and be there again.
        world.drop_volume(&mut agent, "v");
        world.bring(&mut agent, "v", 1, TWO);
        world.shows("v", TWO);
        agent.still_runs();
    }
}
