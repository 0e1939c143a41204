//! What is opened is what is current, whoever holds the bucket: SPECIFICATION P4. The attacks are those
//! that The Update Framework lists (specification 1.0, section 1.5.2), each against a model on a
//! volume and in a bucket.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::broker::Broker;
use common::{
    RESOURCE, Sealed, copy_tree, keygen, model_tree, open, open_edited, refuse, refused_untouched,
    seal, succeed, text, tree,
};
use sealift::code::Code;
use sealift::failure::Failure;
use sealift::opening::{Accept, Outcome};
use testkit::hostile::{Fault, Hostile};

/// A model of two generations whose key a broker releases, for generation 1 and later.
struct Scene {
    sealed: Sealed,
    newer: PathBuf,
    broker: Broker,
}

const ALLOW: &str = "package policy\nimport rego.v1\ndefault allow := false\nallow if input.iss\n";
const DENY: &str = "package policy\nimport rego.v1\ndefault allow := false\n";

impl Scene {
    fn new() -> Self {
        let sealed = Sealed::new(&[("config.json", b"{}"), ("weights", &[7; 3000])]);
        let newer = sealed.dir.path().join("newer");
        seal(&sealed.model, &newer, RESOURCE, &sealed.key, 2);
        let broker = Broker::start(&sealed.dir.path().join("broker"));
        broker.policy(ALLOW);
        succeed(&mut broker.key("put", RESOURCE, &["--key-file", text(&sealed.key)]));
        Self { sealed, newer, broker }
    }

    fn bump(&self, generation: u64) {
        let generation = generation.to_string();
        let more = ["--model", "model", "--min-generation", &generation];
        succeed(&mut self.broker.key("bump", RESOURCE, &more));
    }

    fn init(&self, source: &str, dest: &Path, more: &[&str]) -> Result<Vec<Outcome>, Failure> {
        let url = self.broker.url();
        let mut flags = vec!["--resource-id", RESOURCE, "--kbs-url", &url, "--insecure-dev"];
        flags.extend(more);
        // A key source that is not there is not waited for.
        open_edited(Accept::SEALED_ONLY, &[(source, dest)], &flags, |opening| {
            opening.key.key_timeout = Duration::from_secs(5);
        })
    }

    /// From a volume, and from a bucket: refused with this code, and nothing published.
    #[track_caller]
    fn refused(&self, bundle: &Path, code: Code) {
        let dest = self.sealed.dest("refused");
        let untouched = BTreeMap::new();
        refused_untouched(self.init(text(bundle), &dest, &[]), code, &dest, &untouched);
        let server = serve(bundle);
        let fetched = self.init(SOURCE, &dest, &["--endpoint-url", &server.endpoint()]);
        refused_untouched(fetched, code, &dest, &untouched);
    }

    /// The same for a copy of generation 1 that somebody changed.
    #[track_caller]
    fn refused_changed(&self, code: Code, change: impl FnOnce(&Path)) {
        let copy = self.sealed.dir.path().join("changed");
        copy_tree(&self.sealed.bundle, &copy);
        change(&copy);
        self.refused(&copy, code);
    }

    fn opens(&self, bundle: &Path) {
        let dest = self.sealed.dest("opened");
        self.init(text(bundle), &dest, &[]).unwrap();
        assert!(model_tree(&dest) == tree(&self.sealed.model));
        std::fs::remove_dir_all(dest).unwrap();
    }
}

const SOURCE: &str = "s3://models/m";

fn serve(bundle: &Path) -> Hostile {
    let server = Hostile::start().unwrap();
    for (name, bytes) in tree(bundle).into_iter().filter(|(name, _)| !name.ends_with('/')) {
        server.put(&format!("models/m/{name}"), bytes);
    }
    server
}

#[test]
fn a_raised_minimum_refuses_older_bundles_everywhere_from_then_on() {
    let scene = Scene::new();
    let (old, new) = (&scene.sealed.bundle, &scene.newer);
    scene.opens(old);
    scene.bump(2);
    scene.refused(old, Code::Stale);
    scene.opens(new);
    let url = scene.broker.url();
    let mut open = common::sealift();
    open.args(["open", text(old)]).arg(scene.sealed.dir.path().join("out"));
    open.args(["--resource-id", RESOURCE, "--kbs-url", &url, "--insecure-dev"]);
    refuse(&mut open, Code::Stale);
    // Down it does not go, nor to models that the key does not list.
    for (model, generation) in [("model", "1"), ("another", "3")] {
        let more = ["--model", model, "--min-generation", generation];
        refuse(&mut scene.broker.key("bump", RESOURCE, &more), Code::Usage);
    }
    scene.refused(old, Code::Stale);
    scene.opens(new);
    let log = std::fs::read_to_string(&scene.broker.audit_log).unwrap();
    let raised = r#""event":"pin-raised","resource":"kbs:///team/model/v1","model":"model","min_generation":2"#;
    assert_eq!(log.matches(raised).count(), 1, "{log}");
    assert_eq!(log.matches("pin-raised").count(), 1, "{log}");
}

