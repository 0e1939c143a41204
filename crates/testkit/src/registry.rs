//! A container registry: Docker's own, as Debian packs it (`docker-registry`), and a token server
//! beside it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use tempfile::TempDir;

use crate::server::{Server, named_by};
use crate::tls::{Authority, Issued};
use crate::web::{Asked, Web};

const SERVICE: &str = "sealift-test";
const ISSUER: &str = "sealift-test-tokens";

/// Who may talk to a registry, and how.
#[derive(Debug)]
pub enum Door {
    /// Anybody.
    Open,
    /// [`Registry::USER`] by name and password.
    Basic,
    /// The same, over TLS with this certificate for `127.0.0.1`.
    Tls(Issued),
    /// Whoever brings a token of a server that gives them to [`Registry::USER`].
    Token,
}

/// A running registry without anything in it.
#[derive(Debug)]
pub struct Registry {
    server: Server,
    root: TempDir,
    tokens: Option<Tokens>,
}

impl Registry {
    /// The one user.
    pub const USER: &str = "sealift";
    /// Its refresh token, at a registry with tokens.
    pub const REFRESH: &str = "refresh+/=&token";
    /// Its password.
    pub const PASSWORD: &str = "hunter2-registry";
    /// The same as `htpasswd` writes it.
    const HTPASSWD: &str = "sealift:$2b$04$abcdefghijklmnopqrstuuM/Z0A7FUJ615yT0MkE8r/urtke.cnyW\n";

    /// Starts it; `None`, and a note, if `SEALIFT_REGISTRY` names no `docker-registry`.
    ///
    /// # Errors
    /// If the server does not come up.
    pub fn start(door: &Door) -> Result<Option<Self>> {
        let Some(program) = named_by("SEALIFT_REGISTRY") else { return Ok(None) };
        let root = TempDir::new()?;
        let file = |name: &str| root.path().join(name);
        let mut config = String::from("version: 0.1\nlog: {level: error}\nstorage:\n");
        writeln!(config, "  delete: {{enabled: true}}")?;
        writeln!(config, "  filesystem: {{rootdirectory: {}}}", file("store").display())?;
        let mut auth = String::new();
        let mut tls = String::new();
        let mut tokens = None;
        if matches!(door, Door::Basic | Door::Tls(_)) {
            std::fs::write(file("htpasswd"), Self::HTPASSWD)?;
            let path = file("htpasswd");
            auth = format!("auth:\n  htpasswd: {{realm: x, path: {}}}\n", path.display());
        }
        if let Door::Tls(issued) = door {
            let (certificate, key) = (file("certificate"), file("key"));
            issued.write(&certificate, &key)?;
            let (certificate, key) = (certificate.display(), key.display());
            tls = format!(", tls: {{certificate: {certificate}, key: {key}}}");
        }
        if let Door::Token = door {
            let started = Tokens::start(&file("tokens.pem"))?;
            auth = format!(
                "auth:\n  token: {{realm: {}/token, service: {SERVICE}, issuer: {ISSUER}, \
                 rootcertbundle: {}}}\n",
                started.web.url(),
                file("tokens.pem").display()
            );
            tokens = Some(started);
        }
        config.push_str(&auth);
        let server = Server::start(|port| {
            let path = file(&format!("{port}.yml"));
            let http = format!("http: {{addr: \"127.0.0.1:{port}\", secret: x{tls}}}\n");
            // If it cannot be written, the server says so by not coming up.
            let _ = std::fs::write(&path, format!("{config}{http}"));
            let mut command = Command::new(&program);
            command.env_clear().arg("serve").arg(path);
            command
        })?;
        Ok(Some(Self { server, root, tokens }))
    }

    /// `127.0.0.1:<port>`, as it stands in references.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }

