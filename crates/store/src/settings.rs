//! How to reach a store: endpoint, credentials, trust and time limits, as KServe and the AWS tools
//! set them.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::{Error, name};
pub(crate) use hdfs::Hdfs;

mod hdfs;
mod storage_config;

/// The longest time limit that a setting may ask for.
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
/// The longest `<host>-headers`, in bytes.
const HEADERS_BYTES_MAX: usize = 64 * 1024;
/// The file that KServe's CA ConfigMap holds.
const CA_BUNDLE_FILE: &str = "cabundle.crt";

/// How buckets are addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Addressing {
    /// `https://endpoint/bucket/key` when an endpoint is given, else
    /// `https://bucket.s3.region.amazonaws.com/key`.
    #[default]
    Auto,
    /// `https://endpoint/bucket/key`.
    Path,
    /// `https://bucket.endpoint/key`.
    Virtual,
}

/// Everything a [`crate::Store`] is told besides its location. `Debug` shows no credential.
#[derive(Clone)]
#[non_exhaustive]
pub struct Settings {
    /// Base URL of an S3-compatible service; none means AWS.
    pub endpoint_url: Option<String>,
    /// Signing region. Default `us-east-1`.
    pub region: Option<String>,
    /// Static access key; used only together with the secret.
    pub access_key_id: Option<String>,
    /// Its secret.
    pub secret_access_key: Option<String>,
    /// Token of temporary credentials.
    pub session_token: Option<String>,
    /// Send requests unsigned, whatever credentials are there.
    pub anonymous: bool,
    /// Path-style or virtual-hosted requests.
    pub addressing: Addressing,
    /// PEM file of the only authorities to trust; none means the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Whether server certificates are checked at all. Bundles authenticate themselves; credentials
    /// do not.
    pub verify_tls: bool,
    /// Limit for making a connection, TLS included. Default 15 s.
    pub connect_timeout: Duration,
    /// Limit for silence while waiting for an answer or more of its body. Default 30 s.
    pub read_timeout: Duration,
    /// Proxy for `http://`, as a URL.
    pub http_proxy: Option<String>,
    /// Proxy for `https://`, as a URL.
    pub https_proxy: Option<String>,
    /// Hosts that are reached directly: comma-separated names, suffixes, addresses and networks.
    pub no_proxy: Option<String>,
    /// Base URL of an emulator of Google Cloud Storage.
    pub gcs_endpoint: Option<String>,
    /// Base URL of an Azure blob service in place of the account's own: an emulator, or a private
    /// endpoint.
    pub azure_endpoint: Option<String>,
    /// The same of Azure Files.
    pub azure_file_endpoint: Option<String>,
    /// Headers for web servers, by host: KServe's `<host>-headers`. They are secrets.
    pub(crate) headers: HashMap<String, HeaderMap>,
    /// Members of a storage spec of type `hdfs` or `webhdfs`.
    pub(crate) hdfs: HashMap<String, String>,
    /// The hub in place of `https://huggingface.co`.
    pub hub_endpoint: Option<String>,
    /// Who we are to it.
    pub hub_token: Option<String>,
    /// ModelScope in place of `https://www.modelscope.cn`.
    pub modelscope_endpoint: Option<String>,
    /// Who we are to it.
    pub modelscope_token: Option<String>,
    /// Docker's configuration file, with the credentials for registries.
    pub oci_docker_config: Option<PathBuf>,
    /// Whether registries are spoken to without TLS; if nobody says, only those on this machine are.
    pub oci_insecure: Option<bool>,
    /// The variables that the credential chain reads: web identity, profile files, container and
    /// instance metadata.
    pub(crate) ambient: HashMap<String, String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            endpoint_url: None,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            anonymous: false,
            addressing: Addressing::Auto,
            ca_bundle: None,
            verify_tls: true,
            connect_timeout: Duration::from_secs(15),
            read_timeout: Duration::from_secs(30),
            http_proxy: None,
            https_proxy: None,
            no_proxy: None,
            gcs_endpoint: None,
            azure_endpoint: None,
            azure_file_endpoint: None,
            headers: HashMap::new(),
            hdfs: HashMap::new(),
            hub_endpoint: None,
            hub_token: None,
            modelscope_endpoint: None,
            modelscope_token: None,
            oci_docker_config: None,
            oci_insecure: None,
            ambient: HashMap::new(),
        }
    }
}

