//! Bad input and what it gets: a code that says why, and a destination that nobody touched.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{
    RESOURCE, Sealed, SmallTmpfs, copy_tree, keygen, open, open_as, refused_untouched, seal, text,
    tree, write_tree,
};
use sealift::code::Code;
use sealift::opening::Accept;

/// Opens a changed copy of a bundle and requires `code` and an empty destination.
fn refused(sealed: &Sealed, code: Code, change: impl FnOnce(&Path)) {
    let copy = sealed.dir.path().join("changed");
    copy_tree(&sealed.bundle, &copy);
    change(&copy);
    let dest = sealed.dest("dest");
    refused_untouched(sealed.open(text(&copy), &dest), code, &dest, &BTreeMap::new());
}

#[test]
fn the_untouched_bundle_opens() {
    let sealed = Sealed::small();
    let dest = sealed.dest("dest");
    sealed.open(text(&sealed.bundle), &dest).unwrap();
    assert!(common::model_tree(&dest) == tree(&sealed.model));
}

#[test]
fn swapped_objects_are_refused() {
    let sealed = Sealed::new(&[("a", b"same size"), ("b", b"other one"), ("sub/c", b"the third")]);
    let objects = ["a.sealed", "b.sealed", "sub/c.sealed"];
    for one in objects {
        for other in objects.iter().filter(|other| **other != one) {
            refused(&sealed, Code::Tampered, |copy| {
                std::fs::copy(sealed.bundle.join(other), copy.join(one)).unwrap();
            });
        }
    }
}

#[test]
fn swapped_segments_are_refused() {
    const SEGMENT: usize = 1 << 20;
    let large: Vec<u8> = (0..(7_u32 << 19)).map(|i| (i / 16).to_le_bytes()[0]).collect();
    let sealed = Sealed::new(&[("w", &large)]);
    let object = std::fs::read(sealed.bundle.join("w.sealed")).unwrap();
    let segments: Vec<_> = object.chunks(SEGMENT).collect();
    assert_eq!(segments.len(), 4);
    for one in 0..4 {
        for other in (0..4).filter(|other| *other != one) {
            let mut changed = object.clone();
            let length = segments[one].len().min(segments[other].len());
            changed[one * SEGMENT..][..length].copy_from_slice(&segments[other][..length]);
            refused(&sealed, Code::Tampered, |copy| {
                std::fs::write(copy.join("w.sealed"), &changed).unwrap();
            });
        }
    }
}

#[test]
fn truncation_at_every_segment_and_appended_bytes_are_refused() {
    const SEGMENT: usize = 1 << 20;
    let sealed = Sealed::small();
    let object = std::fs::read(sealed.bundle.join("sub/w.bin.sealed")).unwrap();
    let lengths = [0, 1, 39, 40, 55, 56, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT];
    for length in lengths.into_iter().chain([object.len() - 1]) {
        refused(&sealed, Code::Tampered, |copy| {
            std::fs::write(copy.join("sub/w.bin.sealed"), &object[..length]).unwrap();
        });
    }
    for more in [1, 16, SEGMENT] {
        refused(&sealed, Code::Tampered, |copy| {
            let longer = [&object[..], &vec![0; more]].concat();
            std::fs::write(copy.join("sub/w.bin.sealed"), longer).unwrap();
        });
    }
}

#[test]
fn missing_and_additional_objects_are_refused() {
    let sealed = Sealed::small();
    for name in ["config.json.sealed", "empty.sealed", "sub/w.bin.sealed"] {
        refused(&sealed, Code::Tampered, |copy| std::fs::remove_file(copy.join(name)).unwrap());
    }
    for name in ["extra.sealed", "config.json", "sub/modeling_x.py"] {
        refused(&sealed, Code::Tampered, |copy| std::fs::write(copy.join(name), "x").unwrap());
    }
    refused(&sealed, Code::NotSealed, |copy| {
        std::fs::remove_file(copy.join("sealift.json")).unwrap();
    });
}

#[test]
fn objects_and_manifests_of_two_bundles_of_one_key_do_not_mix() {
    let sealed = Sealed::small();
    let again = sealed.dir.path().join("again");
    seal(&sealed.model, &again, RESOURCE, &sealed.key, 1);
    for name in tree(&sealed.bundle).into_keys().filter(|name| !name.ends_with('/')) {
        refused(&sealed, Code::Tampered, |copy| {
            std::fs::copy(again.join(&name), copy.join(&name)).unwrap();
        });
    }
}

#[test]
fn a_recipient_of_another_bundle_does_not_open_this_one() {
    let sealed = Sealed::small();
    let again = sealed.dir.path().join("again");
    seal(&sealed.model, &again, RESOURCE, &sealed.key, 1);
    let read = |bundle: &Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(bundle.join("sealift.json")).unwrap()).unwrap()
    };
    refused(&sealed, Code::Tampered, |copy| {
        let (mut ours, theirs) = (read(copy), read(&again));
        ours["recipients"] = theirs["recipients"].clone();
        std::fs::write(copy.join("sealift.json"), format!("{ours}\n")).unwrap();
    });
}

