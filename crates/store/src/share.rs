//! Azure Files by its REST interface (Microsoft: "Azure Files REST API"), with an account's key or a
//! shared access signature. Reading only.

use std::ops::Range;

use http::header::{ETAG, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reqsign_azure_storage::{Credential, RequestSigner};
use reqsign_core::{Context, SignRequest};
use reqwest::redirect::Policy;
use reqwest::{Body, Response};
use serde::Deserialize;
use url::Url;

use crate::answer::{self, Asked};
use crate::client::{self, Limits, within};
use crate::location::object_url;
use crate::remote::AzureIdentity;
use crate::service::AzureContainer;
use crate::stream::ObjectStream;
use crate::walk::{self, Directories, Found, Page};
use crate::{Entry, Error, ObjectMeta, Settings};

/// The version of the interface: from 2020-04-08 on listings tell ETags, and lengths that are up to
/// date.
const VERSION: HeaderValue = HeaderValue::from_static("2022-11-02");
/// A page of 5 000 entries is below 8 MB.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
const ERROR_BYTES_MAX: usize = 16 * 1024;

/// A directory of a share.
#[derive(Clone)]
pub(crate) struct Share {
    client: reqwest::Client,
    /// With a slash at its end.
    directory: Url,
    /// None: requests are sent as nobody's.
    credential: Option<Credential>,
    limits: Limits,
}

impl Share {
    /// The directory `path` of a share, which is named like a container; `path` is empty or `a/b`.
    pub(crate) fn open(
        share: &AzureContainer,
        path: &str,
        settings: &Settings,
    ) -> Result<Self, Error> {
        let endpoint = settings.azure_file_endpoint.clone().unwrap_or_else(|| share.endpoint());
        let endpoint = Url::parse(&endpoint)
            .map_err(|_| Error::usage("AZURE_STORAGE_FILE_ENDPOINT is not a URL"))?;
        if endpoint.scheme() != "https" && !client::is_loopback(&endpoint) {
            let what = "AZURE_STORAGE_FILE_ENDPOINT is neither https:// nor this machine";
            return Err(Error::usage(what));
        }
        let credential = match AzureIdentity::of(share, settings) {
            AzureIdentity::Sas(token) => Some(Credential::with_sas_token(&token)),
            AzureIdentity::Key(key) => Some(Credential::with_shared_key(&share.account, &key)),
            AzureIdentity::Nobody => None,
            AzureIdentity::Entra(_) => {
                return Err(Error::usage(
                    "identities of Entra (AZURE_CLIENT_ID) are not supported for Azure Files: set \
                     AZURE_STORAGE_ACCESS_KEY, or a shared access signature",
                ));
            }
        };
        let mut directory = object_url(&endpoint, &share.container);
        if let Ok(mut segments) = directory.path_segments_mut() {
            segments.extend(path.split('/').filter(|part| !part.is_empty())).push("");
        }
        let client = client::build(&settings.verified(), Policy::none(), true)?;
        Ok(Self { client, directory, credential, limits: Limits::of(settings) })
    }

    pub(crate) async fn stat(&self, object: &str) -> Result<ObjectMeta, Error> {
        let url = object_url(&self.directory, object);
        let response = self.send(Method::HEAD, url, HeaderMap::new()).await?;
        answer::meta(response.headers())
    }

    /// The service knows no `If-Match` for reading; each answer's version is compared.
    pub(crate) async fn get(
        &self,
        object: &str,
        range: Option<Range<u64>>,
        etag: Option<&str>,
        address: String,
    ) -> Result<ObjectStream, Error> {
        let mut headers = HeaderMap::new();
        if let Some(range) = &range {
            let range = format!("bytes={}-{}", range.start, range.end - 1);
            let range = HeaderValue::try_from(range).map_err(|_| Error::usage("a range"))?;
            headers.insert(RANGE, range);
        }
        let url = object_url(&self.directory, object);
        let response = self.send(Method::GET, url, headers).await?;
        let asked = Asked { range: range.clone(), etag };
        answer::check(&asked, response.status(), response.headers())?;
        if etag.is_some() && !response.headers().contains_key(ETAG) {
            return Err(Error::protocol("the server does not say which version it sends"));
        }
        let range = match range {
            Some(range) => range,
            None => 0..answer::length(response.headers())?,
        };
        Ok(ObjectStream::of_response(response, address, &range, self.limits))
    }

    pub(crate) async fn list(&self, entries_max: usize) -> Result<Vec<Entry>, Error> {
        walk::files(self, entries_max).await
    }

    /// A signed request; only success is returned.
    async fn send(&self, method: Method, url: Url, headers: HeaderMap) -> Result<Response, Error> {
        let unusable = || Error::usage("the request to Azure Files cannot be made");
        let request = http::Request::builder().method(method).uri(url.as_str());
        let request = request.body(Body::default()).map_err(|_| unusable())?;
        let (mut parts, body) = request.into_parts();
        parts.headers = headers;
        parts.headers.insert(HeaderName::from_static("x-ms-version"), VERSION);
        if let Some(credential) = &self.credential {
            let signer = RequestSigner::new();
            // Its message may hold what it signs.
            let signed =
                signer.sign_request(&Context::new(), &mut parts, Some(credential), None).await;
            signed.map_err(|_| Error::usage("AZURE_STORAGE_ACCESS_KEY is no base64 text"))?;
        }
        let request = reqwest::Request::try_from(http::Request::from_parts(parts, body))
            .map_err(|_| unusable())?;
        let response = within(self.limits.answer, self.client.execute(request))
            .await?
            .map_err(|error| client::failure(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let code = answer::text(&headers, &HeaderName::from_static("x-ms-error-code"));
        if code == Some("ShareNotFound") {
            return Err(Error::NotFound { object: String::new(), bucket: true });
        }
        let body = within(self.limits.silence, client::body(response, ERROR_BYTES_MAX)).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        Err(answer::refusal(status, &headers, &body))
    }
}

impl Directories for Share {
    async fn page(&self, directory: &str, next: Option<&str>) -> Result<Page, Error> {
        let mut url = match directory {
            "" => self.directory.clone(),
            directory => object_url(&self.directory, directory),
        };
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty();
        }
        let asked = [("restype", "directory"), ("comp", "list"), ("include", "Timestamps,ETag")];
        let asked = asked.into_iter().chain(next.map(|marker| ("marker", marker)));
        // As the signature has it: a blank is %20, not a plus sign.
        let query: Vec<_> =
            asked.map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        url.set_query(Some(&query.join("&")));
        let response = self.send(Method::GET, url, HeaderMap::new()).await?;
        let body = client::body(response, ANSWER_BYTES_MAX);
        parse(&within(self.limits.answer, body).await??)
    }
}

fn escaped(text: &str) -> String {
    let pairs = url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    pairs.replace('+', "%20")
}

/// `EnumerationResults` of "List Directories and Files".
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listing {
    entries: Entries,
    #[serde(default)]
    next_marker: String,
}

#[derive(Deserialize)]
struct Entries {
    #[serde(rename = "$value", default)]
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
enum Node {
    File(Described),
    Directory(Described),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Described {
    name: Name,
    #[serde(default)]
    properties: Properties,
}

#[derive(Deserialize)]
struct Name {
    /// It has characters that XML cannot hold.
    #[serde(rename = "@Encoded", default)]
    encoded: bool,
    #[serde(rename = "$text", default)]
    text: String,
}

#[derive(Deserialize, Default)]
struct Properties {
    #[serde(rename = "Content-Length")]
    content_length: Option<u64>,
    #[serde(rename = "Etag")]
    etag: Option<String>,
}

fn parse(xml: &[u8]) -> Result<Page, Error> {
    let malformed = |what: &str| Error::protocol(format!("the share's listing {what}"));
    // Some answers begin with a byte order mark.
    let xml =
        str::from_utf8(xml).map_err(|_| malformed("is no UTF-8"))?.trim_start_matches('\u{feff}');
    let listing: Listing =
        quick_xml::de::from_str(xml).map_err(|_| malformed("is not what it should be"))?;
    let entry = |node: Node| {
        let (described, is_file) = match node {
            Node::File(file) => (file, true),
            Node::Directory(directory) => (directory, false),
        };
        let Described { name, properties } = described;
        if name.encoded {
            return Err(malformed("has a name that XML cannot hold"));
        }
        let file = match (is_file, properties.content_length) {
            (false, _) => None,
            (true, Some(bytes)) => {
                // With quotes or without, as versions of the service have it; headers have them.
                let etag = properties.etag.map(|etag| format!("\"{}\"", etag.trim_matches('"')));
                Some(ObjectMeta { bytes, etag })
            }
            (true, None) => return Err(malformed("says no length of a file")),
        };
        Ok(Found { name: name.text, file })
    };
    let entries = listing.entries.nodes.into_iter().map(entry).collect::<Result<_, _>>()?;
    let next = Some(listing.next_marker).filter(|marker| !marker.is_empty());
    Ok(Page { entries, next })
}
