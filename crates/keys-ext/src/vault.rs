//! [`Vault`]: HashiCorp's Vault and OpenBao, which speak the same HTTP API.
//!
//! ```text
//! POST /v1/auth/<mount>/login         {"role","jwt"}                       -> a token
//! GET  /v1/<mount>/data/<path>                                             -> a value (KV version 2)
//! POST /v1/<mount>/encrypt/<key>      {"plaintext","associated_data",…}    -> "vault:v1:…"
//! POST /v1/<mount>/decrypt/<key>      {"ciphertext","associated_data",…}   -> the plaintext
//! GET  /v1/auth/token/lookup-self     after a 403
//! POST /v1/auth/token/revoke-self
//! ```
//!
//! Each of [`Vault::release`], `wrap` and `unwrap` logs in, asks, and gives its token up again: a
//! run needs one key of each kind, and a token that nobody holds cannot be stolen.

mod answer;

use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keys::http::Endpoint;
use keys::{Error, HttpSettings, read_key};
use reqwest::header::{CONNECTION, HeaderMap, HeaderValue};
use reqwest::{RequestBuilder, StatusCode};
use seal::bundle::recipient_aad;
use seal::key::Kek;
use seal::name::{BundleId, KeyUri, VaultKv, VaultTransit};
use secret::Secret;
use serde_json::json;
use zeroize::Zeroizing;

use self::answer::Refusal;
use crate::RemoteKey;

/// Longest token of Vault's, or JWT, in bytes: service account tokens have about 1 KiB, batch
/// tokens and attestation tokens several.
const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// Where the server is and which part of it is ours.
#[derive(Debug, Clone)]
pub struct VaultSettings {
    /// `https://vault.example:8200`, without `/v1`.
    pub address: String,
    /// `X-Vault-Namespace`, if any.
    pub namespace: Option<String>,
    /// How to log in.
    pub login: Login,
    /// Certificates, time, and whether plain text may leave the machine.
    pub http: HttpSettings,
}

/// How to log in.
#[derive(Debug, Clone)]
pub enum Login {
    /// With a token from a file, read anew for each login so that an agent may replace it.
    TokenFile(PathBuf),
    /// With this token.
    Token(std::sync::Arc<Secret>),
    /// With a JWT, as `role`, at `auth/<mount>/login`: the methods `kubernetes` (the projected token
    /// of the service account) and `jwt` (any other).
    Jwt {
        /// Where the method is mounted, below `auth/`.
        mount: String,
        /// The role to be.
        role: String,
        /// The JWT.
        jwt: Jwt,
    },
}

/// A JWT to log in with.
#[derive(Debug, Clone)]
pub enum Jwt {
    /// In a file, read anew for each login.
    File(PathBuf),
    /// This one: a key broker's attestation token.
    Given(std::sync::Arc<Secret>),
}

/// A Vault or OpenBao server.
pub struct Vault {
    endpoint: Endpoint,
    namespace: Option<HeaderValue>,
    login: Login,
}

/// A token of the server's, as a header that no log shows.
struct Session {
    token: HeaderValue,
    /// We made it, so we end it.
    ours: bool,
}

impl Vault {
    /// The server at `settings.address`. Asks nothing yet.
    pub fn new(settings: &VaultSettings) -> Result<Self, Error> {
        let endpoint = Endpoint::new(&settings.address, &settings.http)?;
        let namespace = settings.namespace.as_deref().map(|namespace| {
            let value = HeaderValue::from_str(namespace);
            value.map_err(|_| Error::Usage("the namespace is no header's value".to_owned()))
        });
        if let Login::Jwt { mount, .. } = &settings.login {
            let clean = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
            if mount.is_empty() || !mount.chars().all(clean) || mount.contains("..") {
                return Err(Error::Usage(format!("{mount:?} is no mount of an auth method")));
            }
        }
        Ok(Self { endpoint, namespace: namespace.transpose()?, login: settings.login.clone() })
    }