/// What the credential chain may look at; see [`Settings::ambient`].
const AMBIENT: [&str; 47] = [
    "HDFS_SECRET_DIR",
    "HADOOP_USER_NAME",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_SESSION_NAME",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "HOME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_OAUTH_ACCESS_TOKEN",
    "GCE_METADATA_HOST",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
    "AZURE_IMDS_ENDPOINT",
    "AZ_TENANT_ID",
    "AZ_CLIENT_ID",
    "AZ_CLIENT_SECRET",
    "DOCKER_CONFIG",
    "OSS_ACCESS_KEY_ID",
    "OSS_ACCESS_KEY_SECRET",
    "OSS_SESSION_TOKEN",
    "OSS_REGION",
    "OSS_ENDPOINT",
    "TENCENTCLOUD_SECRET_ID",
    "TENCENTCLOUD_SECRET_KEY",
    "TENCENTCLOUD_TOKEN",
    "TENCENTCLOUD_REGION",
    "COS_ENDPOINT",
    "OBS_ACCESS_KEY_ID",
    "OBS_SECRET_ACCESS_KEY",
    "OBS_SECURITY_TOKEN",
    "OBS_REGION",
    "OBS_ENDPOINT",
];

impl Settings {
    /// Reads what KServe injects into a storage initializer, and what the AWS tools read.
    ///
    /// | variable | meaning |
    /// | --- | --- |
    /// | `STORAGE_CONFIG`, `STORAGE_OVERRIDE_CONFIG` | JSON of type `s3`; its members win over the variables below |
    /// | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN` | static credentials |
    /// | `AWS_ENDPOINT_URL`, else `S3_ENDPOINT` with `S3_USE_HTTPS` (default on) | endpoint |
    /// | `AWS_DEFAULT_REGION`, else `AWS_REGION` | region |
    /// | `awsAnonymousCredential` | unsigned requests |
    /// | `S3_USER_VIRTUAL_BUCKET` (as KServe spells it), `S3_USE_VIRTUAL_BUCKET` | virtual-hosted addressing |
    /// | `S3_VERIFY_SSL` | off: certificates are not checked |
    /// | `AWS_CA_BUNDLE`, else `CA_BUNDLE_VOLUME_MOUNT_POINT` with `CA_BUNDLE_CONFIGMAP_NAME` | trusted authorities |
    /// | `GOOGLE_APPLICATION_CREDENTIALS`, `GOOGLE_OAUTH_ACCESS_TOKEN` | who we are to Google; else its metadata service, else nobody |
    /// | `OSS_ACCESS_KEY_ID`, `OSS_ACCESS_KEY_SECRET`, `OSS_SESSION_TOKEN`; `OSS_REGION`, `OSS_ENDPOINT` | who we are to Alibaba's store, else nobody, and where it is |
    /// | `TENCENTCLOUD_SECRET_ID`, `…_SECRET_KEY`, `…_TOKEN`; `…_REGION`, `COS_ENDPOINT` | to Tencent's |
    /// | `OBS_ACCESS_KEY_ID`, `OBS_SECRET_ACCESS_KEY`, `OBS_SECURITY_TOKEN`; `OBS_REGION`, `OBS_ENDPOINT` | to Huawei's |
    /// | `STORAGE_EMULATOR_HOST` | an emulator of Google Cloud Storage |
    /// | `AZURE_STORAGE_SAS_TOKEN`, `AZURE_STORAGE_ACCESS_KEY`; `AZURE_CLIENT_ID` (or `AZ_…`) with `AZURE_TENANT_ID` and `AZURE_CLIENT_SECRET`, or with `AZURE_FEDERATED_TOKEN_FILE`, or alone (managed identity) | who we are to Azure, else nobody |
    /// | `AZURE_STORAGE_SERVICE_ENDPOINT`, `AZURE_STORAGE_FILE_ENDPOINT` | the blob or file service in place of the account's own |
    /// | `<host>-headers` | headers for a web server, see [`Settings::set_headers`] |
    /// | `HDFS_SECRET_DIR`, `HADOOP_USER_NAME`; `STORAGE_CONFIG` of type `hdfs` | how to reach HDFS |
    /// | `HF_TOKEN`, `HF_ENDPOINT` | who we are to Hugging Face's hub, and another hub |
    /// | `MODELSCOPE_API_TOKEN`, `MODELSCOPE_DOMAIN` | the same for ModelScope |
    /// | `KSERVE_OCI_DOCKER_CONFIG`, else `config.json` in `DOCKER_CONFIG` or `HOME/.docker` | who we are to registries, in Docker's form |
    /// | `KSERVE_OCI_INSECURE_REGISTRY` | registries are spoken to without TLS; unset, those on this machine are |
    /// | `S3_CONNECT_TIMEOUT`, `S3_READ_TIMEOUT` | seconds |
    /// | `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY` (lower case first), `ALL_PROXY` | proxies |
    ///
    /// An empty value counts as absent: that is how a ConfigMap or a shell leaves a setting out.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the variable, never its value when that may hold a secret.
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let config = storage_config::read(env)?;
        let get = |name: &str| {
            let value = config.get(name).cloned().or_else(|| env(name))?;
            let value = value.trim();
            (!value.is_empty()).then(|| value.to_owned())
        };
        let first = |names: &[&str]| names.iter().find_map(|name| get(name));
        let flag = |name: &str, default: bool| match get(name) {
            Some(value) => boolean(name, &value),
            None => Ok(default),
        };
        let defaults = Self::default();
        let verify_tls = flag("S3_VERIFY_SSL", true)?;
        let virtual_hosted =
            flag("S3_USER_VIRTUAL_BUCKET", false)? || flag("S3_USE_VIRTUAL_BUCKET", false)?;
        let settings = Self {
            endpoint_url: endpoint(&get, flag("S3_USE_HTTPS", true)?)?,
            region: first(&["AWS_DEFAULT_REGION", "AWS_REGION"]),
            access_key_id: get("AWS_ACCESS_KEY_ID"),
            secret_access_key: get("AWS_SECRET_ACCESS_KEY"),
            session_token: get("AWS_SESSION_TOKEN"),
            anonymous: flag("awsAnonymousCredential", false)?,
            addressing: if virtual_hosted { Addressing::Virtual } else { Addressing::Auto },
            ca_bundle: ca_bundle(&get)?,
            verify_tls,
            connect_timeout: seconds(&get, "S3_CONNECT_TIMEOUT", defaults.connect_timeout)?,
            read_timeout: seconds(&get, "S3_READ_TIMEOUT", defaults.read_timeout)?,
            http_proxy: first(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
            https_proxy: first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            no_proxy: first(&["no_proxy", "NO_PROXY"]),
            // Without TLS, as Google's clients read it.
            gcs_endpoint: named_host(&get, "STORAGE_EMULATOR_HOST", "http")?,
            azure_endpoint: service_endpoint(&get, "AZURE_STORAGE_SERVICE_ENDPOINT")?,
            azure_file_endpoint: service_endpoint(&get, "AZURE_STORAGE_FILE_ENDPOINT")?,
            headers: HashMap::new(),
            hdfs: storage_config::hdfs(env)?,
            hub_endpoint: service_endpoint(&get, "HF_ENDPOINT")?,
            hub_token: first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]),
            modelscope_endpoint: named_host(&get, "MODELSCOPE_DOMAIN", "https")?,
            modelscope_token: get("MODELSCOPE_API_TOKEN"),
            oci_docker_config: get("KSERVE_OCI_DOCKER_CONFIG").map(PathBuf::from),
            oci_insecure: get("KSERVE_OCI_INSECURE_REGISTRY")
                .map(|value| boolean("KSERVE_OCI_INSECURE_REGISTRY", &value))
                .transpose()?,
            ambient: AMBIENT
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), get(name)?)))
                .collect(),
        };
        settings.check()?;
        Ok(settings)
    }

    /// Takes one of KServe's variables `<host>-headers`: a JSON object of headers for that host. Its
    /// name is not known beforehand, so [`from_env`](Self::from_env) cannot ask for it.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the variable.
    pub fn set_headers(&mut self, host: &str, json: &str) -> Result<(), Error> {
        let unusable =
            || Error::usage(format!("{}-headers is no JSON object of headers", name::quoted(host)));
        let headers = header_map(json).ok_or_else(unusable)?;
        self.headers.insert(host.to_owned(), headers);
        Ok(())
    }

    /// The same for whoever is not S3: `S3_VERIFY_SSL` is for S3's own service alone, never for one
    /// that gives tokens, nor for another store.
    pub(crate) fn verified(&self) -> Self {
        Self { verify_tls: true, ..self.clone() }
    }

    /// How to reach HDFS: files that KServe mounts, so they are read when they are needed.
    pub(crate) fn hdfs(&self) -> Result<Hdfs, Error> {
        Hdfs::read(&self.hdfs, &self.ambient)
    }

    /// Refuses what cannot work. Also called by [`crate::Store::open`], since flags may have
    /// changed fields.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.access_key_id.is_some() != self.secret_access_key.is_some() {
            return Err(Error::usage(
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set together",
            ));
        }
        if self
            .access_key_id
            .as_deref()
            .is_some_and(|id| id.chars().any(|c| c.is_control() || c.is_whitespace()))
        {
            return Err(Error::usage("AWS_ACCESS_KEY_ID has white space inside"));
        }
        if let Some(region) = &self.region
            && (region.len() > 64
                || !region.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')))
        {
            return Err(Error::usage("AWS_DEFAULT_REGION (or AWS_REGION) is not a region name"));
        }
        if let Some(endpoint) = &self.endpoint_url {
            check_url("AWS_ENDPOINT_URL", endpoint)?;
        }
        for (name, proxy) in [("HTTP_PROXY", &self.http_proxy), ("HTTPS_PROXY", &self.https_proxy)]
        {
            if proxy.as_ref().is_some_and(|url| reqwest::Proxy::all(url).is_err()) {
                return Err(Error::usage(format!("{name} (or ALL_PROXY) is not a proxy URL")));
            }
        }
        Ok(())
    }
}

