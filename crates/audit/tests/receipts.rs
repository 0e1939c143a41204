//! Receipts of a broker in a guest's log, signed by a broker of the test's own. SPECIFICATION P8.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};

use audit::{
    BrokerKeys, Countersigned, Event, Head, Log, PART_BYTES_MIN, Parts, RECEIPT_BYTES_MAX,
    Uncountersigned, Unreceipted, verify, verify_receipts,
};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Signs as the broker does, and keeps a log.
struct Broker {
    pair: EcdsaKeyPair,
    kid: &'static str,
    path: PathBuf,
    log: Log,
}

impl Broker {
    fn new(dir: &Path, kid: &'static str) -> Self {
        let path = dir.join(format!("{kid}.log"));
        let log = Log::file_in_parts(&path, PART_BYTES_MIN).unwrap();
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { pair, kid, path, log }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|half| URL_SAFE_NO_PAD.encode(half));
        json!({ "kty": "EC", "crv": "P-256", "kid": self.kid, "x": x, "y": y })
    }

    fn keys(&self) -> BrokerKeys {
        BrokerKeys::parse(json!({ "keys": [self.jwk()] }).to_string().as_bytes()).unwrap()
    }

    fn sign(&self, header: &Value, payload: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(header), encode(payload));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn header(&self) -> Value {
        json!({ "alg": "ES256", "typ": "sealift-receipt+jwt", "kid": self.kid })
    }

    /// Records a release; what it would sign of it.
    fn release(&self, resource: &str) -> Value {
        let text = str::to_owned;
        let released = Event::ResourceReleased {
            resource: text(resource),
            tee: text("snp"),
            claims_digest: text("c1"),
            policy_digest: text("p1"),
            client: text("10.0.0.7:1"),
            key_thumbprint: text("t1"),
        };
        let Head { seq, hash } = self.log.record_at(released).unwrap();
        json!({
            "resource": resource, "tee": "snp", "key_thumbprint": "t1", "claims_digest": "c1",
            "policy_digest": "p1", "time": 1_800_000_000, "seq": seq, "hash": hash,
        })
    }

    fn receipt(&self, resource: &str) -> String {
        self.sign(&self.header(), &self.release(resource))
    }
}

const ONE: &str = "kbs:///team/model/one";
const TWO: &str = "kbs:///team/model/two";

/// A guest's log with these records of keys.
fn guest(records: &[(&str, &str, Option<&str>)]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest.log");
    let log = Log::file(&path).unwrap();
    for &(resource, source, receipt) in records {
        let (resource, source) = (resource.to_owned(), source.to_owned());
        let receipt = receipt.map(str::to_owned);
        log.record(Event::KeyReleased { resource, source, model: None, receipt }).unwrap();
    }
    std::fs::read(path).unwrap()
}

fn scene() -> (TempDir, Broker) {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::new(dir.path(), "b1");
    (dir, broker)
}

fn check(log: &[u8], keys: &BrokerKeys, required: bool) -> Result<Countersigned, Uncountersigned> {
    against(log, keys, required, None)
}

fn against(
    log: &[u8],
    keys: &BrokerKeys,
    required: bool,
    brokers: Option<&[u8]>,
) -> Result<Countersigned, Uncountersigned> {
    let dir = tempfile::tempdir().unwrap();
    let saved = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Parts::of(&[path]).unwrap()
    };
    let brokers = brokers.map(|bytes| saved("brokers", bytes));
    verify_receipts(&saved("guests", log), keys, required, brokers.as_ref())
}

/// Number of the record, and why.
#[track_caller]
fn refused(result: Result<Countersigned, Uncountersigned>) -> (u64, Unreceipted) {
    match result {
        Err(Uncountersigned::Record { seq, why }) => (seq, why),
        other => panic!("{other:?}"),
    }
}

