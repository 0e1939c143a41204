//! Volumes, from one revision to the next, undisturbed: what is there afterwards, exactly.

#![allow(clippy::unwrap_used, reason = "a test")]

mod volume_common;

use std::cell::Cell;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::{Duration, Instant};

use publish::volumes::{Committed, Error, HeldState, Store};
use volume_common::{
    GRACE, Kind, LIMITS, Model, Place, current, exactly, held, id, other, publish, read, send,
    shapes,
};
use volumes::name::{Category, TreePath, VolumeId};
use volumes::tree::{Digest, Limits, Meta, Node, Tree};

#[test]
fn every_shape_becomes_exactly_the_new_revision() {
    for kind in Kind::available() {
        for shape in shapes() {
            let (place, now) = (Place::new(), Instant::now());
            let mut store = kind.open(&place.root, None, now).unwrap();
            let at = format!("{kind:?}, {}", shape.name);
            if let Some(old) = &shape.old {
                assert_eq!(publish(&mut store, old, 1, now).unwrap(), Committed::New, "{at}");
                exactly(&place, old, 1).map_err(|e| format!("{at}: {e}")).unwrap();
            }
            assert_eq!(publish(&mut store, &shape.new, 2, now).unwrap(), Committed::New, "{at}");
            assert_eq!(current(&place.data()).unwrap().as_ref(), Some(&shape.new), "{at}");
            if let Some(old) = &shape.old {
                // Whoever holds the old one still has all of it, its owners and modes, too.
                assert_eq!(read(&place.data().join("..1")).as_ref(), Ok(old), "{at}");
                let almost = GRACE - Duration::from_nanos(1);
                assert_eq!(store.expire(now + almost).next, Some(now + GRACE), "{at}");
                assert!(place.data().join("..1").exists(), "{at}");
            }
            assert_eq!(store.expire(now + GRACE).next, None, "{at}: nothing is pending");
            exactly(&place, &shape.new, 2).map_err(|e| format!("{at}: {e}")).unwrap();

            assert_eq!(publish(&mut store, &shape.new, 2, now).unwrap(), Committed::Already);
            // A restarted agent knows the same.
            drop(store);
            let store = kind.open(&place.root, None, now).unwrap();
            let known = store.held().next().unwrap();
            let HeldState::Revision { sequence: 2, digest, tree } = known.state else {
                panic!("{at}: {known:?}");
            };
            assert_eq!((tree, digest), (&shape.new.tree(), shape.new.tree().digest()), "{at}");
            assert_eq!(known.kind, Some((Category::ConfigMap, LIMITS)), "{at}");
            exactly(&place, &shape.new, 2).map_err(|e| format!("{at}: {e}")).unwrap();
        }
    }
}

#[test]
fn a_thousand_keys_of_which_one_changes() {
    for kind in Kind::available() {
        let (place, now) = (Place::new(), Instant::now());
        let mut store = kind.open(&place.root, None, now).unwrap();
        let mut model = Model::new(&[]);
        for key in 0..1_000 {
            model.add(&format!("key-{key:04}"), key.to_string().as_bytes(), 0o644, other());
        }
        publish(&mut store, &model, 1, now).unwrap();
        let inode = |key: &str| fs::metadata(place.data().join(key)).unwrap().ino();
        let before = [inode("key-0000"), inode("key-0999")];
        model.add("key-0999", b"changed", 0o644, other());
        assert_eq!(store.lacks(&id(), &model.tree()).unwrap(), [Digest::of(b"changed")]);
        publish(&mut store, &model, 2, now).unwrap();
        let after = [inode("key-0000"), inode("key-0999")];
        assert_eq!(before[0], after[0], "what did not change is not written again");
        assert_ne!(before[1], after[1]);
        assert_eq!(store.expire(now + GRACE).next, None);
        exactly(&place, &model, 2).unwrap();
    }
}

#[test]
fn sequences_only_rise() {
    let (place, now) = (Place::new(), Instant::now());
    let mut store = Kind::Plain.open(&place.root, None, now).unwrap();
    let (one, two) = (Model::new(&[("a", "1")]), Model::new(&[("a", "2")]));
    publish(&mut store, &two, 7, now).unwrap();
    let stale = publish(&mut store, &one, 6, now);
    assert!(matches!(stale, Err(Error::Stale { sequence: 6, held: 7 })), "{stale:?}");
    let conflict = publish(&mut store, &one, 7, now);
    assert!(matches!(conflict, Err(Error::Conflict { sequence: 7, .. })), "{conflict:?}");
    store.discard(&id()).unwrap();
    exactly(&place, &two, 7).unwrap();
}

