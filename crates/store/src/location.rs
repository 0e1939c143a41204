//! Where a bundle lives: the grammar of locations.

use std::fmt;
use std::path::{Path, PathBuf};

use url::Url;

use crate::oci::{Reference, Version};
use crate::service::{
    AzureContainer, HubKind, HubRepo, S3Cloud, Service, bucket_name, percent_decoded,
};
use crate::{Error, name};

/// The longest location, in bytes.
const URI_BYTES_MAX: usize = 4_096;

/// A place that holds objects by relative name.
///
/// | written | means |
/// | --- | --- |
/// | `s3://bucket`, `s3://bucket/prefix` | keys `prefix/<object>`; the prefix is a folder, never a raw string prefix |
/// | `gs://bucket/prefix` | Google Cloud Storage, likewise |
/// | `oss://bucket/prefix`, `cos://bucket/prefix`, `obs://bucket/prefix` | the object stores of Alibaba, Tencent and Huawei, likewise |
/// | `https://<account>.blob.core.windows.net/<container>/prefix`, also in `<account>.z<NN>.blob.storage.azure.net` and the sovereign clouds | Azure Blob Storage; a query is a shared access signature |
/// | `https://<account>.file.core.windows.net/<share>/path`, likewise | Azure Files; reading only |
/// | `abfs[s]://<container>@<account>.dfs.core.windows.net/prefix`, `wasb[s]://<container>@<account>.blob.…` | the same container |
/// | `hf://owner/model[:revision]`, `hf://owner/model/folder[:revision]` | a repository of Hugging Face's hub, the branch `main` unless said; reading only |
/// | `modelscope://owner/model[:revision]`, likewise | a repository of ModelScope's, the branch `master` unless said; reading only |
/// | `oci://registry[:port]/repository[:tag]`, `…@sha256:…` | an artifact of a container registry, the tag `latest` unless said; each object is a layer, named by an annotation |
/// | `hdfs://path`, `webhdfs://path` | the path in the file system that the settings name, as KServe has it |
/// | `file:///dir`, `file://localhost/dir`, `/dir`, `dir` | a local directory; no percent-decoding, as KServe reads it |
/// | `https://host/base`, `http://host/base` | `base/<object>`, each component percent-encoded; reading only. A query goes with every object |
///
/// `sealift+` before a scheme is dropped, so that KServe can route such URIs to our image by their
/// prefix. Fragments are refused: a fragment belongs to the caller, who must strip it first.
/// [`Display`](fmt::Display) and `Debug` never show userinfo and queries.
#[derive(Clone, PartialEq, Eq)]
pub struct Location(pub(crate) Place);

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// `prefix` is empty or `a/b`, without slashes at its ends.
    Remote {
        service: Service,
        prefix: String,
    },
    Hub(HubRepo),
    Oci(Reference),
    /// Below the configured root; without slashes at its ends.
    Hdfs {
        path: String,
    },
    /// In Azure Files; without slashes at its ends.
    Share {
        share: AzureContainer,
        path: String,
    },
    Local(PathBuf),
    Http(HttpBase),
}

/// A base URL.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HttpBase {
    /// With a slash at its end, without query and fragment.
    pub(crate) url: Url,
    /// What goes with every request below it: often a signature, so it is a secret.
    pub(crate) query: Option<String>,
}

