//! [`Kbs`]: keys from a key broker, by the KBS attestation protocol 0.4.0 ("RCAR": request,
//! challenge, attestation, response).
//!
//! ```text
//! POST /kbs/v0/auth      version, tee                  -> nonce, session cookie
//! POST /kbs/v0/attest    public key, evidence over     -> token
//!                        SHA-384(nonce, public key)
//! GET  /kbs/v0/resource/<repository>/<type>/<tag>      -> JWE to that public key
//! GET  /kbs/v0/<plugin>/<path>                         -> the same, from one of Trustee's plugins
//! ```
//!
//! The evidence binds the public key to this guest, so only this guest can open the answer,
//! whoever carries it. [`handshake`] has the messages, [`refusal`] what errors mean.

mod handshake;
mod refusal;

use std::fmt;
use std::sync::Arc;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, SET_COOKIE};
use reqwest::{RequestBuilder, Response, StatusCode};
use seal::jwe::{TeeKeyKind, TeeKeyPair};
use seal::name::{KeyUri, PluginUri, ResourceUri};
use secret::Secret;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use self::handshake::Challenge;
use self::refusal::Refusal;
use crate::http::Endpoint;
use crate::{Attester, Error, HttpSettings, KeySource, Released};

pub use self::handshake::RECEIPT_BYTES_MAX;

/// Header of our broker's signature under a release.
const RECEIPT: &str = "sealift-receipt";

/// A key broker, and the session with it: one attestation serves all keys of a run.
pub struct Kbs {
    endpoint: Endpoint,
    attester: Arc<dyn Attester>,
    key_kind: TeeKeyKind,
    /// Held during the handshake, so that concurrent releases share one attestation.
    session: Mutex<Option<Arc<Session>>>,
}

/// What an accepted attestation gives.
struct Session {
    key_pair: TeeKeyPair,
    cookie: String,
    token: Option<String>,
}

impl Kbs {
    /// The broker at `url` (without `/kbs/v0`), to which `attester` proves what this machine is.
    pub fn new(
        url: &str,
        attester: Box<dyn Attester>,
        settings: &HttpSettings,
    ) -> Result<Self, Error> {
        let endpoint = Endpoint::new(url, settings)?;
        let (attester, key_kind) = (attester.into(), TeeKeyKind::default());
        Ok(Self { endpoint, attester, key_kind, session: Mutex::new(None) })
    }

    /// Makes key pairs of this kind, for brokers that have a rule about it.
    #[must_use]
    pub fn with_key_kind(self, key_kind: TeeKeyKind) -> Self {
        Self { key_kind, ..self }
    }
}

impl KeySource for Kbs {
    fn kind(&self) -> &'static str {
        "kbs"
    }

    async fn release(&self, resource: &ResourceUri) -> Result<Secret, Error> {
        Ok(self.release_signed(resource).await?.key)
    }

    async fn release_signed(&self, resource: &ResourceUri) -> Result<Released, Error> {
        self.get(&format!("resource/{}", resource.path()), &[], &resource.into()).await
    }
}

impl Kbs {
    /// What a plugin serves under this name, as [`KeySource::release`] does a resource.
    pub async fn release_plugin(&self, name: &PluginUri) -> Result<Secret, Error> {
        Ok(self.get(&name.api_path(), &[], &name.clone().into()).await?.key)
    }

    /// What the plugin `pkcs11` unwraps, by the key in its HSM: a GET that has a body. Nothing in it
    /// is bound to anything. [`Error::Unwrap`] also for whatever else fails there: Trustee tells none
    /// from the other.
    pub async fn unwrap(&self, name: &PluginUri, wrapped: &[u8]) -> Result<Secret, Error> {
        let about = &name.clone().into();
        let unwrapped = self.get(&name.api_path(), wrapped, about).await;
        unwrapped.map(|unwrapped| unwrapped.key).map_err(|error| match error {
            Error::NotFound { resource, detail } if detail.contains("PluginInternalError") => {
                let detail =
                    format!("{detail}: the broker's log tells if it is its HSM that failed");
                Error::Unwrap { resource, detail }
            }
            other => other,
        })
    }

    /// What is below `/kbs/v0/`, decrypted.
    async fn get(&self, path: &str, body: &[u8], about: &KeyUri) -> Result<Released, Error> {
        let mut session = self.session(None, about).await?;
        let mut refusal = match self.fetch(&session, path, body, about).await? {
            Ok(key) => return Ok(key),
            Err(refusal) => refusal,
        };
        // A session may have ended since it was used last: attest again, once, and only then.
        if refusal.is_about_the_session() {
            session = self.session(Some(&session), about).await?;
            refusal = match self.fetch(&session, path, body, about).await? {
                Ok(key) => return Ok(key),
                Err(refusal) => refusal,
            };
        }
        Err(refusal.into_error(self.endpoint.name(), about))
    }

    /// The current session, or a new one if there is none or it is the one that was `refused`.
    async fn session(
        &self,
        refused: Option<&Arc<Session>>,
        about: &KeyUri,
    ) -> Result<Arc<Session>, Error> {
        let mut current = self.session.lock().await;
        match &*current {
            Some(session) if !refused.is_some_and(|refused| Arc::ptr_eq(refused, session)) => {
                Ok(Arc::clone(session))
            }
            _ => {
                let session = Arc::new(self.attest(about).await?);
                *current = Some(Arc::clone(&session));
                Ok(session)
            }
        }
    }