#[test]
fn a_manifest_that_is_no_bundle_is_refused() {
    let sealed = Sealed::small();
    for (json, code) in [
        ("", Code::NotSealed),
        ("{}", Code::NotSealed),
        ("\0\u{1}\u{2}", Code::NotSealed),
        (r#"{"format":"sealift/v2"}"#, Code::Tampered),
        (r#"{"format":"sealift/v1"}"#, Code::Tampered),
        (r#"{"format":"sealift/v1","recipients":[],"envelope":{}}"#, Code::Tampered),
    ] {
        refused(&sealed, code, |copy| std::fs::write(copy.join("sealift.json"), json).unwrap());
    }
    refused(&sealed, Code::Tampered, |copy| {
        std::fs::write(copy.join("sealift.json"), vec![b'{'; 9 << 20]).unwrap();
    });
}

#[test]
fn plain_models_and_jwe_files_are_refused_where_a_bundle_is_required() {
    let sealed = Sealed::small();
    let dest = sealed.dest("dest");
    let untouched = BTreeMap::new();
    let failure = refused_untouched(
        sealed.open(text(&sealed.model), &dest),
        Code::NotSealed,
        &dest,
        &untouched,
    );
    assert!(failure.line().contains("sealift seal"), "{failure}");

    let jwe = sealed.dir.path().join("jwe");
    write_tree(&jwe, &[("w.safetensors.jwe", b"eyJhbGciOiJBMjU2S1cifQ.a.b.c.d")]);
    let failure =
        refused_untouched(sealed.open(text(&jwe), &dest), Code::NotSealed, &dest, &untouched);
    assert!(failure.line().contains("--accept-jwe"), "{failure}");

    // With --accept-jwe every file must be one.
    let flags = ["--resource-id", RESOURCE, "--key-file", text(&sealed.key)];
    write_tree(&jwe, &[("config.json", b"{}")]);
    let result =
        open_as(Accept::Sealed { jwe: true, images: false }, &[(text(&jwe), &dest)], &flags);
    refused_untouched(result, Code::NotSealed, &dest, &untouched);
}

#[test]
fn keys_that_are_missing_wrong_empty_or_short_are_refused() {
    let sealed = Sealed::small();
    let dest = sealed.dest("dest");
    let bundle = text(&sealed.bundle);
    let untouched = BTreeMap::new();
    let file = sealed.dir.path().join("other");
    let with = |contents: &[u8]| {
        std::fs::write(&file, contents).unwrap();
        let flags = ["--resource-id", RESOURCE, "--key-file", text(&file), "--key-timeout", "1"];
        open(&[(bundle, &dest)], &flags)
    };
    // Another key of the right form, as JWK and as raw bytes.
    let other = sealed.dir.path().join("other.jwk");
    keygen(&other, RESOURCE, "model@1");
    let other = std::fs::read(other).unwrap();
    for wrong in [&other[..], &[7; 32]] {
        refused_untouched(with(wrong), Code::Tampered, &dest, &untouched);
    }
    for unusable in [
        &b""[..],
        b"short",
        &[7; 31],
        &[7; 33],
        b"{}",
        br#"{"kty":"oct","k":""}"#,
        br#"{"kty":"oct","k":"AAAA"}"#,
        br#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#,
        &[7; 70_000],
    ] {
        refused_untouched(with(unusable), Code::KeyUnusable, &dest, &untouched);
    }
    std::fs::remove_file(&file).unwrap();
    let gone = open(&[(bundle, &dest)], &["--resource-id", RESOURCE, "--key-file", text(&file)]);
    refused_untouched(gone, Code::KeyNotFound, &dest, &untouched);

    let unnamed = open(&[(bundle, &dest)], &["--key-file", text(&sealed.key)]);
    refused_untouched(unnamed, Code::NoKeyNamed, &dest, &untouched);
    let flags = ["--resource-id", "kbs:///team/other/v1", "--key-file", text(&sealed.key)];
    let stranger = open(&[(bundle, &dest)], &flags);
    refused_untouched(stranger, Code::Tampered, &dest, &untouched);
}

#[test]
fn a_key_source_that_is_down_is_retried_and_then_named() {
    let sealed = Sealed::small();
    let dest = sealed.dest("dest");
    // A port that was free a moment ago: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("http://127.0.0.1:{port}");
    let flags = ["--resource-id", RESOURCE, "--cdh-addr", &address, "--key-timeout", "2"];
    let result = open(&[(text(&sealed.bundle), &dest)], &flags);
    refused_untouched(result, Code::KeyUnreachable, &dest, &BTreeMap::new());
}

#[test]
fn superseded_and_unpinned_bundles_are_refused() {
    let sealed = Sealed::small();
    let dest = sealed.dest("dest");
    let untouched = BTreeMap::new();
    let key = |name: &str, model: &str| {
        let bytes = std::fs::read(&sealed.key).unwrap();
        let mut jwk: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let members = jwk.as_object_mut().unwrap();
        members.remove("sealift");
        if !model.is_empty() {
            members.insert("sealift".into(), serde_json::from_str(model).unwrap());
        }
        let path = sealed.dir.path().join(name);
        std::fs::write(&path, jwk.to_string()).unwrap();
        path
    };
    let with = |key: &Path, fragment: &str, flags: &[&str]| {
        let source = format!("{}{fragment}", text(&sealed.bundle));
        let mut all = vec!["--resource-id", RESOURCE, "--key-file", text(key)];
        all.extend(flags);
        open(&[(source.as_str(), dest.as_path())], &all)
    };
    let newer = key("newer", r#"{"model":{"min_generation":2}}"#);
    let other = key("other", r#"{"another":{"min_generation":1}}"#);
    let none = key("none", "");
    let wrong_digest = format!("#digest=sha256:{}", "00".repeat(32));
    for (key, fragment, flags, code) in [
        (&newer, "", &[][..], Code::Stale),
        (&newer, "", &["--allow-unpinned"][..], Code::Stale),
        (&other, "", &[][..], Code::Stale),
        (&none, "", &[][..], Code::Stale),
        (&none, "#name=model", &[][..], Code::Stale),
        (&none, "#generation=2", &[][..], Code::Stale),
        (&none, "", &["--min-generation", "2"][..], Code::Stale),
        (&sealed.key, "#generation=2", &[][..], Code::Stale),
        (&sealed.key, wrong_digest.as_str(), &[][..], Code::Mismatch),
        (&none, wrong_digest.as_str(), &["--allow-unpinned"][..], Code::Mismatch),
    ] {
        refused_untouched(with(key, fragment, flags), code, &dest, &untouched);
    }
    // Each way to pin it opens it.
    with(&none, "#generation=1", &[]).unwrap();
    std::fs::remove_dir_all(&dest).unwrap();
    with(&none, "", &["--allow-unpinned"]).unwrap();
}

#[test]
fn destinations_on_disk_too_small_or_in_use_are_refused() {
    let sealed = Sealed::small();
    let disk = tempfile::tempdir().unwrap();
    let bundle = text(&sealed.bundle);
    if rustix::fs::statfs(disk.path()).unwrap().f_type == 0x0102_1994 {
        testkit::skip("the destination on disk, since the temporary directory is in memory");
    } else {
        let before = tree(disk.path());
        refused_untouched(sealed.open(bundle, disk.path()), Code::NotMemory, disk.path(), &before);
    }

    let used = sealed.dest("used");
    write_tree(&used, &[("config.json", b"somebody else's"), ("notes/n", b"n")]);
    let before = tree(&used);
    refused_untouched(sealed.open(bundle, &used), Code::Publish, &used, &before);

    let small = sealed.dest("small");
    let Some(mounted) = SmallTmpfs::mount(&small) else { return };
    let result = sealed.open(bundle, &small);
    let left = tree(&small);
    drop(mounted);
    let failure = result.unwrap_err();
    assert_eq!(failure.code(), Code::TooSmall, "{failure}");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn one_bad_model_of_several_publishes_none() {
    let good = Sealed::tiny();
    let bad = Sealed::tiny();
    let object = bad.bundle.join("a.sealed");
    let mut bytes = std::fs::read(&object).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&object, bytes).unwrap();
    let (one, two) = (good.dest("one"), good.dest("two"));
    // A directory of keys serves both.
    let keys = good.dir.path().join("keys");
    for name in ["good", "bad"] {
        let dir = keys.join("team").join(name);
        std::fs::create_dir_all(&dir).unwrap();
        common::keygen(&dir.join("v1"), &format!("kbs:///team/{name}/v1"), "model@1");
    }
    // The bundles are sealed for RESOURCE: rewrap them for names of their own.
    for (name, sealed) in [("good", &good), ("bad", &bad)] {
        let key = keys.join("team").join(name).join("v1");
        let to = format!("kbs:///team/{name}/v1={}", text(&key));
        common::succeed(common::sealift().args([
            "rewrap",
            text(&sealed.bundle),
            "--resource-id",
            RESOURCE,
            "--key-file",
            text(&sealed.key),
            "--to",
            &to,
        ]));
    }
    let sources = [
        format!("{}#key=kbs:///team/good/v1", text(&good.bundle)),
        format!("{}#key=kbs:///team/bad/v1", text(&bad.bundle)),
    ];
    let pairs = [(sources[0].as_str(), one.as_path()), (sources[1].as_str(), two.as_path())];
    let failure = open(&pairs, &["--key-file", text(&keys)]).unwrap_err();
    assert_eq!(failure.code(), Code::Tampered, "{failure}");
    assert!(tree(&one).is_empty() && tree(&two).is_empty());
}
