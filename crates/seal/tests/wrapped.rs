//! Recipients whose keys are not released: their names, and `wrapped_key` in `sealift.json`.
#![expect(clippy::unwrap_used, reason = "tests")]

use seal::Error;
use seal::bundle::{Bundle, Recipient, Sealing, WRAPPED_KEY_BYTES_MAX};
use seal::key::Kek;
use seal::manifest::{FileEntry, Mode};
use seal::name::{BundlePath, Digest, KeyUri, ModelName, Pkcs11Object};
use seal::pin::Demand;
use seal::segment::Layout;
use secret::Secret;

const KBS: &str = "kbs:///default/key/a";
const TRANSIT: &str = "vault:///transit/keys/llama";
const GCP: &str =
    "gcpkms:///projects/acme-ml/locations/europe-west3/keyRings/models/cryptoKeys/llama";
const PLUGIN: &str = "kbs+pkcs11:///wrap-key";
const ARN: &str = "arn:aws:kms:eu-central-1:123456789012:key/0e2b-7f";

#[test]
fn every_kind_of_name_has_one_spelling() {
    for uri in [
        KBS,
        TRANSIT,
        "vault:///team-a/prod/keys/llama",
        "vault:///secret/data/models/llama#kek",
        "vault:///secret/data/keys/data#data",
        "vault:///keys/keys/keys",
        "awskms:///eu-central-1/0e2b7f3c-0000-4000-8000-000000000001",
        "awskms:///us-gov-west-1/mrk-1234",
        "awskms:///eu-central-1/alias/team/llama",
        &format!("awskms:///{ARN}"),
        "awskms:///arn:aws-cn:kms:cn-north-1:123456789012:alias/llama",
        GCP,
        "gcpkms:///projects/1234/locations/global/keyRings/Ring_1/cryptoKeys/K-1",
        "azurekms:///models.managedhsm.azure.net/keys/llama",
        "azurekms:///models.managedhsm.azure.net/keys/llama/0123456789abcdef0123456789abcdef",
        "azurekms:///models.vault.usgovcloudapi.net/keys/llama",
        PLUGIN,
        "kbs+pkcs11:///resource/a/b/c",
        "kbs+nebula-ca:///credential",
        "pkcs11:token=models;object=llama-kek",
        "pkcs11:token=My%20token%201;object=%C3%BC%3B%25",
        "pkcs11:token=models;id=%01%FF",
    ] {
        assert_eq!(KeyUri::parse(uri).unwrap().to_string(), uri);
    }
    let KeyUri::AwsKms(key) = KeyUri::parse(&format!("awskms:///{ARN}")).unwrap() else { panic!() };
    assert_eq!((key.region(), key.id()), ("eu-central-1", ARN));
    let KeyUri::Pkcs11(key) = KeyUri::parse("pkcs11:token=a%20b;id=%01%FF").unwrap() else {
        panic!()
    };
    assert_eq!((key.token(), key.object()), ("a b", &Pkcs11Object::Id(vec![1, 255])));
    let KeyUri::VaultKv(key) = KeyUri::parse("vault:///a/b/data/c/d#e").unwrap() else { panic!() };
    assert_eq!((key.api_path().as_str(), key.field()), ("a/b/data/c/d", "e"));
}

#[test]
fn only_keys_that_are_released_are_not_unwrapped_with() {
    let unwraps = |uri: &str| KeyUri::parse(uri).unwrap().unwraps();
    assert!(!unwraps(KBS) && !unwraps("vault:///secret/data/a#k"));
    assert!(!unwraps("kbs+pkcs11:///resource/a/b/c") && !unwraps("kbs+other:///wrap-key"));
    assert!(unwraps(TRANSIT) && unwraps("awskms:///r/k") && unwraps("pkcs11:token=t;object=o"));
    assert!(unwraps(GCP) && unwraps("azurekms:///a.managedhsm.azure.net/keys/k"));
    assert!(unwraps(PLUGIN));
}

