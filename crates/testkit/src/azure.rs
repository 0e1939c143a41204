//! Azure's Managed HSM, its authorisation server and a machine's metadata service, written from the
//! published REST reference: no emulator of them exists. It encrypts for real, and refuses what is
//! not as the reference has it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::gcp::{Fault, Step};
use crate::web::{Asked, Web, reply};

/// The HSM's host, as keys' names have it.
pub const HOST: &str = "models.managedhsm.azure.net";
/// The directory that clients are of.
pub const TENANT: &str = "72f988bf-0000-4000-8000-2d7cd011db47";
/// The client.
pub const CLIENT: &str = "00000000-0000-4000-8000-00000000c11e";
/// Its secret, with what a form must escape.
pub const SECRET: &str = "s3cr&t=+/~%";
/// Its workload identity's token.
pub const ASSERTION: &str = "eyJhbGciOiJSUzI1NiJ9.e30.c2ln";
const SERVICE: &str = "https://managedhsm.azure.net";

/// The three services on one port.
#[derive(Debug)]
pub struct FakeAzure {
    web: Web,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct Key {
    kty: &'static str,
    operations: &'static [&'static str],
    /// Oldest first.
    versions: Vec<(String, [u8; 32])>,
}

#[derive(Debug, Default)]
struct State {
    keys: BTreeMap<String, Key>,
    tokens: Vec<String>,
    faults: VecDeque<(Step, Fault)>,
    requests: Vec<String>,
    complaints: Vec<String>,
    machine_has_identity: bool,
}

impl FakeAzure {
    /// Starts them, without keys.
    ///
    /// # Errors
    /// If no port is free.
    pub fn start() -> Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let web = Web::start(move |asked| lock(&shared).answer(asked))?;
        Ok(Self { web, state })
    }

    /// `http://127.0.0.1:<port>`: all three.
    #[must_use]
    pub fn url(&self) -> String {
        self.web.url()
    }

    /// A new version of a key, or a new key, of this type that may do this.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn put_key(
        &self,
        name: &str,
        kty: &'static str,
        operations: &'static [&'static str],
    ) -> Result<String> {
        let (mut bytes, mut version) = ([0; 32], [0; 16]);
        rand::fill(&mut bytes)?;
        rand::fill(&mut version)?;
        let version = hex::encode(version);
        let mut state = lock(&self.state);
        let new = || Key { kty, operations, versions: Vec::new() };
        let key = state.keys.entry(name.to_owned()).or_insert_with(new);
        key.versions.push((version.clone(), bytes));
        Ok(version)
    }

    /// Gives the machine a managed identity.
    pub fn give_machine_an_identity(&self) {
        lock(&self.state).machine_has_identity = true;
    }

    /// Lets the next request of this step fail.
    pub fn fail_next(&self, step: Step, fault: Fault) {
        lock(&self.state).faults.push_back((step, fault));
    }

    /// Method and path of every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        lock(&self.state).requests.clone()
    }

    /// What was not as the reference has it.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        lock(&self.state).complaints.clone()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The service's error body.
#[must_use]
pub fn error(status: u16, code: &str, message: &str) -> Vec<u8> {
    let body = json!({"error": {"code": code, "message": message}});
    reply(status, body.to_string().as_bytes())
}

impl State {
    fn answer(&mut self, asked: &Asked) -> Vec<u8> {
        self.requests.push(format!("{} {}", asked.method, asked.path));
        let step = if asked.path.starts_with("/keys/") { Step::Kms } else { Step::Token };
        let fault = self.faults.iter().position(|(of, _)| *of == step);
        let fault = fault.and_then(|at| self.faults.remove(at)).map(|(_, fault)| fault);
        if let Some(Fault::Raw(bytes)) = fault {
            return bytes;
        }
        let answer = match step {
            Step::Kms => self.keys(asked),
            Step::Token => self.token(asked).map_err(|why| {
                self.complaints.push(format!("{}: {why:#}", asked.path));
                let body = json!({"error": "invalid_client", "error_description": why.to_string()});
                reply(401, body.to_string().as_bytes())
            }),
        };
        match (answer, fault) {
            (Ok(mut body), Some(Fault::Member(name, value))) => {
                body[name] = value;
                reply(200, body.to_string().as_bytes())
            }
            (Ok(body), _) => reply(200, body.to_string().as_bytes()),
            (Err(refusal), _) => refusal,
        }
    }