#[test]
fn no_more_revisions_than_allowed_live_at_once() {
    let (place, now) = (Place::new(), Instant::now());
    let mut store = Kind::Plain.open(&place.root, None, now).unwrap();
    let second = Duration::from_secs(1);
    let model = |sequence: u64| Model::new(&[("a", &sequence.to_string())]);
    for sequence in 1..=3 {
        publish(&mut store, &model(sequence), sequence, now).unwrap();
    }
    let refused = publish(&mut store, &model(4), 4, now + second);
    assert!(
        matches!(refused, Err(Error::TooSoon { retry_after }) if retry_after == second),
        "{refused:?}"
    );
    assert_eq!(current(&place.data()).unwrap(), Some(model(3)));
    // What was staged for it is still there.
    assert_eq!(store.lacks(&id(), &model(4).tree()).unwrap(), []);
    store.commit(&id(), 4, &model(4).tree(), || now + GRACE).unwrap();
    assert_eq!(store.expire(now + 3 * GRACE).next, None);
    exactly(&place, &model(4), 4).unwrap();
}

/// A revision is current until the next one is, however long that takes to build.
#[test]
fn grace_begins_with_the_switch() {
    let (place, now) = (Place::new(), Instant::now());
    let mut store = Kind::Plain.open(&place.root, None, now).unwrap();
    publish(&mut store, &Model::new(&[("a", "1")]), 1, now).unwrap();
    let new = Model::new(&[("a", "2")]);
    send(&mut store, &new).unwrap();
    let ticks = Cell::new(0);
    let slow = || now + GRACE * ticks.replace(ticks.get() + 1);
    store.commit(&id(), 2, &new.tree(), slow).unwrap();
    assert_eq!(ticks.get(), 2, "before the work and after it");
    assert_eq!(store.expire(now + GRACE).next, Some(now + 2 * GRACE));
    assert!(place.data().join("..1/a").exists());
}

#[test]
fn pieces_come_in_order_and_are_verified() {
    let (place, now) = (Place::new(), Instant::now());
    let mut store = Kind::Plain.open(&place.root, None, now).unwrap();
    let digest = Digest::of(b"abcdef");
    let unknown = store.put(&id(), digest, 6, 0, b"abc");
    assert!(matches!(unknown, Err(Error::Unknown { .. })), "{unknown:?}");
    store.create(&id(), Category::Secret, Limits { entries: 2, bytes: 10 }).unwrap();
    assert_eq!(store.put(&id(), digest, 6, 0, b"abc").unwrap(), 3);
    for (offset, expected) in [(0, None), (1, Some(3)), (4, Some(3))] {
        let put = store.put(&id(), digest, 6, offset, b"abc");
        match expected {
            None => assert_eq!(put.unwrap(), 3, "from the beginning again"),
            Some(_) if offset + 3 > 6 => {
                assert!(matches!(put, Err(Error::Length { .. })), "{put:?}");
            }
            Some(next) => {
                let told = matches!(put, Err(Error::Offset { expected, .. }) if expected == next);
                assert!(told, "{put:?}");
            }
        }
    }
    assert!(store.staged(&id(), digest).unwrap().is_none(), "not complete");
    let length = store.put(&id(), digest, 7, 3, b"def");
    assert!(matches!(length, Err(Error::Length { said: 6, .. })), "{length:?}");
    let wrong = store.put(&id(), digest, 6, 3, b"dez");
    assert!(matches!(wrong, Err(Error::Digest { .. })), "{wrong:?}");
    assert_eq!(store.put(&id(), digest, 6, 0, b"abcdef").unwrap(), 6);
    assert_eq!(store.put(&id(), digest, 6, 0, b"anything").ok(), None, "too long");
    assert_eq!(store.put(&id(), digest, 6, 0, b"what").unwrap(), 6, "it is there already");
    let second = Digest::of(b"12345");
    let full = store.put(&id(), second, 5, 0, b"1");
    assert!(matches!(full, Err(Error::Limit { found: 11, limit: 10, .. })), "{full:?}");
    let large = store.put(&id(), second, u64::MAX, u64::MAX, b"1");
    assert!(large.is_err());
    for (name, accepted) in [(b"1", true), (b"2", false)] {
        let put = store.put(&id(), Digest::of(name), 1, 0, b"");
        assert_eq!(put.is_ok(), accepted, "no more files than entries: {put:?}");
    }
    store.discard(&id()).unwrap();
    assert_eq!(fs::read_dir(place.root.join("new/0000-1111.config/staging")).unwrap().count(), 0);
}

