//! HDFS by its REST interface, WebHDFS (Hadoop 3: `hadoop-hdfs/WebHDFS.html`), as KServe reaches it.

use std::ops::Range;

use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use reqwest::redirect::Policy;
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use url::Url;

use crate::answer;
use crate::client::{self, Limits, within};
use crate::local::TEMPORARY_PREFIX;
use crate::settings::Hdfs as HdfsSettings;
use crate::stream::ObjectStream;
use crate::walk::{self, Directories, Found, Page};
use crate::{Entry, Error, ObjectMeta, Settings};

mod upload;

pub(crate) use upload::Upload;

/// The answer for a directory of 100 000 files is some 30 MB.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A directory of a file system.
#[derive(Clone)]
pub(crate) struct Hdfs {
    client: reqwest::Client,
    /// Follows no redirects: what is written is handed to data nodes by ourselves.
    direct: reqwest::Client,
    /// Name nodes, each with `/webhdfs/v1` and the directory at its end. One of them is active.
    nodes: Vec<Url>,
    /// The directory as the name nodes have it, without slashes at its ends.
    directory: String,
    /// `user.name` or `doas`, as a query.
    user: String,
    headers: HeaderMap,
    limits: Limits,
}

/// What the file system says of a file or directory.
struct Status {
    meta: ObjectMeta,
    is_file: bool,
    name: String,
}

impl Hdfs {
    /// The directory `path`, without slashes at its ends.
    pub(crate) fn open(path: &str, settings: &Settings) -> Result<Self, Error> {
        let hdfs = settings.hdfs()?;
        let mut own = settings.verified();
        own.ca_bundle = hdfs.ca.clone().or(own.ca_bundle);
        own.verify_tls = hdfs.verify_tls;
        // Headers are for the gateway that is named, and data nodes are others.
        let redirects = match hdfs.headers.is_empty() {
            true => client::careful_redirects(),
            false => client::redirects_within_the_host(),
        };
        let nodes = nodes(&hdfs, path)?;
        let tls = nodes.iter().any(|node| node.scheme() == "https");
        Ok(Self {
            client: client::build(&own, redirects, tls)?,
            direct: client::build(&own, Policy::none(), tls)?,
            directory: crate::location::joined(
                hdfs.root.as_deref().unwrap_or_default().trim_matches('/'),
                path,
            ),
            nodes,
            user: hdfs.user.clone().unwrap_or_default(),
            headers: hdfs.headers,
            limits: Limits::of(settings),
        })
    }

    pub(crate) async fn stat(&self, object: &str) -> Result<ObjectMeta, Error> {
        let answer = self.json(object, "GETFILESTATUS").await?;
        let status = Status::read(&answer["FileStatus"])?;
        match status.is_file {
            true => Ok(status.meta),
            false => Err(Error::NotFound { object: String::new(), bucket: false }),
        }
    }

    /// Files have no versions to ask for, so the version is compared before each range.
    pub(crate) async fn get(
        &self,
        object: &str,
        range: Option<Range<u64>>,
        etag: Option<&str>,
        address: String,
    ) -> Result<ObjectStream, Error> {
        let range = match (range, etag) {
            (Some(range), None) => range,
            (range, etag) => {
                let meta = self.stat(object).await?;
                if etag.is_some() && etag != meta.etag.as_deref() {
                    return Err(Error::Changed { object: String::new() });
                }
                range.unwrap_or(0..meta.bytes)
            }
        };
        let length = range.end - range.start;
        let query = format!("op=OPEN&offset={}&length={length}", range.start);
        let response = self.ask(&self.client, Method::GET, object, &query).await?;
        let sent = answer::text(response.headers(), &CONTENT_LENGTH).and_then(|l| l.parse().ok());
        if sent.is_some_and(|sent: u64| sent != length) {
            return Err(Error::protocol("the file ends before the range, or has another length"));
        }
        Ok(ObjectStream::of_response(response, address, &range, self.limits))
    }

    pub(crate) async fn list(&self, entries_max: usize) -> Result<Vec<Entry>, Error> {
        walk::files(self, entries_max).await
    }

    pub(crate) fn writer(&self, object: &str) -> Upload {
        Upload::new(self, object)
    }

    async fn json(&self, object: &str, operation: &str) -> Result<Value, Error> {
        let response =
            self.ask(&self.client, Method::GET, object, &format!("op={operation}")).await?;
        let body = within(self.limits.answer, client::body(response, ANSWER_BYTES_MAX)).await??;
        serde_json::from_slice(&body).map_err(|_| Error::protocol("the answer is no JSON document"))
    }

