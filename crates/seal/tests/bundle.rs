//! `sealift.json` through the public door: what opens, and everything that must not.
#![expect(clippy::unwrap_used, reason = "tests")]

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use seal::Error;
use seal::bundle::{Bundle, MANIFEST_BYTES_MAX, RECIPIENTS_MAX, Recipient, Sealing};
use seal::key::Kek;
use seal::manifest::{FileEntry, Manifest, Mode};
use seal::name::{BundlePath, Digest, KeyUri, ModelName};
use seal::pin::{Demand, Pin, Pins};
use seal::segment::{Header, Layout};
use secret::Secret;
use serde_json::Value;

fn uri(tag: &str) -> KeyUri {
    KeyUri::parse(&format!("kbs:///default/key/{tag}")).unwrap()
}

fn path(path: &str) -> BundlePath {
    BundlePath::parse(path).unwrap()
}

fn unpinned() -> Demand {
    Demand { allow_unpinned: true, ..Demand::default() }
}

fn sealing() -> Sealing {
    let name = ModelName::parse("llama").unwrap();
    Sealing::new(name, 7, "2026-11-22T07:00:00Z".into()).unwrap()
}

fn entries(sealing: &Sealing, paths: &[&str]) -> Vec<FileEntry> {
    paths
        .iter()
        .map(|text| FileEntry {
            path: path(text),
            mode: Mode::Plain,
            layout: Layout::of_plaintext(text.len() as u64).unwrap(),
            header: sealing.file(&path(text)).0,
            sha256: Digest::of(text.as_bytes()),
        })
        .collect()
}

/// A bundle of two files for `default/key/a`.
fn small() -> (Vec<u8>, Kek) {
    let sealing = sealing();
    let files = entries(&sealing, &["weights/w.bin", "config.json"]);
    let kek = Kek::random(uri("a"));
    let (json, digest) = sealing.finish(files, &[Recipient::released(&uri("a"), &kek)]).unwrap();
    assert_eq!(Bundle::parse(&json).unwrap().digest(), digest);
    (json, kek)
}

#[test]
fn opens_what_it_sealed() {
    let (json, kek) = small();
    let bundle = Bundle::parse(&json).unwrap();
    assert_eq!(bundle.recipients().collect::<Vec<_>>(), [&uri("a")]);
    let opened = bundle.open(&uri("a"), &kek, &unpinned()).unwrap();
    let manifest = opened.manifest();
    assert_eq!((manifest.name.as_str(), manifest.generation), ("llama", 7));
    let paths: Vec<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["config.json", "weights/w.bin"]);
}

#[test]
fn opens_for_each_recipient_whatever_its_algorithm_and_for_no_other() {
    let (sealing, gcm) = (sealing(), gcm_kek());
    let files = entries(&sealing, &["f"]);
    let keks = [Kek::random(uri("a")), gcm, Kek::random(uri("c"))];
    let uris = ["a", "b", "c"].map(uri);
    let recipients: Vec<_> =
        uris.iter().zip(&keks).map(|(uri, kek)| Recipient::released(uri, kek)).collect();
    let (json, digest) = sealing.finish(files, &recipients).unwrap();
    for Recipient { key: resource, kek, .. } in &recipients {
        let opened = Bundle::parse(&json).unwrap().open(resource, kek, &unpinned()).unwrap();
        assert_eq!(opened.digest(), digest);
    }
    let open = |resource: &KeyUri, kek: &Kek| {
        Bundle::parse(&json).unwrap().open(resource, kek, &unpinned()).map(drop)
    };
    assert!(matches!(open(&uris[0], &keks[1]), Err(Error::Unwrap)));
    let stranger = open(&uri("d"), &keks[0]);
    assert!(matches!(stranger, Err(Error::NoRecipient { resource }) if resource == uri("d")));
}

#[test]
fn a_bundle_may_not_choose_the_key_that_opens_it() {
    // The bucket renames the recipient: outer kid, or outer and inner.
    let (json, kek) = small();
    let text = String::from_utf8(json).unwrap();
    let outer = text.replace("kbs:///default/key/a", "kbs:///default/key/b");
    assert!(matches!(Bundle::parse(outer.as_bytes()), Err(Error::Malformed { .. })));
    let open = Bundle::parse(text.as_bytes()).unwrap().open(&uri("b"), &kek, &unpinned());
    assert!(matches!(open, Err(Error::NoRecipient { .. })));
}