#[test]
fn what_was_sealed_is_filed_under_the_digest_of_what_came() {
    for kind in Kind::available() {
        let (place, now) = (Place::new(), Instant::now());
        let mut store = kind.open(&place.root, None, now).unwrap();
        let wire = Model::new(&[("token", "sealed.abc"), ("user", "me")]);
        let opened = Model::new(&[("token", "a much longer plaintext"), ("user", "me")]);
        store.create(&id(), Category::Secret, LIMITS).unwrap();
        send(&mut store, &wire).unwrap();
        let digest = Digest::of(b"sealed.abc");
        let mut text = String::new();
        store.staged(&id(), digest).unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "sealed.abc");
        store.replace(&id(), digest, b"a much longer plaintext", None).unwrap();
        store.commit(&id(), 1, &wire.tree(), || now).unwrap();
        exactly(&place, &opened, 1).unwrap();

        drop(store);
        let mut store = kind.open(&place.root, None, now).unwrap();
        assert_eq!(store.lacks(&id(), &wire.tree()).unwrap(), []);
        let mut moved = wire.clone();
        let token = moved.entries.remove("token").unwrap();
        moved.entries.insert("password".into(), token);
        store.commit(&id(), 2, &moved.tree(), || now).unwrap();
        assert_eq!(store.expire(now + GRACE).next, None);
        let opened = Model::new(&[("password", "a much longer plaintext"), ("user", "me")]);
        exactly(&place, &opened, 2).unwrap();
        let missing = store.replace(&id(), digest, b"x", None);
        assert!(matches!(missing, Err(Error::Lacking { .. })), "{missing:?}");
    }
}

/// What was sealed for one path is at no other: not when it comes, not beside where it is, not in its
/// place, not after a restart.
#[test]
fn what_was_sealed_for_one_path_is_at_no_other() {
    let (place, now) = (Place::new(), Instant::now());
    let mut store = Kind::Plain.open(&place.root, None, now).unwrap();
    // As long as what is sealed in it: lengths tell nothing.
    let (sealed, secret) = ("sealed.abc", "0123456789");
    let digest = Digest::of(sealed.as_bytes());
    let right = Model::new(&[("a/password", sealed), ("user", "me")]);
    let wrong = [
        Model::new(&[("password", sealed)]),
        Model::new(&[("a/password", sealed), ("b", sealed)]),
        Model::new(&[("a", sealed)]),
    ];
    let only_at = || Some(TreePath::parse("a/password").unwrap());
    store.create(&id(), Category::Secret, LIMITS).unwrap();
    let refused = |store: &mut Store, sequence| {
        for wrong in &wrong {
            let result = store.commit(&id(), sequence, &wrong.tree(), || now);
            assert!(matches!(result, Err(Error::Bound { .. })), "{result:?}");
        }
    };
    send(&mut store, &right).unwrap();
    store.replace(&id(), digest, secret.as_bytes(), only_at()).unwrap();
    refused(&mut store, 1);
    store.commit(&id(), 1, &right.tree(), || now).unwrap();
    refused(&mut store, 2);
    drop(store);
    let mut store = Kind::Plain.open(&place.root, None, now).unwrap();
    refused(&mut store, 2);
    // Taken over where it is, again and again; free again once it is gone and comes anew.
    let fewer = Model::new(&[("a/password", sealed)]);
    store.commit(&id(), 2, &fewer.tree(), || now).unwrap();
    refused(&mut store, 3);
    assert_eq!(store.expire(now + GRACE).next, None);
    exactly(&place, &Model::new(&[("a/password", secret)]), 2).unwrap();
}

