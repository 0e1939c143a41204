//! Encrypted models, KServe's (a JWE for each file) and ours, and what becomes of them when somebody
//! who may write to the bucket does so.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use testkit::s3::S3Server;
use testkit::web::{Web, reply};

use crate::common::{RESOURCE, Sealed, copy_tree, succeed, text};
use crate::harness::{Ran, Sides, Variables, record};

/// Not text in any encoding, so that upstream takes it for the key itself.
const KEY: [u8; 32] = [0x9f; 32];
const PLACE: &str = "encrypted models";

/// One model in a bucket, encrypted in both ways, and what gives out the keys.
struct Lane {
    sides: Sides,
    server: S3Server,
    sealed: Sealed,
    hub: Web,
    asked: Arc<AtomicUsize>,
}

impl Lane {
    fn new() -> Option<Self> {
        Self::of(5 << 19)
    }

    /// With a large file of so many bytes.
    fn of(bytes: u32) -> Option<Self> {
        let sides = Sides::new()?;
        let server = S3Server::start().unwrap()?;
        let weights: Vec<u8> = (0..bytes).map(|i| (i / 7).to_le_bytes()[0]).collect();
        let sealed =
            Sealed::new(&[("a.bin", b"first"), ("b.bin", b"other"), ("sub/w.bin", &weights)]);
        copy_tree(&sealed.bundle, &server.bucket_dir().join("sealed"));
        let asked = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&asked);
        let hub = Web::start(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            reply(200, &KEY)
        });
        let lane = Self { sides, server, sealed, hub: hub.unwrap(), asked };
        lane.encrypt();
        Some(lane)
    }

    /// The plain model, for upstream.
    fn encrypt(&self) {
        let mut encrypt = self.sides.script("upstream_encrypt.py");
        encrypt.args([&hex::encode(KEY), text(&self.sealed.model), text(&self.theirs(""))]);
        succeed(&mut encrypt);
    }

    /// Where KServe's files lie.
    fn theirs(&self, name: &str) -> PathBuf {
        self.server.bucket_dir().join("jwe").join(name)
    }

    /// Where ours do.
    fn ours(&self, name: &str) -> PathBuf {
        self.server.bucket_dir().join("sealed").join(name)
    }

    fn variables(&self) -> Variables {
        let mut variables: Variables = self.server.env().into();
        variables.extend([
            ("CONFIDENTIAL_ENABLED", "true".to_owned()),
            ("CONFIDENTIAL_RESOURCE_ID", RESOURCE.to_owned()),
            ("CDH_ADDR", self.hub.url()),
        ]);
        variables
    }

    fn uri(name: &str) -> String {
        format!("s3://{}/{name}/", S3Server::BUCKET)
    }

    /// Each its own.
    fn open(&self) -> [Ran; 2] {
        let mut with_file = self.variables();
        with_file.push(("SEALIFT_KEY_FILE", text(&self.sealed.key).to_owned()));
        with_file.push(("SEALIFT_KEY_SOURCE", "file".to_owned()));
        [
            self.sides.upstream(&[&Self::uri("jwe")], &self.variables()),
            self.sides.ours(&[&Self::uri("sealed")], &with_file),
        ]
    }
}

#[test]
fn both_open_kserves_own_files() {
    let Some(lane) = Lane::new() else { return };
    let mut variables = lane.variables();
    variables.push(("SEALIFT_ACCEPT_JWE", "true".to_owned()));
    let found = lane.sides.agree("KServe's JWE files", "opened", &[&Lane::uri("jwe")], &variables);
    assert_eq!(found[0].keys().collect::<Vec<_>>(), ["a.bin", "b.bin", "sub/w.bin"]);
    assert_eq!(lane.asked.load(Ordering::Relaxed), 3 + 1);
    record(PLACE, "the key is asked for", "once for each file", "once");
    let [upstream, ours] = lane.open();
    assert!(upstream.files() == ours.files() && *ours.files() == found[0]);
}

/// Whoever may write to the bucket does something to both, and upstream takes it.
#[track_caller]
fn attacked(case: &str, attack: impl Fn(&Lane), upstream_has: &[(&str, Option<&[u8]>)]) {
    let Some(lane) = Lane::new() else { return };
    attack(&lane);
    let [upstream, ours] = lane.open();
    for (name, content) in upstream_has {
        let found = upstream.files().get(*name).map(Vec::as_slice);
        assert!(found == *content, "{case}: {name}");
    }
    let code = ours.refused_whole();
    record(PLACE, case, "accepted", &code);
}

#[test]
fn a_plain_file_in_place_of_an_encrypted_one() {
    let attack = |lane: &Lane| {
        std::fs::remove_file(lane.theirs("a.bin.jwe")).unwrap();
        std::fs::write(lane.theirs("a.bin"), "evil").unwrap();
        std::fs::remove_file(lane.ours("a.bin.sealed")).unwrap();
        std::fs::write(lane.ours("a.bin"), "evil").unwrap();
    };
    attacked("a plain file in place of an encrypted one", attack, &[("a.bin", Some(b"evil"))]);
}

#[test]
fn a_plain_model_in_place_of_an_encrypted_one() {
    let attack = |lane: &Lane| {
        copy_tree(&lane.sealed.model, &lane.theirs(""));
        copy_tree(&lane.sealed.model, &lane.ours(""));
    };
    attacked("a plain model in place of an encrypted one", attack, &[("a.bin", Some(b"first"))]);
}

