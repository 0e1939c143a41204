//! The guest's three steps: challenge, attestation, release.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use tracing::info;

use super::{
    Answer, Call, Service, absent, attestation, attestation_policy_unusable, internal, parse,
    policy_unusable, resource,
};
use crate::evidence::{Rejection, Verifier};
use crate::init_data;
use crate::jwt::bearer;
use crate::protocol::{self, Attestation, GuestKey, ReportData, Request, Tee, VERSION};
use crate::refusal::{Kind, Refusal};
use crate::session::{NoSession, SESSION_SECONDS, Session};
use crate::token;

use audit::{Event, Head, Receipt};

const NONCE_BYTES: usize = 32;
/// Longest query of a resource request, in bytes.
const QUERY_BYTES_MAX: usize = 2048;

impl Service {
    /// `POST /kbs/v0/auth`: a challenge, and the session as a cookie.
    pub(super) fn auth(&self, call: &Call) -> Result<Answer, Refusal> {
        let request: Request = parse(&call.body, "a Request of the KBS attestation protocol")?;
        if !protocol::speaks(&request.version) {
            let detail = format!("this broker speaks version {VERSION} of the protocol");
            return Err(attestation(detail).because(format!("asked for {}", request.version)));
        }
        let tee = Tee::parse(&request.tee)
            .ok_or_else(|| attestation("unknown tee").because(&request.tee))?;
        self.verifier(tee)?;
        let mut nonce = [0; NONCE_BYTES];
        rand::fill(&mut nonce).expect("aws-lc's generator aborts rather than fail after start");
        let now = self.clock.now();
        let session = Session {
            tee,
            nonce: STANDARD.encode(nonce),
            expires: now.saturating_add(SESSION_SECONDS),
            claims: None,
        };
        self.with_cookie(Answer::json(&protocol::challenge(&session.nonce)), &session, now)
    }

    /// `POST /kbs/v0/attest`: a token for good evidence. An attested session is no shortcut: what
    /// is sent is appraised, each time.
    pub(super) fn attest(&self, call: &Call) -> Result<Answer, Refusal> {
        let now = self.clock.now();
        let session = self
            .sessions
            .open(&call.headers, now)
            .map_err(|error| attestation(format!("{error}: begin with /kbs/v0/auth")))?;
        let sent: Attestation = parse(&call.body, "an Attestation of the protocol")?;
        let claims = self.appraise(&session, &sent, call, now).inspect_err(|_| {
            self.metrics.attested(session.tee, false);
        })?;
        self.record(Event::Attested {
            tee: session.tee.to_string(),
            client: call.client.to_string(),
            outcome: "accepted".to_owned(),
            left_out: 0,
        })?;
        self.metrics.attested(session.tee, true);
        let answer = Answer::json(&json!({ "token": self.tokens.sign(&claims) }));
        self.with_cookie(answer, &Session { claims: Some(claims), ..session }, now)
    }

    fn appraise(
        &self,
        session: &Session,
        sent: &Attestation,
        call: &Call,
        now: u64,
    ) -> Result<Value, Refusal> {
        let verifier = self.verifier(session.tee)?;
        if sent.runtime_data.nonce != session.nonce {
            return Err(attestation("the nonce is not this session's"));
        }
        if !sent.tee_evidence.additional_evidence.is_empty() {
            return Err(attestation("no verifier for additional evidence in this build"));
        }
        let key = GuestKey::from_jwk(&sent.runtime_data.tee_pubkey)
            .map_err(|error| attestation("the tee-pubkey cannot be used").because(error))?;
        let report_data = ReportData::of(&session.nonce, &key, "");
        let verified = verifier
            .appraise(&sent.tee_evidence.primary_evidence, &report_data, now)
            .map_err(|rejection| self.evidence_refused(&rejection, session.tee, call, now))?;
        let mut evidence =
            token::evidence(session.tee, &session.nonce, &key, &report_data, verified.claims);
        // A TEE that cannot prove init-data makes no claims of it.
        if let (Some(sent), Some(proved)) = (&sent.init_data, verified.init_data) {
            evidence[init_data::CLAIMS] = init_data::verify(sent, &proved)
                .map_err(|rejection| self.evidence_refused(&rejection, session.tee, call, now))?;
        }
        let appraisal = self
            .attestation_policy
            .appraise(session.tee, &evidence)
            .map_err(attestation_policy_unusable)?;
        Ok(token::claims(evidence, &appraisal, now))
    }

    /// The client is told which check, and nothing of what was found.
    fn evidence_refused(&self, rejection: &Rejection, tee: Tee, call: &Call, now: u64) -> Refusal {
        // Refused either way: a log that does not take this record must not change that.
        self.evidence_audit.take(now / 60, |left_out| {
            let outcome = rejection.reason.name().to_owned();
            let (tee, client) = (tee.to_string(), call.client.to_string());
            self.record(Event::Attested { tee, client, outcome, left_out }).ok()
        });
        attestation(format!("the evidence is refused: {}", rejection.reason))
            .because(rejection)
            .recorded()
    }

