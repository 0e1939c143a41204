//! [`Receipt`]: a broker's signature under a release, which ties the guest's log to the broker's.

use std::collections::HashMap;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::parts::Parts;
use crate::record::{RECEIPT_BYTES_MAX, Record};
use crate::verify::Broken;

/// `typ` of a receipt (RFC 7515 section 4.1.9): the key that signs it signs tokens too.
pub const RECEIPT_TYPE: &str = "sealift-receipt+jwt";

/// Longest file of public keys.
const JWKS_BYTES_MAX: usize = 64 * 1024;
/// Most keys in it.
const KEYS_MAX: usize = 64;
const COORDINATE_BYTES: usize = 32;

/// What a broker signs when it releases a resource. It has neither `iss` nor `exp`, so that nobody
/// takes it for a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The resource, `kbs:///<repo>/<type>/<tag>`.
    pub resource: String,
    /// Kind of TEE that asked.
    pub tee: String,
    /// RFC 7638 thumbprint of the key to which the answer is encrypted.
    pub key_thumbprint: String,
    /// SHA-256 of the claims that the policy saw, hex.
    pub claims_digest: String,
    /// SHA-256 of the policy, hex.
    pub policy_digest: String,
    /// Seconds since 1970, by the broker's clock.
    pub time: u64,
    /// Number of the broker's own record of this release.
    pub seq: u64,
    /// Hash of that record, hex.
    pub hash: String,
}

impl Receipt {
    /// The members that the broker's record has as well.
    fn is_of(&self, event: &Map<String, Value>) -> bool {
        let is = |name, value: &str| event.get(name).and_then(Value::as_str) == Some(value);
        is("event", "resource-released")
            && is("resource", &self.resource)
            && is("tee", &self.tee)
            && is("key_thumbprint", &self.key_thumbprint)
            && is("claims_digest", &self.claims_digest)
            && is("policy_digest", &self.policy_digest)
    }
}

/// Public keys of the brokers that are believed.
#[derive(Debug)]
pub struct BrokerKeys(HashMap<String, Vec<u8>>);

impl BrokerKeys {
    /// Reads a JWK set (RFC 7517), as the broker serves it at `/.well-known/jwks.json`. Keys that are
    /// not P-256, or have no `kid`, are left out; `None`: it is no such set, or no key is left.
    pub fn parse(jwks: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Map<String, Value>>,
        }
        if jwks.len() > JWKS_BYTES_MAX {
            return None;
        }
        let set: Set = serde_json::from_slice(jwks).ok()?;
        if set.keys.len() > KEYS_MAX {
            return None;
        }
        let keys: HashMap<_, _> = set.keys.iter().filter_map(key).collect();
        (!keys.is_empty()).then_some(Self(keys))
    }

    /// The content of a receipt, if one of these keys signed it.
    pub fn verify(&self, receipt: &str) -> Result<Receipt, Unreceipted> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Header {
            alg: String,
            typ: String,
            kid: String,
        }
        let malformed = || Unreceipted::Malformed;
        if receipt.len() > RECEIPT_BYTES_MAX {
            return Err(malformed());
        }
        let decode = |part| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed());
        let (message, signature) = receipt.rsplit_once('.').ok_or_else(malformed)?;
        let (header, payload) = message.split_once('.').ok_or_else(malformed)?;
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| malformed())?;
        if header.alg != "ES256" || header.typ != RECEIPT_TYPE {
            return Err(malformed());
        }
        let key = self.0.get(&header.kid).ok_or(Unreceipted::OtherBroker)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key)
            .verify(message.as_bytes(), &decode(signature)?)
            .map_err(|_| Unreceipted::WrongSignature)?;
        serde_json::from_slice(&decode(payload)?).map_err(|_| malformed())
    }
}

/// `kid`, and the point in SEC 1's uncompressed form.
fn key(jwk: &Map<String, Value>) -> Option<(String, Vec<u8>)> {
    let text = |name| jwk.get(name).and_then(Value::as_str);
    let coordinate = |name| {
        let bytes = URL_SAFE_NO_PAD.decode(text(name)?).ok()?;
        (bytes.len() == COORDINATE_BYTES).then_some(bytes)
    };
    if text("kty") != Some("EC") || text("crv") != Some("P-256") {
        return None;
    }
    Some((text("kid")?.to_owned(), [vec![4], coordinate("x")?, coordinate("y")?].concat()))
}