/// A JSON object of headers, none of which is shown.
fn header_map(json: &str) -> Option<HeaderMap> {
    if json.len() > HEADERS_BYTES_MAX {
        return None;
    }
    let members: HashMap<String, String> = serde_json::from_str(json).ok()?;
    let mut headers = HeaderMap::new();
    for (name, value) in &members {
        let mut value: HeaderValue = value.parse().ok()?;
        value.set_sensitive(true);
        headers.insert(name.parse::<HeaderName>().ok()?, value);
    }
    Some(headers)
}

fn boolean(name: &str, value: &str) -> Result<bool, Error> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(Error::usage(format!("{name} is neither true nor false"))),
    }
}

fn seconds(
    get: &dyn Fn(&str) -> Option<String>,
    name: &str,
    default: Duration,
) -> Result<Duration, Error> {
    let Some(value) = get(name) else { return Ok(default) };
    value
        .parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| !time.is_zero() && *time <= TIMEOUT_MAX)
        .ok_or_else(|| {
            Error::usage(format!("{name} is not a number of seconds between 0 and 3600"))
        })
}

/// `AWS_ENDPOINT_URL` is a URL; `S3_ENDPOINT` is `host[:port]`, its scheme given apart.
fn endpoint(get: &dyn Fn(&str) -> Option<String>, https: bool) -> Result<Option<String>, Error> {
    if let Some(url) = get("AWS_ENDPOINT_URL") {
        check_url("AWS_ENDPOINT_URL", &url)?;
        return Ok(Some(url));
    }
    let Some(host) = get("S3_ENDPOINT") else { return Ok(None) };
    let url = match host.contains("://") {
        true => host,
        false => format!("{}://{host}", if https { "https" } else { "http" }),
    };
    check_url("S3_ENDPOINT", &url)?;
    Ok(Some(url))
}