#[test]
fn good_receipts_are_counted_and_found_in_the_brokers_log() {
    let (_dir, broker) = scene();
    let (one, two) = (broker.receipt(ONE), broker.receipt(TWO));
    let log = guest(&[
        (ONE, "kbs", Some(&one)),
        (ONE, "file", None),
        (TWO, "kbs", Some(&two)),
        (TWO, "kbs", None),
    ]);
    let counted = Countersigned { releases: 3, countersigned: 2 };
    assert_eq!(check(&log, &broker.keys(), false).unwrap(), counted);
    let brokers = std::fs::read(&broker.path).unwrap();
    let both = against(&log, &broker.keys(), false, Some(&brokers));
    assert_eq!(both.unwrap(), counted);
    // One that has none, where all must have one.
    assert_eq!(refused(check(&log, &broker.keys(), true)), (4, Unreceipted::Missing));
    let all = guest(&[(ONE, "kbs", Some(&one)), (ONE, "file", None)]);
    assert_eq!(check(&all, &broker.keys(), true).unwrap().countersigned, 1);
}

#[test]
fn a_receipt_is_good_for_its_own_record_alone() {
    let (dir, broker) = scene();
    let (one, two) = (broker.receipt(ONE), broker.receipt(TWO));
    let swapped = guest(&[(ONE, "kbs", Some(&two)), (TWO, "kbs", Some(&one))]);
    let result = check(&swapped, &broker.keys(), false);
    assert_eq!(refused(result), (1, Unreceipted::OtherResource));
    let twice = guest(&[(ONE, "kbs", Some(&one)), (ONE, "kbs", Some(&one))]);
    assert_eq!(refused(check(&twice, &broker.keys(), false)), (2, Unreceipted::Repeated));
    let other = Broker::new(dir.path(), "b2");
    let theirs = guest(&[(ONE, "kbs", Some(&other.receipt(ONE)))]);
    assert_eq!(refused(check(&theirs, &broker.keys(), false)), (1, Unreceipted::OtherBroker));
    // One that uses our broker's name for its key.
    let posing = Broker { kid: "b1", ..other };
    let theirs = guest(&[(ONE, "kbs", Some(&posing.receipt(ONE)))]);
    assert_eq!(refused(check(&theirs, &broker.keys(), false)), (1, Unreceipted::WrongSignature));
}

#[test]
fn what_the_brokers_log_does_not_say_is_refused() {
    let (dir, broker) = scene();
    let payload = broker.release(ONE);
    broker.log.record(Event::PolicyChanged { digest: "d".into() }).unwrap();
    let brokers = std::fs::read(&broker.path).unwrap();
    let check = |payload: &Value| {
        let receipt = broker.sign(&broker.header(), payload);
        let log = guest(&[(ONE, "kbs", Some(&receipt))]);
        against(&log, &broker.keys(), true, Some(&brokers))
    };
    check(&payload).unwrap();
    // Signed by the very broker, and not what its log says.
    let (tee, seq) = (json!("tdx"), json!(2));
    let hash = json!(verify(&brokers[..]).unwrap().head);
    for (name, value) in [
        ("tee", &tee),
        ("key_thumbprint", &tee),
        ("claims_digest", &tee),
        ("policy_digest", &tee),
        ("seq", &seq),
        ("hash", &hash),
    ] {
        let mut changed = payload.clone();
        changed[name] = value.clone();
        assert_eq!(refused(check(&changed)), (1, Unreceipted::NotInBrokerLog), "{name}");
    }
    // Another broker's log, whole as it is, and this one's, cut and changed.
    let log = guest(&[(ONE, "kbs", Some(&broker.sign(&broker.header(), &payload)))]);
    let other = Broker::new(dir.path(), "b2");
    other.release(ONE);
    let others = std::fs::read(&other.path).unwrap();
    let result = against(&log, &broker.keys(), true, Some(&others));
    assert_eq!(refused(result), (1, Unreceipted::NotInBrokerLog));
    let changed = String::from_utf8(brokers.clone()).unwrap().replace("snp", "tdx");
    let result = against(&log, &broker.keys(), true, Some(changed.as_bytes()));
    assert!(matches!(result, Err(Uncountersigned::BrokerLog(_))), "{result:?}");
    let result = against(&log[..log.len() - 1], &broker.keys(), true, None);
    assert!(matches!(result, Err(Uncountersigned::Log(_))), "{result:?}");
}

