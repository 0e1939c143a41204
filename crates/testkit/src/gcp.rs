//! Google's Cloud KMS, its authorisation server and a machine's metadata service, written from the
//! published REST reference: no emulator of them exists. It encrypts for real, and refuses what is
//! not as the reference has it.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::web::{Asked, Web, reply};

/// The service account's name.
const EMAIL: &str = "opener@acme-ml.iam.gserviceaccount.com";
const KEY_ID: &str = "0123456789abcdef";

/// Which request a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// For a token, to the authorisation server or the metadata service.
    Token,
    /// To KMS.
    Kms,
}

/// How an answer goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// These bytes are sent.
    Raw(Vec<u8>),
    /// A member of the right answer is another.
    Member(&'static str, Value),
}

/// The three services on one port.
#[derive(Debug)]
pub struct FakeGcp {
    web: Web,
    state: Arc<Mutex<State>>,
    pem: String,
}

#[derive(Debug, Default)]
struct State {
    keys: BTreeMap<String, [u8; 32]>,
    public_key: Vec<u8>,
    url: String,
    tokens: Vec<String>,
    faults: VecDeque<(Step, Fault)>,
    requests: Vec<String>,
    complaints: Vec<String>,
    machine_has_account: bool,
}

impl FakeGcp {
    /// Starts them, with these keys: `projects/…/cryptoKeys/…`.
    ///
    /// # Errors
    /// If no port is free, or no key can be made.
    pub fn start(keys: &[&str]) -> Result<Self> {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048)?;
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der()?;
        let lines = STANDARD.encode(pkcs8.as_ref());
        let lines: Vec<&str> =
            lines.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap_or("")).collect();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            lines.join("\n")
        );
        let public_key = pair.public_key().as_ref().to_vec();
        let mut state = State { public_key, ..State::default() };
        for key in keys {
            let mut bytes = [0; 32];
            rand::fill(&mut bytes)?;
            state.keys.insert((*key).to_owned(), bytes);
        }
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let web = Web::start(move |asked| lock(&shared).answer(asked))?;
        lock(&state).url = web.url();
        Ok(Self { web, state, pem })
    }

    /// `http://127.0.0.1:<port>`: KMS.
    #[must_use]
    pub fn url(&self) -> String {
        self.web.url()
    }

    /// `127.0.0.1:<port>`: the metadata service.
    #[must_use]
    pub fn host(&self) -> String {
        self.web.host()
    }

    /// A key file of the service account below `dir`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn key_file(&self, dir: &Path) -> Result<PathBuf> {
        let account = json!({
            "type": "service_account", "project_id": "acme-ml", "private_key_id": KEY_ID,
            "private_key": self.pem, "client_email": EMAIL, "client_id": "1",
            "token_uri": format!("{}/token", self.url()),
        });
        let path = dir.join("account.json");
        std::fs::write(&path, account.to_string())?;
        Ok(path)
    }

    /// Gives the machine a service account.
    pub fn give_machine_an_account(&self) {
        lock(&self.state).machine_has_account = true;
    }

    /// Ends all access tokens.
    pub fn end_tokens(&self) {
        lock(&self.state).tokens.clear();
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

/// Google's error body.
#[must_use]
pub fn error(code: u16, status: &str, message: &str) -> Vec<u8> {
    let body = json!({"error": {"code": code, "message": message, "status": status}});
    reply(code, body.to_string().as_bytes())
}

impl State {
    fn answer(&mut self, asked: &Asked) -> Vec<u8> {
        self.requests.push(format!("{} {}", asked.method, asked.path));
        let step = if asked.path.starts_with("/v1/") { Step::Kms } else { Step::Token };
        let fault = self.faults.iter().position(|(of, _)| *of == step);
        let fault = fault.and_then(|at| self.faults.remove(at)).map(|(_, fault)| fault);
        if let Some(Fault::Raw(bytes)) = fault {
            return bytes;
        }
        let answer = match step {
            Step::Kms => self.kms(asked),
            Step::Token => self.token(asked).map_err(|why| {
                self.complaints.push(format!("{}: {why:#}", asked.path));
                let body = json!({"error": "invalid_grant", "error_description": why.to_string()});
                reply(400, body.to_string().as_bytes())
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
        let metadata = "/computeMetadata/v1/instance/service-accounts/default/token";
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", path) if path == metadata => {
                ensure!(asked.header("metadata-flavor") == "Google", "no Metadata-Flavor: Google");
                ensure!(asked.header("x-forwarded-for").is_empty(), "X-Forwarded-For");
                ensure!(self.machine_has_account, "the machine has no service account");
            }
            ("POST", "/token") => self.check_assertion(asked)?,
            _ => anyhow::bail!("no such path"),
        }
        let mut random = [0; 16];
        rand::fill(&mut random)?;
        let token = format!("ya29.{}", hex::encode(random));
        self.tokens.push(token.clone());
        Ok(json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}))
    }

    /// RFC 7523 as Google describes it.
    fn check_assertion(&self, asked: &Asked) -> Result<()> {
        let form = Asked::form(str::from_utf8(&asked.body)?);
        let member = |name: &str| form.get(name).map_or("", String::as_str);
        ensure!(asked.header("content-type") == "application/x-www-form-urlencoded", "no form");
        ensure!(member("grant_type") == "urn:ietf:params:oauth:grant-type:jwt-bearer", "grant");
        let assertion = member("assertion");
        let (signed, signature) = assertion.rsplit_once('.').context("no JWT")?;
        let (header, claims) = signed.split_once('.').context("no JWT")?;
        let read = |part: &str| -> Result<Value> {
            Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
        };
        let (header, claims) = (read(header)?, read(claims)?);
        ensure!(header["alg"] == "RS256" && header["kid"] == KEY_ID, "header {header}");
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public_key);
        key.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature)?)
            .map_err(|_| anyhow::anyhow!("Invalid JWT Signature."))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let number = |name: &str| claims[name].as_u64().unwrap_or_default();
        ensure!(
            claims["iss"] == EMAIL && claims["aud"] == format!("{}/token", self.url),
            "{claims}"
        );
        ensure!(claims["scope"] == "https://www.googleapis.com/auth/cloudkms", "{claims}");
        let (issued, expires) = (number("iat"), number("exp"));
        ensure!(issued <= now + 60 && now < expires && expires - issued <= 3600, "times {claims}");
        Ok(())
    }

    fn kms(&mut self, asked: &Asked) -> Result<Value, Vec<u8>> {
        let token = asked.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
        if !self.tokens.iter().any(|known| known == token) {
            return Err(error(401, "UNAUTHENTICATED", "Request had invalid credentials."));
        }
        let name = asked.path.trim_start_matches("/v1/");
        let (name, operation) = name.rsplit_once(':').unwrap_or((name, ""));
        let Some(key) = self.keys.get(name).copied() else {
            return Err(error(404, "NOT_FOUND", "CryptoKey not found."));
        };
        let done = match (asked.method.as_str(), operation) {
            ("POST", "encrypt") => encrypt(name, &key, &asked.body),
            ("POST", "decrypt") => decrypt(&key, &asked.body),
            _ => Err(anyhow::anyhow!("no such operation")),
        };
        done.map_err(|why| {
            self.complaints.push(format!("{operation}: {why:#}"));
            error(400, "INVALID_ARGUMENT", &why.to_string())
        })
    }
}

