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
use std::time::Duration;

use reqsign_aws_v4::{
    AssumeRoleWithWebIdentityCredentialProvider, Credential, ECSCredentialProvider,
    IMDSv2CredentialProvider, ProfileCredentialProvider, StaticCredentialProvider,
};
use reqsign_core::{Context, ProvideCredential, ProvideCredentialChain, StaticEnv};
use reqwest::redirect::Policy;

use crate::error::Cause;
use crate::{Error, Settings, client, name};

/// The whole lookup at the instance's metadata service.
const METADATA_TIME_MAX: Duration = Duration::from_secs(2);

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

/// A client for link-local services: a proxy cannot reach them.
pub(super) fn metadata_client(settings: &Settings) -> Result<reqwest::Client, Error> {
    let direct = Settings {
        connect_timeout: settings.connect_timeout.min(METADATA_TIME_MAX),
        ..Settings::default()
    };
    client::build(&direct, Policy::none(), false)
}

/// What it means that a request could not be signed.
pub(super) fn failure(error: &reqsign_core::Error) -> Error {
    let object = String::new();
    // The libraries' messages may quote what a server sent.
    let text = name::quoted(&error.to_string());
    if error.is_retryable() {
        return Error::Network { object, cause: Cause::new(format!("credentials: {text}")) };
    }
    let reason = match text.contains("failed to load signing credential") {
        true => "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role, or \
                 awsAnonymousCredential=true"
            .to_owned(),
        false => format!("credentials: {text}"),
    };
    Error::Denied { object, reason }
}

/// The sources that read variables and files, over the variables that [`Settings`] captured:
/// nothing below us reads the process environment.
#[derive(Debug)]
struct Ambient {
    env: StaticEnv,
}

impl Ambient {
    fn new(settings: &Settings) -> Self {
        let mut envs = settings.ambient.clone();
        if let Some(region) = &settings.region {
            envs.insert("AWS_REGION".to_owned(), region.clone());
        }
        let home_dir = envs.get("HOME").map(Into::into);
        Self { env: StaticEnv { home_dir, envs } }
    }
}

impl ProvideCredential for Ambient {
    type Credential = Credential;

    async fn provide_credential(
        &self,
        context: &Context,
    ) -> reqsign_core::Result<Option<Credential>> {
        let context = context.clone().with_env(self.env.clone());
        let envs: &HashMap<String, String> = &self.env.envs;
        let set = |name: &str| envs.contains_key(name);
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
