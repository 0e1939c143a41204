//! Evidence of real machines, out of the packages that publish it. Unit tests have this file, too.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// Names a folder with more of it, which no package has.
const FIXTURES: &str = "SEALIFT_EVIDENCE_FIXTURES";

/// A file of a package that the workspace's lock file names.
pub fn of_package(package: &str, file: &str) -> Vec<u8> {
    static METADATA: OnceLock<Value> = OnceLock::new();
    let mut packages = METADATA.get_or_init(metadata)["packages"].as_array().into_iter().flatten();
    let found = packages.find(|found| found["name"] == package).expect("it is a dependency");
    let manifest = PathBuf::from(found["manifest_path"].as_str().expect("it has a manifest"));
    let path = manifest.with_file_name(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn metadata() -> Value {
    // Packages for other systems need not have been fetched.
    let here = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", &here])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

/// A file of the folder that [`FIXTURES`] names; `None`, said aloud, if it names none.
pub fn of_folder(file: &str) -> Option<Vec<u8>> {
    let Some(folder) = std::env::var_os(FIXTURES) else {
        testkit::skip(format!("{FIXTURES} names no folder with {file}"));
        return None;
    };
    let path = PathBuf::from(folder).join(file);
    Some(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}
