//! [`GcpKms`]: symmetric keys of Google's Cloud KMS.
//!
//! ```text
//! POST /v1/projects/…/cryptoKeys/<key>:encrypt   {"plaintext","additionalAuthenticatedData","…Crc32c"}
//! POST /v1/projects/…/cryptoKeys/<key>:decrypt   {"ciphertext","additionalAuthenticatedData","…Crc32c"}
//! ```
//!
//! The associated data name the bundle: KMS unwraps for no other. Checksums go both ways, as Google
//! asks of its clients. (Cloud KMS's REST reference, v1, `projects.locations.keyRings.cryptoKeys`.)

mod answer;
mod credentials;

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keys::http::Endpoint;
use keys::{Error, HttpSettings};
use reqwest::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE};
use seal::bundle::recipient_aad;
use seal::key::Kek;
use seal::name::{BundleId, GcpKmsKey, KeyUri};
use secret::Secret;
use serde_json::json;
use zeroize::Zeroizing;

use self::answer::{Refusal, crc32c};
use crate::RemoteKey;

/// Where Cloud KMS is.
const ENDPOINT: &str = "https://cloudkms.googleapis.com";

/// Where KMS is, and who we are to it.
#[derive(Clone)]
pub struct GcpKmsSettings {
    /// `https://…` instead of Google's own address: a private endpoint, or a test's server.
    pub endpoint: Option<String>,
    /// What is set of [`GcpKms::VARIABLES`].
    pub variables: HashMap<String, String>,
    /// Time. The certificates are the system's.
    pub http: HttpSettings,
}

/// Google's Cloud KMS.
#[derive(Debug)]
pub struct GcpKms {
    settings: GcpKmsSettings,
}

impl GcpKms {
    /// The variables that say who we are: a service account's key file, else the machine's metadata
    /// service, whose address tests may change. A file that fails is an error.
    pub const VARIABLES: [&str; 2] = credentials::VARIABLES;

    /// Asks nothing yet.
    pub fn new(settings: GcpKmsSettings) -> Self {
        Self { settings }
    }

    /// The body of a 200.
    async fn ask(
        &self,
        key: &GcpKmsKey,
        operation: &str,
        body: Zeroizing<String>,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let own = self.settings.endpoint.as_deref().unwrap_or(ENDPOINT);
        let endpoint = Endpoint::new(own, &self.settings.http)?;
        let token = credentials::token(&self.settings.variables, &self.settings.http).await?;
        let request = endpoint
            .post(&format!("/v1/{}:{operation}", key.resource()))
            .header(AUTHORIZATION, token)
            .header(CONTENT_TYPE, "application/json")
            .header(CONNECTION, "close");
        let response = endpoint.send(request.body(body.to_string())).await?;
        let status = response.status();
        if status != reqwest::StatusCode::OK {
            let refusal = Refusal::parse(status.as_u16(), &endpoint.refusal(response).await);
            let name = KeyUri::GcpKms(key.clone());
            return Err(refusal.about(&name, endpoint.name(), operation == "decrypt"));
        }
        endpoint.body(response, answer::BYTES_MAX).await
    }
}

impl RemoteKey for GcpKms {
    type Name = GcpKmsKey;

    fn kind(&self) -> &'static str {
        "gcpkms"
    }

    async fn wrap(&self, key: &GcpKmsKey, kek: &Kek, bundle: &BundleId) -> Result<Vec<u8>, Error> {
        let plaintext = Zeroizing::new(STANDARD.encode(kek.expose()));
        let aad = recipient_aad(bundle);
        let body = json!({
            "plaintext": &*plaintext,
            "plaintextCrc32c": crc32c(kek.expose()).to_string(),
            "additionalAuthenticatedData": STANDARD.encode(&aad),
            "additionalAuthenticatedDataCrc32c": crc32c(&aad).to_string(),
        });
        let body = self.ask(key, "encrypt", Zeroizing::new(body.to_string())).await?;
        answer::ciphertext(&body, key, "Cloud KMS")
    }

    async fn unwrap(
        &self,
        key: &GcpKmsKey,
        wrapped: &[u8],
        bundle: &BundleId,
    ) -> Result<Secret, Error> {
        let aad = recipient_aad(bundle);
        let body = json!({
            "ciphertext": STANDARD.encode(wrapped),
            "ciphertextCrc32c": crc32c(wrapped).to_string(),
            "additionalAuthenticatedData": STANDARD.encode(&aad),
            "additionalAuthenticatedDataCrc32c": crc32c(&aad).to_string(),
        });
        let body = self.ask(key, "decrypt", Zeroizing::new(body.to_string())).await?;
        answer::plaintext(&body, "Cloud KMS")
    }
}

impl fmt::Debug for GcpKmsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GcpKmsSettings")
            .field("endpoint", &self.endpoint)
            .field("http", &self.http)
            .finish_non_exhaustive()
    }
}
