//! The honest half: what CDH and Trustee answer.

use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey,
};
use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use seal::jwe::{TeeKeyKind, TeeKeyPair, TeePublicKey};
use serde_json::{Value, json};

use super::wire::{Answer, Request};
use super::{Fault, Inner, State, Step};

/// What upstream's clients must send, exactly.
const VERSION: &str = "0.4.0";

/// From `/auth` on: a nonce; from `/attest` on: the guest's key and a token too.
#[derive(Debug)]
pub(super) struct Session {
    nonce: String,
    attested: Option<(Value, String)>,
}

impl State {
    /// The answer, and how to spoil its delivery. `None`: the server is down.
    pub(super) fn answer(&self, request: &Request) -> Option<(Answer, Option<Fault>)> {
        let mut inner = self.lock();
        if inner.down {
            return None;
        }
        inner.requests.push(format!("{} {}", request.method, request.path));
        let step = step(request);
        let fault = inner.take_fault(step);
        let answer = match &fault {
            Some(Fault::Answer(status, body)) => Answer::new(*status, body.clone()),
            Some(Fault::Refuse(variant)) => refuse(variant, "as the test wants it"),
            Some(Fault::Redirect(to)) => {
                let mut answer = Answer::new(302, Vec::new());
                answer.headers.push(("location", to.clone()));
                answer
            }
            _ => match step {
                Some(Step::Cdh) => inner.cdh(request),
                Some(Step::Auth) => inner.auth(request, fault.as_ref()),
                Some(Step::Attest) => inner.attest(request),
                Some(Step::Resource) => inner.resource(request, fault.as_ref()),
                None if request.method == "POST" => inner.wrap(request),
                None => Answer::new(404, b"URL NOT FOUND".to_vec()),
            },
        };
        Some((answer, fault))
    }
}

fn step(request: &Request) -> Option<Step> {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", path) if path.starts_with("/cdh/resource/") => Some(Step::Cdh),
        ("POST", "/kbs/v0/auth") => Some(Step::Auth),
        ("POST", "/kbs/v0/attest") => Some(Step::Attest),
        ("GET", path) if path.starts_with("/kbs/v0/") => Some(Step::Resource),
        _ => None,
    }
}

impl Inner {
    /// Missing, denied and unreachable are one answer: that is upstream's.
    fn cdh(&self, request: &Request) -> Answer {
        let path = request.path.trim_start_matches("/cdh/resource/");
        match self.resources.get(path).filter(|_| !self.denied.contains(path)) {
            Some(bytes) => {
                let mut answer = Answer::new(200, bytes.clone());
                answer.headers.push(("content-type", "application/octet-stream".to_owned()));
                answer
            }
            None => Answer::new(500, b"ttrpc request error".to_vec()),
        }
    }

    fn auth(&mut self, request: &Request, fault: Option<&Fault>) -> Answer {
        if let Err(why) = check_request(&request.body) {
            self.complain(request, &why);
            return refuse("AttestationError", &format!("RCAR handshake Auth failed: {why}"));
        }
        let nonce = STANDARD.encode(random(match fault {
            Some(Fault::NonceBytes(bytes)) => *bytes,
            _ => 32,
        }));
        let id = hex(&random(16));
        let mut answer = json_answer(&json!({"nonce": nonce, "extra-params": ""}));
        if !matches!(fault, Some(Fault::NoCookie)) {
            let cookie = format!("kbs-session-id={id}; Expires=Fri, 01 Jan 2100 00:00:00 GMT");
            answer.headers.push(("set-cookie", cookie));
        }
        self.sessions.insert(id, Session { nonce, attested: None });
        answer
    }

    fn attest(&mut self, request: &Request) -> Answer {
        match self.check_attestation(request) {
            Ok(token) => json_answer(&json!({"token": token})),
            Err(why) => {
                self.complain(request, &why);
                refuse("AttestationError", "RCAR handshake Attest failed")
            }
        }
    }

