//! [`Record`]: what a revision is, so that a restarted agent knows it without reading files.
//!
//! | part | bytes |
//! |---|---|
//! | `sealift.volumes.record.v1\n` | 26 |
//! | volume's name: length, bytes | u32, as long |
//! | category: length, its name | u32, as long |
//! | limits: entries, bytes | u32, u64 |
//! | sequence | u64 |
//! | root: mode, uid, gid | 3 × u32 |
//! | number of nodes | u32 |
//! | per node: length of the path, path, kind (1 directory, 2 file, 3 file that may be at no other path), mode, uid, gid | |
//! | of files also: length, digest | u64, 32 |
//! | SHA-256 of all before | 32 |
//!
//! with big-endian numbers. Lengths and digests of files are those on the wire, also where the file
//! holds what was sealed in it.

use std::collections::{BTreeMap, HashSet};

use ::volumes::name::{Category, TreePath, VolumeId};
use ::volumes::tree::{Digest, Limits, Meta, Node, Tree};

const MAGIC: &[u8] = b"sealift.volumes.record.v1\n";
const DIRECTORY: u8 = 1;
const FILE: u8 = 2;
/// A version that does not know it takes the record for damaged, and has all of it sent again.
const BOUND_FILE: u8 = 3;
/// At most what is beside the nodes.
const HEAD: usize = 1_024;
/// At most what is of a node beside its path.
const NODE: usize = 4 + 1 + 12 + 8 + 32;

/// What a revision is, and of which volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: VolumeId,
    pub(super) category: Category,
    pub(super) limits: Limits,
    pub(super) sequence: u64,
    pub(super) tree: Tree,
    /// Contents that may be at no other path than they are.
    pub(super) bound: HashSet<Digest>,
}

