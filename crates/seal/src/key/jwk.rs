//! A key encryption key as a JWK (RFC 7517), with the freshness members of ours.
//!
//! Nothing here quotes the document in an error: it holds the key.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secret::Secret;
use serde::Serialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{Kek, Purpose, decode_key};
use crate::Error;
use crate::json;
use crate::manifest::Manifest;
use crate::name::{Digest, KeyUri, ModelName};
use crate::pin::{Pin, Pins};

/// What a JWK may say that its key is for. `A256GCM` is what upstream's own files use directly: such
/// a key may wrap as well.
pub(super) const ALGS: [&str; 3] = ["A256KW", "A256GCMKW", "A256GCM"];

/// What the key may be used for. Beside `sealift`, whose members are models.
pub(super) const PURPOSES: &str = "sealift_purposes";

/// Members of the JWK that we do not know are ignored (RFC 7517 §4); those of ours are not.
pub(super) fn parse(bytes: &[u8]) -> Result<Kek, Error> {
    let refuse = |why| Err(Error::KeyUnusable(why));
    let Ok(Value::Object(mut jwk)) = json::parse(bytes) else {
        return refuse("not strict JSON (are there duplicate members?)");
    };
    // Taken out first so that it is wiped whatever else is wrong.
    let k = match jwk.remove("k") {
        Some(Value::String(k)) => Zeroizing::new(k),
        _ => return refuse("a JWK without `k`"),
    };
    if jwk.get("kty").and_then(Value::as_str) != Some("oct") {
        return refuse("a JWK whose `kty` is not `oct`");
    }
    if jwk.get("use").is_some_and(|usage| usage != "enc") {
        return refuse("a JWK whose `use` is not `enc`");
    }
    let alg = match jwk.get("alg") {
        None => None,
        Some(alg) => match ALGS.into_iter().find(|known| alg == known) {
            None => return refuse("a JWK whose `alg` is not A256KW, A256GCMKW or A256GCM"),
            known => known,
        },
    };
    let Some(key) = decode_key(&URL_SAFE_NO_PAD, k.as_bytes()) else {
        return refuse("a JWK whose `k` is not 32 bytes in canonical base64url");
    };
    let resource = jwk.get("kid").and_then(Value::as_str).and_then(|kid| KeyUri::parse(kid).ok());
    let pins = match jwk.remove("sealift") {
        Some(Value::Object(models)) => {
            Some(parse_pins(models).ok_or(Error::KeyUnusable("a malformed pin in `sealift`"))?)
        }
        Some(_) => return refuse("`sealift` is not an object"),
        None => None,
    };
    let purposes = match jwk.get(PURPOSES) {
        Some(purposes) => Some(
            parse_purposes(purposes)
                .ok_or(Error::KeyUnusable("`sealift_purposes` is not a list of known purposes"))?,
        ),
        None => None,
    };
    Ok(Kek { key, alg, resource, pins, purposes })
}

/// A list with at least one, each known and there once: what a reader does not know it cannot keep to.
pub(super) fn parse_purposes(purposes: &Value) -> Option<Vec<Purpose>> {
    let listed = purposes.as_array().filter(|listed| !listed.is_empty())?;
    let mut purposes = Vec::new();
    for purpose in listed {
        let purpose = Purpose::parse(purpose.as_str()?)?;
        if purposes.contains(&purpose) {
            return None;
        }
        purposes.push(purpose);
    }
    Some(purposes)
}

/// What is said of each model; `None` if any of it is not understood.
pub(crate) fn parse_pins(models: Map<String, Value>) -> Option<Pins> {
    models.into_iter().map(parse_pin).collect()
}

fn parse_pin((name, pin): (String, Value)) -> Option<(ModelName, Pin)> {
    let Value::Object(mut pin) = pin else { return None };
    let name = ModelName::parse(&name).ok()?;
    let min_generation = match pin.remove("min_generation") {
        Some(minimum) => Some(minimum.as_u64().filter(|&min| min <= Manifest::GENERATION_MAX)?),
        None => None,
    };
    let digests = parse_digests(&mut pin)?;
    pin.is_empty().then_some((name, Pin { min_generation, digests }))
}

/// An empty list is refused: whether it means any or none would be a guess.
fn parse_digests(pin: &mut Map<String, Value>) -> Option<Vec<Digest>> {
    match pin.remove("digests") {
        None => Some(Vec::new()),
        Some(Value::Array(digests)) if !digests.is_empty() => {
            digests.iter().map(|digest| Digest::parse(digest.as_str()?).ok()).collect()
        }
        Some(_) => None,
    }
}

#[derive(Serialize)]
struct Jwk<'a> {
    kty: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    alg: Option<&'static str>,
    k: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealift: Option<BTreeMap<&'a str, JwkPin>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealift_purposes: Option<Vec<&'static str>>,
}

#[derive(Serialize)]
struct JwkPin {
    #[serde(skip_serializing_if = "Option::is_none")]
    min_generation: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    digests: Vec<String>,
}

pub(super) fn to_json(kek: &Kek) -> Result<Secret, Error> {
    let mut k = Zeroizing::new(String::with_capacity(44));
    URL_SAFE_NO_PAD.encode_string(kek.expose(), &mut k);
    let jwk = Jwk {
        kty: "oct",
        alg: kek.alg,
        k: &k,
        kid: kek.resource.as_ref().map(KeyUri::to_string),
        sealift: kek.pins.as_ref().map(|pins| {
            let to_jwk_pin = |pin: &Pin| JwkPin {
                min_generation: pin.min_generation,
                digests: pin.digests.iter().map(Digest::to_string).collect(),
            };
            pins.iter().map(|(name, pin)| (name.as_str(), to_jwk_pin(pin))).collect()
        }),
        sealift_purposes: kek
            .purposes
            .as_ref()
            .map(|purposes| purposes.iter().map(|purpose| purpose.name()).collect()),
    };
    // Room for all that a secret may hold, so that no growing vector leaves a copy behind.
    let mut json = Zeroizing::new(Vec::with_capacity(Secret::BYTES_MAX));
    serde_json::to_writer(&mut *json, &jwk).expect("strings and numbers into memory");
    let found = json.len() as u64;
    Secret::take(&mut json).map_err(|_| Error::Limit {
        what: "length of the key's JWK",
        found,
        limit: Secret::BYTES_MAX as u64,
    })
}
