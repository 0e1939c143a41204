use std::collections::BTreeMap;

use super::copier::encode;
use super::*;
use volumes::tree::Limits;

/// As `agent.proto` lays it down, by hand.
#[test]
fn requests_are_those_of_katas_protocol() {
    let meta = Meta { mode: 0o640, uid: 1000, gid: u32::MAX - 1 };
    let content = Content::File { bytes: 300, offset: 298, data: b"xy" };
    let wanted: &[u8] = &[
        0x0a, 2, b'/', b'p', // path
        0x10, 0xac, 0x02, // file_size 300
        0x18, 0xa0, 0x83, 0x02, // file_mode 0100640
        0x20, 0xed, 0x03, // dir_mode 0755
        0x28, 0xe8, 0x07, // uid 1000
        0x30, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, // gid -2
        0x38, 0xaa, 0x02, // offset 298
        0x42, 2, b'x', b'y', // data
    ];
    assert_eq!(encode("/p", meta, &content), wanted);
    let plain = Meta { mode: 0, uid: 0, gid: 0 };
    let link = encode("/p", plain, &Content::Link("t"));
    assert_eq!(
        link,
        [0x0a, 2, b'/', b'p', 0x18, 0x80, 0xc0, 0x02, 0x20, 0xed, 0x03, 0x42, 1, b't']
    );
    let directory = encode("/p", plain, &Content::Directory);
    assert_eq!(directory, [0x0a, 2, b'/', b'p', 0x18, 0x80, 0x80, 0x01, 0x20, 0xed, 0x03]);
}

#[test]
fn a_volume_is_where_genpolicy_lets_files_be_copied() {
    let id = VolumeId::parse("6f5c1d2e-1111-2222-3333-444455556666.db.x").expect("an id");
    let path = guest_path(&id);
    let name = path.strip_prefix("/run/kata-containers/shared/containers/").expect("the prefix");
    let parts: Vec<&str> = name.splitn(3, '-').collect();
    let word =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    assert!(parts[0].len() == 64 && word(parts[0]) && parts[1].len() == 16 && word(parts[1]));
    assert_eq!(parts[2], "db.x");
    let other = VolumeId::parse("6f5c1d2e-1111-2222-3333-444455556667.db.x").expect("an id");
    assert_ne!(path, guest_path(&other));
}

#[test]
fn only_what_can_have_been_written_down_is_loaded() {
    let names = |name: &str| BTreeSet::from([name.to_owned()]);
    assert!(Left::load(vec!["..1700000000_000000001".into()], names("token")).is_some());
    for bad in ["", "..", "..a", "..1/..", "1", "../1"] {
        assert!(Left::load(vec![bad.into()], names("token")).is_none(), "{bad}");
    }
    for bad in ["", "..data", "a/b", "/a", ".."] {
        assert!(Left::load(Vec::new(), names(bad)).is_none(), "{bad}");
    }
    assert!(Left::load(vec!["..1".into(); REVISIONS_MAX + 1], names("token")).is_none());
}

#[test]
fn names_are_never_used_twice_and_few_are_remembered() {
    let mut left = Left::default();
    let mut seen = BTreeSet::new();
    for _ in 0..1000 {
        assert!(seen.insert(left.begin()));
    }
    assert_eq!(left.revisions.len(), REVISIONS_MAX);
}

fn tree(files: &[(&str, &[u8], u32)]) -> Tree {
    let meta = |uid| Meta { mode: 0o644, uid, gid: 0 };
    let directory = Meta { mode: 0o755, uid: 0, gid: 0 };
    let mut nodes = BTreeMap::new();
    for (path, content, uid) in files {
        let path = TreePath::parse(path).expect("a path");
        if let Some(parent) = path.parent() {
            nodes.insert(TreePath::parse(parent).expect("a path"), Node::Directory(directory));
        }
        let (bytes, digest) = (content.len() as u64, Digest::of(content));
        nodes.insert(path, Node::File { meta: meta(*uid), bytes, digest });
    }
    Tree::new(directory, nodes, Limits::MAX).expect("a tree")
}

#[test]
fn a_file_is_replaced_in_place_only_if_nothing_else_changes_and_nothing_is_in_the_way() {
    let old = tree(&[("d/token", b"one", 0), ("ca", b"ca", 0)]);
    let change = only_change(&old, &tree(&[("d/token", b"two", 7), ("ca", b"ca", 0)]));
    let change = change.expect("only the token");
    assert_eq!((change.path.as_str(), change.sibling.as_str()), ("d/token", "d/token.sealift"));
    assert_eq!((change.bytes, change.meta.uid, change.parent.uid), (3, 7, 0));
    let not: [&[(&str, &[u8], u32)]; 6] = [
        &[("d/token", b"one", 0), ("ca", b"ca", 0)],
        &[("d/token", b"two", 0), ("ca", b"cb", 0)],
        &[("d/token", b"two", 0)],
        &[("d/token", b"one", 0), ("ca", b"ca", 0), ("new", b"new", 0)],
        &[("d/token", b"2", 0), ("ca", b"ca", 0)],
        &[("d/token", b"one", 0), ("ca/file", b"x2", 0)],
    ];
    for new in not {
        assert_eq!(only_change(&old, &tree(new)), None, "{new:?}");
    }
    for there in ["token.tmp", "token.sealift"] {
        let with = |content| tree(&[("token", content, 0), (there, b"xx", 0)]);
        assert_eq!(only_change(&with(b"one"), &with(b"two")), None, "{there}");
    }
}
