//! Who we are to AWS: the library's providers over variables that were captured, bounded files and
//! our own HTTP client.

use bytes::Bytes;
use keys::{Error, printable, read_key};
use reqsign_aws_v4::{
    AssumeRoleWithWebIdentityCredentialProvider, Credential, ECSCredentialProvider,
    EnvCredentialProvider, IMDSv2CredentialProvider,
};
use reqsign_core::{Context, ErrorKind, FileRead, HttpSend, ProvideCredential, StaticEnv};
use reqwest::redirect::Policy;
use std::path::Path;
use std::time::Duration;

use super::AwsKmsSettings;

/// See [`super::AwsKms::VARIABLES`].
pub(super) const VARIABLES: [&str; 15] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_SESSION_NAME",
    "AWS_STS_REGIONAL_ENDPOINTS",
    STS_URI,
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    CONTAINER_URI,
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_REGION",
];

/// The whole lookup at the instance's metadata service: where it is absent, packets to it vanish.
const METADATA_TIME_MAX: Duration = Duration::from_secs(2);
/// Longest answer of a credential service.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Where STS is, if it is not where the region has it: a private endpoint.
const STS_URI: &str = "AWS_ENDPOINT_URL_STS";
/// Where a container's credentials are, as a whole address.
const CONTAINER_URI: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
/// The container services of ECS and EKS, which have no TLS: the AWS SDKs' own list.
const CONTAINER_HOSTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];

/// The request carries a token, and the answer decides who we are: in the clear to this machine and
/// to the container services alone.
fn check_container_uri(uri: &str) -> Result<(), Error> {
    let url = reqwest::Url::parse(uri).ok();
    let host = url.as_ref().and_then(|url| Some((url.scheme(), url.host_str()?)));
    let allowed = match host {
        Some(("https", _)) => true,
        Some(("http", host)) => {
            CONTAINER_HOSTS.contains(&host) || ["127.0.0.1", "localhost", "[::1]"].contains(&host)
        }
        _ => false,
    };
    match allowed {
        true => Ok(()),
        false => Err(Error::Usage(format!("{CONTAINER_URI} must be https://, or on this machine"))),
    }
}

/// What goes there is a token that makes whoever has it us.
fn parse_sts(uri: &str) -> Result<reqwest::Url, Error> {
    let url = reqwest::Url::parse(uri).ok();
    let allowed = |url: &reqwest::Url| match url.scheme() {
        "https" => true,
        "http" => keys::http::is_loopback(url),
        _ => false,
    };
    url.filter(allowed)
        .ok_or_else(|| Error::Usage(format!("{STS_URI} must be https://, or on this machine")))
}

/// What the providers may see and do.
pub(super) fn context(settings: &AwsKmsSettings, region: &str) -> Result<Context, Error> {
    let mut envs = settings.variables.clone();
    if let Some(uri) = envs.get(CONTAINER_URI).filter(|uri| !uri.is_empty()) {
        check_container_uri(uri)?;
    }
    envs.entry("AWS_REGION".to_owned()).or_insert_with(|| region.to_owned());
    Ok(Context::new()
        .with_env(StaticEnv { home_dir: None, envs })
        .with_file_read(Files)
        .with_http_send(Http::new(settings)?))
}

/// The first source that is configured.
#[derive(Debug)]
pub(super) struct Ambient;

impl ProvideCredential for Ambient {
    type Credential = Credential;

    async fn provide_credential(
        &self,
        context: &Context,
    ) -> reqsign_core::Result<Option<Credential>> {
        let set = |name: &str| context.env_var(name).is_some_and(|value| !value.is_empty());
        if set("AWS_ACCESS_KEY_ID") {
            return EnvCredentialProvider::new().provide_credential(context).await;
        }
        if set("AWS_ROLE_ARN") && set("AWS_WEB_IDENTITY_TOKEN_FILE") {
            let provider = AssumeRoleWithWebIdentityCredentialProvider::new();
            return provider.provide_credential(context).await;
        }
        if set(CONTAINER_URI) || set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
            return ECSCredentialProvider::new().provide_credential(context).await;
        }
        let provider = IMDSv2CredentialProvider::new();
        let asked = tokio::time::timeout(METADATA_TIME_MAX, provider.provide_credential(context));
        // Not an instance, or one without a role: then there are no credentials.
        Ok(asked.await.ok().and_then(Result::ok).flatten())
    }
}

