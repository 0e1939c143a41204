//! Evidence of real machines, out of the packages that publish it. Unit tests have this file, too.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

use std::path::PathBuf;

pub use testkit::packages::of_package;

/// Names a folder with more of it, which no package has.
const FIXTURES: &str = "SEALIFT_EVIDENCE_FIXTURES";

/// A file of the folder that [`FIXTURES`] names; `None`, said aloud, if it names none.
pub fn of_folder(file: &str) -> Option<Vec<u8>> {
    let Some(folder) = std::env::var_os(FIXTURES) else {
        testkit::skip(format!("{FIXTURES} names no folder with {file}"));
        return None;
    };
    let path = PathBuf::from(folder).join(file);
    Some(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}