#[test]
fn refuses_names_with_a_second_spelling_or_a_second_meaning() {
    for uri in [
        "",
        "vault:///",
        "vault://host/transit/keys/a",
        "vault:///keys/a",
        "vault:///transit/keys",
        "vault:///transit/keys/",
        "vault:///transit/keys/a/b",
        "vault:///transit/keys/a#f",
        "vault:///transit/keys/..",
        "vault:///transit/keys/a?b",
        "vault:///transit/encrypt/a",
        "vault:///secret/data/a",
        "vault:///secret/data/a#",
        "vault:///secret/data/a#b#c",
        "vault:///secret/data#b",
        "vault:///secret/data/a%2Fb#c",
        "vault:///a/keys/b/keys/c",
        "VAULT:///transit/keys/a",
        "awskms:///",
        "awskms:///region",
        "awskms:///region/",
        "awskms:///Region/key",
        "awskms:///region/a/b",
        "awskms:///region/alias/",
        "awskms:///region/alias/a:b",
        "awskms://endpoint/region/key",
        "awskms:///arn:aws:s3:eu-central-1:123456789012:key/a",
        "awskms:///arn:aws:kms:eu-central-1:12345678901:key/a",
        "awskms:///arn:aws:kms:eu-central-1:123456789012:key/",
        "awskms:///arn:aws:kms::123456789012:key/a",
        "awskms:///arn:aws:kms:eu-central-1:123456789012:key/a:b",
        "pkcs11:",
        "pkcs11:token=a",
        "pkcs11:object=a;token=b",
        "pkcs11:token=a;object=b;pin-value=1234",
        "pkcs11:token=a;object=b?pin-source=file:/x",
        "pkcs11:token=;object=b",
        "pkcs11:token=a;object=",
        "pkcs11:token=a;id=01",
        "pkcs11:token=a;id=%0",
        "pkcs11:token=a;id=%zz",
        "pkcs11:token=a;object=b c",
        "pkcs11:token=a;object=%62",
        "pkcs11:token=a;object=%c3%bc",
        "pkcs11:token=a;object=%FF",
        "pkcs11:token=a;object=%0A",
        "pkcs11:token=012345678901234567890123456789012;object=a",
        "gcpkms://projects/p",
        "gcpkms:///projects/p/locations/l/keyRings/r",
        "gcpkms:///projects/p/locations/l/keyRings/r/cryptoKeys/",
        "gcpkms:///projects/p/locations/l/keyRings/r/cryptoKeys/k/",
        "gcpkms:///projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
        "gcpkms:///projects/P/locations/l/keyRings/r/cryptoKeys/k",
        "gcpkms:///projects/p/locations/l/keyRings/r/cryptoKeys/k:decrypt",
        "gcpkms:///projects/../locations/l/keyRings/r/cryptoKeys/k",
        "azurekms:///",
        "azurekms://models.managedhsm.azure.net/keys/k",
        "azurekms:///models.managedhsm.azure.net.example/keys/k",
        "azurekms:///example.com/keys/k",
        "azurekms:///managedhsm.azure.net/keys/k",
        "azurekms:///a.b.managedhsm.azure.net/keys/k",
        "azurekms:///Models.managedhsm.azure.net/keys/k",
        "azurekms:///models.managedhsm.azure.net:443/keys/k",
        "azurekms:///models.managedhsm.azure.net/secrets/k",
        "azurekms:///models.managedhsm.azure.net/keys/a_b",
        "azurekms:///models.managedhsm.azure.net/keys/k/1",
        "azurekms:///models.managedhsm.azure.net/keys/k/0123456789ABCDEF0123456789abcdef",
        "kbs+:///a",
        "kbs+pkcs11://host/wrap-key",
        "kbs+pkcs11:///",
        "kbs+pkcs11:///wrap-key/",
        "kbs+pkcs11:///../resource/a",
        "kbs+pkcs11:///a?b=c",
        "kbs+PKCS11:///wrap-key",
        "kbs+resource:///a/b/c",
        "kbs+resource-policy:///a",
        "kbs+auth:///a",
        "kbs+x:///a/a/a/a/a/a/a/a/a",
        &format!("vault:///a/keys/{}", "k".repeat(256)),
        &format!("awskms:///r/{}", "k".repeat(129)),
        &format!("vault:///{}keys/k", "abc/".repeat(260)),
    ] {
        assert!(matches!(KeyUri::parse(uri), Err(Error::Name { .. })), "{uri}");
    }
}

fn key(uri: &str) -> KeyUri {
    KeyUri::parse(uri).unwrap()
}

fn unpinned() -> Demand {
    Demand { allow_unpinned: true, ..Demand::default() }
}

fn fresh() -> Kek {
    Kek::unwrapped(Secret::random_key()).unwrap()
}

/// A bundle for [`TRANSIT`], whose key has wrapped `kek` as `wrapped`, and for [`KBS`].
fn sealed(kek: &Kek, wrapped: &[u8], other: &Kek) -> Vec<u8> {
    let name = ModelName::parse("llama").unwrap();
    let sealing = Sealing::new(name, 7, "2026-11-22T07:00:00Z".into()).unwrap();
    let path = BundlePath::parse("a").unwrap();
    let file = FileEntry {
        header: sealing.file(&path).0,
        path,
        mode: Mode::Plain,
        layout: Layout::of_plaintext(1).unwrap(),
        sha256: Digest::of(b"a"),
    };
    let (transit, kbs) = (key(TRANSIT), key(KBS));
    let recipients = [
        Recipient { key: &transit, kek, wrapped_key: Some(wrapped) },
        Recipient::released(&kbs, other),
    ];
    sealing.finish(vec![file], &recipients).unwrap().0
}