impl Location {
    /// Reads a location.
    ///
    /// # Errors
    /// [`Error::Usage`] for anything outside of the grammar above.
    pub fn parse(uri: &str) -> Result<Self, Error> {
        let uri = uri.strip_prefix("sealift+").unwrap_or(uri);
        if uri.is_empty() {
            return Err(Error::usage("the location is empty"));
        }
        if uri.len() > URI_BYTES_MAX {
            return Err(Error::usage("the location is longer than 4096 bytes"));
        }
        if uri.contains(char::is_control) {
            return Err(Error::usage("the location has a control character"));
        }
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Ok(Self(Place::Local(uri.into())));
        };
        if rest.contains('#') {
            return Err(Error::usage(format!(
                "{scheme}:// location has a fragment (`#…`), which has no meaning here"
            )));
        }
        match scheme {
            "s3" | "gs" | "oss" | "cos" | "obs" => bucket(scheme, rest),
            "abfs" | "abfss" | "wasb" | "wasbs" => {
                let (container, prefix) = AzureContainer::from_hadoop(scheme, rest)?;
                remote(Service::Azure(container), &prefix)
            }
            "hdfs" | "webhdfs" => hdfs(rest),
            "hf" => Ok(Self(Place::Hub(HubRepo::parse(HubKind::HuggingFace, rest)?))),
            "modelscope" => Ok(Self(Place::Hub(HubRepo::parse(HubKind::ModelScope, rest)?))),
            "oci" => Ok(Self(Place::Oci(Reference::parse(rest)?))),
            "file" => file(rest),
            "http" | "https" => http(uri),
            "pvc" => Err(Error::usage(
                "pvc:// names a volume of Kubernetes, which no process can open: mount the claim \
                 into this container, and name the path below its mount (file:///mnt/pvc/…)",
            )),
            _ => Err(Error::usage(format!(
                "unknown scheme {}: expected s3://, gs://, abfs://, oss://, cos://, obs://, hf://, \
                 modelscope://, oci://, hdfs://, file://, https://, http:// or a path",
                name::quoted(scheme)
            ))),
        }
    }

    /// The location one or more components below this one.
    ///
    /// # Errors
    /// [`Error::Usage`] if `name` is not a clean relative name.
    pub fn join(&self, name: &str) -> Result<Self, Error> {
        name::check(name)?;
        Ok(Self(match &self.0 {
            Place::Remote { service, prefix } => {
                Place::Remote { service: service.clone(), prefix: joined(prefix, name) }
            }
            Place::Hdfs { path } => Place::Hdfs { path: joined(path, name) },
            Place::Hub(repo) => {
                Place::Hub(HubRepo { folder: joined(&repo.folder, name), ..repo.clone() })
            }
            Place::Share { share, path } => {
                Place::Share { share: share.clone(), path: joined(path, name) }
            }
            Place::Oci(_) => return Err(Error::usage("an oci:// location has no folders")),
            Place::Local(path) => Place::Local(path.join(name)),
            Place::Http(base) => {
                let mut url = object_url(&base.url, name);
                add_slash(&mut url);
                Place::Http(HttpBase { url, query: base.query.clone() })
            }
        }))
    }

    /// The location read as the address of one object: the folder that holds it, and its name.
    /// `None` where there is no last component that could be a name.
    #[must_use]
    pub fn as_object(&self) -> Option<(Self, String)> {
        let split = |path: &str| {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            name::fault(name).is_none().then(|| (parent.to_owned(), name.to_owned()))
        };
        match &self.0 {
            Place::Remote { service, prefix } => {
                let (prefix, name) = split(prefix)?;
                Some((Self(Place::Remote { service: service.clone(), prefix }), name))
            }
            Place::Http(base) => {
                let path = percent_decoded(base.url.path().trim_matches('/')).ok()?;
                let (_, name) = split(&path)?;
                let mut url = base.url.clone();
                url.path_segments_mut().ok()?.pop_if_empty().pop().push("");
                Some((Self(Place::Http(HttpBase { url, query: base.query.clone() })), name))
            }
            Place::Hdfs { path } => {
                let (path, name) = split(path)?;
                Some((Self(Place::Hdfs { path }), name))
            }
            Place::Share { share, path } => {
                let (path, name) = split(path)?;
                Some((Self(Place::Share { share: share.clone(), path }), name))
            }
            Place::Hub(repo) => {
                let (folder, name) = split(&repo.folder)?;
                Some((Self(Place::Hub(HubRepo { folder, ..repo.clone() })), name))
            }
            Place::Oci(_) => None,
            Place::Local(path) => {
                let name = path.file_name()?.to_str()?;
                name::fault(name).is_none().then_some(())?;
                let parent = match path.parent()? {
                    parent if parent.as_os_str().is_empty() => Path::new("."),
                    parent => parent,
                };
                Some((Self(Place::Local(parent.to_owned())), name.to_owned()))
            }
        }
    }

    /// Whether it names what is there by its digest, so that it cannot be replaced.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        matches!(&self.0, Place::Oci(Reference { version: Version::Digest(_), .. }))
    }

    /// Whether this is a file of this machine, and so no folder.
    #[must_use]
    pub fn is_file(&self) -> bool {
        matches!(&self.0, Place::Local(path) if path.is_file())
    }

    /// The directory, if this is a local place.
    #[must_use]
    pub fn local_path(&self) -> Option<&Path> {
        match &self.0 {
            Place::Local(path) => Some(path),
            _ => None,
        }
    }

    /// The address of one object, for messages.
    pub(crate) fn address(&self, object: &str) -> String {
        if let Place::Hub(repo) = &self.0 {
            return HubRepo { folder: repo.path_of(object), ..repo.clone() }.to_string();
        }
        let base = self.to_string();
        format!("{}/{object}", base.trim_end_matches('/'))
    }
}

