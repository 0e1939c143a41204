//! Keys in files.

#![expect(clippy::unwrap_used, reason = "allowed in test functions, and here beside them")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use keys::{Error, FileSource, KeySource};
use seal::name::ResourceUri;

fn resource() -> ResourceUri {
    ResourceUri::from_path("default/key/one").unwrap()
}

#[tokio::test]
async fn one_file_answers_for_every_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.jwk");
    fs::write(&path, b"a key").unwrap();
    let source = FileSource::new(&path);
    for name in ["default/key/one", "other/key/two"] {
        let resource = ResourceUri::from_path(name).unwrap();
        assert_eq!(source.release(&resource).await.unwrap().expose(), b"a key");
    }
}

#[tokio::test]
async fn a_mounted_secret_is_read_through_its_links_though_it_is_open_to_all() {
    // Kubernetes: key -> ..data/key, ..data -> ..<timestamp>, mode 0644.
    let dir = tempfile::tempdir().unwrap();
    let generation = dir.path().join("..2026_11_22");
    fs::create_dir(&generation).unwrap();
    fs::write(generation.join("key"), b"a key").unwrap();
    fs::set_permissions(generation.join("key"), fs::Permissions::from_mode(0o644)).unwrap();
    symlink("..2026_11_22", dir.path().join("..data")).unwrap();
    symlink("..data/key", dir.path().join("key")).unwrap();
    let key = FileSource::new(&dir.path().join("key")).release(&resource()).await.unwrap();
    assert_eq!(key.expose(), b"a key");
}

#[tokio::test]
async fn anything_but_a_regular_file_is_refused_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    fs::create_dir_all(dir.path().join("tree/default/key/one")).unwrap();
    for path in [fifo, "/dev/zero".into(), dir.path().join("tree")] {
        let error = FileSource::new(&path).release(&resource()).await.unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{}: {error:?}", path.display());
    }
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_owned(), dir.path().join("absent")] {
        let error = FileSource::new(&path).release(&resource()).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}