/// Two members in base64, each with its checksum, and nothing else.
fn members(body: &[u8], names: [&str; 2]) -> Result<[Vec<u8>; 2]> {
    let body: Value = serde_json::from_slice(body)?;
    ensure!(body.as_object().is_some_and(|body| body.len() == 4), "members of {body}");
    let read = |name: &str| -> Result<Vec<u8>> {
        let bytes = STANDARD.decode(body[name].as_str().context("no string")?)?;
        let said = body[format!("{name}Crc32c")].as_str().context("no checksum")?.to_owned();
        ensure!(said == crc32c(&bytes).to_string(), "The checksum in field {name} did not match");
        Ok(bytes)
    };
    Ok([read(names[0])?, read(names[1])?])
}

fn encrypt(name: &str, key: &[u8; 32], body: &[u8]) -> Result<Value> {
    let [plaintext, aad] = members(body, ["plaintext", "additionalAuthenticatedData"])?;
    let mut nonce = [0; NONCE_LEN];
    rand::fill(&mut nonce)?;
    let mut sealed = plaintext;
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key)?);
    let unique = Nonce::assume_unique_for_key(nonce);
    cipher.seal_in_place_append_tag(unique, Aad::from(aad), &mut sealed)?;
    let ciphertext = [&nonce[..], &sealed].concat();
    Ok(json!({
        "name": format!("{name}/cryptoKeyVersions/1"), "protectionLevel": "HSM",
        "ciphertext": STANDARD.encode(&ciphertext),
        "ciphertextCrc32c": crc32c(&ciphertext).to_string(),
        "verifiedPlaintextCrc32c": true, "verifiedAdditionalAuthenticatedDataCrc32c": true,
    }))
}

fn decrypt(key: &[u8; 32], body: &[u8]) -> Result<Value> {
    let [ciphertext, aad] = members(body, ["ciphertext", "additionalAuthenticatedData"])?;
    let refused = "Decryption failed: the ciphertext is invalid.";
    let (nonce, sealed) = ciphertext.split_at_checked(NONCE_LEN).context(refused)?;
    let mut sealed = sealed.to_vec();
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key)?);
    let nonce = Nonce::try_assume_unique_for_key(nonce)?;
    let opened = cipher.open_in_place(nonce, Aad::from(aad), &mut sealed);
    let plaintext = opened.map_err(|_| anyhow::anyhow!(refused))?;
    Ok(json!({
        "plaintext": STANDARD.encode(&*plaintext), "usedPrimary": true, "protectionLevel": "HSM",
        "plaintextCrc32c": crc32c(plaintext).to_string(),
    }))
}

/// CRC-32C by long division of the message's bits, most significant first: not as the client has it.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut register: u32 = !0;
    for bit in bytes.iter().flat_map(|byte| (0..8).map(move |at| byte >> at & 1)) {
        let carry = (register >> 31) ^ u32::from(bit);
        register = (register << 1) ^ (carry * 0x1edc_6f41);
    }
    !register.reverse_bits()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(super::crc32c(b"123456789"), 0xe306_9283);
    }
}