    /// `vault`: for logs and audit records.
    pub fn kind(&self) -> &'static str {
        "vault"
    }

    /// The value's member, as bytes: what was put there is a JWK or a key in base64.
    pub async fn release(&self, key: &VaultKv) -> Result<Secret, Error> {
        let name = KeyUri::VaultKv(key.clone());
        let path = format!("/v1/{}", key.api_path());
        let body = self
            .as_somebody(async |session| {
                let request = self.endpoint.get(&path);
                self.ask(request, session, |refusal| refusal.about(&name, self.endpoint.name()))
                    .await
            })
            .await?;
        answer::value(&body, key.field(), self.endpoint.name(), &name)
    }

    /// Logs in, asks, and ends what it began, whatever the answer.
    async fn as_somebody<T>(
        &self,
        ask: impl AsyncFnOnce(&Session) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let session = self.log_in().await?;
        let mut answer = ask(&session).await;
        // The server answers 403 alike to a policy's no and to a token that it does not know.
        if matches!(answer, Err(Error::Denied { .. })) && self.knows_nothing_of(&session).await {
            let detail = "403 permission denied, even to look up the token: it has ended, is none \
                          of this server's, or lacks the policy `default`";
            let endpoint = self.endpoint.name().to_owned();
            answer = Err(Error::Login { endpoint, detail: detail.to_owned() });
        }
        if session.ours {
            self.log_out(&session).await;
        }
        answer
    }

    async fn log_in(&self) -> Result<Session, Error> {
        let file = |path: &PathBuf| {
            let read = read_key(path).map_err(|source| Error::File { path: path.clone(), source });
            read.and_then(|secret| one_line(&secret, path.display()))
        };
        let (mount, role, jwt) = match &self.login {
            Login::TokenFile(path) => {
                return Ok(Session { token: header(&file(path)?)?, ours: false });
            }
            Login::Token(token) => {
                return Ok(Session { token: header(&one_line(token, "the token")?)?, ours: false });
            }
            Login::Jwt { mount, role, jwt: Jwt::File(path) } => (mount, role, file(path)?),
            Login::Jwt { mount, role, jwt: Jwt::Given(jwt) } => {
                (mount, role, one_line(jwt, "the JWT")?)
            }
        };
        let body = Zeroizing::new(json!({"role": role, "jwt": &*jwt}).to_string());
        let request = self.endpoint.post(&format!("/v1/auth/{mount}/login")).body(body.to_string());
        let response = self.endpoint.send_unfiltered(self.complete(request)).await?;
        let status = response.status();
        if status != StatusCode::OK {
            let refusal = Refusal::parse(status, &self.endpoint.refusal(response).await);
            return Err(refusal.of_a_login(self.endpoint.name()));
        }
        let body = self.endpoint.body(response, answer::LOGIN_BYTES_MAX).await?;
        let token = answer::client_token(&body, self.endpoint.name())?;
        Ok(Session { token: header(&token)?, ours: true })
    }

    /// Whether the token may not even look itself up, as the policy `default` allows each.
    async fn knows_nothing_of(&self, session: &Session) -> bool {
        let request = self.endpoint.get("/v1/auth/token/lookup-self");
        let request = self.complete(request).headers(session.headers());
        let answer = self.endpoint.send_unfiltered(request).await;
        answer.is_ok_and(|response| response.status() == StatusCode::FORBIDDEN)
    }

    async fn log_out(&self, session: &Session) {
        let request = self.endpoint.post("/v1/auth/token/revoke-self");
        let request = self.complete(request).headers(session.headers());
        // It ends by itself soon; that it is still there harms nobody who asks for keys.
        match self.endpoint.send_unfiltered(request).await {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => {
                tracing::debug!(status = %response.status(), "the token was not revoked")
            }
            Err(error) => tracing::debug!(%error, "the token was not revoked"),
        }
    }

    /// The body of a 200.
    async fn ask(
        &self,
        request: RequestBuilder,
        session: &Session,
        refused: impl FnOnce(Refusal) -> Error,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let request = self.complete(request).headers(session.headers());
        let response = self.endpoint.send_unfiltered(request).await?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(refused(Refusal::parse(status, &self.endpoint.refusal(response).await)));
        }
        self.endpoint.body(response, answer::BYTES_MAX).await
    }

    /// What every request has. `Connection: close`, because an idle connection would keep the last
    /// answer, and a key with it, in its buffer.
    fn complete(&self, request: RequestBuilder) -> RequestBuilder {
        let request = request.header("X-Vault-Request", "true").header(CONNECTION, "close");
        match &self.namespace {
            Some(namespace) => request.header("X-Vault-Namespace", namespace),
            None => request,
        }
    }
}