/// `prefix/name`, or `name` at the root of a bucket.
pub(crate) fn joined(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") }
}

/// The URL of an object below `base`. `name` was checked, so nothing in it is skipped or climbs.
pub(crate) fn object_url(base: &Url, name: &str) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(name.split('/'));
    }
    url
}

fn bucket(scheme: &str, rest: &str) -> Result<Location, Error> {
    if rest.contains('?') {
        return Err(Error::usage(format!(
            "{scheme}:// location has a query (`?…`): use the environment for settings"
        )));
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let bucket = bucket_name(bucket)?;
    let service = match S3Cloud::of(scheme) {
        Some(cloud) => Service::S3Cloud { cloud, bucket },
        None if scheme == "gs" => Service::Gcs { bucket },
        None => Service::S3 { bucket },
    };
    remote(service, prefix)
}

fn remote(service: Service, prefix: &str) -> Result<Location, Error> {
    Ok(Location(Place::Remote { service, prefix: folder(prefix)? }))
}

/// A clean prefix, or none, without a slash at its end.
fn folder(prefix: &str) -> Result<String, Error> {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    if !prefix.is_empty()
        && let Some(fault) = name::fault(prefix)
    {
        return Err(Error::usage(format!("the prefix {} {fault}", name::quoted(prefix))));
    }
    Ok(prefix.to_owned())
}

fn hdfs(rest: &str) -> Result<Location, Error> {
    let path = rest.trim_matches('/');
    match name::fault(path) {
        None if !path.contains('?') => Ok(Location(Place::Hdfs { path: path.to_owned() })),
        _ => Err(Error::usage("expected hdfs://<path>; HDFS_NAMENODE says where")),
    }
}

fn file(rest: &str) -> Result<Location, Error> {
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(Error::usage("file:// location needs an absolute path: file:///dir"));
    }
    Ok(Location(Place::Local(path.into())))
}

fn http(uri: &str) -> Result<Location, Error> {
    // The parser's own message could repeat a password, so only its kind is told.
    let mut url =
        Url::parse(uri).map_err(|error| Error::usage(format!("http location: {error}")))?;
    let is_azure = |service| url.host_str().is_some_and(|it| AzureContainer::is_host(it, service));
    if is_azure("blob") || is_azure("file") {
        if url.scheme() != "https" {
            return Err(Error::usage("Azure's stores are reached by https://"));
        }
        let (container, prefix) = AzureContainer::from_url(&url)?;
        return match is_azure("blob") {
            true => remote(Service::Azure(container), &prefix),
            false => Ok(Location(Place::Share { share: container, path: folder(&prefix)? })),
        };
    }
    // Upstream clones what ends so; as a file of that name it would be a surprise.
    if url.path().trim_end_matches('/').ends_with(".git") {
        return Err(Error::usage(
            "Git repositories are not cloned: use hf:// or modelscope:// where a hub holds the \
             model, else the server's archive of a revision, https://…/….tar.gz",
        ));
    }
    let query = url.query().map(str::to_owned);
    url.set_query(None);
    add_slash(&mut url);
    Ok(Location(Place::Http(HttpBase { url, query })))
}

