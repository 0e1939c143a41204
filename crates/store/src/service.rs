//! Services with buckets or containers, and how their places are written.

use std::fmt;

use url::Url;

use crate::{Error, name};

/// A bucket or container of a service.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Service {
    /// S3 and whatever speaks it.
    S3 {
        /// Its name.
        bucket: String,
    },
    /// Another cloud that speaks S3.
    S3Cloud {
        /// Which one.
        cloud: S3Cloud,
        /// The bucket's name.
        bucket: String,
    },
    /// Google Cloud Storage.
    Gcs {
        /// Its name.
        bucket: String,
    },
    /// Azure Blob Storage.
    Azure(AzureContainer),
}

/// A cloud that speaks S3 and has a scheme of its own, as which it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum S3Cloud {
    /// Alibaba Cloud's Object Storage Service.
    Oss,
    /// Tencent Cloud's Object Storage.
    Cos,
    /// Huawei Cloud's Object Storage Service.
    Obs,
}

impl S3Cloud {
    /// The cloud of a scheme.
    pub(crate) fn of(scheme: &str) -> Option<Self> {
        [Self::Oss, Self::Cos, Self::Obs].into_iter().find(|cloud| cloud.to_string() == scheme)
    }
}

impl fmt::Display for S3Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Oss => "oss",
            Self::Cos => "cos",
            Self::Obs => "obs",
        })
    }
}

/// A container of an Azure storage account, or a share: they are named alike.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct AzureContainer {
    /// The storage account.
    pub(crate) account: String,
    /// The host of its blob or file service.
    pub(crate) host: String,
    /// The container or share.
    pub(crate) container: String,
    /// A shared access signature, as it stood in the URI. It is a secret.
    pub(crate) sas: Option<String>,
}

/// Suffixes of Azure's blob service: the public cloud and the two sovereign ones.
const AZURE_SUFFIXES: [&str; 3] =
    ["core.windows.net", "core.chinacloudapi.cn", "core.usgovcloudapi.net"];

impl AzureContainer {
    /// The service's base URL.
    pub(crate) fn endpoint(&self) -> String {
        format!("https://{}", self.host)
    }

    /// Whether a host of an `https://` URL is a storage service, `blob` or `file`:
    /// `<account>.blob.core.windows.net`, or in a DNS zone of its own,
    /// `<account>.z<NN>.blob.storage.azure.net`.
    pub(crate) fn is_host(host: &str, service: &str) -> bool {
        let Some((account, rest)) = host.split_once('.') else { return false };
        let suffix = |rest: &str| AZURE_SUFFIXES.iter().any(|s| rest == format!("{service}.{s}"));
        let zone = |rest: &str| {
            rest.strip_suffix(&format!(".{service}.storage.azure.net")).is_some_and(|zone| {
                zone.strip_prefix('z').is_some_and(|n| {
                    (1..=3).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit())
                })
            })
        };
        is_account(account) && (suffix(rest) || zone(rest))
    }

    /// `https://<account>.blob.…/<container>/<prefix>[?<SAS>]`, or `.file.…`. The host was checked.
    pub(crate) fn from_url(url: &Url) -> Result<(Self, String), Error> {
        let host = url.host_str().unwrap_or_default();
        if url.port().is_some() || !url.username().is_empty() || url.password().is_some() {
            return Err(Error::usage("an Azure URL has neither a port nor userinfo"));
        }
        let account = host.split('.').next().unwrap_or_default();
        let path = url.path().trim_start_matches('/');
        let path = percent_decoded(path)?;
        let (container, prefix) = path.split_once('/').unwrap_or((&path, ""));
        let this = Self {
            account: account.to_owned(),
            host: host.to_owned(),
            container: container_name(container)?,
            sas: url.query().map(str::to_owned),
        };
        Ok((this, prefix.to_owned()))
    }

    /// `abfs[s]://<container>@<account>.dfs.…/<prefix>`, `wasb[s]://<container>@<account>.blob.…/…`.
    pub(crate) fn from_hadoop(scheme: &str, rest: &str) -> Result<(Self, String), Error> {
        let form = || {
            let service = if scheme.starts_with("abfs") { "dfs" } else { "blob" };
            Error::usage(format!(
                "expected {scheme}://<container>@<account>.{service}.core.windows.net/<prefix>"
            ))
        };
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let (container, host) = authority.split_once('@').ok_or_else(form)?;
        let host = host.replacen(".dfs.", ".blob.", 1);
        if !Self::is_host(&host, "blob") || prefix.contains('?') {
            return Err(form());
        }
        let account = host.split('.').next().unwrap_or_default().to_owned();
        let this = Self { account, host, container: container_name(container)?, sas: None };
        Ok((this, prefix.to_owned()))
    }
}