    fn token(&mut self, asked: &Asked) -> Result<Value> {
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/metadata/identity/oauth2/token") => {
                let query = Asked::form(&asked.query);
                let member = |name: &str| query.get(name).map_or("", String::as_str);
                ensure!(asked.header("metadata") == "true", "no Metadata: true");
                ensure!(member("api-version") == "2018-02-01", "api-version");
                ensure!(member("resource") == SERVICE, "resource {}", member("resource"));
                ensure!(self.machine_has_identity, "Identity not found");
            }
            ("POST", path) if path == format!("/{TENANT}/oauth2/v2.0/token") => {
                let form = Asked::form(str::from_utf8(&asked.body)?);
                let member = |name: &str| form.get(name).map_or("", String::as_str);
                ensure!(member("grant_type") == "client_credentials", "grant_type");
                ensure!(member("client_id") == CLIENT, "client_id");
                ensure!(member("scope") == format!("{SERVICE}/.default"), "scope");
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                let by_token = member("client_assertion_type") == kind
                    && member("client_assertion") == ASSERTION;
                ensure!(by_token || member("client_secret") == SECRET, "AADSTS7000215: secret");
                ensure!(form.len() == if by_token { 5 } else { 4 }, "members");
            }
            _ => anyhow::bail!("no such path"),
        }
        let mut random = [0; 16];
        rand::fill(&mut random)?;
        let token = format!("eyJ.{}", hex::encode(random));
        self.tokens.push(token.clone());
        // A number here, and a string from the metadata service.
        Ok(json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}))
    }

    fn keys(&mut self, asked: &Asked) -> Result<Value, Vec<u8>> {
        let token = asked.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
        if !self.tokens.iter().any(|known| known == token) {
            return Err(error(401, "Unauthorized", "AKV10000: Request is missing a token."));
        }
        if asked.query != "api-version=7.4" {
            return Err(error(400, "BadParameter", "api-version"));
        }
        let segments: Vec<&str> = asked.path.split('/').skip(2).collect();
        let found = segments.first().and_then(|name| Some((*name, self.keys.get(*name)?)));
        let Some((name, key)) = found else {
            return Err(error(404, "KeyNotFound", "A key with this name was not found."));
        };
        let version = match segments.get(1) {
            Some(version) => key.versions.iter().find(|(known, _)| known == version),
            None => key.versions.last(),
        };
        let Some((version, bytes)) = version else {
            return Err(error(404, "KeyNotFound", "This version was not found."));
        };
        let kid = format!("https://{HOST}/keys/{name}/{version}");
        let operation = segments.get(2).copied().unwrap_or_default();
        let done = match (asked.method.as_str(), operation) {
            ("GET", "") => {
                return Ok(json!({
                    "key": {"kid": kid, "kty": key.kty, "key_ops": key.operations},
                    "attributes": {"enabled": true},
                }));
            }
            ("POST", "encrypt" | "decrypt" | "wrapkey" | "unwrapkey") => {
                let may = |operation: &&&str| operation.eq_ignore_ascii_case(asked_for(&segments));
                match key.operations.iter().find(may) {
                    Some(_) => operate(operation, bytes, &asked.body),
                    None => {
                        return Err(error(403, "Forbidden", "Operation is not permitted."));
                    }
                }
            }
            _ => Err(anyhow::anyhow!("no such operation")),
        };
        match done {
            Ok(mut result) => {
                result["kid"] = json!(kid);
                Ok(result)
            }
            Err(why) => {
                self.complaints.push(format!("{operation}: {why:#}"));
                Err(error(400, "BadParameter", &why.to_string()))
            }
        }
    }
}

fn asked_for<'a>(segments: &[&'a str]) -> &'a str {
    segments.get(2).copied().unwrap_or_default()
}

fn operate(operation: &str, key: &[u8; 32], body: &[u8]) -> Result<Value> {
    let body: Value = serde_json::from_slice(body)?;
    let member = |name: &str| -> Result<Vec<u8>> {
        Ok(URL_SAFE_NO_PAD.decode(body[name].as_str().with_context(|| format!("no {name}"))?)?)
    };
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (alg, count) = match operation {
        "encrypt" => ("A256GCM", 3),
        "decrypt" => ("A256GCM", 5),
        _ => ("A256KW", 2),
    };
    ensure!(body["alg"] == alg, "alg {}", body["alg"]);
    ensure!(body.as_object().is_some_and(|body| body.len() == count), "members of {body}");
    let value = member("value")?;
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key)?);
    let kek = AesKek::new(&AES_256, key)?;
    Ok(match operation {
        "encrypt" => {
            let (mut iv, mut sealed, aad) = ([0; NONCE_LEN], value, member("aad")?);
            rand::fill(&mut iv)?;
            let nonce = Nonce::assume_unique_for_key(iv);
            let tag = cipher.seal_in_place_separate_tag(nonce, Aad::from(&aad), &mut sealed)?;
            let tag = encode(tag.as_ref());
            json!({"value": encode(&sealed), "iv": encode(&iv), "tag": tag, "aad": encode(&aad)})
        }
        "decrypt" => {
            let mut sealed = [value, member("tag")?].concat();
            let nonce = Nonce::try_assume_unique_for_key(&member("iv")?)?;
            let opened = cipher.open_in_place(nonce, Aad::from(member("aad")?), &mut sealed);
            let opened = opened.map_err(|_| anyhow::anyhow!("The tag does not match."))?;
            json!({"value": encode(opened)})
        }
        "wrapkey" => {
            let mut output = vec![0; value.len() + 8];
            json!({"value": encode(kek.wrap(&value, &mut output)?)})
        }
        _ => {
            let mut output = vec![0; value.len()];
            let opened = kek.unwrap(&value, &mut output);
            json!({"value": encode(opened.map_err(|_| anyhow::anyhow!("It does not unwrap."))?)})
        }
    })
}