impl Record {
    /// Longest record of a volume with these limits.
    pub(super) fn bytes_max(limits: Limits) -> u64 {
        HEAD as u64 + u64::from(limits.entries) * (NODE + TreePath::BYTES_MAX) as u64
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // At once: growing would take twice the memory for a moment.
        let paths: usize = self.tree.nodes().keys().map(|path| path.as_str().len()).sum();
        let mut bytes = Vec::with_capacity(HEAD + self.tree.nodes().len() * NODE + paths);
        bytes.extend(MAGIC);
        for text in [self.id.as_str(), self.category.as_str()] {
            put_text(&mut bytes, text);
        }
        bytes.extend(self.limits.entries.to_be_bytes());
        bytes.extend(self.limits.bytes.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        put_meta(&mut bytes, self.tree.root());
        let count = u32::try_from(self.tree.nodes().len()).expect("limits.entries is a u32");
        bytes.extend(count.to_be_bytes());
        for (path, node) in self.tree.nodes() {
            put_text(&mut bytes, path.as_str());
            match node {
                Node::Directory(meta) => {
                    bytes.push(DIRECTORY);
                    put_meta(&mut bytes, *meta);
                }
                Node::File { meta, bytes: length, digest } => {
                    bytes.push(if self.bound.contains(digest) { BOUND_FILE } else { FILE });
                    put_meta(&mut bytes, *meta);
                    bytes.extend(length.to_be_bytes());
                    bytes.extend(digest.as_bytes());
                }
            }
        }
        let digest = Digest::of(&bytes);
        bytes.extend(digest.as_bytes());
        bytes
    }

    /// `None`: these are not the bytes of a record.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (body, digest) = bytes.split_last_chunk::<32>()?;
        if Digest::of(body).as_bytes() != digest {
            return None;
        }
        let mut reader = Reader(body.strip_prefix(MAGIC)?);
        let id = VolumeId::parse(reader.text()?).ok()?;
        let category = Category::parse(reader.text()?)?;
        let limits = Limits { entries: reader.number_u32()?, bytes: reader.number_u64()? };
        let sequence = reader.number_u64()?;
        let root = reader.meta()?;
        let count = reader.number_u32()?;
        if count > limits.entries.min(Limits::MAX.entries) {
            return None;
        }
        let (mut nodes, mut bound) = (BTreeMap::new(), HashSet::new());
        for _ in 0..count {
            let path = TreePath::parse(reader.text()?).ok()?;
            let [kind] = reader.take()?;
            let meta = reader.meta()?;
            let node = match kind {
                DIRECTORY => Node::Directory(meta),
                FILE | BOUND_FILE => {
                    let bytes = reader.number_u64()?;
                    let digest = Digest::from_bytes(reader.take()?);
                    // Contents that are bound are at one path.
                    let again = kind == BOUND_FILE && !bound.insert(digest);
                    if again || (kind == FILE && bound.contains(&digest)) {
                        return None;
                    }
                    Node::File { meta, bytes, digest }
                }
                _ => return None,
            };
            if nodes.insert(path, node).is_some() {
                return None;
            }
        }
        let tree = Tree::new(root, nodes, limits).ok()?;
        // Nor was one of them met before, unbound.
        let bound_files = tree
            .nodes()
            .values()
            .filter(|node| matches!(node, Node::File { digest, .. } if bound.contains(digest)));
        let whole = reader.0.is_empty() && bound_files.count() == bound.len();
        whole.then_some(Self { id, category, limits, sequence, tree, bound })
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let length = u32::try_from(text.len()).expect("names and paths are short");
    bytes.extend(length.to_be_bytes());
    bytes.extend(text.as_bytes());
}

fn put_meta(bytes: &mut Vec<u8>, meta: Meta) {
    for number in [meta.mode, meta.uid, meta.gid] {
        bytes.extend(number.to_be_bytes());
    }
}

/// What is left of a record.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn number_u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn number_u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.number_u32()?).ok()?;
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        str::from_utf8(taken).ok()
    }

    fn meta(&mut self) -> Option<Meta> {
        Some(Meta { mode: self.number_u32()?, uid: self.number_u32()?, gid: self.number_u32()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let meta = |mode| Meta { mode, uid: 7, gid: u32::MAX - 1 };
        let of = |digest| Node::File { meta: meta(0o640), bytes: 3, digest };
        let (file, bound) = (of(Digest::of(b"abc")), Digest::of(b"abd"));
        let directory = Node::Directory(meta(0o2755));
        let path = |text| TreePath::parse(text).expect("a path");
        let nodes = [
            (path("a"), directory),
            (path("a/b"), file),
            (path("a/c"), of(bound)),
            (path("é"), file),
        ];
        let limits = Limits { entries: 4, bytes: 9 };
        Record {
            id: VolumeId::parse("a.b").expect("a name"),
            category: Category::Secret,
            limits,
            sequence: u64::MAX,
            tree: Tree::new(meta(0o755), nodes.into(), limits).expect("a tree"),
            bound: [bound].into(),
        }
    }

    #[test]
    fn records_are_read_as_they_are_written() {
        let record = record();
        let bytes = record.to_bytes();
        assert!(bytes.len() as u64 <= Record::bytes_max(record.limits));
        assert_eq!(Record::parse(&bytes), Some(record));
    }

    #[test]
    fn no_damaged_record_is_read() {
        let bytes = record().to_bytes();
        for position in 0..bytes.len() {
            assert_eq!(Record::parse(&bytes[..position]), None, "cut at {position}");
            let mut flipped = bytes.clone();
            flipped[position] ^= 1;
            assert_eq!(Record::parse(&flipped), None, "flipped at {position}");
        }
    }

    /// With a digest that is right, so that the parser proper is reached: it refuses or reads a
    /// record that is written in the same bytes, and never panics.
    #[test]
    fn what_parses_is_written_in_the_same_bytes() {
        let bytes = record().to_bytes();
        let body = &bytes[..bytes.len() - 32];
        for position in 0..body.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut forged = body.to_vec();
                forged[position] = value;
                let digest = Digest::of(&forged);
                forged.extend(digest.as_bytes());
                if let Some(record) = Record::parse(&forged) {
                    assert_eq!(record.to_bytes(), forged, "{value} at {position}");
                }
            }
        }
    }
}