#[test]
fn a_revoked_key_is_refused_at_the_next_release_and_running_pods_keep_what_they_have() {
    let scene = Scene::new();
    let running = scene.sealed.dest("running");
    scene.init(text(&scene.sealed.bundle), &running, &[]).unwrap();
    let has = tree(&running);
    scene.broker.policy(DENY);
    scene.refused(&scene.sealed.bundle, Code::KeyDenied);
    scene.broker.policy(ALLOW);
    scene.opens(&scene.sealed.bundle);
    assert!(tree(&running) == has);
}

#[test]
fn arbitrary_software_is_not_installed() {
    let scene = Scene::new();
    scene.refused_changed(Code::Tampered, |copy| {
        std::fs::write(copy.join("weights.sealed"), vec![0x28; 3056]).unwrap();
    });
    // Of somebody with a key of his own: for a key that the deployer did not name, or in its name.
    let other = scene.sealed.dir.path().join("other.jwk");
    let theirs = scene.sealed.dir.path().join("theirs");
    keygen(&other, "kbs:///evil/model/v1", "model@1");
    seal(&scene.sealed.model, &theirs, "kbs:///evil/model/v1", &other, 9);
    scene.refused(&theirs, Code::Tampered);
    let text = std::fs::read_to_string(theirs.join("sealift.json")).unwrap();
    std::fs::write(theirs.join("sealift.json"), text.replace("kbs:///evil/", "kbs:///team/"))
        .unwrap();
    scene.refused(&theirs, Code::Tampered);
}

#[test]
fn endless_data_is_not_read() {
    let scene = Scene::new();
    scene.refused_changed(Code::Tampered, |copy| {
        std::fs::File::options()
            .append(true)
            .open(copy.join("weights.sealed"))
            .and_then(|object| object.set_len(1 << 20))
            .unwrap();
    });
    scene.refused_changed(Code::Tampered, |copy| {
        std::fs::File::create(copy.join("sealift.json")).unwrap().set_len(9 << 20).unwrap();
    });
}

#[test]
fn extraneous_files_are_not_installed() {
    let scene = Scene::new();
    scene.refused_changed(Code::Tampered, |copy| {
        std::fs::copy(copy.join("weights.sealed"), copy.join("more.sealed")).unwrap();
    });
}

