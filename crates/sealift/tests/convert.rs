//! `sealift seal --from-jwe`: upstream's files become a bundle, or nothing at all.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::{Path, PathBuf};

use common::{RESOURCE, keygen, memory, model_tree, open, refuse, sealift, succeed, text, tree};
use seal::jwe::{KeyWrap, encrypt};
use sealift::code::Code;
use tempfile::TempDir;

const OLD: &str = "kbs:///team/upstream/v1";
const OLD_KEY: [u8; 32] = [7; 32];

struct World {
    dir: TempDir,
    old: PathBuf,
    new: PathBuf,
    tokens: PathBuf,
    bundle: PathBuf,
}

impl World {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let dir = memory();
        let at = |name: &str| dir.path().join(name);
        let world = Self {
            old: at("old"),
            new: at("new.jwk"),
            tokens: at("tokens"),
            bundle: at("bundle"),
            dir,
        };
        std::fs::write(&world.old, OLD_KEY).unwrap();
        keygen(&world.new, RESOURCE, "tokens@1");
        common::write_tree(&world.tokens, files);
        world
    }

    fn convert(&self, flags: &[&str]) -> std::process::Command {
        let mut command = sealift();
        command.arg("seal").arg("--from-jwe").args([&self.tokens, &self.bundle]);
        command.args(["--jwe-key", &format!("{OLD}={}", text(&self.old))]);
        command.args(["--resource-id", RESOURCE, "--key-file", text(&self.new)]).args(flags);
        command
    }

    /// Requires a refusal that has written nothing.
    fn refused(&self, code: Code) -> String {
        let line = refuse(&mut self.convert(&[]), code);
        assert!(!self.bundle.exists(), "{line}: {:?}", tree(&self.bundle).keys());
        line
    }
}

fn compact(plaintext: &[u8], key: &[u8], wrap: KeyWrap) -> String {
    let token = encrypt(plaintext, key, wrap, OLD, None).unwrap();
    let part = |name: &str| token[name].as_str().unwrap().to_owned();
    ["protected", "encrypted_key", "iv", "ciphertext", "tag"].map(part).join(".")
}

fn open_bundle(world: &World, dest: &Path) {
    std::fs::create_dir(dest).unwrap();
    let flags = ["--resource-id", RESOURCE, "--key-file", text(&world.new)];
    open(&[(text(&world.bundle), dest)], &flags).unwrap();
}

#[test]
fn tokens_of_every_form_become_a_bundle_of_their_plaintext() {
    let large: Vec<u8> = (0..(5_u32 << 18)).map(|i| (i / 5).to_le_bytes()[0]).collect();
    let kw = compact(&large, &OLD_KEY, KeyWrap::A256Kw);
    let gcm = compact(b"{}", &OLD_KEY, KeyWrap::A256GcmKw);
    let json = encrypt(b"json", &OLD_KEY, KeyWrap::A256Kw, OLD, None).unwrap().to_string();
    let empty = compact(b"", &OLD_KEY, KeyWrap::A256Kw);
    let world = World::new(&[
        ("config.json.jwe", gcm.as_bytes()),
        ("sub/w.bin.JWE", kw.as_bytes()),
        ("named-otherwise", gcm.as_bytes()),
        ("form.jwe", json.as_bytes()),
        ("empty.jwe", empty.as_bytes()),
    ]);
    let before = tree(&world.tokens);
    // The old key has a file of its own, whatever is asked for other keys.
    let output =
        succeed(&mut world.convert(&["--kbs-url", "https://127.0.0.1:1", "--key-source", "kbs"]));
    assert!(tree(&world.tokens) == before, "the source is only read");
    let dest = world.dir.path().join("dest");
    open_bundle(&world, &dest);
    let opened = model_tree(&dest);
    assert_eq!(opened.len(), 6, "{:?}", opened.keys());
    assert_eq!(opened["config.json"], b"{}");
    assert_eq!(opened["named-otherwise"], b"{}");
    assert_eq!(opened["form"], b"json");
    assert_eq!(opened["empty"], b"");
    assert!(opened["sub/w.bin"] == large);
    let records = String::from_utf8(output.stderr).unwrap();
    for record in ["key-requested", "key-released", "model-sealed"] {
        assert!(records.contains(&format!("\"event\":\"{record}\"")), "{record}: {records}");
    }
    assert!(records.contains("\"purpose\":\"convert\""), "{records}");
    assert!(records.contains(&format!("\"converted_from\":\"{}\"", world.tokens.display())));
}

#[test]
fn a_bad_token_is_refused_before_anything_is_written() {
    let good = compact(b"weights", &OLD_KEY, KeyWrap::A256Kw);
    let bad = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut token = good.clone().into_bytes();
        change(&mut token);
        // The good one comes first: by the time that the bad one is met, it could have been sealed.
        World::new(&[("a.jwe", good.as_bytes()), ("b.jwe", &token)])
    };
    for at in (0..good.len()).step_by(3) {
        let world = bad(&|token| token[at] = if token[at] == b'A' { b'B' } else { b'A' });
        let line = refuse_any(&world);
        assert!(line.contains("b.jwe"), "{at}: {line}");
    }
    for length in (0..good.len()).step_by(7) {
        refuse_any(&bad(&|token| token.truncate(length)));
    }
    let other = compact(b"weights", &[8; 32], KeyWrap::A256Kw);
    World::new(&[("a.jwe", good.as_bytes()), ("b.jwe", other.as_bytes())]).refused(Code::Tampered);
}

fn refuse_any(world: &World) -> String {
    let output = world.convert(&[]).output().unwrap();
    assert!(!output.status.success(), "accepted");
    assert!(!world.bundle.exists(), "{:?}", tree(&world.bundle).keys());
    String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned()
}

#[test]
fn what_is_not_encrypted_is_taken_only_if_somebody_says_so() {
    let token = compact(b"weights", &OLD_KEY, KeyWrap::A256Kw);
    let world = World::new(&[("a.jwe", token.as_bytes()), ("config.json", b"{}")]);
    let line = world.refused(Code::NotSealed);
    assert!(line.contains("config.json") && line.contains("--accept-plain"), "{line}");
    succeed(&mut world.convert(&["--accept-plain"]));
    let dest = world.dir.path().join("dest");
    open_bundle(&world, &dest);
    assert_eq!(model_tree(&dest)["config.json"], b"{}");
    assert_eq!(model_tree(&dest)["a"], b"weights");
}

#[test]
fn names_that_become_one_bundles_and_empty_places_are_refused() {
    let token = compact(b"weights", &OLD_KEY, KeyWrap::A256Kw);
    World::new(&[("a.jwe", token.as_bytes()), ("a", token.as_bytes())]).refused(Code::Usage);
    World::new(&[("sealift.json", b"{}"), ("a.jwe", token.as_bytes())]).refused(Code::Usage);
    let empty = World::new(&[]);
    std::fs::create_dir(&empty.tokens).unwrap();
    empty.refused(Code::NotFound);
    let world = World::new(&[("a.jwe", token.as_bytes())]);
    let mut onto_itself = sealift();
    onto_itself.arg("seal").arg("--from-jwe").args([&world.tokens, &world.tokens]);
    onto_itself.args(["--jwe-key", &format!("{OLD}={}", text(&world.old))]);
    onto_itself.args(["--resource-id", RESOURCE, "--key-file", text(&world.new)]);
    refuse(&mut onto_itself, Code::Usage);
    assert_eq!(tree(&world.tokens).len(), 1);
}