impl RemoteKey for Vault {
    type Name = VaultTransit;

    fn kind(&self) -> &'static str {
        "vault"
    }

    async fn wrap(
        &self,
        key: &VaultTransit,
        kek: &Kek,
        bundle: &BundleId,
    ) -> Result<Vec<u8>, Error> {
        let name = KeyUri::VaultTransit(key.clone());
        let bound = STANDARD.encode(recipient_aad(bundle));
        let plaintext = Zeroizing::new(STANDARD.encode(kek.expose()));
        // `context` is for keys that derive one of their own for each context, and else ignored.
        let body = Zeroizing::new(
            json!({"plaintext": &*plaintext, "associated_data": bound, "context": bound})
                .to_string(),
        );
        let path = format!("/v1/{}/encrypt/{}", key.mount(), key.key());
        let request = self.endpoint.post(&path).body(body.to_string());
        let refused = |refusal: Refusal| refusal.about(&name, self.endpoint.name());
        let body =
            self.as_somebody(async |session| self.ask(request, session, refused).await).await?;
        answer::ciphertext(&body, self.endpoint.name())
    }

    async fn unwrap(
        &self,
        key: &VaultTransit,
        wrapped: &[u8],
        bundle: &BundleId,
    ) -> Result<Secret, Error> {
        let name = KeyUri::VaultTransit(key.clone());
        let refuse =
            || Error::Unwrap { resource: name.clone(), detail: "not of Transit".to_owned() };
        let ciphertext = std::str::from_utf8(wrapped).map_err(|_| refuse())?;
        let bound = STANDARD.encode(recipient_aad(bundle));
        let body = json!({"ciphertext": ciphertext, "associated_data": bound, "context": bound})
            .to_string();
        let path = format!("/v1/{}/decrypt/{}", key.mount(), key.key());
        let request = self.endpoint.post(&path).body(body);
        let refused = |refusal: Refusal| refusal.of_an_unwrapping(&name, self.endpoint.name());
        let body =
            self.as_somebody(async |session| self.ask(request, session, refused).await).await?;
        answer::plaintext(&body, self.endpoint.name())
    }
}

impl Session {
    fn headers(&self) -> HeaderMap {
        HeaderMap::from_iter([(
            reqwest::header::HeaderName::from_static("x-vault-token"),
            self.token.clone(),
        )])
    }
}

/// A token or JWT as it stands in a file, with at most one newline behind it.
fn one_line(secret: &Secret, place: impl fmt::Display) -> Result<Zeroizing<String>, Error> {
    let text = secret.expose();
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    match std::str::from_utf8(text) {
        Ok(text) if text.bytes().all(|b| b.is_ascii_graphic()) && !text.is_empty() => {
            Ok(Zeroizing::new(text.to_owned()))
        }
        _ => Err(Error::Usage(format!("{place} holds no token: one line of printable ASCII"))),
    }
}

fn header(token: &str) -> Result<HeaderValue, Error> {
    let refuse = || Error::Usage("the token is no header's value".to_owned());
    if token.len() > TOKEN_BYTES_MAX {
        return Err(refuse());
    }
    let mut value = HeaderValue::from_str(token).map_err(|_| refuse())?;
    value.set_sensitive(true);
    Ok(value)
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault")
            .field("endpoint", &self.endpoint.name())
            .field("namespace", &self.namespace)
            .field("login", &self.login)
            .finish()
    }
}