/// What the receipts of a log show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Countersigned {
    /// Records of keys that a broker released.
    pub releases: u64,
    /// Those among them that have a receipt; each is good.
    pub countersigned: u64,
}

/// Why a log is not what its broker says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Uncountersigned {
    /// The log that holds the receipts is broken.
    #[error("the log is broken: {0}: {why}", why = .0.why)]
    Log(Broken),
    /// The broker's log is broken.
    #[error("the broker's log is broken: {0}: {why}", why = .0.why)]
    BrokerLog(Broken),
    /// A record's receipt does not hold.
    #[error("record {seq}: {why}")]
    Record {
        /// Number of the record in the log that holds the receipt.
        seq: u64,
        /// Why not.
        why: Unreceipted,
    },
}

/// What is wrong with one receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unreceipted {
    /// It does not have a receipt's form.
    #[error("the receipt is malformed")]
    Malformed,
    /// No key of that name is among those that are believed.
    #[error("the receipt is of another broker")]
    OtherBroker,
    /// It was changed, or is of somebody else.
    #[error("the receipt's signature is wrong")]
    WrongSignature,
    /// It is of another resource.
    #[error("the receipt is of another resource than the record")]
    OtherResource,
    /// An earlier record has the same one.
    #[error("the receipt is already that of an earlier record")]
    Repeated,
    /// A broker released the key, and the record has none.
    #[error("a broker released the key and there is no receipt of it")]
    Missing,
    /// The broker's log has no such record, or it says something else.
    #[error("the broker's log does not have the record that the receipt names")]
    NotInBrokerLog,
}

/// Checks every receipt in `log`, which must be whole. `required`: a key that a broker released must
/// have one. With `broker_log`: its record of the release must be there, with that number, that hash
/// and the same content. Memory grows by some 100 bytes a receipt.
pub fn verify_receipts(
    log: &Parts,
    keys: &BrokerKeys,
    required: bool,
    broker_log: Option<&Parts>,
) -> Result<Countersigned, Uncountersigned> {
    let mut found = Countersigned::default();
    let mut receipts = HashMap::new();
    let mut wrong = None;
    let end = log.follow(|record, _| {
        if wrong.is_some() {
            return;
        }
        if let Err(why) = check(record, keys, required, &mut found, &mut receipts) {
            wrong = Some(Uncountersigned::Record { seq: record.seq, why });
        }
    });
    end.map_err(Uncountersigned::Log)?;
    if let Some(wrong) = wrong {
        return Err(wrong);
    }
    if let Some(broker_log) = broker_log {
        let each = |record: &Record, _| {
            let is_there =
                receipts.get(&record.hash).is_some_and(|(_, receipt): &(u64, Receipt)| {
                    receipt.seq == record.seq && receipt.is_of(&record.event)
                });
            if is_there {
                receipts.remove(&record.hash);
            }
        };
        broker_log.follow(each).map_err(Uncountersigned::BrokerLog)?;
        if let Some(&seq) = receipts.values().map(|(seq, _)| seq).min() {
            return Err(Uncountersigned::Record { seq, why: Unreceipted::NotInBrokerLog });
        }
    }
    Ok(found)
}

fn check(
    record: &Record,
    keys: &BrokerKeys,
    required: bool,
    found: &mut Countersigned,
    receipts: &mut HashMap<String, (u64, Receipt)>,
) -> Result<(), Unreceipted> {
    let text = |name| record.event.get(name).and_then(Value::as_str);
    if text("event") != Some("key-released") {
        return Ok(());
    }
    found.releases += u64::from(text("source") == Some("kbs"));
    let Some(receipt) = record.event.get("receipt") else {
        return match required && text("source") == Some("kbs") {
            true => Err(Unreceipted::Missing),
            false => Ok(()),
        };
    };
    let receipt = keys.verify(receipt.as_str().ok_or(Unreceipted::Malformed)?)?;
    if text("resource") != Some(receipt.resource.as_str()) {
        return Err(Unreceipted::OtherResource);
    }
    if receipts.insert(receipt.hash.clone(), (record.seq, receipt)).is_some() {
        return Err(Unreceipted::Repeated);
    }
    found.countersigned += 1;
    Ok(())
}