/// Whoever calls it: what is sealed is in no revision.
#[test]
fn no_revision_holds_what_is_sealed() {
    let (place, now) = (Place::new(), Instant::now());
    let mut store = Kind::Plain.open(&place.root, None, now).unwrap();
    let plain = Model::new(&[("a", "1")]);
    publish(&mut store, &plain, 1, now).unwrap();
    let wire = Model::new(&[("a", "1"), ("b", "sealed.x"), ("c", "sealed.x"), ("d", "sealed.y")]);
    send(&mut store, &wire).unwrap();
    let refused = store.commit(&id(), 2, &wire.tree(), || now);
    assert!(matches!(refused, Err(Error::Sealed { count: 2, .. })), "{refused:?}");
    let (x, y) = (Digest::of(b"sealed.x"), Digest::of(b"sealed.y"));
    assert_eq!(store.sealed(&id(), &wire.tree()).unwrap(), [(x, 8), (y, 8)].into());
    store.replace(&id(), x, b"x", None).unwrap();
    let again = store.replace(&id(), y, b"sealed.z", None);
    assert!(matches!(again, Err(Error::Sealed { .. })), "{again:?}");
    assert_eq!(store.sealed(&id(), &wire.tree()).unwrap(), [(y, 8)].into());
    assert!(store.commit(&id(), 2, &wire.tree(), || now).is_err());
    assert_eq!(current(&place.data()).unwrap(), Some(plain));
    // Said again, it is not taken for something else.
    send(&mut store, &wire).unwrap();
    store.put(&id(), y, 8, 0, b"innocent").unwrap();
    assert!(store.commit(&id(), 2, &wire.tree(), || now).is_err());
    store.replace(&id(), y, b"y", None).unwrap();
    store.commit(&id(), 2, &wire.tree(), || now).unwrap();
    let opened = Model::new(&[("a", "1"), ("b", "x"), ("c", "x"), ("d", "y")]);
    assert_eq!(store.expire(now + GRACE).next, None);
    exactly(&place, &opened, 2).unwrap();
}

/// One after the other each fits; together they do not, also after a restart.
#[test]
fn what_was_sealed_counts_as_long_as_it_is() {
    let limits = Limits { entries: 10, bytes: 100 };
    let (place, now) = (Place::new(), Instant::now());
    let mut store = Kind::Plain.open(&place.root, None, now).unwrap();
    store.create(&id(), Category::Secret, limits).unwrap();
    let wires =
        [Model::new(&[("a", "sealed.a")]), Model::new(&[("a", "sealed.a"), ("b", "sealed.b")])];
    send(&mut store, &wires[0]).unwrap();
    let long = store.replace(&id(), Digest::of(b"sealed.a"), &[b'x'; 101], None);
    assert!(matches!(long, Err(Error::Limit { .. })), "{long:?}");
    store.replace(&id(), Digest::of(b"sealed.a"), &[b'x'; 60], None).unwrap();
    store.commit(&id(), 1, &wires[0].tree(), || now).unwrap();
    for restarted in [false, true] {
        if restarted {
            drop(store);
            store = Kind::Plain.open(&place.root, None, now).unwrap();
        }
        send(&mut store, &wires[1]).unwrap();
        store.replace(&id(), Digest::of(b"sealed.b"), &[b'x'; 41], None).unwrap();
        let full = store.commit(&id(), 2, &wires[1].tree(), || now);
        assert!(matches!(full, Err(Error::Limit { found: 101, limit: 100, .. })), "{full:?}");
    }
    store.replace(&id(), Digest::of(b"sealed.b"), &[b'x'; 40], None).unwrap();
    store.commit(&id(), 2, &wires[1].tree(), || now).unwrap();
}

#[test]
fn trees_that_lie_or_go_beyond_limits_are_refused() {
    let (place, now) = (Place::new(), Instant::now());
    let mut store = Kind::Plain.open(&place.root, None, now).unwrap();
    let model = Model::new(&[("a", "1")]);
    publish(&mut store, &model, 1, now).unwrap();
    let tree = |meta: Meta, bytes: u64, content: &[u8], count: u32| {
        let node = Node::File { meta, bytes, digest: Digest::of(content) };
        let path = |n: u32| volumes::name::TreePath::parse(&format!("f{n}")).unwrap();
        Tree::new(meta, (0..count).map(|n| (path(n), node)).collect(), Limits::MAX).unwrap()
    };
    let plain = Meta { mode: 0o555, uid: 0, gid: 0 };
    let mut refused = |tree: &Tree| store.commit(&id(), 2, tree, || now).unwrap_err();
    assert!(matches!(refused(&tree(plain, 2, b"1", 1)), Error::Length { .. }));
    assert!(matches!(refused(&tree(plain, 1, b"", 1)), Error::Length { .. }));
    assert!(matches!(refused(&tree(plain, 1, b"2", 1)), Error::Lacking { count: 1, .. }));
    assert!(matches!(refused(&tree(plain, 1, b"1", 2_001)), Error::Limit { .. }));
    assert!(matches!(refused(&tree(plain, 1 << 20, b"1", 2)), Error::Limit { .. }));
    exactly(&place, &model, 1).unwrap();
}

