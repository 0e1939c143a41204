//! Alone in its process, because the umask is the process's.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::{memory, run};
use publish::System;
use testkit::oracle::Model;

#[test]
fn the_umask_decides_nothing() {
    let top = tempfile::tempdir_in(memory()).unwrap();
    let path = top.path().join("new/newer");
    let model = Model::new(1, &[("a/b", 10), ("run*", 5)]);
    for mask in [0o077, 0o027, 0] {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
        run(&path, &model, System::default()).unwrap();
        let mode =
            |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(""), mode("a"), mode("a/b"), mode("run")), (0o755, 0o755, 0o644, 0o755));
        assert_eq!(mode(".sealift-receipt.json"), 0o644);
        fs::remove_dir_all(top.path().join("new")).unwrap();
    }
}
