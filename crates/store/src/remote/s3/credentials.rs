//! Who we are to an S3 service: what was given, else what the platform offers, in the order of the
//! AWS tools.
//!
//! | source | used when |
//! | --- | --- |
//! | static keys | both are set |
//! | web identity (IRSA) | `AWS_ROLE_ARN` and `AWS_WEB_IDENTITY_TOKEN_FILE` are set |
//! | profile files | `~/.aws/credentials` or `~/.aws/config`, or what names them, has the profile |
//! | container service (EKS Pod Identity, ECS) | `AWS_CONTAINER_CREDENTIALS_FULL_URI` or `…_RELATIVE_URI` is set |
//! | instance metadata | nothing above exists, and `AWS_EC2_METADATA_DISABLED` is not `true` |
//!
//! A source that is configured and fails is an error: falling through to another identity would
//! hide it. The instance's metadata service is asked for two seconds at most, because where it is
//! absent packets to it vanish.

use std::collections::HashMap;

use reqsign_aws_v4::{
    AssumeRoleWithWebIdentityCredentialProvider, Credential, ECSCredentialProvider,
    IMDSv2CredentialProvider, ProfileCredentialProvider, StaticCredentialProvider,
};
use reqsign_core::{Context, ProvideCredential, ProvideCredentialChain};

use super::super::identity::{METADATA_TIME_MAX, captured};
use crate::Settings;

/// The credential sources, in order.
pub(super) fn chain(settings: &Settings) -> ProvideCredentialChain<Credential> {
    let chain = ProvideCredentialChain::new();
    if let (Some(id), Some(secret)) = (&settings.access_key_id, &settings.secret_access_key) {
        let keys = StaticCredentialProvider::new(id, secret);
        return chain.push(match &settings.session_token {
            Some(token) => keys.with_session_token(token),
            None => keys,
        });
    }
    chain.push(Ambient::new(settings))
}

/// Whether credentials are fetched over TLS although the store may not use it.
pub(super) fn need_tls(settings: &Settings) -> bool {
    let secure = |name| settings.ambient.get(name).is_some_and(|url| url.starts_with("https:"));
    settings.ambient.contains_key("AWS_ROLE_ARN") || secure("AWS_CONTAINER_CREDENTIALS_FULL_URI")
}

/// The sources that read variables and files, over the variables that [`Settings`] captured:
/// nothing below us reads the process environment.
#[derive(Debug)]
struct Ambient {
    variables: HashMap<String, String>,
    region: Option<String>,
}

impl Ambient {
    fn new(settings: &Settings) -> Self {
        Self { variables: settings.ambient.clone(), region: settings.region.clone() }
    }
}

impl ProvideCredential for Ambient {
    type Credential = Credential;

    async fn provide_credential(
        &self,
        context: &Context,
    ) -> reqsign_core::Result<Option<Credential>> {
        let region = self.region.as_deref().map(|region| ("AWS_REGION", region));
        let context = captured(context, &self.variables, region.as_slice());
        let set = |name: &str| self.variables.contains_key(name);
        if set("AWS_ROLE_ARN") && set("AWS_WEB_IDENTITY_TOKEN_FILE") {
            return AssumeRoleWithWebIdentityCredentialProvider::new()
                .provide_credential(&context)
                .await;
        }
        if let Some(found) = ProfileCredentialProvider::new().provide_credential(&context).await? {
            return Ok(Some(found));
        }
        if set("AWS_CONTAINER_CREDENTIALS_FULL_URI")
            || set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        {
            return ECSCredentialProvider::new().provide_credential(&context).await;
        }
        let provider = IMDSv2CredentialProvider::new();
        match tokio::time::timeout(METADATA_TIME_MAX, provider.provide_credential(&context)).await {
            Ok(Ok(found)) => Ok(found),
            // Not an instance, or one without a role.
            Ok(Err(error)) => {
                tracing::debug!(%error, "the instance metadata service gave no credentials");
                Ok(None)
            }
            Err(_) => Ok(None),
        }
    }
}