    /// The token for a session whose evidence covers its nonce and the guest's key.
    fn check_attestation(&mut self, request: &Request) -> Result<String, String> {
        let id = session_id(request).ok_or("no session cookie")?;
        let session = self.sessions.get_mut(id).ok_or("unknown session")?;
        if let Some((_, token)) = &session.attested {
            return Ok(token.clone()); // Trustee's behaviour: the new evidence is not looked at.
        }
        let body: Value = serde_json::from_slice(&request.body).map_err(|e| e.to_string())?;
        let runtime_data = members(&body["runtime-data"], ["nonce", "tee-pubkey"])?;
        let tee_evidence =
            members(&body["tee-evidence"], ["additional_evidence", "primary_evidence"])?;
        let evidence = members(&tee_evidence["primary_evidence"], ["report_data", "svn"])?;
        let key = &runtime_data["tee-pubkey"];
        // RFC 8785 for these members, written out: Value's Display is the JSON string.
        let canonical = match key["kty"].as_str() {
            Some("RSA") => {
                let key = members(key, ["alg", "e", "kty", "n"])?;
                let [alg, e, kty, n] = ["alg", "e", "kty", "n"].map(|name| &key[name]);
                format!(r#"{{"alg":{alg},"e":{e},"kty":{kty},"n":{n}}}"#)
            }
            _ => {
                let names = ["alg", "crv", "kty", "x", "y"];
                let key = members(key, names)?;
                let [alg, crv, kty, x, y] = names.map(|name| &key[name]);
                format!(r#"{{"alg":{alg},"crv":{crv},"kty":{kty},"x":{x},"y":{y}}}"#)
            }
        };
        if runtime_data["nonce"] != session.nonce {
            return Err("another nonce".to_owned());
        }
        if tee_evidence["additional_evidence"] != "" || evidence["svn"] != "1" {
            return Err("not the sample TEE's evidence".to_owned());
        }
        let bound = format!(
            r#"{{"additional-evidence":"","nonce":"{}","tee-pubkey":{canonical}}}"#,
            session.nonce
        );
        let expected = STANDARD.encode(digest::digest(&digest::SHA384, bound.as_bytes()));
        if evidence["report_data"] != expected {
            return Err("the evidence is not over the nonce and the key".to_owned());
        }
        TeePublicKey::from_jwk(key).map_err(|error| error.to_string())?;
        let token = format!("e30.{}.c2ln", hex(&random(24)));
        session.attested = Some((key.clone(), token.clone()));
        self.attestations += 1;
        Ok(token)
    }

    fn resource(&self, request: &Request, fault: Option<&Fault>) -> Answer {
        let Some(key) = self.attested_key(request) else {
            let variant = match request.header("authorization") {
                Some(_) => "TokenVerifierError",
                None => "TokenNotFound",
            };
            return refuse(variant, "Attestation Token not found");
        };
        let path = request.path.trim_start_matches("/kbs/v0/");
        let path = path.strip_prefix("resource/").unwrap_or(path);
        if self.denied.contains(path) {
            return refuse("PolicyDeny", "Access denied by policy");
        }
        let served = match path.split_once('/') {
            Some(("pkcs11", "wrap-key")) => self.unwrap(&request.body),
            _ => self.resources.get(path).cloned(),
        };
        let plugin = request.path.split('/').nth(3).unwrap_or_default();
        let Some(bytes) = served else {
            return match plugin {
                "resource" | "pkcs11" => refuse("PluginInternalError", "Plugin internal error"),
                _ => Answer { status: 404, ..refuse("PluginNotFound", "Plugin not found") },
            };
        };
        let other = TeeKeyPair::generate(TeeKeyKind::P256).map(|pair| pair.public_jwk());
        let jwk = match (fault, &other) {
            (Some(Fault::OtherKey), Ok(other)) => other,
            _ => key,
        };
        let sealed = TeePublicKey::from_jwk(jwk).and_then(|key| key.encrypt(&bytes));
        let Ok(mut sealed) = sealed else { return refuse("JweError", "JWE failed") };
        if matches!(fault, Some(Fault::FlippedTag)) {
            flip_first(&mut sealed["tag"]);
        }
        json_answer(&sealed)
    }

    /// Trustee's plugin `pkcs11`: RSA-OAEP with SHA-256 throughout and no label, in its HSM.
    fn unwrap(&self, body: &[u8]) -> Option<Vec<u8>> {
        let key = PrivateDecryptingKey::from_pkcs8(self.wrap_key.as_ref()?).ok()?;
        let key = OaepPrivateDecryptingKey::new(key).ok()?;
        let mut output = vec![0; key.min_output_size()];
        key.decrypt(&OAEP_SHA256_MGF1SHA256, body, &mut output, None).ok().map(|key| key.to_vec())
    }

    /// Its other half is for administrators, whose token is not verified here, and answers in the
    /// clear.
    fn wrap(&self, request: &Request) -> Answer {
        if request.path != "/kbs/v0/pkcs11/wrap-key" || self.wrap_key.is_none() {
            return Answer { status: 404, ..refuse("PluginNotFound", "Plugin not found") };
        }
        let claims = request
            .header("authorization")
            .and_then(|it| it.strip_prefix("Bearer ")?.split('.').nth(1))
            .and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok())
            .and_then(|claims| serde_json::from_slice::<Value>(&claims).ok());
        if claims.is_none_or(|claims| claims["role"] != "admin") {
            return refuse("AdminAuthInitialization", "failed to initialize [admin] configuration");
        }
        let wrapped = self.wrap_key.as_ref().and_then(|key| {
            let key = PrivateDecryptingKey::from_pkcs8(key).ok()?.public_key();
            let key = OaepPublicEncryptingKey::new(key).ok()?;
            let mut output = vec![0; key.ciphertext_size()];
            let oaep = &OAEP_SHA256_MGF1SHA256;
            Some(key.encrypt(oaep, &request.body, &mut output, None).ok()?.to_vec())
        });
        match wrapped {
            Some(wrapped) => Answer::new(200, wrapped),
            None => refuse("PluginInternalError", "Plugin internal error"),
        }
    }

    /// The cookie's session first, the token's if there is none: Trustee's order.
    fn attested_key(&self, request: &Request) -> Option<&Value> {
        let by_cookie = session_id(request)
            .and_then(|id| self.sessions.get(id))
            .and_then(|session| session.attested.as_ref());
        let token = request.header("authorization").and_then(|it| it.strip_prefix("Bearer "));
        let by_token = || {
            let mut attested = self.sessions.values().filter_map(|it| it.attested.as_ref());
            attested.find(|(_, of)| Some(of.as_str()) == token)
        };
        by_cookie.or_else(by_token).map(|(key, _)| key)
    }
}

fn check_request(body: &[u8]) -> Result<(), String> {
    let body: Value = serde_json::from_slice(body).map_err(|_| "deserialize Request")?;
    let body = members(&body, ["extra-params", "tee", "version"])?;
    if body["version"] != VERSION {
        return Err(format!(
            "KBS Client Protocol Version Mismatch: expect ={VERSION} while the request is {}",
            body["version"]
        ));
    }
    if body["tee"] != "sample" {
        return Err("deserialize Request".to_owned());
    }
    let hashes = body["extra-params"]["supported-hash-algorithms"].as_array();
    if !hashes.is_some_and(|hashes| hashes.contains(&json!("sha384"))) {
        return Err("sha384 is not offered".to_owned());
    }
    Ok(())
}

/// `value`, if it is an object with exactly these members (sorted).
fn members<'a, const N: usize>(value: &'a Value, names: [&str; N]) -> Result<&'a Value, String> {
    let mut found: Vec<&str> =
        value.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    found.sort_unstable();
    if found == names { Ok(value) } else { Err(format!("members {found:?}, expected {names:?}")) }
}

fn session_id(request: &Request) -> Option<&str> {
    request.header("cookie")?.strip_prefix("kbs-session-id=")
}

impl Answer {
    fn new(status: u16, body: Vec<u8>) -> Self {
        Self { status, headers: Vec::new(), body }
    }
}

fn json_answer(body: &Value) -> Answer {
    let mut answer = Answer::new(200, body.to_string().into_bytes());
    answer.headers.push(("content-type", "application/json".to_owned()));
    answer
}

/// Trustee's errors: 401, and no content type.
fn refuse(variant: &str, detail: &str) -> Answer {
    let kind = format!("https://github.com/confidential-containers/kbs/errors/{variant}");
    Answer::new(401, json!({"type": kind, "detail": detail}).to_string().into_bytes())
}

/// Another base64url text of the same length, differing in the first byte that it encodes.
fn flip_first(value: &mut Value) {
    if let Some(text) = value.as_str() {
        let first = if text.starts_with('A') { "B" } else { "A" };
        *value = Value::String(format!("{first}{}", text.get(1..).unwrap_or_default()));
    }
}

fn random(bytes: usize) -> Vec<u8> {
    let mut random = vec![0; bytes];
    let _ = rand::fill(&mut random);
    random
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
