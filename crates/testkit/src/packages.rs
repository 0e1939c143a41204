//! Files out of packages that publish real ones.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// The bytes of `file` in a package that the workspace's lock file names. Panics if there is none.
pub fn of_package(package: &str, file: &str) -> Vec<u8> {
    let path = folder(package).join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Where such a package lies. Panics if the lock file names none.
pub fn folder(package: &str) -> PathBuf {
    static METADATA: OnceLock<Value> = OnceLock::new();
    let mut packages = METADATA.get_or_init(metadata)["packages"].as_array().into_iter().flatten();
    let found = packages.find(|found| found["name"] == package).expect("it is a dependency");
    let manifest = PathBuf::from(found["manifest_path"].as_str().expect("it has a manifest"));
    manifest.parent().expect("it lies in a folder").to_owned()
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
