//! Merkle trees (RFC 9162, §2.1) and the [checkpoints] over them.
//!
//! [checkpoints]: https://github.com/C2SP/C2SP/blob/main/tlog-checkpoint.md

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::proof;
use super::root::Log;
use crate::Error;

/// Longest checkpoint: a log's and witnesses' signatures.
pub(super) const CHECKPOINT_BYTES_MAX: usize = 16 << 10;
/// Most hashes of a proof: the depth of a tree of 2^63 entries.
pub(super) const PATH_MAX: usize = 63;

/// A node of a tree.
pub(super) type Hash = [u8; 32];

/// The hash of an entry.
pub(super) fn leaf(entry: &[u8]) -> Hash {
    hash(&[&[0], entry])
}

/// The root of the tree of `size` entries in which `leaf` is the one at `index`; `None` if the path's
/// length is not the one that it has there.
pub(super) fn root(leaf: Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut node, mut last, mut root) = (index, size - 1, leaf);
    for sibling in path {
        if last == 0 {
            return None;
        }
        if node & 1 == 1 || node == last {
            root = hash(&[&[1], sibling, &root]);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            root = hash(&[&[1], &root, sibling]);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    (last == 0).then_some(root)
}

/// Checks that `log` signed a checkpoint over a tree of `size` entries with this root. Signatures by
/// others (witnesses) are passed over.
pub(super) fn checkpoint(text: &str, log: &Log, size: u64, root: &Hash) -> Result<(), Error> {
    const WHAT: &str = "checkpoint";
    let malformed = || proof(WHAT, "it is not of its form");
    let (body, signatures) = text.rsplit_once("\n\n").ok_or_else(malformed)?;
    let signatures = signatures.strip_suffix('\n').ok_or_else(malformed)?;
    let mut lines = body.split('\n');
    let (Some(origin), Some(stated_size), Some(stated_root)) =
        (lines.next(), lines.next(), lines.next())
    else {
        return Err(malformed());
    };
    if origin.is_empty() || stated_size != size.to_string() || stated_root != STANDARD.encode(root)
    {
        return Err(proof(WHAT, "it is over another tree"));
    }
    let message = format!("{body}\n");
    let mut signed = false;
    for line in signatures.split('\n') {
        let (name, signature) = line
            .strip_prefix("\u{2014} ")
            .and_then(|line| line.split_once(' '))
            .ok_or_else(malformed)?;
        let signature = STANDARD.decode(signature).map_err(|_| malformed())?;
        let (hint, signature) = signature.split_at_checked(4).ok_or_else(malformed)?;
        if name.is_empty() {
            return Err(malformed());
        }
        if log.id.starts_with(hint) {
            let verified = log.key.verify(message.as_bytes(), signature);
            verified.map_err(|_| proof(WHAT, "its signature does not hold"))?;
            signed = true;
        }
    }
    match signed {
        true => Ok(()),
        false => Err(proof(WHAT, "the log did not sign it")),
    }
}

fn hash(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    /// The vectors of transparency-dev's own implementation.
    #[test]
    fn a_path_leads_to_the_root_in_one_place_alone() {
        let folder = testkit::packages::folder("sigstore-merkle");
        let mut folders = vec![folder.join("test-data/merkle/testdata/inclusion")];
        let mut counts = [0, 0];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let case: serde_json::Value =
                    serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                let refused = case["wantErr"].as_bool().unwrap();
                assert_eq!(leads(&case).is_none(), refused, "{}", path.display());
                counts[usize::from(refused)] += 1;
            }
        }
        assert!(counts[0] >= 6 && counts[1] >= 90, "{counts:?}");
    }

    fn leads(case: &serde_json::Value) -> Option<()> {
        let hash = |value: &serde_json::Value| -> Option<Hash> {
            STANDARD.decode(value.as_str()?).ok()?.try_into().ok()
        };
        let path = case["proof"].as_array().into_iter().flatten().map(hash);
        let path = path.collect::<Option<Vec<_>>>()?;
        let (index, size) = (case["leafIdx"].as_u64()?, case["treeSize"].as_u64()?);
        (root(hash(&case["leafHash"])?, index, size, &path)? == hash(&case["root"])?).then_some(())
    }

    #[test]
    fn a_tree_of_one_entry_has_an_empty_path() {
        let one = leaf(b"");
        assert_eq!(root(one, 0, 1, &[]), Some(one));
        assert_eq!(root(one, 0, 1, &[one]), None);
        assert_eq!(root(one, 1, 1, &[]), None);
        assert_eq!(root(one, 0, 0, &[]), None);
        // No arithmetic overflows at the end of the numbers.
        assert!(root(one, u64::MAX - 1, u64::MAX, &[one; PATH_MAX]).is_some());
        assert_eq!(root(one, u64::MAX - 2, u64::MAX, &[one; PATH_MAX]), None);
    }
}