    /// What the broker says of this guest, signed, for others who believe the broker: a JWT, good for
    /// minutes. Attests for it. `about` is the key that it is for, in messages.
    pub async fn token(&self, about: &KeyUri) -> Result<Secret, Error> {
        let token = self.attest(about).await?.token;
        let token = token.ok_or_else(|| self.protocol("no token, or one that fits no header"))?;
        Secret::take(&mut token.into_bytes()).map_err(|error| self.protocol(error.to_string()))
    }

    async fn attest(&self, about: &KeyUri) -> Result<Session, Error> {
        let request = handshake::request(self.attester.tee());
        let response = self.post("/kbs/v0/auth", request, None, about).await?;
        let cookie = session_cookie(&response).ok_or_else(|| {
            self.protocol("no usable kbs-session-id cookie in the answer to /auth")
        })?;
        let body = self.endpoint.body(response, handshake::CHALLENGE_BYTES_MAX).await?;
        let challenge = Challenge::parse(&body).map_err(|why| self.protocol(why))?;

        let key_pair = self.key_pair().await?;
        let public_key = key_pair.public_jwk();
        let report_data =
            handshake::report_data(&challenge, &public_key).map_err(|why| self.protocol(why))?;
        let evidence = self.evidence(report_data).await?;

        let attestation = handshake::attestation(&challenge, &public_key, &evidence);
        let response = self.post("/kbs/v0/attest", attestation, Some(&cookie), about).await?;
        let cookie = session_cookie(&response).unwrap_or(cookie);
        let body = self.endpoint.body(response, handshake::TOKEN_ANSWER_BYTES_MAX).await?;
        let token = handshake::parse_token(&body).map_err(|why| self.protocol(why))?;
        tracing::info!(kbs = self.endpoint.name(), tee = self.attester.tee(), "attested");
        Ok(Session { key_pair, cookie, token })
    }

    /// RSA takes tenths of a second to make, so it is made off the runtime.
    async fn key_pair(&self) -> Result<TeeKeyPair, Error> {
        let kind = self.key_kind;
        let made = tokio::task::spawn_blocking(move || TeeKeyPair::generate(kind)).await;
        let made = made.map_err(|stopped| self.protocol(stopped.to_string()))?;
        made.map_err(|error| self.protocol(error.to_string()))
    }

    /// Quotes take up to seconds of hardware or firmware time, so they are made off the runtime.
    async fn evidence(&self, report_data: [u8; 48]) -> Result<serde_json::Value, Error> {
        let attester = Arc::clone(&self.attester);
        let tee = attester.tee();
        tokio::task::spawn_blocking(move || attester.evidence(&report_data))
            .await
            .unwrap_or_else(|stopped| Err(Error::Evidence { tee, source: stopped.into() }))
    }

    async fn post(
        &self,
        path: &str,
        body: String,
        cookie: Option<&str>,
        about: &KeyUri,
    ) -> Result<Response, Error> {
        let mut request = self.endpoint.post(path).header(CONTENT_TYPE, "application/json");
        if let Some(cookie) = cookie {
            request = request.header(COOKIE, cookie);
        }
        let response = self.endpoint.send(request.body(body)).await?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let refusal = self.refusal(response).await;
        Err(refusal.into_error(self.endpoint.name(), about))
    }

    /// The key, or the broker's refusal.
    async fn fetch(
        &self,
        session: &Session,
        path: &str,
        body: &[u8],
        about: &KeyUri,
    ) -> Result<Result<Released, Refusal>, Error> {
        let mut request = session.authorize(self.endpoint.get(&format!("/kbs/v0/{path}")));
        if !body.is_empty() {
            request = request.body(body.to_owned());
        }
        let response = self.endpoint.send(request).await?;
        if response.status() != StatusCode::OK {
            return Ok(Err(self.refusal(response).await));
        }
        let receipt = response.headers().get(RECEIPT).and_then(|value| value.to_str().ok());
        let receipt = receipt.and_then(handshake::receipt);
        let sealed = self.endpoint.body(response, handshake::JWE_BYTES_MAX).await?;
        let empty = || Error::Empty { resource: about.clone() };
        if sealed.is_empty() {
            return Err(empty());
        }
        let key = session.key_pair.decrypt(&sealed).map_err(|error| match error {
            seal::Error::Limit { .. } => {
                Error::TooLarge { what: about.to_string(), limit: Secret::BYTES_MAX }
            }
            other => self.protocol(format!("the answer does not open: {other}")),
        })?;
        if key.is_empty() {
            return Err(empty());
        }
        Ok(Ok(Released { key, receipt }))
    }

    async fn refusal(&self, response: Response) -> Refusal {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body: Zeroizing<Vec<u8>> = self.endpoint.refusal(response).await;
        Refusal::parse(status, &body).with_headers(&headers)
    }

    fn protocol(&self, why: impl Into<String>) -> Error {
        Error::protocol(self.endpoint.name(), why)
    }
}

impl Session {
    /// Trustee looks for the cookie's session first. The token is for replicas that do not share
    /// sessions.
    fn authorize(&self, request: RequestBuilder) -> RequestBuilder {
        let request = request.header(COOKIE, &self.cookie);
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }
}

fn session_cookie(response: &Response) -> Option<String> {
    let headers = response.headers().get_all(SET_COOKIE);
    headers.iter().filter_map(|value| value.to_str().ok()).find_map(handshake::session_cookie)
}

impl fmt::Debug for Kbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kbs")
            .field("endpoint", &self.endpoint.name())
            .field("tee", &self.attester.tee())
            .field("key_kind", &self.key_kind)
            .finish_non_exhaustive()
    }
}