#[test]
fn foreign_names_go_and_a_damaged_record_is_replaced() {
    for kind in Kind::available() {
        let (place, now) = (Place::new(), Instant::now());
        let mut store = kind.open(&place.root, None, now).unwrap();
        let model = Model::new(&[("a", "1"), ("b/c", "2")]);
        publish(&mut store, &model, 3, now).unwrap();
        drop(store);
        let (data, outside) = (place.data(), tempfile::tempdir_in("/dev/shm").unwrap());
        let volume = data.parent().unwrap().to_path_buf();
        fs::write(outside.path().join("keep"), "").unwrap();
        for name in ["foreign", "..data_tmp", "..4", "..3/foreign", "..3/b/foreign", "..bad"] {
            symlink(outside.path(), data.join(name)).unwrap();
        }
        fs::create_dir(data.join("..9")).unwrap();
        fs::remove_file(data.join("a")).unwrap();
        symlink(outside.path(), data.join("a")).unwrap();
        fs::remove_file(data.join("b")).unwrap();
        fs::create_dir_all(volume.join("other/below")).unwrap();
        fs::remove_dir(volume.join("staging")).unwrap();
        symlink(outside.path(), volume.join("staging")).unwrap();
        fs::write(volume.join("records/2"), "").unwrap();
        fs::create_dir(place.root.join("volumes/NOT A VOLUME")).unwrap();
        fs::create_dir_all(place.root.join("volumes/empty/data")).unwrap();
        fs::create_dir_all(place.root.join("new/half/data")).unwrap();
        drop(kind.open(&place.root, None, now).unwrap());
        exactly(&place, &model, 3).unwrap();
        assert!(outside.path().join("keep").exists());

        let record = volume.join("records/3");
        let mut bytes = fs::read(&record).unwrap();
        bytes[40] ^= 1;
        fs::write(&record, bytes).unwrap();
        let mut store = kind.open(&place.root, None, now).unwrap();
        let known = store.held().next().unwrap();
        assert!(matches!(known.state, HeldState::Damaged { sequence: 3 }), "{known:?}");
        assert_eq!(current(&data).unwrap(), Some(model.clone()), "still readable");
        let refused = store.commit(&id(), 4, &model.tree(), || now);
        assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");
        let new = Model::new(&[("b", "2"), ("d", "3")]);
        publish(&mut store, &new, 4, now).unwrap();
        assert_eq!(store.expire(now + GRACE).next, None);
        exactly(&place, &new, 4).unwrap();

        // A revision that is not what its record says is as bad.
        drop(store);
        fs::remove_file(data.join("..4/d")).unwrap();
        let mut store = kind.open(&place.root, None, now).unwrap();
        assert!(matches!(store.held().next().unwrap().state, HeldState::Damaged { .. }));
        publish(&mut store, &new, 5, now).unwrap();
        assert_eq!(store.expire(now + GRACE).next, None);
        exactly(&place, &new, 5).unwrap();
    }
}

/// Somebody with a mount that may be written, which no container of ours has.
#[test]
fn a_revision_that_was_changed_from_outside_is_replaced_by_a_whole_one() {
    type Damage = fn(&std::path::Path);
    let damages: [(&str, Damage); 4] = [
        ("a file is gone", |revision| fs::remove_file(revision.join("a")).unwrap()),
        ("a link in its place", |revision| {
            fs::remove_file(revision.join("a")).unwrap();
            symlink("/etc/passwd", revision.join("a")).unwrap();
        }),
        ("a directory is gone", |revision| fs::remove_dir_all(revision.join("b")).unwrap()),
        ("all is gone", |revision| fs::remove_dir_all(revision).unwrap()),
    ];
    for kind in Kind::available() {
        for (what, damage) in damages {
            let (place, now) = (Place::new(), Instant::now());
            let mut store = kind.open(&place.root, None, now).unwrap();
            publish(&mut store, &Model::new(&[("a", "1"), ("b/c", "2")]), 1, now).unwrap();
            damage(&place.data().join("..1"));
            // Only what is new is there, and what was thought to be there is not.
            let new = Model::new(&[("a", "1"), ("b/c", "2"), ("d", "3")]);
            store.put(&id(), Digest::of(b"3"), 1, 0, b"3").unwrap();
            let refused = store.commit(&id(), 2, &new.tree(), || now);
            assert!(matches!(refused, Err(Error::Lacking { count: 2, .. })), "{what}: {refused:?}");
            publish(&mut store, &new, 2, now).unwrap();
            assert_eq!(store.expire(now + GRACE).next, None);
            exactly(&place, &new, 2).unwrap();
        }
    }
}

