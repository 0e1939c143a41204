//! Who we are to Google: a service account's key file, or the machine's own service account.

use std::collections::HashMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keys::{Error, HttpSettings, read_key};
use reqwest::header::HeaderValue;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::json;
use zeroize::{Zeroize as _, Zeroizing};

use crate::oauth::{by_form, form, of_machine, variable};

const KEY_FILE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
const METADATA_HOST: &str = "GCE_METADATA_HOST";
/// See [`super::GcpKms::VARIABLES`].
pub(super) const VARIABLES: [&str; 2] = [KEY_FILE, METADATA_HOST];

/// All that is asked for: Cloud KMS.
const SCOPE: &str = "https://www.googleapis.com/auth/cloudkms";
/// RFC 7523.
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// How long the assertion is good, in seconds: for one request.
const ASSERTION_SECONDS: u64 = 300;
const METADATA_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

/// An access token.
pub(super) async fn token(
    variables: &HashMap<String, String>,
    http: &HttpSettings,
) -> Result<HeaderValue, Error> {
    let Some(file) = variable(variables, KEY_FILE) else {
        let host = variable(variables, METADATA_HOST);
        let otherwise = "set GOOGLE_APPLICATION_CREDENTIALS, or give the machine a service account";
        return of_machine(host, METADATA_PATH, ("Metadata-Flavor", "Google"), otherwise).await;
    };
    let account = ServiceAccount::read(Path::new(file))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let assertion = account.assertion(now).map_err(|why| unusable(file, why))?;
    let form = form(&[("grant_type", GRANT), ("assertion", &assertion)]);
    by_form(&account.token_uri, "", &form, http).await
}

/// The key file of a service account, as Google's console makes it.
#[derive(Deserialize)]
struct ServiceAccount {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    client_email: String,
    #[serde(default)]
    private_key_id: String,
    #[serde(default)]
    private_key: String,
    #[serde(default)]
    token_uri: String,
}

impl ServiceAccount {
    fn read(path: &Path) -> Result<Self, Error> {
        let refuse = |why: &str| unusable(&path.display().to_string(), why);
        let file =
            read_key(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        let account: Self = serde_json::from_slice(file.expose())
            .map_err(|_| refuse("it is no JSON of Google's"))?;
        match account.kind.as_str() {
            "service_account" => Ok(account),
            _ => Err(refuse("only the type `service_account` is supported")),
        }
    }

    /// RFC 7523: who we are, signed by the account's own key.
    fn assertion(&self, now: u64) -> Result<Zeroizing<String>, &'static str> {
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": self.private_key_id});
        let claims = json!({
            "iss": self.client_email, "scope": SCOPE, "aud": self.token_uri,
            "iat": now, "exp": now + ASSERTION_SECONDS,
        });
        let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
        let signed = [header, claims].map(|part| encode(part.to_string().as_bytes())).join(".");
        let no_key = "its private_key is no RSA key in PKCS#8 and PEM";
        let key = PrivatePkcs8KeyDer::from_pem_slice(self.private_key.as_bytes());
        let key = key.map_err(|_| no_key)?;
        let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).map_err(|_| no_key)?;
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .map_err(|_| no_key)?;
        Ok(Zeroizing::new(format!("{signed}.{}", encode(&signature))))
    }
}

impl Drop for ServiceAccount {
    fn drop(&mut self) {
        self.private_key.zeroize();
    }
}

/// Without a word of what is in the file.
fn unusable(path: &str, why: &str) -> Error {
    Error::Usage(format!("{path} is no service account's key: {why}"))
}