    /// `GET /kbs/v0/resource/<repository>/<type>/<tag>`: the resource, for the guest's key alone.
    pub(super) fn release(&self, call: &Call, path: &str) -> Result<Answer, Refusal> {
        let claims = self.claims(call)?;
        let (key, tee) = token::guest(&claims).ok_or_else(|| {
            Refusal::new(Kind::TokenVerifierError, "the token names no key of a guest")
        })?;
        let resource = resource(path)?;
        let query = query(call.query.as_deref().unwrap_or(""))?;
        let policy = self.policy.current().map_err(policy_unusable)?;
        let refused = |reason: &str| Event::ResourceRefused {
            resource: resource.to_string(),
            tee: tee.to_string(),
            reason: reason.to_owned(),
            client: call.client.to_string(),
        };
        if !policy.allows(&resource, &query, &claims).map_err(policy_unusable)? {
            let reasons = policy.reasons(&resource, &query, &claims);
            let named = |general: &str| match &reasons[..] {
                [] => general.to_owned(),
                reasons => format!("{general}: {}", reasons.join("; ")),
            };
            // Refused either way: a log that does not take this record must not change that.
            let _ = self.record(refused(&named("policy")));
            return Err(Refusal::new(Kind::PolicyDeny, named("Access denied by policy")));
        }
        let Some(value) = self.resources.read(&resource).map_err(internal)? else {
            let _ = self.record(refused("absent"));
            return Err(absent(&resource));
        };
        let sealed = key
            .encrypt(&value)
            .map_err(|error| Refusal::new(Kind::JweError, "JWE failed").because(error))?;
        let receipt = Receipt {
            resource: resource.to_string(),
            tee: tee.to_string(),
            key_thumbprint: key.thumbprint(),
            claims_digest: digest_of(&claims),
            policy_digest: policy.digest().to_owned(),
            time: self.clock.now(),
            seq: 0,
            hash: String::new(),
        };
        let Head { seq, hash } = self.record(Event::ResourceReleased {
            resource: receipt.resource.clone(),
            tee: receipt.tee.clone(),
            claims_digest: receipt.claims_digest.clone(),
            policy_digest: receipt.policy_digest.clone(),
            client: call.client.to_string(),
            key_thumbprint: receipt.key_thumbprint.clone(),
        })?;
        let receipt = self.tokens.sign_receipt(&Receipt { seq, hash, ..receipt });
        self.metrics.released(tee);
        info!(%resource, %tee, client = %call.client, "released");
        Ok(Answer { receipt: Some(receipt), ..Answer::json(&sealed) })
    }

    /// The claims that a request can show: by its cookie, else by its bearer token.
    fn claims(&self, call: &Call) -> Result<Value, Refusal> {
        let now = self.clock.now();
        let why = match self.sessions.open(&call.headers, now) {
            Ok(Session { claims: Some(claims), .. }) => return Ok(claims),
            Ok(_) => "the session is not attested yet".to_owned(),
            Err(NoSession::Missing) => "neither a session cookie nor a bearer token".to_owned(),
            Err(error) => error.to_string(),
        };
        let token = bearer(&call.headers).ok_or_else(|| Refusal::new(Kind::TokenNotFound, why))?;
        self.tokens
            .verify(token, now)
            .map_err(|why| Refusal::new(Kind::TokenVerifierError, format!("the token is {why}")))
    }

    fn verifier(&self, tee: Tee) -> Result<&dyn Verifier, Refusal> {
        self.verifiers.get(tee).ok_or_else(|| match tee {
            Tee::TDX | Tee::AZ_TDX_VTPM => {
                attestation(format!("{tee} evidence is accepted only with --tdx-collateral-dir"))
            }
            Tee::TPM => attestation("tpm evidence is accepted only with --tpm-trusted-key"),
            _ => attestation(format!("no verifier for {tee} in this build")),
        })
    }

    fn with_cookie(&self, answer: Answer, session: &Session, now: u64) -> Result<Answer, Refusal> {
        let cookie = self
            .sessions
            .cookie(session, now)
            .ok_or_else(|| attestation("the evidence has more claims than a session can carry"))?;
        Ok(Answer { cookie: Some(cookie), ..answer })
    }
}

fn digest_of(claims: &Value) -> String {
    hex::encode(digest(&SHA256, claims.to_string().as_bytes()))
}

/// `a=b&c=d` as policies see it. The last of equal names counts, as with upstream's map.
fn query(text: &str) -> Result<Value, Refusal> {
    let malformed = || Refusal::new(Kind::SerdeError, "the query is malformed or too long");
    if text.len() > QUERY_BYTES_MAX {
        return Err(malformed());
    }
    let mut query = Map::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = (form_decode(name), form_decode(value));
        let (Some(name), Some(value)) = decoded else { return Err(malformed()) };
        query.insert(name, Value::String(value));
    }
    Ok(Value::Object(query))
}

/// `application/x-www-form-urlencoded`: `+` is a space, `%41` is `A`.
fn form_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                rest = tail;
                *hex::decode(digits).ok()?.first()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded_and_bounded() {
        assert_eq!(query("").unwrap(), json!({}));
        assert_eq!(query("a=b&c=%41+d&e").unwrap(), json!({ "a": "b", "c": "A d", "e": "" }));
        for bad in ["a=%4", "a=%zz", "a=%ff", &"a".repeat(QUERY_BYTES_MAX + 1)] {
            assert_eq!(query(bad).unwrap_err().kind, Kind::SerdeError);
        }
    }
}