fn add_slash(url: &mut Url) {
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().push("");
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Remote { service, prefix } if prefix.is_empty() => write!(f, "{service}"),
            Place::Remote { service, prefix } => write!(f, "{service}/{prefix}"),
            Place::Hdfs { path } => write!(f, "hdfs://{path}"),
            Place::Share { share, path } => {
                write!(f, "https://{}/{}", share.host, share.container)?;
                if !path.is_empty() {
                    write!(f, "/{path}")?;
                }
                Ok(())
            }
            Place::Hub(repo) => write!(f, "{repo}"),
            Place::Oci(reference) => write!(f, "{reference}"),
            Place::Local(path) => write!(f, "{}", path.display()),
            Place::Http(HttpBase { url, .. }) => {
                write!(f, "{}://{}", url.scheme(), url.host_str().unwrap_or_default())?;
                if let Some(port) = url.port() {
                    write!(f, ":{port}")?;
                }
                f.write_str(url.path().trim_end_matches('/'))
            }
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({self})")
    }
}

impl std::str::FromStr for Location {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self, Error> {
        Self::parse(uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(uri: &str) -> String {
        match Location::parse(uri) {
            Ok(location) => location.to_string(),
            Err(error) => panic!("{uri}: {error}"),
        }
    }

    #[test]
    fn reads_every_form_of_the_grammar() {
        assert_eq!(shown("s3://models"), "s3://models");
        assert_eq!(shown("s3://models/"), "s3://models");
        assert_eq!(shown("s3://models/llama/8b/"), "s3://models/llama/8b");
        assert_eq!(shown("sealift+s3://models/llama"), "s3://models/llama");
        assert_eq!(shown("file:///mnt/a%20b"), "/mnt/a%20b");
        assert_eq!(shown("file://localhost/mnt"), "/mnt");
        assert_eq!(shown("/mnt/pvc/model#1"), "/mnt/pvc/model#1");
        assert_eq!(shown("models/llama"), "models/llama");
        assert_eq!(shown("https://host:8443/a/b"), "https://host:8443/a/b");
        assert_eq!(shown("gs://models/llama/"), "gs://models/llama");
        for cloud in ["oss", "cos", "obs"] {
            let uri = format!("{cloud}://models/llama");
            assert_eq!(shown(&uri), uri);
        }
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (uri, expected) in [
            ("oci://r.example/m", "oci://r.example/m:latest"),
            ("oci://r.example:5000/a/b-c/m_1:v1.0_X", "oci://r.example:5000/a/b-c/m_1:v1.0_X"),
            ("sealift+oci://[::1]:5000/m", "oci://[::1]:5000/m:latest"),
            ("oci://docker.io/m:1", "oci://docker.io/library/m:1"),
            (&format!("oci://r.example/m:v1@{digest}"), &format!("oci://r.example/m@{digest}")),
        ] {
            assert_eq!(shown(uri), expected);
        }
        assert_eq!(shown("hf://org/model/"), "hf://org/model");
        assert_eq!(shown("modelscope://org/model:master"), "modelscope://org/model");
        assert_eq!(shown("modelscope://org/model/a:main"), "modelscope://org/model/a:main");
        assert_eq!(shown("webhdfs:///user/me/model/"), "hdfs://user/me/model");
        assert_eq!(shown("hf://org/model:refs/pr/1"), "hf://org/model:refs/pr/1");
        assert_eq!(shown("hf://org/model/sealed/v1:v2"), "hf://org/model/sealed/v1:v2");
        let blob = "https://acct.blob.core.windows.net/models/llama";
        assert_eq!(shown(blob), blob);
        let file = "https://acct.file.core.windows.net/models/llama";
        assert_eq!(shown(&format!("{file}/?sv=1&sig=hunter2")), file);
        assert_eq!(shown("abfss://models@acct.dfs.core.windows.net/llama"), blob);
        assert_eq!(shown("wasb://models@acct.blob.core.windows.net/llama/"), blob);
        assert_eq!(
            shown("https://acct.z42.blob.storage.azure.net/models/a%20b"),
            "https://acct.z42.blob.storage.azure.net/models/a b"
        );
    }

    #[test]
    fn refuses_what_is_outside_of_the_grammar() {
        for uri in [
            "",
            "s3://",
            "s3://b",
            "s3://bad bucket/x",
            "s3://buc..ket",
            "s3://bucket//x",
            "s3://bucket/../x",
            "s3://bucket/a?x=1",
            "s3://bucket/a#f",
            "file://host/x",
            "file://x",
            "http://",
            "https://h/a#f",
            "ftp://bucket/x",
            "gs://b",
            "hf://model",
            "hdfs://",
            "hdfs://a/../b",
            "hdfs://a?op=DELETE",
            "hf://owner/",
            "hf://owner/model:",
            "hf://owner/../x",
            "hf://owner/model:a..b",
            "hf://owner/model/../x",
            "hf://owner/model?x",
            "oci://r.example",
            "oci://r.example/",
            "oci:///m",
            "oci://r.example:/m",
            "oci://r.example:99999/m",
            "oci://user@r.example/m",
            "oci://[::x]/m",
            "oci://r.example/M",
            "oci://r.example/m/",
            "oci://r.example/../m",
            "oci://r.example/a//m",
            "oci://r.example/m:",
            "oci://r.example/m:-x",
            "oci://r.example/m:a/b",
            "oci://r.example/m?x=1",
            "oci://r.example/m@sha256:00",
            "oci://r.example/m@sha512:00",
            "gs://bucket/a?x=1",
            "abfs://models/x",
            "abfs://models@acct.example/x",
            "https://git.example/team/model.git",
            "https://me@git.example/team/model.git/",
            "https://acct.blob.core.windows.net/",
            "http://acct.blob.core.windows.net/models/x",
            "http://acct.file.core.windows.net/models/x",
            "https://acct.file.core.windows.net/Models/x",
            "https://acct.file.core.windows.net/",
            "https://acct.blob.core.windows.net/Models/x",
            "https://acct.blob.core.windows.net/models/%2e%2e/x",
            "https://acct.blob.core.windows.net/models/%zz",
            "s3://bucket/a\nb",
        ] {
            assert!(matches!(Location::parse(uri), Err(Error::Usage { .. })), "{uri:?}");
        }
    }

    #[test]
    fn never_shows_userinfo() {
        let location = Location::parse("https://user:hunter2@host/base").unwrap();
        assert_eq!(location.address("a b"), "https://host/base/a b");
        assert!(!format!("{location:?} {location}").contains("hunter2"));
        let location = Location::parse("https://host/base?sig=hunter2").unwrap();
        assert_eq!(location.address("o"), "https://host/base/o");
        assert!(!format!("{location:?}").contains("hunter2"));
        let signed = "https://acct.blob.core.windows.net/models/x?sv=2020&sig=hunter2";
        let location = Location::parse(signed).unwrap();
        assert!(!format!("{location:?} {location} {}", location.address("o")).contains("hunter2"));
        let error = Location::parse("https://user:hunter2@host:bad/base").unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"));
    }

    #[test]
    fn a_location_may_be_one_object() {
        let split = |uri: &str| {
            let (folder, name) = Location::parse(uri).unwrap().as_object().unwrap();
            format!("{folder} {name}")
        };
        assert_eq!(split("s3://bucket/a/model.joblib"), "s3://bucket/a model.joblib");
        assert_eq!(split("gs://bucket/model.joblib"), "gs://bucket model.joblib");
        assert_eq!(split("https://h/a/b%20c.tgz?s=1"), "https://h/a b c.tgz");
        assert_eq!(split("https://h/m.onnx"), "https://h m.onnx");
        assert_eq!(split("/mnt/m.onnx"), "/mnt m.onnx");
        assert_eq!(split("m.onnx"), ". m.onnx");
        assert!(Location::parse("s3://bucket").unwrap().as_object().is_none());
        assert!(Location::parse("https://h").unwrap().as_object().is_none());
        assert!(Location::parse("https://h/a%2Fb").unwrap().as_object().is_none_or(|o| o.1 == "b"));
    }

    #[test]
    fn joins_below_and_encodes_each_component() {
        let base = Location::parse("https://host/a").unwrap();
        let Place::Http(http) = &base.0 else { panic!("not http") };
        assert_eq!(
            object_url(&http.url, "b c/100%?.sealed").as_str(),
            "https://host/a/b%20c/100%25%3F.sealed"
        );
        assert_eq!(base.join("b").unwrap().to_string(), "https://host/a/b");
        assert_eq!(
            Location::parse("s3://bucket").unwrap().join("b/c").unwrap().to_string(),
            "s3://bucket/b/c"
        );
        assert!(base.join("../b").is_err());
    }
}