/// Nobody but a holder of the key makes a generation, so nobody can make one that none can follow.
#[test]
fn a_fast_forward_is_refused() {
    let scene = Scene::new();
    scene.refused_changed(Code::Tampered, |copy| {
        use base64::Engine as _;
        let base64 = base64::engine::general_purpose::STANDARD;
        let path = copy.join("sealift.json");
        let mut bundle: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let payload = base64.decode(bundle["envelope"]["payload"].as_str().unwrap()).unwrap();
        let payload = String::from_utf8(payload).unwrap();
        let forward = payload.replace(r#""generation":1"#, r#""generation":9007199254740991"#);
        assert_ne!(payload, forward);
        bundle["envelope"]["payload"] = base64.encode(forward).into();
        std::fs::write(path, format!("{bundle}\n")).unwrap();
    });
    scene.bump(2);
    scene.opens(&scene.newer);
}

#[test]
fn a_freeze_ends_with_the_next_minimum() {
    let scene = Scene::new();
    // Until the publisher says so, nobody can tell that there is a newer one.
    scene.opens(&scene.sealed.bundle);
    scene.bump(2);
    scene.refused(&scene.sealed.bundle, Code::Stale);
}

#[test]
fn a_mirror_that_withholds_objects_publishes_nothing() {
    let scene = Scene::new();
    scene.refused_changed(Code::Tampered, |copy| {
        std::fs::remove_file(copy.join("weights.sealed")).unwrap();
    });
    scene.refused_changed(Code::NotSealed, |copy| {
        std::fs::remove_file(copy.join("sealift.json")).unwrap();
    });
}

#[test]
fn generations_do_not_mix() {
    let scene = Scene::new();
    for name in ["sealift.json", "config.json.sealed", "weights.sealed"] {
        scene.refused_changed(Code::Tampered, |copy| {
            std::fs::copy(scene.newer.join(name), copy.join(name)).unwrap();
        });
    }
}

#[test]
fn a_rollback_is_refused_also_where_the_newer_one_was() {
    let scene = Scene::new();
    scene.bump(2);
    let dest = scene.sealed.dest("dest");
    scene.init(text(&scene.newer), &dest, &[]).unwrap();
    let has = tree(&dest);
    let again = scene.init(text(&scene.sealed.bundle), &dest, &[]);
    refused_untouched(again, Code::Stale, &dest, &has);
}

#[test]
fn a_slow_retrieval_is_given_up() {
    let scene = Scene::new();
    let server = serve(&scene.sealed.bundle);
    server.plan(|seen| {
        let weights = seen.object.ends_with("weights.sealed") && seen.method == "GET";
        weights.then_some(Fault::Stall { after: 100 })
    });
    let dest = scene.sealed.dest("dest");
    let (url, endpoint) = (scene.broker.url(), server.endpoint());
    let flags = ["--endpoint-url", &endpoint, "--resource-id", RESOURCE, "--kbs-url", &url];
    let flags =
        [&flags[..], &["--insecure-dev", "--retries", "1", "--stall-timeout", "1"]].concat();
    let result = open(&[(SOURCE, dest.as_path())], &flags);
    refused_untouched(result, Code::Network, &dest, &BTreeMap::new());
}

/// The bundle gets a new key, and the broker forgets the old one: who has stolen that opens what he has
/// already, and makes nothing that anybody opens.
#[test]
fn a_compromised_key_is_replaced_without_touching_data() {
    const NEXT: &str = "kbs:///team/model/v2";
    let scene = Scene::new();
    let next = scene.sealed.dir.path().join("next.jwk");
    keygen(&next, NEXT, "model@2");
    succeed(&mut scene.broker.key("put", NEXT, &["--key-file", text(&next)]));
    let data = std::fs::read(scene.newer.join("weights.sealed")).unwrap();
    let mut rewrap = common::sealift();
    rewrap.args(["rewrap", text(&scene.newer), "--resource-id", RESOURCE]);
    rewrap.args(["--key-file", text(&scene.sealed.key)]);
    rewrap.args(["--to", &format!("{NEXT}={}", text(&next))]);
    succeed(&mut rewrap);
    assert!(std::fs::read(scene.newer.join("weights.sealed")).unwrap() == data);
    let url = scene.broker.url();
    let flags = ["--resource-id", NEXT, "--kbs-url", &url, "--insecure-dev"];
    let dest = scene.sealed.dest("dest");
    open(&[(text(&scene.newer), dest.as_path())], &flags).unwrap();
    // What the thief seals, with the old key and any generation.
    let theirs = scene.sealed.dir.path().join("theirs");
    seal(&scene.sealed.model, &theirs, RESOURCE, &scene.sealed.key, 9);
    let other = scene.sealed.dest("other");
    let result = open(&[(text(&theirs), other.as_path())], &flags);
    refused_untouched(result, Code::Tampered, &other, &BTreeMap::new());
}

#[test]
fn another_model_of_the_same_key_does_not_stand_in() {
    let scene = Scene::new();
    let other = scene.sealed.dir.path().join("other");
    let mut command = common::sealift();
    command.arg("seal").args([&scene.sealed.model, &other]);
    command.args(["--resource-id", RESOURCE, "--name", "other", "--generation", "9"]);
    succeed(command.args(["--key-file", text(&scene.sealed.key)]));
    scene.refused(&other, Code::Stale);
}

const PINS: &str = "kbs:///team/pins/model";
const NOT_PINS: &str = "package policy\nimport rego.v1\ndefault allow := false\n\
    allow if data[\"resource-path\"][1] != \"pins\"\n";

/// For keys that say nothing of generations: here 32 bytes, as a broker has them.
#[test]
fn a_document_of_pins_decides_for_a_key_that_has_none() {
    use base64::Engine as _;
    let scene = Scene::new();
    let (old, new) = (&scene.sealed.bundle, &scene.newer);
    let jwk: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&scene.sealed.key).unwrap()).unwrap();
    let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(jwk["k"].as_str().unwrap());
    scene.broker.put(RESOURCE, &raw.unwrap());
    scene.refused(old, Code::Stale);

    let dest = scene.sealed.dest("pinned");
    let refused = |bundle: &Path, code: Code| {
        let by_flag = scene.init(text(bundle), &dest, &["--pin-resource", PINS]);
        refused_untouched(by_flag, code, &dest, &BTreeMap::new());
        let source = format!("{}#pins={PINS}", text(bundle));
        refused_untouched(scene.init(&source, &dest, &[]), code, &dest, &BTreeMap::new());
        // A minimum of the deployer's, or leave to open anything, does not stand in for it.
        for more in [&["--min-generation", "1"][..], &["--allow-unpinned"]] {
            let result = scene.init(&source, &dest, more);
            refused_untouched(result, code, &dest, &BTreeMap::new());
        }
    };
    refused(old, Code::KeyNotFound);
    for malformed in ["", "{", "[]", r#"{"model":{"min_generation":"1"}}"#, r#"{"model":{"x":1}}"#]
    {
        if !malformed.is_empty() {
            scene.broker.put(PINS, malformed.as_bytes());
        }
        refused(old, if malformed.is_empty() { Code::KeyNotFound } else { Code::KeyUnusable });
    }
    // A key is no document of pins.
    scene.broker.put(PINS, &std::fs::read(&scene.sealed.key).unwrap());
    refused(old, Code::KeyUnusable);
    scene.broker.put(PINS, br#"{"another":{"min_generation":1}}"#);
    refused(old, Code::Stale);
    scene.broker.put(PINS, br#"{"model":{"min_generation":2}}"#);
    refused(old, Code::Stale);
    scene.broker.policy(NOT_PINS);
    refused(new, Code::KeyDenied);
    scene.broker.policy(ALLOW);

    let opened = scene.init(text(new), &dest, &["--pin-resource", PINS]).unwrap();
    assert_eq!(opened[0].generation, Some(2));
    assert!(model_tree(&dest) == tree(&scene.sealed.model));
    // All that are given hold.
    let dest = scene.sealed.dest("both");
    let more = ["--pin-resource", PINS, "--min-generation", "3"];
    refused_untouched(scene.init(text(new), &dest, &more), Code::Stale, &dest, &BTreeMap::new());
    let stricter = "kbs:///team/pins/stricter";
    scene.broker.put(stricter, br#"{"model":{"min_generation":3}}"#);
    let source = format!("{}#pins={stricter}", text(new));
    let both = scene.init(&source, &dest, &["--pin-resource", PINS]);
    refused_untouched(both, Code::Stale, &dest, &BTreeMap::new());
}

#[test]
fn a_document_of_pins_is_recorded_rehearsed_and_checked() {
    let scene = Scene::new();
    let pins = scene.sealed.dir.path().join("pins.json");
    std::fs::write(&pins, r#"{"model":{"min_generation":2}}"#).unwrap();
    let url = scene.broker.url();
    let mut put = common::sealift();
    put.args(["secret", "put", text(&pins), "--resource", PINS, "--kbs-url", &url]);
    succeed(put.args(["--admin-key", text(&scene.broker.admin_key)]));
    let asks = |arguments: &[&str]| {
        let mut command = common::sealift();
        command.args(arguments).args(["--resource-id", RESOURCE, "--kbs-url", &url]);
        command.args(["--insecure-dev"]).env("SEALIFT_PIN_RESOURCE", PINS);
        command
    };
    let dest = scene.sealed.dest("dest");
    std::fs::create_dir_all(&dest).unwrap();
    let checked = succeed(&mut asks(&["key", "check"]));
    assert!(String::from_utf8_lossy(&checked.stdout).contains("model@2"));
    refuse(&mut asks(&["doctor", text(&scene.sealed.bundle), text(&dest)]), Code::Stale);
    succeed(&mut asks(&["doctor", text(&scene.newer), text(&dest)]));
    refuse(&mut asks(&["init", text(&scene.sealed.bundle), text(&dest)]), Code::Stale);
    let opened = succeed(&mut asks(&["init", text(&scene.newer), text(&dest)]));
    let records = String::from_utf8(opened.stdout).unwrap();
    let asked = format!(r#""resource":"{PINS}","source":"kbs","purpose":"pins""#);
    assert_eq!(records.matches(&asked).count(), 1, "{records}");
    assert_eq!(records.matches("key-released").count(), 2, "{records}");
}
