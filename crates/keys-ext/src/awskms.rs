//! [`AwsKms`]: keys of AWS's key management service.
//!
//! `POST /` with `X-Amz-Target: TrentService.Encrypt` or `…Decrypt`, JSON, signed by SigV4. The
//! encryption context names the bundle: KMS unwraps for no other, and CloudTrail shows which it was.
//! Signing and credentials are those of the library that signs for S3.

mod answer;
mod credentials;

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keys::http::Endpoint;
use keys::{Error, HttpSettings};
use reqsign_aws_v4::{Credential, RequestSigner};
use reqsign_core::Signer;
use reqsign_core::hash::hex_sha256;
use reqwest::header::CONNECTION;
use seal::key::Kek;
use seal::name::{AwsKmsKey, BundleId, KeyUri};
use secret::Secret;
use serde_json::json;
use zeroize::Zeroizing;

use self::answer::Refusal;
use crate::RemoteKey;

/// The encryption context's one member, whose value is the bundle id.
pub const CONTEXT: &str = "sealift:bundle";

/// Where KMS is, and who we are to it.
#[derive(Clone)]
pub struct AwsKmsSettings {
    /// `https://…` instead of the region's own address: a private endpoint, or a test's server.
    pub endpoint: Option<String>,
    /// What is set of [`AwsKms::VARIABLES`].
    pub variables: HashMap<String, String>,
    /// Certificates and time.
    pub http: HttpSettings,
}

/// AWS KMS, in the region that a key's name tells.
#[derive(Debug)]
pub struct AwsKms {
    settings: AwsKmsSettings,
}

impl AwsKms {
    /// The variables that say who we are, in the order of the AWS tools: keys, a web identity
    /// (IRSA), a container's credentials (EKS Pod Identity, ECS), the instance's. The first that is
    /// there counts; one that fails is an error.
    pub const VARIABLES: [&str; 15] = credentials::VARIABLES;

    /// Asks nothing yet.
    pub fn new(settings: AwsKmsSettings) -> Self {
        Self { settings }
    }

    /// The body of a 200.
    async fn ask(
        &self,
        key: &AwsKmsKey,
        operation: &str,
        body: Zeroizing<String>,
        refused: impl FnOnce(Refusal, &str) -> Error,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let endpoint = self.endpoint(key.region())?;
        let signed = self.signed(key.region(), operation, &body, &endpoint).await?;
        let request = endpoint.post("/").headers(signed).header(CONNECTION, "close");
        let response = endpoint.send(request.body(body.to_string())).await?;
        let status = response.status();
        if status != reqwest::StatusCode::OK {
            let refusal = Refusal::parse(status.as_u16(), &endpoint.refusal(response).await);
            return Err(refused(refusal, endpoint.name()));
        }
        endpoint.body(response, answer::BYTES_MAX).await
    }

    fn endpoint(&self, region: &str) -> Result<Endpoint, Error> {
        let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
        let own = format!("https://kms.{region}.amazonaws.com{suffix}");
        Endpoint::new(self.settings.endpoint.as_ref().unwrap_or(&own), &self.settings.http)
    }

    /// The headers of a request with this body.
    async fn signed(
        &self,
        region: &str,
        operation: &str,
        body: &str,
        endpoint: &Endpoint,
    ) -> Result<http::HeaderMap, Error> {
        let request = http::Request::post(endpoint.url("/").as_str())
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", format!("TrentService.{operation}"))
            // Without it the body would not be signed.
            .header("x-amz-content-sha256", hex_sha256(body.as_bytes()))
            .body(())
            .map_err(|error| Error::Usage(error.to_string()))?;
        let mut parts = request.into_parts().0;
        let signer: Signer<Credential> = Signer::new(
            credentials::context(&self.settings, region)?,
            credentials::Ambient,
            RequestSigner::new("kms", region),
        );
        let signed = signer.sign(&mut parts, None).await;
        signed.map_err(|error| credentials::failure(&error, endpoint.name()))?;
        Ok(parts.headers)
    }
}

impl RemoteKey for AwsKms {
    type Name = AwsKmsKey;

    fn kind(&self) -> &'static str {
        "awskms"
    }

    async fn wrap(&self, key: &AwsKmsKey, kek: &Kek, bundle: &BundleId) -> Result<Vec<u8>, Error> {
        let name = definite(key)?;
        let plaintext = Zeroizing::new(STANDARD.encode(kek.expose()));
        let body = json!({
            "KeyId": key.id(), "Plaintext": &*plaintext,
            "EncryptionContext": {CONTEXT: bundle.to_string()},
        });
        let body = Zeroizing::new(body.to_string());
        let refused = |refusal: Refusal, endpoint: &str| refusal.about(&name, endpoint);
        let body = self.ask(key, "Encrypt", body, refused).await?;
        answer::ciphertext(&body, "AWS KMS")
    }

    async fn unwrap(
        &self,
        key: &AwsKmsKey,
        wrapped: &[u8],
        bundle: &BundleId,
    ) -> Result<Secret, Error> {
        let name = definite(key)?;
        // With the key named, KMS uses no other that the ciphertext may name.
        let body = json!({
            "KeyId": key.id(), "CiphertextBlob": STANDARD.encode(wrapped),
            "EncryptionContext": {CONTEXT: bundle.to_string()},
        });
        let body = Zeroizing::new(body.to_string());
        let refused = |refusal: Refusal, endpoint: &str| refusal.about(&name, endpoint);
        let body = self.ask(key, "Decrypt", body, refused).await?;
        answer::plaintext(&body, "AWS KMS")
    }
}

impl fmt::Debug for AwsKmsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The variables' values are credentials.
        let mut variables: Vec<_> = self.variables.keys().collect();
        variables.sort();
        f.debug_struct("AwsKmsSettings")
            .field("endpoint", &self.endpoint)
            .field("variables", &variables)
            .field("http", &self.http)
            .finish()
    }
}

/// Credentials may be the host's, of an account of its own, where it gives any alias to a key of its
/// own: what that has wrapped must not open here.
fn definite(key: &AwsKmsKey) -> Result<KeyUri, Error> {
    let name = KeyUri::AwsKms(key.clone());
    match key.is_definite() {
        true => Ok(name),
        false => Err(Error::Usage(format!(
            "{name} is an alias of whoever asks: name the key by its ARN, or by its id"
        ))),
    }
}
