//! Google Cloud Storage.

use std::collections::HashMap;

use opendal::{Operator, services};
use reqsign_core::{Context, ProvideCredential, ProvideCredentialChain};
use reqsign_google::{
    Credential, FileCredentialProvider, Token, TokenCredentialProvider,
    VmMetadataCredentialProvider,
};

use url::Url;

use super::identity::{METADATA_TIME_MAX, NOBODY, captured};
use super::{Opened, Parts, Version, failure};
use crate::{Error, Settings, client};

const PARTS: Parts = Parts { count_max: 10_000 };
const CREDENTIALS_FILE: &str = "GOOGLE_APPLICATION_CREDENTIALS";

pub(super) fn open(bucket: &str, settings: &Settings) -> Result<Opened, Error> {
    let endpoint = settings.gcs_endpoint.as_deref();
    let mut builder = services::Gcs::default()
        .bucket(bucket)
        .disable_config_load()
        .disable_vm_metadata()
        .credential_provider_chain(
            ProvideCredentialChain::new().push(Ambient { variables: settings.ambient.clone() }),
        );
    if let Some(endpoint) = endpoint {
        builder = builder.endpoint(endpoint.trim_end_matches('/'));
    }
    let exposed = |url: &str| {
        let url = Url::parse(url).ok();
        url.is_some_and(|url| url.scheme() != "https" && !client::is_loopback(&url))
    };
    // An emulator elsewhere, in the clear, is shown nothing.
    if settings.anonymous || endpoint.is_some_and(exposed) {
        builder = builder.skip_signature();
    }
    let operator = Operator::new(builder).map_err(|error| failure(&error))?;
    let tls = endpoint.is_none_or(|url| !url.starts_with("http:"))
        || settings.ambient.contains_key(CREDENTIALS_FILE);
    Ok(Opened { operator, version: Version::Generation, tls, parts: PARTS })
}

/// | source | used when |
/// | --- | --- |
/// | credentials file: service account, external account (workload identity federation), authorized user | `GOOGLE_APPLICATION_CREDENTIALS` names one |
/// | access token | `GOOGLE_OAUTH_ACCESS_TOKEN` is set |
/// | metadata service (GKE's workload identity, Compute Engine) | it answers within two seconds |
/// | nobody: public buckets | nothing above |
///
/// A source that is configured and fails is an error: falling through to another identity would
/// hide it.
#[derive(Debug)]
struct Ambient {
    variables: HashMap<String, String>,
}

impl ProvideCredential for Ambient {
    type Credential = Credential;

    async fn provide_credential(
        &self,
        context: &Context,
    ) -> reqsign_core::Result<Option<Credential>> {
        let context = captured(context, &self.variables, &[]);
        if let Some(path) = self.variables.get(CREDENTIALS_FILE) {
            return FileCredentialProvider::new(path).provide_credential(&context).await;
        }
        if let Some(token) = self.variables.get("GOOGLE_OAUTH_ACCESS_TOKEN") {
            return TokenCredentialProvider::new(token).provide_credential(&context).await;
        }
        let provider = VmMetadataCredentialProvider::new();
        match tokio::time::timeout(METADATA_TIME_MAX, provider.provide_credential(&context)).await {
            Ok(Ok(Some(found))) => return Ok(Some(found)),
            Ok(Ok(None)) | Err(_) => {}
            Ok(Err(error)) => tracing::debug!(%error, "no metadata service"),
        }
        tracing::info!("no Google credentials: asking without any, as for public buckets");
        let token = Token { access_token: NOBODY.to_owned(), expires_at: None };
        Ok(Some(Credential::with_token(token)))
    }
}