#[test]
fn categories_do_not_change_and_volumes_are_counted() {
    let (place, now) = (Place::new(), Instant::now());
    let mut store = Kind::Plain.open(&place.root, None, now).unwrap();
    store.create(&id(), Category::Secret, LIMITS).unwrap();
    store.create(&id(), Category::Secret, LIMITS).unwrap();
    let other = store.create(&id(), Category::ConfigMap, LIMITS);
    assert!(matches!(other, Err(Error::OtherCategory { .. })), "{other:?}");
    assert!(!place.data().exists(), "nobody sees it yet");
    let many = (0..1_024).find_map(|n| {
        let id = VolumeId::parse(&format!("v{n}")).unwrap();
        store.create(&id, Category::Secret, LIMITS).err().map(|error| (n, error))
    });
    assert!(matches!(many, Some((1_023, Error::Limit { .. }))), "{many:?}");
    let busy = Kind::Plain.open(&place.root, None, now);
    assert!(matches!(busy, Err(Error::System(publish::Error::Busy { .. }))), "{busy:?}");
    store.remove(&id()).unwrap();
    store.remove(&id()).unwrap();
    assert_eq!(held(&store), None);
}

#[test]
fn contents_without_a_name_get_one_with_their_last_byte() {
    for kind in Kind::available() {
        let (place, now) = (Place::new(), Instant::now());
        let mut store = kind.open(&place.root, None, now).unwrap();
        store.create(&id(), Category::ConfigMap, LIMITS).unwrap();
        let put = |store: &mut Store, total, offset, data: &[u8]| {
            store.put_unnamed(&id(), total, offset, data)
        };
        assert!(matches!(put(&mut store, 3, 1, b"x"), Err(Error::Offset { expected: 0, .. })));
        assert_eq!(put(&mut store, 4, 0, b"tw").unwrap(), None);
        assert!(matches!(put(&mut store, 4, 3, b"x"), Err(Error::Offset { expected: 2, .. })));
        assert!(matches!(put(&mut store, 5, 2, b"x"), Err(Error::Length { .. })));
        assert!(matches!(put(&mut store, 4, 2, b"xxx"), Err(Error::Length { .. })));
        // Another one begins, whatever became of the one before.
        assert_eq!(put(&mut store, 3, 0, b"on").unwrap(), None);
        let named = put(&mut store, 3, 2, b"e").unwrap();
        assert_eq!(named, Some(Digest::of(b"one")));
        assert_eq!(put(&mut store, 0, 0, b"").unwrap(), Some(Digest::of(b"")));
        // It is there under its name, and only that; coming again changes nothing.
        let model = Model::new(&[("a", "one"), ("b", "two"), ("empty", "")]);
        assert_eq!(store.lacks(&id(), &model.tree()).unwrap(), [Digest::of(b"two")]);
        assert_eq!(put(&mut store, 3, 0, b"one").unwrap(), named);
        assert_eq!(put(&mut store, 3, 0, b"two").unwrap(), Some(Digest::of(b"two")));
        publish(&mut store, &model, 1, now).unwrap();
        exactly(&place, &model, 1).unwrap();
        // What is current already does not stay staged.
        assert_eq!(put(&mut store, 3, 0, b"two").unwrap(), Some(Digest::of(b"two")));
        exactly(&place, &model, 1).unwrap();
        let above = LIMITS.bytes + 1;
        assert!(matches!(put(&mut store, above, 0, b"x"), Err(Error::Limit { .. })));
        // A sealed value is one, whoever named it.
        let sealed = put(&mut store, 8, 0, b"sealed.x").unwrap().unwrap();
        let meta = Meta { mode: 0o644, uid: 0, gid: 0 };
        let node = Node::File { meta, bytes: 8, digest: sealed };
        let nodes = [(volumes::name::TreePath::parse("k").unwrap(), node)].into();
        let root = Meta { mode: 0o755, uid: 0, gid: 0 };
        let tree = Tree::new(root, nodes, LIMITS).unwrap();
        let refused = store.commit(&id(), 2, &tree, || now);
        assert!(matches!(refused, Err(Error::Sealed { .. })), "{refused:?}");
    }
}
