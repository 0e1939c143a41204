//! The store's settings from flags and from the variables that KServe and the AWS SDKs use.

use store::Settings;

use crate::cli::{Patience, StoreArgs};
use crate::failure::Failure;

/// Flags over environment.
pub(crate) fn store(args: &StoreArgs, patience: Option<&Patience>) -> Result<Settings, Failure> {
    let mut settings = Settings::from_env(&|name| std::env::var(name).ok())?;
    // KServe's variables with a host in their names.
    for (name, value) in std::env::vars_os() {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
        if let Some(host) = name.strip_suffix("-headers") {
            settings.set_headers(host, value)?;
        }
    }
    if let Some(endpoint) = &args.endpoint_url {
        settings.endpoint_url = Some(endpoint.clone());
    }
    if let Some(region) = &args.region {
        settings.region = Some(region.clone());
    }
    if let Some(bundle) = &args.ca_bundle {
        settings.ca_bundle = Some(bundle.clone());
    }
    settings.anonymous |= args.anonymous;
    if let Some(patience) = patience {
        settings.read_timeout = settings.read_timeout.min(patience.stall_timeout);
    }
    Ok(settings)
}
