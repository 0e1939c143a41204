use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::*;

fn uri(path: &str) -> ResourceUri {
    ResourceUri::from_path(path).unwrap()
}

fn open(dir: &TempDir) -> Resources {
    let key = dir.path().join("master.key");
    fs::write(&key, [1; 32]).unwrap();
    Resources::open(&dir.path().join("data"), &MasterKey::load(&key).unwrap()).unwrap()
}

#[test]
fn a_resource_is_private_encrypted_versioned_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let key = uri("default/key/one");
    let value = b"a secret that must not be found on disk";
    let first = open(&dir).write(&key, b"old", Existing::Keep, 100).unwrap();
    let second = open(&dir).write(&key, value, Existing::Replace, 200).unwrap();
    assert_eq!(first, Metadata { version: 1, created: 100, updated: 100 });
    assert_eq!(second, Metadata { version: 2, created: 100, updated: 200 });
    assert_eq!(open(&dir).read(&key).unwrap().unwrap().as_slice(), value);

    let path = dir.path().join("data/resources/default/key/one");
    let file = fs::read(&path).unwrap();
    assert!(!file.windows(value.len()).any(|window| window == value));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn every_changed_byte_of_a_file_is_noticed_and_so_is_another_files_content() {
    let dir = tempfile::tempdir().unwrap();
    let resources = open(&dir);
    for name in ["a/b/c", "a/b/d"] {
        resources.write(&uri(name), b"value", Existing::Keep, 1).unwrap();
    }
    let path = dir.path().join("data/resources/a/b/c");
    let good = fs::read(&path).unwrap();
    let refused = |file: &[u8]| {
        fs::write(&path, file).unwrap();
        matches!(resources.read(&uri("a/b/c")), Err(Error::Tampered { .. }))
    };
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        assert!(refused(&changed), "byte {at}");
        assert!(refused(&good[..at]), "cut at {at}");
    }
    assert!(refused(&[&good[..], b"x"].concat()));
    assert!(refused(&fs::read(dir.path().join("data/resources/a/b/d")).unwrap()));
    assert!(!refused(&good));
}

#[test]
fn a_damaged_resource_is_listed_as_such_and_can_be_replaced_or_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let resources = open(&dir);
    for name in ["a/b/c", "a/b/d"] {
        resources.write(&uri(name), b"value", Existing::Keep, 1).unwrap();
    }
    fs::write(dir.path().join("data/resources/a/b/c"), b"").unwrap();
    let intact = Metadata { version: 1, created: 1, updated: 1 };
    assert_eq!(
        resources.list().unwrap(),
        [
            Listed { resource: "a/b/c".to_owned(), metadata: None },
            Listed { resource: "a/b/d".to_owned(), metadata: Some(intact) },
        ]
    );
    resources.write(&uri("a/b/c"), b"new", Existing::Replace, 2).unwrap();
    assert_eq!(resources.read(&uri("a/b/c")).unwrap().unwrap().as_slice(), b"new");
    fs::write(dir.path().join("data/resources/a/b/d"), b"").unwrap();
    assert!(resources.delete(&uri("a/b/d")).unwrap());
    assert!(!resources.delete(&uri("a/b/d")).unwrap());
    assert!(resources.read(&uri("a/b/d")).unwrap().is_none());
}

#[test]
fn empty_and_oversized_values_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let resources = open(&dir);
    let largest = vec![7; RESOURCE_BYTES_MAX];
    resources.write(&uri("a/b/c"), &largest, Existing::Keep, 1).unwrap();
    for value in [&[][..], &[0; RESOURCE_BYTES_MAX + 1]] {
        let refused = resources.write(&uri("a/b/c"), value, Existing::Replace, 1);
        assert!(matches!(refused, Err(Error::ResourceSize { .. })));
    }
    assert_eq!(*resources.read(&uri("a/b/c")).unwrap().unwrap(), largest);
}

#[test]
fn what_a_killed_writer_left_is_removed_by_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let resources = open(&dir);
    resources.write(&uri("a/b/c"), b"value", Existing::Keep, 1).unwrap();
    let residue = dir.path().join("data/resources/a/b/.new-0123456789abcdef");
    fs::write(&residue, b"half").unwrap();
    assert_eq!(resources.list().unwrap().len(), 1);
    resources.write(&uri("a/b/c"), b"value", Existing::Replace, 2).unwrap();
    assert!(!residue.exists());
}

#[test]
fn of_many_that_create_a_resource_exactly_one_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let resources = open(&dir);
    let created = thread::scope(|scope| {
        let writers: Vec<_> = (0..8_u8)
            .map(|n| {
                let resources = &resources;
                scope.spawn(move || resources.write(&uri("a/b/c"), &[n; 9], Existing::Keep, 1))
            })
            .collect();
        writers.into_iter().filter_map(|w| w.join().unwrap().ok()).count()
    });
    assert_eq!(created, 1);
}

/// Reads while `write` replaces a value again and again: how often was it not one of the values?
fn torn_reads(resources: &Resources, write: impl Fn(&[u8])) -> usize {
    let values = [vec![1; 4000], vec![2; 40_000]];
    write(&values[0]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let read = || {
            let mut torn = 0;
            while !done.load(Ordering::Relaxed) {
                match resources.read(&uri("a/b/c")) {
                    Ok(Some(value)) if values.contains(&value) => {}
                    _ => torn += 1,
                }
            }
            torn
        };
        let readers = [scope.spawn(read), scope.spawn(read), scope.spawn(read)];
        for round in 0..100 {
            write(&values[round % 2]);
        }
        done.store(true, Ordering::Relaxed);
        readers.map(|reader| reader.join().unwrap()).iter().sum()
    })
}

#[test]
fn readers_never_see_an_empty_or_partial_value_while_it_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let resources = open(&dir);
    let torn = torn_reads(&resources, |value| {
        resources.write(&uri("a/b/c"), value, Existing::Replace, 1).unwrap();
    });
    assert_eq!(torn, 0);
}

#[test]
fn the_check_for_torn_reads_catches_a_writer_that_truncates() {
    let dir = tempfile::tempdir().unwrap();
    let resources = open(&dir);
    let path = dir.path().join("data/resources/a/b/c");
    let torn = torn_reads(&resources, |value| {
        // The planted bug: upstream's truncate and write.
        resources.write(&uri("x/y/z"), value, Existing::Replace, 1).unwrap();
        let metadata = Metadata { version: 1, created: 1, updated: 1 };
        let mut file = header(metadata).to_vec();
        file.extend(resources.cipher.seal(value, &context(&file, &uri("a/b/c"))));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"").unwrap();
        thread::sleep(Duration::from_micros(200));
        fs::write(&path, file).unwrap();
    });
    assert!(torn > 0);
}