    /// Docker's configuration file with the user's credentials for this registry.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn docker_config(&self) -> Result<PathBuf> {
        let auth = STANDARD.encode(format!("{}:{}", Self::USER, Self::PASSWORD));
        let config = json!({ "auths": { self.host(): { "auth": auth } } });
        let path = self.root.path().join("config.json");
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// The same with a refresh token.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn identity_config(&self) -> Result<PathBuf> {
        // As Azure's registries have it: a user without a password beside the token.
        let entry = json!({ "auth": STANDARD.encode("nobody:"), "identitytoken": Self::REFRESH });
        let path = self.root.path().join("identity.json");
        std::fs::write(&path, json!({ "auths": { self.host(): entry } }).to_string())?;
        Ok(path)
    }

    /// Where a blob lies in the registry's own store, so that a test can change it behind its back.
    #[must_use]
    pub fn blob_file(&self, sha256_hex: &str) -> PathBuf {
        let blobs = self.root.path().join("store/docker/registry/v2/blobs/sha256");
        blobs.join(&sha256_hex[..2]).join(sha256_hex).join("data")
    }

    /// The scopes for which tokens were made out so far.
    #[must_use]
    pub fn scopes(&self) -> Vec<String> {
        let log = self.tokens.as_ref().map(|tokens| &tokens.scopes);
        log.map(|log| log.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .unwrap_or_default()
    }
}

/// A token server as `docker-registry` wants one (distribution's "token authentication").
#[derive(Debug)]
struct Tokens {
    web: Web,
    scopes: Arc<Mutex<Vec<String>>>,
}

impl Tokens {
    fn start(certificate: &Path) -> Result<Self> {
        let issued = Authority::new()?.issue(&["tokens"])?;
        std::fs::write(certificate, &issued.certificate)?;
        let signer = Signer::new(&issued)?;
        let scopes = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&scopes);
        let password = STANDARD.encode(format!("{}:{}", Registry::USER, Registry::PASSWORD));
        let web = Web::start(move |asked| {
            let posted = asked.method == "POST";
            let body = String::from_utf8_lossy(&asked.body);
            let form = Asked::form(if posted { &body } else { &asked.query });
            let given = |name: &str| form.get(name).map_or("", String::as_str);
            let known = match posted {
                // Distribution's "OAuth2 Token Authentication".
                true => {
                    asked.header("content-type") == "application/x-www-form-urlencoded"
                        && given("grant_type") == "refresh_token"
                        && given("refresh_token") == Registry::REFRESH
                        && given("service") == SERVICE
                        && !given("client_id").is_empty()
                        && asked.header("authorization").is_empty()
                        && asked.query.is_empty()
                }
                false => asked.header("authorization") == format!("Basic {password}"),
            };
            let scope = form.get("scope").cloned().unwrap_or_default();
            let token = known.then(|| signer.token(&scope)).and_then(Result::ok);
            log.lock().unwrap_or_else(PoisonError::into_inner).push(scope);
            let (status, body) = match token {
                Some(token) if posted => (200, json!({ "access_token": token }).to_string()),
                Some(token) => (200, json!({ "token": token }).to_string()),
                None => (401, String::new()),
            };
            let length = body.len();
            let head = "Connection: close\r\nContent-Length";
            format!("HTTP/1.1 {status} x\r\n{head}: {length}\r\n\r\n{body}").into_bytes()
        })?;
        Ok(Self { web, scopes })
    }
}

struct Signer {
    key: EcdsaKeyPair,
    certificate: String,
}

impl Signer {
    fn new(issued: &Issued) -> Result<Self> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(issued.key.as_bytes())?;
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der())
                .ok()
                .context("rcgen's default key is P-256")?;
        let certificate =
            issued.certificate.lines().filter(|line| !line.starts_with("-----")).collect();
        Ok(Self { key, certificate })
    }

    /// A token for one scope, `repository:<name>:<actions>`.
    fn token(&self, scope: &str) -> Result<String> {
        let mut parts = scope.splitn(3, ':');
        let mut part = || parts.next().unwrap_or_default();
        let (kind, name, actions) = (part(), part(), part());
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let actions: Vec<&str> = actions.split(',').collect();
        let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [self.certificate] });
        let claims = json!({
            "iss": ISSUER, "sub": Registry::USER, "aud": SERVICE, "jti": "1",
            "iat": now - 60, "nbf": now - 60, "exp": now + 600,
            "access": [{ "type": kind, "name": name, "actions": actions }],
        });
        let encode = |value: String| URL_SAFE_NO_PAD.encode(value);
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .ok()
            .context("the token cannot be signed")?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