fn is_account(name: &str) -> bool {
    (3..=24).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn container_name(name: &str) -> Result<String, Error> {
    let clean = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'$';
    if !(3..=63).contains(&name.len()) || !name.bytes().all(clean) {
        return Err(Error::usage(format!("{} is not a container's name", name::quoted(name))));
    }
    Ok(name.to_owned())
}

/// A path of a URL as text.
pub(crate) fn percent_decoded(path: &str) -> Result<String, Error> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    let malformed = || Error::usage("the location's percent-encoding is malformed");
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2).ok_or_else(malformed)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or_else(malformed);
        let byte = digit(digits[0])? * 16 + digit(digits[1])?;
        bytes.push(u8::try_from(byte).map_err(|_| malformed())?);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

/// A bucket's name as S3 and Google Cloud Storage have it.
pub(crate) fn bucket_name(name: &str) -> Result<String, Error> {
    let clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !(3..=255).contains(&name.len()) || !name.chars().all(clean) || name.contains("..") {
        return Err(Error::usage(format!("{} is not a bucket name", name::quoted(name))));
    }
    Ok(name.to_owned())
}

/// A hub of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HubKind {
    /// `hf://`
    HuggingFace,
    /// `modelscope://`
    ModelScope,
}

impl HubKind {
    /// The scheme of its URIs, and the branch that is meant if none is said.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::HuggingFace => ("hf", "main"),
            Self::ModelScope => ("modelscope", "master"),
        }
    }
}

/// A folder of a repository of a hub, at a revision.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HubRepo {
    /// Which hub.
    pub(crate) hub: HubKind,
    /// User or organisation.
    pub(crate) owner: String,
    /// The repository.
    pub(crate) name: String,
    /// A branch, a tag or a commit.
    pub(crate) revision: String,
    /// Empty, or `a/b`.
    pub(crate) folder: String,
}

impl HubRepo {
    /// `<owner>/<name>[/<folder>][:<revision>]`.
    pub(crate) fn parse(hub: HubKind, rest: &str) -> Result<Self, Error> {
        let (scheme, branch) = hub.names();
        let form = || {
            Error::usage(format!(
                "expected {scheme}://<owner>/<model>[:<revision>], or a folder in it"
            ))
        };
        if rest.contains('?') {
            return Err(form());
        }
        let (path, revision) = match rest.split_once(':') {
            Some((path, revision)) => (path, revision),
            None => (rest, branch),
        };
        let mut parts = path.trim_end_matches('/').splitn(3, '/');
        let (owner, model) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let folder = parts.next().unwrap_or_default();
        let clean = |part: &str, more: &[char]| {
            let plain = |c: char| c.is_ascii_alphanumeric() || more.contains(&c);
            (1..=255).contains(&part.len()) && part.chars().all(plain) && !part.contains("..")
        };
        let named = |part| clean(part, &['-', '_', '.']) && part != ".";
        let folder_is_clean = folder.is_empty() || name::fault(folder).is_none();
        if !named(owner) || !named(model) || !folder_is_clean {
            return Err(form());
        }
        // A branch may have slashes, which the API wants escaped: the URL's segments do that.
        if !clean(revision, &['-', '_', '.', '/']) {
            return Err(form());
        }
        let owned = str::to_owned;
        Ok(Self {
            hub,
            owner: owned(owner),
            name: owned(model),
            revision: owned(revision),
            folder: owned(folder),
        })
    }

    /// The path in the repository of an object in our folder.
    pub(crate) fn path_of(&self, object: &str) -> String {
        crate::location::joined(&self.folder, object)
    }

    /// The other way round; `None` outside of the folder.
    pub(crate) fn name_of<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self.folder.as_str() {
            "" => Some(path),
            folder => path.strip_prefix(folder)?.strip_prefix('/'),
        }
    }
}

impl fmt::Display for HubRepo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, branch) = self.hub.names();
        write!(f, "{scheme}://{}/{}", self.owner, self.name)?;
        if !self.folder.is_empty() {
            write!(f, "/{}", self.folder)?;
        }
        match self.revision.as_str() {
            revision if revision == branch => Ok(()),
            revision => write!(f, ":{revision}"),
        }
    }
}

/// The place's root, as its URI: never a signature.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket } => write!(f, "s3://{bucket}"),
            Self::S3Cloud { cloud, bucket } => write!(f, "{cloud}://{bucket}"),
            Self::Gcs { bucket } => write!(f, "gs://{bucket}"),
            Self::Azure(place) => write!(f, "https://{}/{}", place.host, place.container),
        }
    }
}
