//! Who we are to Azure: a client secret, a workload identity, or the machine's managed identity.

use std::collections::HashMap;
use std::path::Path;

use keys::{Error, HttpSettings, read_key};
use reqwest::header::HeaderValue;

use crate::oauth::{by_form, form, of_machine, variable};

const TENANT: &str = "AZURE_TENANT_ID";
const CLIENT: &str = "AZURE_CLIENT_ID";
const CLIENT_SECRET: &str = "AZURE_CLIENT_SECRET";
const TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";
const AUTHORITY: &str = "AZURE_AUTHORITY_HOST";
const METADATA: &str = "AZURE_POD_IDENTITY_AUTHORITY_HOST";
/// See [`super::AzureKms::VARIABLES`].
pub(super) const VARIABLES: [&str; 6] =
    [TENANT, CLIENT, CLIENT_SECRET, TOKEN_FILE, AUTHORITY, METADATA];

const AUTHORITY_DEFAULT: &str = "https://login.microsoftonline.com";
/// RFC 7523.
const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// An access token for the service of `domain`: `managedhsm.azure.net`.
pub(super) async fn token(
    variables: &HashMap<String, String>,
    domain: &str,
    http: &HttpSettings,
) -> Result<HeaderValue, Error> {
    let set = |name| variable(variables, name);
    let scope = format!("https://{domain}/.default");
    let client = match (set(TENANT), set(CLIENT)) {
        (Some(tenant), Some(client)) => Some((tenant_path(tenant)?, client)),
        _ => None,
    };
    let authority = set(AUTHORITY).unwrap_or(AUTHORITY_DEFAULT);
    let named = |(path, client): (String, &str), proof: &[(&str, &str)]| {
        let grant =
            [("grant_type", "client_credentials"), ("client_id", client), ("scope", &scope)];
        (path, form(&[&grant, proof].concat()))
    };
    if let (Some(client), Some(secret)) = (client.clone(), set(CLIENT_SECRET)) {
        let (path, form) = named(client, &[("client_secret", secret)]);
        return by_form(authority, &path, &form, http).await;
    }
    if let (Some(client), Some(file)) = (client, set(TOKEN_FILE)) {
        let path = Path::new(file);
        let assertion =
            read_key(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        let assertion = str::from_utf8(assertion.expose().trim_ascii())
            .map_err(|_| Error::Usage(format!("{file} holds no token")))?;
        let proof = [("client_assertion_type", ASSERTION), ("client_assertion", assertion)];
        let (path, form) = named(client, &proof);
        return by_form(authority, &path, &form, http).await;
    }
    if set(CLIENT_SECRET).or(set(TOKEN_FILE)).is_some() {
        return Err(Error::Usage(format!("{TENANT} and {CLIENT} are not both set")));
    }
    let mut path =
        format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://{domain}");
    if let Some(client) = set(CLIENT) {
        path.push('&');
        path.push_str(&form(&[("client_id", client)]));
    }
    let host = set(METADATA).map(|url| url.trim_start_matches("http://").trim_end_matches('/'));
    let otherwise =
        "set AZURE_CLIENT_SECRET or AZURE_FEDERATED_TOKEN_FILE, or give the machine an identity";
    of_machine(host, &path, ("Metadata", "true"), otherwise).await
}

/// A tenant is a UUID or a domain.
fn tenant_path(tenant: &str) -> Result<String, Error> {
    let clean = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    match tenant.chars().all(clean) && !tenant.starts_with('.') {
        true => Ok(format!("/{tenant}/oauth2/v2.0/token")),
        false => Err(Error::Usage(format!("{TENANT} is no tenant"))),
    }
}