#[test]
fn receipts_are_found_in_a_log_of_parts() {
    let (dir, broker) = scene();
    let mut receipts = Vec::new();
    while receipts.len() < 100 {
        receipts.push(broker.receipt(ONE));
    }
    let records: Vec<_> = receipts.iter().map(|receipt| (ONE, "kbs", Some(&receipt[..]))).collect();
    let guests = dir.path().join("guests");
    std::fs::write(&guests, guest(&records)).unwrap();
    let guests = Parts::of(&[guests]).unwrap();
    let brokers = Parts::of(std::slice::from_ref(&broker.path)).unwrap();
    assert!(brokers.files().len() > 2, "{brokers:?}");
    let found = verify_receipts(&guests, &broker.keys(), true, Some(&brokers)).unwrap();
    assert_eq!(found, Countersigned { releases: 100, countersigned: 100 });
    std::fs::remove_file(&brokers.files()[0]).unwrap();
    let rest = Parts::of(std::slice::from_ref(&broker.path)).unwrap();
    let result = verify_receipts(&guests, &broker.keys(), true, Some(&rest));
    let Err(Uncountersigned::BrokerLog(broken)) = result else { panic!("{result:?}") };
    assert_eq!((broken.line, broken.path.as_deref()), (1, Some(brokers.files()[1].as_path())));
}

#[test]
fn every_byte_of_a_receipt_counts() {
    let (_dir, broker) = scene();
    let (keys, receipt) = (broker.keys(), broker.receipt(ONE));
    assert_eq!(keys.verify(&receipt).unwrap().resource, ONE);
    for end in 0..receipt.len() {
        assert!(keys.verify(&receipt[..end]).is_err(), "cut at {end}");
    }
    for at in 0..receipt.len() {
        for to in [b'A', b'z', b'.', b'='] {
            let mut changed = receipt.clone().into_bytes();
            if std::mem::replace(&mut changed[at], to) == to {
                continue;
            }
            let changed = String::from_utf8(changed).unwrap();
            assert!(keys.verify(&changed).is_err(), "{at} to {}", char::from(to));
        }
    }
    assert_eq!(keys.verify(&"x".repeat(1 << 20)), Err(Unreceipted::Malformed));
}

#[test]
fn another_form_is_no_receipt() {
    let (_dir, broker) = scene();
    let (keys, payload) = (broker.keys(), broker.release(ONE));
    for (name, value) in [
        ("alg", json!("none")),
        ("alg", json!("HS256")),
        // A token of the same key.
        ("typ", json!("JWT")),
        ("typ", Value::Null),
        ("kid", Value::Null),
        ("crit", json!(["x"])),
        ("jwk", broker.jwk()),
    ] {
        let mut header = broker.header();
        header[name] = value;
        let result = keys.verify(&broker.sign(&header, &payload));
        assert_eq!(result, Err(Unreceipted::Malformed), "{name}");
    }
    let result = keys.verify(&broker.sign(&broker.header(), &json!({ "resource": ONE })));
    assert_eq!(result, Err(Unreceipted::Malformed));
    // A long one is kept whole in the record.
    let long = format!("kbs:///{0}/{0}/{0}", "x".repeat(255));
    let receipt = broker.receipt(&long);
    assert!(receipt.len() > 1024 && receipt.len() <= RECEIPT_BYTES_MAX, "{}", receipt.len());
    let log = guest(&[(&long, "kbs", Some(&receipt))]);
    assert_eq!(check(&log, &keys, true).unwrap().countersigned, 1);
}

#[test]
fn files_that_are_no_key_set_are_refused() {
    let (_dir, broker) = scene();
    let jwk = broker.jwk();
    let with = |name: &str, value: Value| {
        let mut jwk = jwk.clone();
        jwk[name] = value;
        json!({ "keys": [jwk] }).to_string()
    };
    for bad in [
        String::new(),
        jwk.to_string(),
        json!({ "keys": [] }).to_string(),
        json!({ "keys": vec![jwk.clone(); 65] }).to_string(),
        with("kty", json!("RSA")),
        with("crv", json!("P-384")),
        with("x", json!("AA")),
        with("kid", Value::Null),
        with("pad", json!("x".repeat(64 << 10))),
    ] {
        assert!(BrokerKeys::parse(bad.as_bytes()).is_none(), "{bad:.100}");
    }
    // Others beside it do no harm.
    let other = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "e", "x": "AA" });
    let set = json!({ "keys": [other, broker.jwk()] }).to_string();
    BrokerKeys::parse(set.as_bytes()).unwrap().verify(&broker.receipt(ONE)).unwrap();
}
