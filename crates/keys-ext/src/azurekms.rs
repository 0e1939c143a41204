//! [`AzureKms`]: AES keys of Azure's Managed HSM.
//!
//! ```text
//! GET  /keys/<key>[/<version>]              -> its version, its type, what it may do; to wrap
//! POST /keys/<key>/<version>/encrypt        {"alg":"A256GCM","value","aad"}
//! POST /keys/<key>/<version>/decrypt        {"alg":"A256GCM","value","iv","tag","aad"}
//! POST /keys/<key>/<version>/wrapkey, …/unwrapkey    {"alg":"A256KW","value"}
//! ```
//!
//! A key that may encrypt binds the bundle (`aad`); one that may only wrap leaves that to the
//! bundle's own JWE. Vaults have public-key pairs only, which are refused: whoever has the public
//! half could wrap a key of his own, and seal with that. (Key Vault's REST reference, 7.4.)

mod answer;
mod credentials;

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keys::http::Endpoint;
use keys::{Error, HttpSettings};
use reqwest::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderValue};
use reqwest::{RequestBuilder, StatusCode};
use seal::bundle::recipient_aad;
use seal::key::Kek;
use seal::name::{AzureKmsKey, BundleId, KeyUri};
use secret::Secret;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use self::answer::{Means, Refusal, Wrapped};
use crate::RemoteKey;

/// The API's version: the first with Managed HSM's AES keys in general availability that all clouds
/// have.
const VERSION: &str = "api-version=7.4";

/// Where the service is, and who we are to it.
#[derive(Clone)]
pub struct AzureKmsSettings {
    /// `https://…` instead of the host in the key's name: a gateway, or a test's server.
    pub endpoint: Option<String>,
    /// What is set of [`AzureKms::VARIABLES`].
    pub variables: HashMap<String, String>,
    /// Time. The certificates are the system's.
    pub http: HttpSettings,
}

/// Azure's Managed HSMs.
#[derive(Debug)]
pub struct AzureKms {
    settings: AzureKmsSettings,
}

/// One run of questions: where, and as whom.
struct Session<'a> {
    endpoint: Endpoint,
    token: HeaderValue,
    key: &'a AzureKmsKey,
}

impl AzureKms {
    /// The variables that say who we are, as the Azure SDKs have them, in their order: a client
    /// secret, a workload identity's token file, else the machine's managed identity.
    pub const VARIABLES: [&str; 6] = credentials::VARIABLES;

    /// Asks nothing yet.
    pub fn new(settings: AzureKmsSettings) -> Self {
        Self { settings }
    }

    async fn session<'a>(&self, key: &'a AzureKmsKey) -> Result<Session<'a>, Error> {
        if key.is_in_vault() {
            let name = KeyUri::AzureKms(key.clone());
            return Err(Error::Usage(format!(
                "{name} is in a vault, which has key pairs only, and anybody may wrap for one: use \
                 an AES key of a Managed HSM"
            )));
        }
        let own = format!("https://{}", key.host());
        let own = self.settings.endpoint.as_deref().unwrap_or(&own);
        let endpoint = Endpoint::new(own, &self.settings.http)?;
        let Self { settings: AzureKmsSettings { variables, http, .. } } = self;
        let token = credentials::token(variables, key.domain(), http).await?;
        Ok(Session { endpoint, token, key })
    }
}

impl RemoteKey for AzureKms {
    type Name = AzureKmsKey;

    fn kind(&self) -> &'static str {
        "azurekms"
    }

    async fn wrap(
        &self,
        key: &AzureKmsKey,
        kek: &Kek,
        bundle: &BundleId,
    ) -> Result<Vec<u8>, Error> {
        let session = self.session(key).await?;
        let (version, means) = session.describe().await?;
        let value = Zeroizing::new(URL_SAFE_NO_PAD.encode(kek.expose()));
        let body = match means {
            Means::Gcm => {
                let aad = URL_SAFE_NO_PAD.encode(recipient_aad(bundle));
                json!({"alg": means.alg(), "value": &*value, "aad": aad})
            }
            Means::Kw => json!({"alg": means.alg(), "value": &*value}),
        };
        let operation = match means {
            Means::Gcm => "encrypt",
            Means::Kw => "wrapkey",
        };
        let body = session.operate(&version, operation, body, false).await?;
        answer::wrapped(&body, key, &version, means, session.endpoint.name())
    }

    async fn unwrap(
        &self,
        key: &AzureKmsKey,
        wrapped: &[u8],
        bundle: &BundleId,
    ) -> Result<Secret, Error> {
        let name = KeyUri::AzureKms(key.clone());
        let wrapped = Wrapped::parse(wrapped)
            .filter(|wrapped| key.version().is_none_or(|version| version == wrapped.version))
            .ok_or_else(|| Error::Unwrap { resource: name, detail: "not of Azure's".to_owned() })?;
        let session = self.session(key).await?;
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (operation, body) = match wrapped.gcm {
            Some((iv, tag)) => {
                let aad = encode(&recipient_aad(bundle));
                let value = encode(wrapped.value);
                let (iv, tag) = (encode(iv), encode(tag));
                let alg = Means::Gcm.alg();
                ("decrypt", json!({"alg": alg, "value": value, "iv": iv, "tag": tag, "aad": aad}))
            }
            None => ("unwrapkey", json!({"alg": Means::Kw.alg(), "value": encode(wrapped.value)})),
        };
        let body = session.operate(wrapped.version, operation, body, true).await?;
        answer::unwrapped(&body, key, wrapped.version, session.endpoint.name())
    }
}

impl Session<'_> {
    /// The version that is current, or the one that is named, and what it wraps by.
    async fn describe(&self) -> Result<(String, Means), Error> {
        let version = self.key.version().map(|version| format!("/{version}"));
        let path = format!("/keys/{}{}?{VERSION}", self.key.key(), version.unwrap_or_default());
        let body = self.ask(self.endpoint.get(&path), false).await?;
        answer::described(&body, self.key, self.endpoint.name())
    }

    async fn operate(
        &self,
        version: &str,
        operation: &str,
        body: Value,
        unwrapping: bool,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let path = format!("/keys/{}/{version}/{operation}?{VERSION}", self.key.key());
        let body = Zeroizing::new(body.to_string());
        let request = self.endpoint.post(&path).header(CONTENT_TYPE, "application/json");
        self.ask(request.body(body.to_string()), unwrapping).await
    }

    /// The body of a 200.
    async fn ask(
        &self,
        request: RequestBuilder,
        unwrapping: bool,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let request = request.header(AUTHORIZATION, self.token.clone()).header(CONNECTION, "close");
        let response = self.endpoint.send(request).await?;
        let status = response.status();
        if status != StatusCode::OK {
            let refusal = Refusal::parse(status.as_u16(), &self.endpoint.refusal(response).await);
            let name = KeyUri::AzureKms(self.key.clone());
            return Err(refusal.about(&name, self.endpoint.name(), unwrapping));
        }
        self.endpoint.body(response, answer::BYTES_MAX).await
    }
}

impl fmt::Debug for AzureKmsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The variables' values are credentials.
        f.debug_struct("AzureKmsSettings")
            .field("endpoint", &self.endpoint)
            .field("http", &self.http)
            .finish_non_exhaustive()
    }
}