#[test]
fn a_wrapped_key_comes_back_and_what_it_unwraps_to_opens_without_pins() {
    let (kek, other) = (fresh(), Kek::random(key(KBS)));
    let json = sealed(&kek, b"vault:v1:AAAA", &other);
    let bundle = Bundle::parse(&json).unwrap();
    assert_eq!(bundle.wrapped_key(&key(TRANSIT)).unwrap(), Some(&b"vault:v1:AAAA"[..]));
    assert_eq!(bundle.wrapped_key(&key(KBS)).unwrap(), None);
    let stranger = bundle.wrapped_key(&key("vault:///transit/keys/b"));
    assert!(matches!(stranger, Err(Error::NoRecipient { .. })));
    let open =
        |uri, kek, demand: &Demand| Bundle::parse(&json).unwrap().open(&key(uri), kek, demand);
    assert!(open(TRANSIT, &kek, &unpinned()).is_ok() && open(KBS, &other, &unpinned()).is_ok());
    assert!(matches!(open(TRANSIT, &other, &unpinned()), Err(Error::Unwrap)));
    assert!(matches!(open(TRANSIT, &kek, &Demand::default()), Err(Error::Unpinned { .. })));
}

#[test]
fn rewrap_goes_from_any_kind_to_any_other_and_keeps_the_digest() {
    let (kek, other) = (fresh(), Kek::random(key(KBS)));
    let before = Bundle::parse(&sealed(&kek, b"one", &other)).unwrap();
    let kms = key("awskms:///r/k");
    let next = fresh();
    let recipient = Recipient { key: &kms, kek: &next, wrapped_key: Some(b"two") };
    let after = before.rewrap(&key(TRANSIT), &kek, &[recipient]).unwrap();
    let after = Bundle::parse(&after).unwrap();
    assert_eq!(after.recipients().collect::<Vec<_>>(), [&kms]);
    assert_eq!(after.wrapped_key(&kms).unwrap(), Some(&b"two"[..]));
    let back = after.rewrap(&kms, &next, &[Recipient::released(&key(KBS), &other)]).unwrap();
    let back = Bundle::parse(&back).unwrap();
    assert_eq!(back.digest(), before.digest());
    assert!(back.open(&key(KBS), &other, &unpinned()).is_ok());
}

#[test]
fn a_wrapped_key_stands_where_its_kind_needs_it_and_nowhere_else() {
    let (kek, other) = (fresh(), Kek::random(key(KBS)));
    let bundle = Bundle::parse(&sealed(&kek, b"one", &other)).unwrap();
    let (transit, kbs) = (key(TRANSIT), key(KBS));
    let wrap = |recipient: Recipient<'_>| bundle.rewrap(&transit, &kek, &[recipient]).map(drop);
    let refused = |outcome| matches!(outcome, Err(Error::Malformed { what: "recipient", .. }));
    assert!(refused(wrap(Recipient::released(&transit, &kek))));
    assert!(refused(wrap(Recipient { key: &kbs, kek: &kek, wrapped_key: Some(b"one") })));
    assert!(refused(wrap(Recipient { key: &transit, kek: &kek, wrapped_key: Some(b"") })));
    let long = vec![7; WRAPPED_KEY_BYTES_MAX + 1];
    let wrap_long = |bytes| wrap(Recipient { key: &transit, kek: &kek, wrapped_key: Some(bytes) });
    assert!(matches!(wrap_long(&long), Err(Error::Limit { .. })));
    assert!(wrap_long(&long[1..]).is_ok());
}

#[test]
fn refuses_every_other_spelling_of_a_wrapped_key() {
    let json = sealed(&fresh(), b"one", &Kek::random(key(KBS)));
    let text = String::from_utf8(json).unwrap();
    let member = r#""wrapped_key":"b25l","#;
    assert!(text.contains(member));
    for other in [
        "",
        r#""wrapped_key":null,"#,
        r#""wrapped_key":"","#,
        r#""wrapped_key":1,"#,
        r#""wrapped_key":["b25l"],"#,
        r#""wrapped_key":"b25l=","#,
        r#""wrapped_key":"b25","#,
        r#""wrapped_key":"b25m ","#,
        r#""wrapped_key":"b25l","wrapped_key":"b25l","#,
        r#""wrapped_key": "b25l","#,
        r#""wrapped_keys":"b25l","#,
    ] {
        let refused = Bundle::parse(text.replacen(member, other, 1).as_bytes());
        assert!(matches!(refused, Err(Error::Malformed { .. })), "{other}");
    }
}