    /// Asks the name nodes in turn: a standby refuses, with its own name for that. What is returned
    /// is success, or an answer to a change that leads to a data node.
    async fn ask(
        &self,
        client: &reqwest::Client,
        method: Method,
        object: &str,
        query: &str,
    ) -> Result<Response, Error> {
        let mut failure = None;
        for node in &self.nodes {
            let mut url = node.clone();
            if let Ok(mut path) = url.path_segments_mut() {
                path.extend(object.split('/').filter(|component| !component.is_empty()));
            }
            let separator = if self.user.is_empty() { "" } else { "&" };
            url.set_query(Some(&format!("{query}{separator}{}", self.user)));
            let redirects = method != Method::GET;
            let request = client.request(method.clone(), url).headers(self.headers.clone());
            let response = match within(self.limits.answer, request.send()).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => {
                    failure = Some(client::failure(&error));
                    continue;
                }
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            };
            let status = response.status();
            if status.is_success() || redirects && status == StatusCode::TEMPORARY_REDIRECT {
                return Ok(response);
            }
            match self.refusal(response).await {
                busy @ Error::Unavailable { .. } => failure = Some(busy),
                error => return Err(error),
            }
        }
        Err(failure.unwrap_or_else(|| Error::usage("HDFS_NAMENODE names no node")))
    }

    /// What a refusal means: exceptions have names.
    async fn refusal(&self, response: Response) -> Error {
        let (status, headers) = (response.status(), response.headers().clone());
        let body = within(self.limits.answer, client::body(response, 64 * 1024)).await;
        let exception = body.ok().and_then(Result::ok).and_then(|body| exception(&body));
        match exception.as_deref() {
            Some("StandbyException" | "RetriableException") => {
                let (status, after) = (status.as_u16(), answer::after(&headers));
                Error::Unavailable { object: String::new(), status, after }
            }
            Some("FileNotFoundException") => {
                Error::NotFound { object: String::new(), bucket: false }
            }
            Some(reason @ ("AccessControlException" | "SecurityException")) => {
                Error::Denied { object: String::new(), reason: reason.to_owned() }
            }
            _ => answer::refusal(status, &headers, b""),
        }
    }
}

impl Directories for Hdfs {
    async fn page(&self, directory: &str, _: Option<&str>) -> Result<Page, Error> {
        let answer = self.json(directory, "LISTSTATUS").await?;
        let listed = answer["FileStatuses"]["FileStatus"]
            .as_array()
            .ok_or_else(|| Error::protocol("the listing has no list"))?;
        let mut entries = Vec::with_capacity(listed.len());
        for status in listed {
            let Status { meta, is_file, name } = Status::read(status)?;
            // The status of a file has no name: it is no directory.
            if name.is_empty() {
                return Err(Error::NotFound { object: String::new(), bucket: false });
            }
            // A killed upload leaves one behind.
            if !name.starts_with(TEMPORARY_PREFIX) {
                entries.push(Found { name, file: is_file.then_some(meta) });
            }
        }
        Ok(Page { entries, next: None })
    }
}

impl Status {
    fn read(status: &Value) -> Result<Self, Error> {
        let number = |member: &str| status[member].as_u64();
        let (Some(kind), Some(bytes), Some(name)) =
            (status["type"].as_str(), number("length"), status["pathSuffix"].as_str())
        else {
            return Err(Error::protocol("the status of a file lacks type, length or name"));
        };
        let is_file = match kind {
            "FILE" => true,
            "DIRECTORY" => false,
            _ => {
                return Err(Error::protocol("there is something that is no file and no directory"));
            }
        };
        // A file that is replaced is another inode; one that is written on is longer, and later.
        let version = [number("fileId"), number("modificationTime"), Some(bytes)];
        let version = version.map(|part| part.map_or("-".to_owned(), |part| part.to_string()));
        let etag = Some(version.join("."));
        Ok(Self { meta: ObjectMeta { bytes, etag }, is_file, name: name.to_owned() })
    }
}

/// The exception's name in an error document, if it is a plain word.
fn exception(body: &[u8]) -> Option<String> {
    let document: Value = serde_json::from_slice(body).ok()?;
    let name = document["RemoteException"]["exception"].as_str()?;
    let plain = name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then(|| name.to_owned())
}

/// `HDFS_NAMENODE` is one URL, or several with `;` between them.
fn nodes(hdfs: &HdfsSettings, path: &str) -> Result<Vec<Url>, Error> {
    let unusable = || Error::usage("HDFS_NAMENODE is no list of http:// or https:// URLs");
    let node = |text: &str| {
        let mut url = Url::parse(text.trim()).map_err(|_| unusable())?;
        if !matches!(url.scheme(), "http" | "https") || url.query().is_some() {
            return Err(unusable());
        }
        let root = hdfs.root.as_deref().unwrap_or_default();
        let components =
            ["webhdfs", "v1"].into_iter().chain(root.split('/')).chain(path.split('/'));
        let mut segments = url.path_segments_mut().map_err(|()| unusable())?;
        segments.pop_if_empty().extend(components.filter(|component| !component.is_empty()));
        drop(segments);
        Ok(url)
    };
    hdfs.nodes.split(';').filter(|text| !text.trim().is_empty()).map(node).collect()
}