#[test]
fn a_file_that_nobody_encrypted_is_added() {
    let attack = |lane: &Lane| {
        std::fs::write(lane.theirs("modeling_x.py"), "evil").unwrap();
        std::fs::write(lane.ours("modeling_x.py"), "evil").unwrap();
    };
    attacked("a file is added", attack, &[("modeling_x.py", Some(b"evil"))]);
}

#[test]
fn two_encrypted_files_change_places() {
    let attack = |lane: &Lane| {
        for dir_and_suffix in [(lane.theirs(""), "jwe"), (lane.ours(""), "sealed")] {
            let (dir, suffix) = dir_and_suffix;
            let [a, b] = ["a.bin", "b.bin"].map(|name| dir.join(format!("{name}.{suffix}")));
            let between = lane.sides.dir.path().join("between");
            std::fs::copy(&a, &between).unwrap();
            std::fs::copy(&b, &a).unwrap();
            std::fs::copy(&between, &b).unwrap();
        }
    };
    let exchanged: &[(&str, Option<&[u8]>)] =
        &[("a.bin", Some(b"other")), ("b.bin", Some(b"first"))];
    attacked("two files change places", attack, exchanged);
}

#[test]
fn an_encrypted_file_disappears() {
    let attack = |lane: &Lane| {
        std::fs::remove_file(lane.theirs("a.bin.jwe")).unwrap();
        std::fs::remove_file(lane.ours("a.bin.sealed")).unwrap();
    };
    attacked("a file disappears", attack, &[("a.bin", None)]);
}

#[test]
fn an_older_encrypted_file_comes_back() {
    let attack = |lane: &Lane| {
        std::fs::write(lane.sealed.model.join("a.bin"), "newer").unwrap();
        let older = [lane.theirs("a.bin.jwe"), lane.ours("a.bin.sealed")];
        let older = older.map(|path| (std::fs::read(&path).unwrap(), path));
        lane.encrypt();
        let key = &lane.sealed.key;
        crate::common::seal(
            &lane.sealed.model,
            &lane.sealed.dir.path().join("2"),
            RESOURCE,
            key,
            2,
        );
        copy_tree(&lane.sealed.dir.path().join("2"), &lane.ours(""));
        for (content, path) in older {
            std::fs::write(path, content).unwrap();
        }
    };
    attacked("an older file comes back", attack, &[("a.bin", Some(b"first"))]);
}

/// The minimum comes with the key, as `sealift key bump` sets it.
#[test]
fn an_older_model_comes_back() {
    let attack = |lane: &Lane| {
        let key = std::fs::read_to_string(&lane.sealed.key).unwrap();
        let raised = key.replace("\"min_generation\":1", "\"min_generation\":2");
        assert_ne!(key, raised);
        std::fs::write(&lane.sealed.key, raised).unwrap();
    };
    attacked("an older model comes back", attack, &[("a.bin", Some(b"first"))]);
}

#[test]
fn one_damaged_file_of_several() {
    let Some(lane) = Lane::new() else { return };
    for path in [lane.theirs("sub/w.bin.jwe"), lane.ours("sub/w.bin.sealed")] {
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() - 100;
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    let [upstream, ours] = lane.open();
    assert!(upstream.refused.is_some());
    assert!(upstream.found[0].contains_key("sub/w.bin.jwe"));
    let code = ours.refused_whole();
    let theirs = "fails, the others stay, plain or not";
    record(PLACE, "one file is damaged", theirs, &format!("{code}, nothing stays"));
}

#[test]
fn a_variable_is_changed() {
    let Some(lane) = Lane::new() else { return };
    let mut variables = lane.variables();
    variables.push(("CONFIDENTIAL_ENABLED", "1".to_owned()));
    let upstream = lane.sides.upstream(&[&Lane::uri("jwe")], &variables);
    assert_eq!(upstream.names(), ["a.bin.jwe", "b.bin.jwe", "sub/w.bin.jwe"]);
    variables.push(("SEALIFT_KEY_FILE", text(&lane.sealed.key).to_owned()));
    variables.push(("SEALIFT_KEY_SOURCE", "file".to_owned()));
    let ours = lane.sides.ours(&[&Lane::uri("sealed")], &variables);
    assert_eq!(ours.names(), ["a.bin", "b.bin", "sub/w.bin"]);
    let theirs = "starts the server on encrypted files";
    record(PLACE, "`CONFIDENTIAL_ENABLED=1`", theirs, "opened");
}

#[test]
fn memory_does_not_grow_with_the_files() {
    const FILE_BYTES: u32 = 64 << 20;
    const BUDGET_BYTES: u64 = 64 << 20;
    let Some(lane) = Lane::of(FILE_BYTES) else { return };
    let [upstream, ours] = lane.open();
    assert!(upstream.files() == ours.files());
    assert!(upstream.peak_bytes > 5 * u64::from(FILE_BYTES), "{}", upstream.peak_bytes);
    assert!(ours.peak_bytes <= BUDGET_BYTES, "{}", ours.peak_bytes);
    let theirs = "over 5 times the largest file";
    record(PLACE, "memory of one process", theirs, "at most 64 MiB, whatever the size");
}