/// What it means that a request could not be signed. Messages of the library may quote an answer.
pub(super) fn failure(error: &reqsign_core::Error, endpoint: &str) -> Error {
    let text = printable(&error.to_string());
    if error.is_retryable() {
        let (endpoint, why) = (endpoint.to_owned(), format!("credentials: {text}"));
        return Error::Unreachable { endpoint, why, source: None };
    }
    let detail = match error.kind() {
        ErrorKind::CredentialInvalid if text.contains("load") => {
            "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role"
                .to_owned()
        }
        _ => format!("credentials: {text}"),
    };
    Error::Login { endpoint: endpoint.to_owned(), detail }
}

/// Token files, bounded as keys are.
#[derive(Debug)]
struct Files;

impl FileRead for Files {
    async fn file_read(&self, path: &str) -> reqsign_core::Result<Vec<u8>> {
        let secret = read_key(Path::new(path)).map_err(|error| {
            reqsign_core::Error::config_invalid(format!("cannot read {path}: {error}"))
        })?;
        Ok(secret.expose().to_vec())
    }
}

/// One client for link-local services, which no proxy can reach, and one for STS.
#[derive(Debug)]
struct Http {
    direct: reqwest::Client,
    tls: Option<reqwest::Client>,
    sts: Option<reqwest::Url>,
}

impl Http {
    fn new(settings: &AwsKmsSettings) -> Result<Self, Error> {
        let build = |builder: reqwest::ClientBuilder| {
            let client = builder.redirect(Policy::none()).timeout(settings.http.timeout).build();
            client.map_err(|source| Error::Tls { endpoint: "AWS".into(), source: source.into() })
        };
        let direct = reqwest::Client::builder().no_proxy().tls_certs_only([]);
        let full = settings.variables.get("AWS_CONTAINER_CREDENTIALS_FULL_URI");
        let needs_tls = settings.variables.contains_key("AWS_ROLE_ARN")
            || full.is_some_and(|url| url.starts_with("https:"));
        let tls = needs_tls.then(|| build(reqwest::Client::builder())).transpose()?;
        let sts = settings.variables.get(STS_URI).filter(|uri| !uri.is_empty());
        let sts = sts.map(|uri| parse_sts(uri)).transpose()?;
        Ok(Self { direct: build(direct)?, tls, sts })
    }
}

impl HttpSend for Http {
    async fn http_send(
        &self,
        request: http::Request<Bytes>,
    ) -> reqsign_core::Result<http::Response<Bytes>> {
        let failed = |error: reqwest::Error| {
            let text = error.without_url().to_string();
            reqsign_core::Error::unexpected(text).set_retryable(true)
        };
        let mut request = reqwest::Request::try_from(request).map_err(failed)?;
        // The library knows STS's public addresses only.
        let is_for_sts = request.url().host_str().is_some_and(|host| host.starts_with("sts."));
        if let Some(sts) = self.sts.as_ref().filter(|_| is_for_sts) {
            *request.url_mut() = sts.clone();
        }
        let secure = request.url().scheme() == "https";
        let client = self.tls.as_ref().filter(|_| secure).unwrap_or(&self.direct);
        let mut response = client.execute(request).await.map_err(failed)?;
        let mut answer = http::Response::builder().status(response.status());
        if let Some(headers) = answer.headers_mut() {
            *headers = std::mem::take(response.headers_mut());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(reqsign_core::Error::unexpected("the answer is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        answer.body(body.into()).map_err(|error| reqsign_core::Error::unexpected(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_token_goes_to_nobody_in_the_clear() {
        for uri in [
            "https://credentials.example/x",
            "http://127.0.0.1:1/x",
            "http://[::1]/x",
            "http://169.254.170.23/v1/credentials",
        ] {
            check_container_uri(uri).unwrap();
        }
        for uri in
            ["http://credentials.example/x", "http://127.0.0.1.example/x", "ftp://localhost/x", "x"]
        {
            assert!(matches!(check_container_uri(uri), Err(Error::Usage(_))), "{uri}");
        }
    }
}