#[test]
fn rewrap_changes_recipients_and_nothing_else() {
    let (json, kek) = small();
    let json = with_foreign_signature(&json);
    let before = Bundle::parse(&json).unwrap();
    let (b, c) = (Kek::random(uri("b")), gcm_kek());
    let rewrapped = before
        .rewrap(
            &uri("a"),
            &kek,
            &[Recipient::released(&uri("b"), &b), Recipient::released(&uri("c"), &c)],
        )
        .unwrap();
    let after = Bundle::parse(&rewrapped).unwrap();
    assert_eq!(after.recipients().collect::<Vec<_>>(), [&uri("b"), &uri("c")]);
    assert_eq!((after.digest(), after.claimed()), (before.digest(), before.claimed()));
    let envelope = |json: &[u8]| serde_json::from_slice::<Value>(json).unwrap()["envelope"].take();
    assert_eq!(envelope(&rewrapped), envelope(&json));
    assert!(after.open(&uri("b"), &b, &unpinned()).is_ok());
    let open = Bundle::parse(&rewrapped).unwrap().open(&uri("a"), &kek, &unpinned());
    assert!(matches!(open, Err(Error::NoRecipient { .. })));

    let refused = before.rewrap(&uri("a"), &b, &[Recipient::released(&uri("b"), &b)]);
    assert!(matches!(refused, Err(Error::Unwrap)));
    assert!(before.rewrap(&uri("a"), &kek, &[]).is_err());
    assert!(
        before
            .rewrap(
                &uri("a"),
                &kek,
                &[Recipient::released(&uri("b"), &b), Recipient::released(&uri("b"), &c)]
            )
            .is_err()
    );
}

#[test]
fn freshness_is_asked_of_key_and_deployer() {
    let (json, kek) = small();
    let open = |kek: &Kek, demand: &Demand| {
        Bundle::parse(&json).unwrap().open(&uri("a"), kek, demand).map(drop)
    };
    assert!(matches!(open(&kek, &Demand::default()), Err(Error::Unpinned { .. })));
    let demand = |minimum| {
        let pin = Pin { min_generation: Some(minimum), digests: Vec::new() };
        Demand { pin, ..Demand::default() }
    };
    assert!(open(&kek, &demand(7)).is_ok());
    assert!(matches!(open(&kek, &demand(8)), Err(Error::Stale { found: 7, minimum: 8, .. })));
    let name = ModelName::parse("llama").unwrap();
    let pinned = kek.with_pins(Pins::from([(name, demand(8).pin)]));
    assert!(matches!(open(&pinned, &unpinned()), Err(Error::Stale { minimum: 8, .. })));
}