#[test]
fn a_wrap_that_was_moved_or_changed_opens_nothing() {
    let (kek, stolen, other) = (fresh(), fresh(), Kek::random(key(KBS)));
    let json = String::from_utf8(sealed(&kek, b"one", &other)).unwrap();
    // Another bundle's wrapped key: its holder unwraps it to that bundle's key.
    let moved = json.replacen("b25l", "dHdv", 1);
    let open = |text: &str, uri, kek| {
        Bundle::parse(text.as_bytes()).and_then(|bundle| bundle.open(&key(uri), kek, &unpinned()))
    };
    assert!(matches!(open(&moved, TRANSIT, &stolen), Err(Error::Unwrap)));
    // It is nothing to the other recipient.
    assert!(open(&moved, KBS, &other).is_ok());
    // A recipient as a whole is bound to its bundle and its name.
    let whole = String::from_utf8(sealed(&stolen, b"two", &other)).unwrap();
    let recipient = |text: &str| {
        let end = text.find(r#",{"kid":"kbs"#).unwrap();
        text[text.find(r#"{"kid""#).unwrap()..end].to_owned()
    };
    let spliced = json.replacen(&recipient(&json), &recipient(&whole), 1);
    assert!(matches!(open(&spliced, TRANSIT, &stolen), Err(Error::Malformed { .. })));
    let renamed = json.replace("transit/keys/llama", "transit/keys/other");
    assert!(matches!(open(&renamed, TRANSIT, &kek), Err(Error::Malformed { .. })));
}

#[test]
fn every_truncation_and_every_flipped_byte_is_refused_or_changes_the_wrapped_key_alone() {
    let (kek, other) = (fresh(), Kek::random(key(KBS)));
    let json = sealed(&kek, b"vault:v1:AAAA", &other);
    for length in 0..json.len() {
        assert!(Bundle::parse(&json[..length]).is_err(), "{length}");
    }
    let text = std::str::from_utf8(&json).unwrap();
    let start = text.find(r#""wrapped_key""#).unwrap();
    let wrapped = start..text[start..].find(r#","jwe""#).unwrap() + start;
    let theirs = text.find(r#",{"kid":"kbs"#).unwrap()..text.find(r#"],"envelope""#).unwrap();
    let mut harmless = 0;
    for at in 0..json.len() {
        for mask in [0x01, 0x20, 0x80] {
            let mut changed = json.clone();
            changed[at] ^= mask;
            let Ok(bundle) = Bundle::parse(&changed) else { continue };
            // With the right key whatever the wrapped key says: its holder would have refused.
            if bundle.open(&key(TRANSIT), &kek, &unpinned()).is_ok() {
                assert!(wrapped.contains(&at) || theirs.contains(&at), "byte {at}");
                harmless += 1;
            }
        }
    }
    assert!(harmless > 0);
}

#[test]
fn a_key_that_anybody_may_wrap_for_opens_by_a_manifest_digest_alone() {
    let (kek, other) = (fresh(), Kek::random(key(KBS)));
    let plugin = key(PLUGIN);
    let recipient = Recipient { key: &plugin, kek: &kek, wrapped_key: Some(b"rsa") };
    let transit = Bundle::parse(&sealed(&kek, b"one", &other)).unwrap();
    let json = transit.rewrap(&key(TRANSIT), &kek, &[recipient]).unwrap();
    let bundle = || Bundle::parse(&json).unwrap();
    let demand = |digests: Vec<Digest>| Demand {
        pin: seal::pin::Pin { min_generation: Some(1), digests },
        allow_unpinned: true,
        ..Demand::default()
    };
    let open = |demand: &Demand| bundle().open(&plugin, &kek, demand).map(drop);
    assert!(matches!(open(&demand(vec![])), Err(Error::Unvouched { .. })));
    assert!(matches!(open(&unpinned()), Err(Error::Unvouched { .. })));
    let wrong = Digest::of(b"another manifest");
    assert!(matches!(open(&demand(vec![wrong])), Err(Error::DigestMismatch { .. })));
    open(&demand(vec![bundle().digest()])).unwrap();
    let onwards = bundle().rewrap(&plugin, &kek, &[Recipient::released(&key(KBS), &other)]);
    assert!(matches!(onwards, Err(Error::Unvouched { .. })), "{onwards:?}");
}
