//! Attestation tokens: EAR claims in a JWT, signed with ES256 by this broker, accepted by it alone.
//!
//! The claims have the places that upstream's policies look at:
//! `submods.cpu0."ear.status"`, `."ear.trustworthiness-vector"`, and below
//! `."ear.veraison.annotated-evidence"` the `report_data`, `runtime_data_claims` (`nonce`,
//! `tee-pubkey`) and the TEE's own claims under its name.

use std::fmt;
use std::io;
use std::path::Path;

use audit::{RECEIPT_TYPE, Receipt};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::appraisal::Appraisal;
use crate::error::Error;
use crate::files::{self, Existing};
use crate::jwt::{self, Unverified};
use crate::master::{MasterKey, Purpose};
use crate::protocol::{GuestKey, ReportData, Tee};

/// How long a token is good, in seconds.
pub const TOKEN_SECONDS: u64 = 300;
/// `iss` of our tokens.
pub const ISSUER: &str = "sealift-broker";

const EAT_PROFILE: &str = "tag:github.com,2024:confidential-containers/Trustee";
const CPU: &str = "cpu0";
const EVIDENCE: &str = "ear.veraison.annotated-evidence";
/// Why a guest is not affirming, beside EAR's verdict.
const REASONS: &str = "sealift.reasons";
const KEY_FILE_BYTES_MAX: usize = 1024;

/// The broker's signing key.
pub(crate) struct TokenKey {
    pair: EcdsaKeyPair,
    jwk: Value,
}

impl TokenKey {
    /// The key of this data directory; made at the first start. Replicas that share the directory
    /// share the key, whoever came first.
    pub(crate) fn load_or_create(data_dir: &Path, master: &MasterKey) -> Result<Self, Error> {
        let path = data_dir.join("token.key");
        let cipher = master.cipher(Purpose::TokenKey);
        let fail = |source| Error::file(&path, source);
        match files::read_own(&path, KEY_FILE_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
                    .expect("aws-lc's generator aborts rather than fail after start");
                let pkcs8 = pair.to_pkcs8v1().expect("a fresh P-256 key has a PKCS#8 form");
                match files::write(&path, &cipher.seal(pkcs8.as_ref(), b""), Existing::Keep) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(fail(error));
                    }
                    _ => {}
                }
            }
            Err(error) => return Err(fail(error)),
            Ok(_) => {}
        }
        let sealed = files::read_own(&path, KEY_FILE_BYTES_MAX).map_err(fail)?;
        let pkcs8 = cipher.open(&sealed, b"").ok();
        pkcs8
            .and_then(|pkcs8| {
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8).ok()
            })
            .map(Self::new)
            .ok_or(Error::Tampered { path })
    }

    fn new(pair: EcdsaKeyPair) -> Self {
        // SEC 1 uncompressed: 04 ‖ x ‖ y.
        let point = pair.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..65]].map(|half| URL_SAFE_NO_PAD.encode(half));
        // RFC 7638: exactly these members, in this order.
        let thumbprint = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(digest(&SHA256, thumbprint.as_bytes()));
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": x, "y": y,
        });
        Self { pair, jwk }
    }

    /// The public key, for others who want to check our tokens.
    pub(crate) fn jwks(&self) -> Value {
        json!({ "keys": [self.jwk] })
    }

    /// A token over `claims`.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = json!({
            "alg": "ES256", "typ": "JWT", "kid": self.jwk["kid"], "jwk": self.jwk,
        });
        self.sign_as(&header, claims)
    }

    /// What a guest keeps in its log of a release.
    pub(crate) fn sign_receipt(&self, receipt: &Receipt) -> String {
        let header = json!({ "alg": "ES256", "typ": RECEIPT_TYPE, "kid": self.jwk["kid"] });
        self.sign_as(&header, &json!(receipt))
    }

    fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let message = jwt::message(header, claims);
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message.as_bytes())
            .expect("signing with a valid P-256 key does not fail");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The claims of a token that this broker signed and that is still good. Keys named or carried
    /// by the token's header are not looked at.
    pub(crate) fn verify(&self, token: &str, now: u64) -> Result<Value, &'static str> {
        let token = Unverified::parse(token).ok_or("not a token")?;
        if token.alg != "ES256" {
            return Err("not signed with ES256");
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key())
            .verify(token.message, &token.signature)
            .map_err(|_| "not signed by this broker")?;
        let claims: Value = token.claims().ok_or("no claims")?;
        // One that ends later than any that begins now is of a clock that was set back since.
        match claims["exp"].as_u64() {
            Some(expires) if now < expires && expires <= now.saturating_add(TOKEN_SECONDS) => {
                Ok(claims)
            }
            _ => Err("expired"),
        }
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey").field("jwk", &self.jwk).finish_non_exhaustive()
    }
}

/// What is known of a guest, for the attestation policy and for the token.
pub(crate) fn evidence(
    tee: Tee,
    nonce: &str,
    key: &GuestKey,
    report_data: &ReportData,
    claims: Value,
) -> Value {
    json!({
        "report_data": report_data.base64(),
        "runtime_data_claims": {
            "additional-evidence": "", "nonce": nonce, "tee-pubkey": key.members(),
        },
        tee.name(): claims,
    })
}

/// The claims about a guest, now.
pub(crate) fn claims(evidence: Value, appraisal: &Appraisal, now: u64) -> Value {
    let mut claims = json!({
        "eat_profile": EAT_PROFILE,
        "iss": ISSUER,
        "iat": now,
        "exp": now.saturating_add(TOKEN_SECONDS),
        "ear.verifier-id": {
            "build": concat!("sealift-broker ", env!("CARGO_PKG_VERSION")),
            "developer": "Sealift",
        },
        "submods": { CPU: {
            "ear.status": appraisal.status,
            "ear.trustworthiness-vector": appraisal.trustworthiness,
            "ear.appraisal-policy-id": "default_cpu",
            EVIDENCE: evidence,
        } },
    });
    if !appraisal.reasons.is_empty() {
        claims["submods"][CPU][REASONS] = json!(appraisal.reasons);
    }
    claims
}

/// The guest's key, and its TEE, from verified claims.
pub(crate) fn guest(claims: &Value) -> Option<(GuestKey, Tee)> {
    let evidence = &claims["submods"][CPU][EVIDENCE];
    let key = evidence["runtime_data_claims"]["tee-pubkey"].as_object()?;
    let tee = evidence.as_object()?.keys().find_map(|name| Tee::parse(name))?;
    Some((GuestKey::from_jwk(key).ok()?, tee))
}

#[cfg(test)]
mod tests;