/// A variable that is a URL, or `host[:port]` of this scheme.
fn named_host(
    get: &dyn Fn(&str) -> Option<String>,
    name: &str,
    scheme: &str,
) -> Result<Option<String>, Error> {
    let Some(value) = get(name) else { return Ok(None) };
    let url = if value.contains("://") { value } else { format!("{scheme}://{value}") };
    check_url(name, &url)?;
    Ok(Some(url))
}

fn service_endpoint(
    get: &dyn Fn(&str) -> Option<String>,
    name: &str,
) -> Result<Option<String>, Error> {
    let Some(url) = get(name) else { return Ok(None) };
    check_url(name, &url)?;
    Ok(Some(url))
}

pub(crate) fn check_url(name: &str, value: &str) -> Result<(), Error> {
    let fault = match Url::parse(value) {
        Err(_) => "is not a URL",
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            "is neither an http:// nor an https:// URL"
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            "must not hold credentials"
        }
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            "must not have a query or fragment"
        }
        Ok(_) => return Ok(()),
    };
    Err(Error::usage(format!("{name} {fault}")))
}

/// Upstream takes `AWS_CA_BUNDLE`, else the mounted ConfigMap; a bundle that is named but absent is
/// an error there.
fn ca_bundle(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<PathBuf>, Error> {
    if let Some(path) = get("AWS_CA_BUNDLE") {
        return Ok(Some(path.into()));
    }
    if get("CA_BUNDLE_CONFIGMAP_NAME").is_none() {
        return Ok(None);
    }
    match get("CA_BUNDLE_VOLUME_MOUNT_POINT") {
        Some(mount) => Ok(Some(PathBuf::from(mount).join(CA_BUNDLE_FILE))),
        None => Err(Error::usage(
            "CA_BUNDLE_CONFIGMAP_NAME is set without CA_BUNDLE_VOLUME_MOUNT_POINT",
        )),
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = |value: &Option<String>| if value.is_some() { "[redacted]" } else { "[none]" };
        let mut ambient: Vec<&str> = self.ambient.keys().map(String::as_str).collect();
        ambient.sort_unstable();
        f.debug_struct("Settings")
            .field("endpoint_url", &self.endpoint_url)
            .field("region", &self.region)
            .field("access_key_id", &secret(&self.access_key_id))
            .field("secret_access_key", &secret(&self.secret_access_key))
            .field("session_token", &secret(&self.session_token))
            .field("anonymous", &self.anonymous)
            .field("addressing", &self.addressing)
            .field("ca_bundle", &self.ca_bundle)
            .field("verify_tls", &self.verify_tls)
            .field("connect_timeout", &self.connect_timeout)
            .field("read_timeout", &self.read_timeout)
            .field("http_proxy", &secret(&self.http_proxy))
            .field("https_proxy", &secret(&self.https_proxy))
            .field("no_proxy", &self.no_proxy)
            .field("gcs_endpoint", &self.gcs_endpoint)
            .field("azure_endpoint", &self.azure_endpoint)
            .field("azure_file_endpoint", &self.azure_file_endpoint)
            .field("headers", &self.headers.keys())
            .field("hub_endpoint", &self.hub_endpoint)
            .field("hub_token", &secret(&self.hub_token))
            .field("modelscope_endpoint", &self.modelscope_endpoint)
            .field("modelscope_token", &secret(&self.modelscope_token))
            .field("oci_docker_config", &self.oci_docker_config)
            .field("oci_insecure", &self.oci_insecure)
            .field("ambient", &ambient)
            .finish()
    }
}

#[cfg(test)]
mod tests;