/// Byte ranges of what `docs/format.md` lists as unauthenticated: the JWE of recipients other than
/// the opener's, and signatures other than the key holder's.
fn unauthenticated(text: &str) -> Vec<std::ops::Range<usize>> {
    let other = text.find(r#"{"kid":"kbs:///default/key/b""#).unwrap();
    let recipients_end = text.find(r#"],"envelope""#).unwrap();
    let signature = text.find(r#"{"keyid":"publisher""#).unwrap();
    vec![other..recipients_end, signature..text.rfind(']').unwrap()]
}

#[test]
fn every_flipped_bit_is_refused_or_lies_in_a_listed_field_and_changes_nothing() {
    let sealing = sealing();
    let files = entries(&sealing, &["a/\u{fc} \"q\"", "b"]);
    let (a, b) = (Kek::random(uri("a")), gcm_kek());
    let (json, digest) = sealing
        .finish(files, &[Recipient::released(&uri("a"), &a), Recipient::released(&uri("b"), &b)])
        .unwrap();
    let json = with_foreign_signature(&json);
    let listed = unauthenticated(std::str::from_utf8(&json).unwrap());
    let manifest = Bundle::parse(&json).unwrap().claimed().clone();
    let (mut refused, mut harmless) = (0, 0);
    for bit in 0..json.len() * 8 {
        let mut changed = json.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let opened =
            Bundle::parse(&changed).and_then(|bundle| bundle.open(&uri("a"), &a, &unpinned()));
        let Ok(opened) = opened else {
            refused += 1;
            continue;
        };
        let place = bit / 8;
        assert!(listed.iter().any(|range| range.contains(&place)), "byte {place}");
        assert_eq!((opened.manifest(), opened.digest()), (&manifest, digest));
        harmless += 1;
    }
    assert!(refused > 15_000 && harmless > 500, "{refused} refused, {harmless} harmless");
}

#[test]
fn every_truncation_and_extension_is_refused() {
    let (json, _) = small();
    for length in 0..json.len() {
        assert!(Bundle::parse(&json[..length]).is_err(), "{length}");
    }
    for tail in ["\n", " ", "{}", "\0"] {
        assert!(Bundle::parse(&[&json, tail.as_bytes()].concat()).is_err(), "{tail:?}");
        assert!(Bundle::parse(&[tail.as_bytes(), &json].concat()).is_err(), "{tail:?}");
    }
}

#[test]
fn what_is_no_bundle_is_told_from_a_damaged_one_and_a_newer_one() {
    for plain in ["", "x", "[]", "{}", r#"{"model_type":"llama"}"#, r#"{"format":1}"#, "\u{feff}{}"]
    {
        let refused = Bundle::parse(plain.as_bytes());
        assert!(matches!(refused, Err(Error::NotSealed(_))), "{plain}");
    }
    for newer in [r#"{"format":"sealift/v2"}"#, r#"{"x":1,"format":"pt"}"#] {
        let refused = Bundle::parse(newer.as_bytes());
        assert!(matches!(refused, Err(Error::Unsupported { what: "format", .. })), "{newer}");
    }
    for damaged in [r#"{"format":"sealift/v1"}"#, r#"{"format":"sealift/v1","rec"#] {
        let refused = Bundle::parse(damaged.as_bytes());
        assert!(matches!(refused, Err(Error::Malformed { .. })), "{damaged}");
    }
    let (json, _) = small();
    let spaced = String::from_utf8(json).unwrap().replacen(':', ": ", 1);
    assert!(matches!(Bundle::parse(spaced.as_bytes()), Err(Error::Malformed { .. })));
    let long = vec![b' '; MANIFEST_BYTES_MAX + 1];
    assert!(matches!(Bundle::parse(&long), Err(Error::Limit { .. })));
}

#[test]
fn refuses_every_other_spelling_of_the_same_document() {
    let (json, _) = small();
    let json = with_foreign_signature(&json);
    let text = std::str::from_utf8(&json).unwrap();
    for (from, to) in [
        (r#""kid":"#, r#""kid": "#),
        ("kbs:///", r"kbs:\/\/\/"),
        (r#""kid""#, r#""\u006bid""#),
        ("sealift-dek", r"sealift-de\u006b"),
        (r#","tag":"#, r#","tag":"","tag":"#),
        (r#","tag":"#, r#","unknown":1,"tag":"#),
        (r#","aad":"#, r#","aad":null,"AAD":"#),
        ("}\n", "}\r\n"),
        ("}\n", "}"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let refused = Bundle::parse(changed.as_bytes());
        assert!(matches!(refused, Err(Error::Malformed { .. })), "{to}");
    }
    // Members in another order.
    let tree: Value = serde_json::from_str(text).unwrap();
    let sorted = format!(
        "{{\"envelope\":{},\"format\":\"sealift/v1\",\"recipients\":{}}}\n",
        tree["envelope"], tree["recipients"]
    );
    assert!(matches!(Bundle::parse(sorted.as_bytes()), Err(Error::Malformed { .. })));
    // A struct given as an array.
    let array =
        text.replacen(r#""envelope":{"#, r#""envelope":[{"#, 1).replace("}]}}\n", "}]}]}\n");
    assert!(Bundle::parse(array.as_bytes()).is_err());
}

#[test]
fn refuses_recipients_beyond_the_limits_doubled_or_of_another_bundle() {
    let (json, kek) = small();
    let bundle = Bundle::parse(&json).unwrap();
    let uris: Vec<_> = (0..=RECIPIENTS_MAX).map(|i| uri(&i.to_string())).collect();
    let rewrap = |count: usize| {
        let recipients: Vec<_> =
            uris[..count].iter().map(|uri| Recipient::released(uri, &kek)).collect();
        bundle.rewrap(&uri("a"), &kek, &recipients)
    };
    assert!(rewrap(RECIPIENTS_MAX).is_ok());
    assert!(matches!(rewrap(RECIPIENTS_MAX + 1), Err(Error::Limit { limit: 16, .. })));
    assert!(matches!(rewrap(0), Err(Error::Malformed { what: "recipient", .. })));

    let text = std::str::from_utf8(&json).unwrap();
    let recipient = |text: &str| {
        let start = text.find(r#"{"kid""#).unwrap();
        text[start..text.find(r#"],"envelope""#).unwrap()].to_owned()
    };
    let ours = recipient(text);
    let (other, _) = small();
    let theirs = recipient(std::str::from_utf8(&other).unwrap());
    for recipients in [format!("{ours},{ours}"), theirs.clone(), format!("{ours},{theirs}")] {
        let spliced = text.replacen(&ours, &recipients, 1);
        let refused = Bundle::parse(spliced.as_bytes());
        assert!(matches!(refused, Err(Error::Malformed { what: "recipient", .. })));
    }
}

#[test]
fn recipients_for_other_keys_are_held_to_the_format_too() {
    let sealing = sealing();
    let files = entries(&sealing, &["f"]);
    let (a, b) = (Kek::random(uri("a")), gcm_kek());
    let (json, _) = sealing
        .finish(files, &[Recipient::released(&uri("a"), &a), Recipient::released(&uri("b"), &b)])
        .unwrap();
    let text = std::str::from_utf8(&json).unwrap();
    let (before, theirs) = text.split_at(text.find(r#"{"kid":"kbs:///default/key/b""#).unwrap());
    let member = |name: &str| {
        let (_, rest) = theirs.split_once(&format!(r#""{name}":""#)).unwrap();
        rest.split_once('"').unwrap().0
    };
    let with = |name: &str, value: &str| {
        let (from, to) =
            (format!(r#""{name}":"{}""#, member(name)), format!(r#""{name}":"{value}""#));
        Bundle::parse(format!("{before}{}", theirs.replacen(&from, &to, 1)).as_bytes())
    };
    assert!(with("iv", &URL_SAFE_NO_PAD.encode([0; 12])).is_ok());
    for (name, bytes) in [("encrypted_key", 32), ("iv", 12), ("ciphertext", 32), ("tag", 16)] {
        for bytes in [0, bytes - 1, bytes + 1, 1 << 16] {
            let refused = with(name, &URL_SAFE_NO_PAD.encode(vec![0; bytes]));
            assert!(matches!(refused, Err(Error::Malformed { what: "recipient", .. })), "{name}");
        }
    }
    let protected =
        String::from_utf8(URL_SAFE_NO_PAD.decode(member("protected")).unwrap()).unwrap();
    for (from, to) in [
        ("A256GCMKW", "A256KW"),
        ("A256GCMKW", "dir"),
        (r#""A256GCM""#, r#""A128GCM""#),
        ("key/b", "key/c"),
        (r#""kid":"#, r#""typ":"JWE","kid":"#),
        (r#""kid":"#, r#""kid": "#),
        (r#","iv":""#, r#","iv":"AAAA"#),
        (r#","tag":""#, r#","tag":"AAAA"#),
        (r#"}"#, r#","apu":"AA"}"#),
    ] {
        let changed = protected.replacen(from, to, 1);
        assert_ne!(changed, protected);
        let refused = with("protected", &URL_SAFE_NO_PAD.encode(&changed));
        assert!(matches!(refused, Err(Error::Malformed { what: "recipient", .. })), "{changed}");
    }
}

#[test]
fn a_manifest_of_another_bundle_is_refused_even_under_the_same_key() {
    let kek = Kek::random(uri("a"));
    let seal = || {
        let sealing = sealing();
        let files = entries(&sealing, &["f"]);
        let json = sealing.finish(files, &[Recipient::released(&uri("a"), &kek)]).unwrap().0;
        String::from_utf8(json).unwrap()
    };
    let (one, two) = (seal(), seal());
    let split = |text: &str| {
        let (recipients, envelope) = text.split_once(r#","envelope""#).unwrap();
        (recipients.to_owned(), envelope.to_owned())
    };
    let (recipients, _) = split(&one);
    let (_, envelope) = split(&two);
    let mixed = format!(r#"{recipients},"envelope"{envelope}"#);
    assert!(matches!(Bundle::parse(mixed.as_bytes()), Err(Error::Malformed { .. })));
}

#[test]
fn a_forged_manifest_is_told_from_a_wrong_key() {
    let (json, kek) = small();
    let forged = with_payload(&json, |payload| payload.replacen(r#""size":11"#, r#""size":12"#, 1));
    let refused = Bundle::parse(&forged).unwrap().open(&uri("a"), &kek, &unpinned());
    assert!(matches!(refused, Err(Error::ManifestForged)));
    let bundle = Bundle::parse(&forged).unwrap();
    let refused = bundle.rewrap(&uri("a"), &kek, &[Recipient::released(&uri("a"), &kek)]);
    assert!(matches!(refused, Err(Error::ManifestForged)));
}

#[test]
fn refuses_envelopes_without_exactly_one_key_holder() {
    let (json, _) = small();
    let text = std::str::from_utf8(&json).unwrap();
    let start = text.find(r#"{"keyid""#).unwrap();
    let ours = &text[start..text.rfind("]").unwrap()];
    let others = |count: usize| vec![r#"{"keyid":"p","sig":"AA=="}"#; count].join(",");
    for (signatures, accepted) in [
        (String::new(), false),
        (format!("{ours},{ours}"), false),
        (others(1), false),
        (ours.replace("sealift-dek", "sealift-DEK"), false),
        (format!("{ours},{}", others(16)), true),
        (format!("{},{ours}", others(3)), true),
        (format!("{ours},{}", others(17)), false),
        (format!(r#"{ours},{{"keyid":"p","sig":"AA"}}"#), false),
        (format!(r#"{ours},{{"sig":"AA=="}}"#), false),
        (format!(r#"{ours},{{"keyid":"p","sig":"AA==","cert":""}}"#), false),
    ] {
        let changed = text.replacen(ours, &signatures, 1);
        assert_eq!(Bundle::parse(changed.as_bytes()).is_ok(), accepted, "{signatures}");
    }
    let typed = text.replacen("vnd.in-toto+json", "vnd.in-toto+jsox", 1);
    assert!(matches!(Bundle::parse(typed.as_bytes()), Err(Error::Unsupported { .. })));
}

#[test]
fn refuses_kinds_that_it_does_not_know_as_such() {
    let (json, _) = small();
    for (from, to) in [
        ("in-toto.io/Statement/v1", "in-toto.io/Statement/v2"),
        ("urn:sealift:bundle:v1", "urn:sealift:bundle:v2"),
        (r#""predicate":{"format":"sealift/v1""#, r#""predicate":{"format":"sealift/v2""#),
        ("AES256_GCM_HKDF_1MB", "AES256_GCM_HKDF_4KB"),
    ] {
        let changed = with_payload(&json, |payload| payload.replacen(from, to, 1));
        let refused = Bundle::parse(&changed);
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{to}");
    }
}

#[test]
fn refuses_predicates_that_break_a_rule() {
    let (json, _) = small();
    let header = STANDARD.encode([40; 40]);
    for (from, to) in [
        // Names.
        (r#""bundleId":""#, r#""bundleId":"0"#),
        (r#""bundleId":""#, r#""bundleId":"A"#),
        (r#""name":"llama""#, r#""name":"/llama""#),
        (r#""path":"config.json""#, r#""path":"../config.json""#),
        (r#""path":"config.json""#, r#""path":"/config.json""#),
        (r#""path":"config.json""#, r#""path":"config2.json""#),
        (r#""object":"config.json.sealed""#, r#""object":"weights/w.bin.sealed""#),
        (r#"{"name":"config.json.sealed""#, r#"{"name":"weights/w.bin.sealed""#),
        (r#"{"name":"config.json.sealed""#, r#"{"name":"config.json""#),
        // Numbers.
        (r#""generation":7"#, r#""generation":-1"#),
        (r#""generation":7"#, r#""generation":7.0"#),
        (r#""generation":7"#, r#""generation":"7""#),
        (r#""generation":7"#, r#""generation":9007199254740992"#),
        (r#""size":11"#, r#""size":1e1"#),
        (r#""size":11"#, r#""size":4503599627370496"#),
        (r#""size":11"#, r#""size":18446744073709551616"#),
        // Others.
        (
            r#"{"name":"config.json.sealed""#,
            r#"{"name":"x","digest":{"sha256":""}},{"name":"config.json.sealed""#,
        ),
        (r#""created":"2026-11-22T07:00:00Z""#, r#""created":"2026-11-22""#),
        (r#""mode":"0644""#, r#""mode":"0755 ""#),
        (r#""mode":"0644""#, r#""mode":"4755""#),
        (r#""mode":"0644""#, r#""mode":420"#),
        (r#""header":""#, r#""header":"A"#),
        (r#""header":"KA"#, r#""header":"AA"#),
        (r#""files":["#, r#""files":[],"x":["#),
        (r#""files":["#, r#""extra":1,"files":["#),
        (r#""predicate":{"#, r#""predicate": {"#),
        (r#"{"_type""#, r#" {"_type""#),
        (r#""sha256":""#, r#""sha256":"A"#),
        (r#""digest":{"#, r#""digest":{"sha512":"","#),
    ] {
        // Headers are random: make the searched one certain.
        let json = with_payload(&json, |payload| {
            let at = payload.find(r#""header":""#).unwrap() + 10;
            format!("{}{header}{}", &payload[..at], &payload[at + header.len()..])
        });
        let from = from.replace("\"header\":\"KA", "\"header\":\"KC");
        let changed = with_payload(&json, |payload| {
            let changed = payload.replacen(&from, to, 1);
            assert_ne!(changed, payload, "{from}");
            changed
        });
        assert!(Bundle::parse(&json).is_ok());
        assert!(Bundle::parse(&changed).is_err(), "{from} -> {to}");
    }
}

#[test]
fn refuses_sums_that_a_json_number_could_not_hold() {
    let sealing = sealing();
    let paths = ["a", "b", "c"];
    let mut files = entries(&sealing, &paths);
    for file in &mut files {
        file.layout = Layout::of_plaintext(Layout::PLAINTEXT_BYTES_MAX).unwrap();
    }
    let kek = Kek::random(uri("a"));
    let refused = sealing.finish(files, &[Recipient::released(&uri("a"), &kek)]);
    assert!(matches!(refused, Err(Error::Limit { what: "sum of sizes", .. })));
}

#[test]
fn the_writer_keeps_the_readers_rules() {
    let kek = Kek::random(uri("a"));
    let finish = |paths: &[&str]| {
        let sealing = sealing();
        let files = entries(&sealing, paths);
        sealing.finish(files, &[Recipient::released(&uri("a"), &kek)]).map(drop)
    };
    assert!(matches!(finish(&[]), Err(Error::Malformed { .. })));
    assert!(matches!(finish(&["a", "a"]), Err(Error::Name { .. })));
    assert!(matches!(finish(&["A", "a"]), Err(Error::Name { .. })));
    assert!(matches!(finish(&["a", "a/b"]), Err(Error::Name { .. })));
    let name = || ModelName::parse("m").unwrap();
    let too_high =
        Sealing::new(name(), Manifest::GENERATION_MAX + 1, "2026-01-01T00:00:00Z".into());
    assert!(matches!(too_high, Err(Error::Limit { .. })));
    for created in [
        "",
        "now",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00+00:00",
        "2026-01-01t00:00:00z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00.0123456789Z",
        "2026-01-01T00:00:0\u{fc}Z",
    ] {
        assert!(Sealing::new(name(), 1, created.into()).is_err(), "{created}");
    }
    assert!(Sealing::new(name(), 1, "2026-01-01T00:00:00.123456Z".into()).is_ok());
}

#[test]
fn the_most_files_fit_and_one_more_is_refused() {
    let finish = |count: usize| {
        let sealing = sealing();
        let header = Header::random();
        let file = |index| FileEntry {
            path: path(&format!("shards/{index:05}")),
            mode: Mode::Executable,
            layout: Layout::of_plaintext(1 << 38).unwrap(),
            header,
            sha256: Digest::of(b""),
        };
        let kek = Kek::random(uri("a"));
        sealing.finish((0..count).map(file).collect(), &[Recipient::released(&uri("a"), &kek)])
    };
    let (json, _) = finish(Manifest::FILES_MAX).unwrap();
    let manifest = Bundle::parse(&json).unwrap().claimed().clone();
    assert_eq!(manifest.plaintext_bytes(), (Manifest::FILES_MAX as u64) << 38);
    assert!(manifest.ciphertext_bytes() > manifest.plaintext_bytes());
    assert!(matches!(finish(Manifest::FILES_MAX + 1), Err(Error::Limit { .. })));
}

fn gcm_kek() -> Kek {
    let k = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    let jwk = format!(r#"{{"kty":"oct","alg":"A256GCMKW","k":"{k}"}}"#);
    Kek::parse(&Secret::copy(jwk.as_bytes()).unwrap()).unwrap()
}

fn with_foreign_signature(json: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(json).unwrap();
    let signed =
        text.replacen("}]}}\n", "},{\"keyid\":\"publisher\",\"sig\":\"c2lnbmVk\"}]}}\n", 1);
    assert_ne!(signed, text);
    signed.into_bytes()
}

/// `json` with its DSSE payload edited; the signature stays as it was.
fn with_payload(json: &[u8], edit: impl FnOnce(&str) -> String) -> Vec<u8> {
    let text = std::str::from_utf8(json).unwrap();
    let (before, rest) = text.split_once(r#""payload":""#).unwrap();
    let (payload, after) = rest.split_once('"').unwrap();
    let payload = String::from_utf8(STANDARD.decode(payload).unwrap()).unwrap();
    let payload = STANDARD.encode(edit(&payload));
    format!(r#"{before}"payload":"{payload}"{after}"#).into_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parsing_never_panics(json: Vec<u8>, text in ".*") {
        let _ = Bundle::parse(&json);
        let _ = Bundle::parse(text.as_bytes());
        let _ = Bundle::parse(format!(r#"{{"format":"sealift/v1",{text}"#).as_bytes());
    }

    #[test]
    fn what_is_sealed_opens_to_the_same_manifest(
        paths in prop::collection::btree_set("[a-z]{1,8}(/[0-9\u{e0}-\u{f6}\"' ]{1,8}){0,3}", 1..20),
        generation in 0..=Manifest::GENERATION_MAX,
        size in 0..=1u64 << 40,
        executable: bool,
    ) {
        let sealing =
            Sealing::new(ModelName::parse("m").unwrap(), generation, "2026-01-01T00:00:00Z".into());
        let sealing = sealing.unwrap();
        let files: Vec<FileEntry> = paths
            .iter()
            .map(|text| FileEntry {
                path: path(text),
                mode: Mode::from_bits(if executable { 0o100 } else { 0o600 }),
                layout: Layout::of_plaintext(size).unwrap(),
                header: sealing.file(&path(text)).0,
                sha256: Digest::of(text.as_bytes()),
            })
            .collect();
        let kek = Kek::random(uri("a"));
        let sealed = sealing.finish(files.clone(), &[Recipient::released(&uri("a"), &kek)]);
        let Ok((json, digest)) = sealed else {
            // A file that is also a directory of another.
            return Ok(());
        };
        let opened = Bundle::parse(&json).unwrap().open(&uri("a"), &kek, &unpinned()).unwrap();
        prop_assert_eq!(opened.digest(), digest);
        prop_assert_eq!(opened.manifest().generation, generation);
        prop_assert_eq!(&opened.manifest().files, &files);
    }
}
