//! Every bit of a small bundle, flipped.
//!
//! A program of its own: the destination is locked while it is written, and a process that another
//! test starts at that moment would hold the lock's descriptor a little longer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Sealed, copy_tree, text, tree};
use sealift::code::Code;

/// The fields that nothing authenticates (`docs/format.md` lists them: other recipients, other
/// signatures) are not in this bundle, so every single change must be refused.
#[test]
fn every_flipped_bit_is_refused() {
    let sealed = Sealed::tiny();
    let copy = sealed.dir.path().join("changed");
    copy_tree(&sealed.bundle, &copy);
    let dest = sealed.dest("dest");
    let mut tried = 0;
    for (name, bytes) in tree(&sealed.bundle).into_iter().filter(|(name, _)| !name.ends_with('/')) {
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                std::fs::write(copy.join(&name), &changed).unwrap();
                match sealed.open(text(&copy), &dest) {
                    Err(failure) => {
                        assert!(
                            matches!(failure.code(), Code::Tampered | Code::NotSealed),
                            "{name} byte {at} bit {bit}: {failure}"
                        );
                        assert!(tree(&dest).is_empty(), "{name} byte {at} bit {bit}: residue");
                    }
                    Ok(_) => panic!("{name} byte {at} bit {bit}: opened"),
                }
                tried += 1;
            }
        }
        std::fs::write(copy.join(&name), &bytes).unwrap();
    }
    assert!(tried > 10_000, "only {tried} changes were tried");
    sealed.open(text(&copy), &dest).unwrap();
}
