use super::*;

const DIRECTORY: Meta = Meta { mode: 0o755, uid: 0, gid: 0 };
const FILE: Meta = Meta { mode: 0o644, uid: 0, gid: 0 };

fn path(text: &str) -> TreePath {
    TreePath::parse(text).expect("a path")
}

fn file(content: &str) -> Node {
    Node::File { meta: FILE, bytes: content.len() as u64, digest: Digest::of(content.as_bytes()) }
}

fn tree(nodes: &[(&str, Node)]) -> Result<Tree, Error> {
    let nodes = nodes.iter().map(|(name, node)| (path(name), *node)).collect();
    Tree::new(DIRECTORY, nodes, Limits::MAX)
}

#[test]
fn a_delta_makes_the_newer_tree() {
    let old = tree(&[("a", file("1")), ("b", Node::Directory(DIRECTORY)), ("b/c", file("2"))]);
    let new = tree(&[("a", file("1")), ("b", file("was a directory")), ("d", file("3"))]);
    let (old, new) = (old.expect("old"), new.expect("new"));
    let delta = old.delta(&new);
    assert_eq!(delta.removals, [path("b/c")]);
    assert_eq!(delta.upserts.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["b", "d"]);
    assert_eq!(old.apply(delta.clone(), Limits::MAX).as_ref(), Ok(&new));
    assert!(new.delta(&new).is_empty());
    assert!(new.apply(delta.clone(), Limits::MAX).is_err(), "it was made for another base");
}

#[test]
fn every_change_changes_the_digest() {
    let base = [("a", file("1")), ("b", Node::Directory(DIRECTORY)), ("b/c", file("2"))];
    let mut digests = vec![tree(&base).expect("base").digest()];
    let mut changed = |index: usize, node: Option<(&'static str, Node)>| {
        let mut nodes = base.to_vec();
        match node {
            Some(node) => nodes[index] = node,
            None => drop(nodes.remove(index)),
        }
        digests.push(tree(&nodes).expect("a tree").digest());
    };
    changed(0, None);
    changed(2, None);
    changed(0, Some(("a", file("2"))));
    changed(0, Some(("a2", file("1"))));
    changed(0, Some(("a", Node::Directory(DIRECTORY))));
    changed(1, Some(("b", Node::Directory(Meta { mode: 0o2755, ..DIRECTORY }))));
    for meta in
        [Meta { mode: 0o600, ..FILE }, Meta { uid: 1000, ..FILE }, Meta { gid: 1000, ..FILE }]
    {
        changed(0, Some(("a", Node::File { meta, bytes: 1, digest: Digest::of(b"1") })));
    }
    changed(0, Some(("a", Node::File { meta: FILE, bytes: 2, digest: Digest::of(b"1") })));
    let root = Meta { gid: 7, ..DIRECTORY };
    let nodes = base.iter().map(|(name, node)| (path(name), *node)).collect();
    digests.push(Tree::new(root, nodes, Limits::MAX).expect("a tree").digest());
    let count = digests.len();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), count);
}

#[test]
fn what_is_not_a_tree_is_refused() {
    assert!(tree(&[("a/b", file("1"))]).is_err(), "no parent");
    assert!(tree(&[("a", file("1")), ("a/b", file("2"))]).is_err(), "below a file");
    for mode in [0o4755, 0o2755, 0o1755, 0o100_644, u32::MAX] {
        let meta = Meta { mode, ..FILE };
        let node = Node::File { meta, bytes: 0, digest: Digest::of(b"") };
        assert!(tree(&[("a", node)]).is_err(), "{mode:o}");
        let directory = tree(&[("a", Node::Directory(meta))]);
        assert_eq!(directory.is_ok(), mode == 0o2755, "{mode:o}");
    }
}

#[test]
fn nobody_is_no_owner() {
    for meta in [Meta { uid: u32::MAX, ..FILE }, Meta { gid: u32::MAX, ..FILE }] {
        let node = Node::File { meta, bytes: 0, digest: Digest::of(b"") };
        assert!(tree(&[("a", node)]).is_err(), "{meta:?}");
    }
}

#[test]
fn counts_and_sizes_have_limits() {
    let nodes = |count: usize, bytes| {
        let node = Node::File { meta: FILE, bytes, digest: Digest::of(b"") };
        (0..count).map(|number| (path(&format!("f{number}")), node)).collect()
    };
    let limits = Limits { entries: 3, bytes: 30 };
    assert!(Tree::new(DIRECTORY, nodes(3, 10), limits).is_ok());
    assert!(Tree::new(DIRECTORY, nodes(4, 0), limits).is_err());
    assert!(Tree::new(DIRECTORY, nodes(3, 11), limits).is_err());
    assert!(Tree::new(DIRECTORY, nodes(2, u64::MAX), limits).is_err(), "no wrap-around");
}

#[test]
fn digests_are_read_as_they_are_shown() {
    let digest = Digest::of(b"x");
    assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
    for bad in ["", "00", &"g".repeat(64), &"A".repeat(64), &"0".repeat(65)] {
        assert_eq!(Digest::parse(bad), None, "{bad}");
    }
}
