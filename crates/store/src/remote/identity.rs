//! Who we are to a service: what all of them share.

use std::collections::HashMap;
use std::time::Duration;

use reqsign_core::{Context, StaticEnv};
use reqwest::redirect::Policy;

use crate::error::Cause;
use crate::{Error, Settings, client, name};

/// The whole lookup at an instance's metadata service: where it is absent, packets to it vanish.
pub(super) const METADATA_TIME_MAX: Duration = Duration::from_secs(2);

/// The bearer token of nobody: our transport takes it off again.
pub(super) const NOBODY: &str = "sealift-nobody";

/// A client for link-local services: a proxy cannot reach them.
pub(super) fn metadata_client(settings: &Settings) -> Result<reqwest::Client, Error> {
    let direct = Settings {
        connect_timeout: settings.connect_timeout.min(METADATA_TIME_MAX),
        ..Settings::default()
    };
    client::build(&direct, Policy::none(), false)
}

/// `context` with the variables that [`Settings`] captured, and `more`: nothing below us reads the
/// process environment.
pub(super) fn captured(
    context: &Context,
    settings: &HashMap<String, String>,
    more: &[(&str, &str)],
) -> Context {
    let mut envs = settings.clone();
    envs.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let home_dir = envs.get("HOME").map(Into::into);
    context.clone().with_env(StaticEnv { home_dir, envs })
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
        true => "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (for Azure \
                 AZURE_STORAGE_ACCESS_KEY), or a role, or awsAnonymousCredential=true"
            .to_owned(),
        false => format!("credentials: {text}"),
    };
    Error::Denied { object, reason }
}
