//! Hubs of models, Hugging Face's and ModelScope's, and whoever speaks their APIs: a snapshot of one
//! repository. Reading only.
//!
//! A revision is resolved to commits once, and everything is read at those; so what is read is one
//! state of the repository, however long that takes, without versions of single files.

use std::ops::Range;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HeaderValue, RANGE};
use reqwest::{Response, StatusCode};
use serde_json::Value;
use tokio::sync::OnceCell;
use url::Url;

use crate::answer::{self, Asked};
use crate::client::{self, Limits, within};
use crate::service::{HubKind, HubRepo};
use crate::snapshot::{self, Files};
use crate::stream::ObjectStream;
use crate::{Entry, Error, ObjectMeta, Settings};

mod hugging_face;
mod modelscope;

/// The answer for a repository of 100 000 files is some 40 MB.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One repository at one revision.
#[derive(Clone)]
pub(crate) struct Hub {
    client: reqwest::Client,
    endpoint: Url,
    repo: HubRepo,
    /// Who we are; empty for nobody.
    identity: HeaderMap,
    snapshot: Arc<OnceCell<Files<File>>>,
    limits: Limits,
}

/// What a hub says of a file.
struct File {
    bytes: u64,
    /// Hugging Face says it of those that Git LFS keeps.
    sha256: Option<[u8; 32]>,
    /// What it is read at.
    commit: String,
}

impl snapshot::File for File {
    fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Hub {
    pub(crate) fn open(repo: &HubRepo, settings: &Settings) -> Result<Self, Error> {
        let (endpoint, default, variable) = match repo.hub {
            HubKind::HuggingFace => (&settings.hub_endpoint, hugging_face::ENDPOINT, "HF_ENDPOINT"),
            HubKind::ModelScope => {
                (&settings.modelscope_endpoint, modelscope::ENDPOINT, "MODELSCOPE_DOMAIN")
            }
        };
        let endpoint = Url::parse(endpoint.as_deref().unwrap_or(default))
            .map_err(|_| Error::usage(format!("{variable} is not a URL")))?;
        if endpoint.scheme() != "https" && !client::is_loopback(&endpoint) {
            return Err(Error::usage(format!("{variable} is neither https:// nor this machine")));
        }
        let client = client::build(&settings.verified(), client::careful_redirects(), true)?;
        let identity = match settings.anonymous {
            true => HeaderMap::new(),
            false => identity(repo.hub, settings)?,
        };
        let limits = Limits::of(settings);
        let snapshot = Arc::default();
        Ok(Self { client, endpoint, repo: repo.clone(), identity, snapshot, limits })
    }

    /// Whether the hub itself keeps a file of this name in every repository.
    pub(crate) fn keeps(&self, object: &str) -> bool {
        let own = matches!(object, ".gitattributes" | ".gitignore" | "README.md");
        own || self.repo.hub == HubKind::ModelScope && object == "configuration.json"
    }

    pub(crate) async fn stat(&self, object: &str) -> Result<ObjectMeta, Error> {
        self.snapshot().await?.stat(object)
    }

    pub(crate) async fn list(&self, entries_max: usize) -> Result<Vec<Entry>, Error> {
        self.snapshot().await?.list(entries_max)
    }

    /// What the hub says that a file's bytes hash to.
    pub(crate) async fn sha256(&self, object: &str) -> Result<Option<[u8; 32]>, Error> {
        Ok(self.snapshot().await?.get(object)?.sha256)
    }

    pub(crate) async fn get(
        &self,
        object: &str,
        range: Option<Range<u64>>,
        address: String,
    ) -> Result<ObjectStream, Error> {
        let (file, range) = self.snapshot().await?.part(object, range)?;
        if range.is_empty() {
            return Ok(ObjectStream::empty(address));
        }
        let path = self.repo.path_of(object);
        let url = match self.repo.hub {
            HubKind::HuggingFace => {
                self.url(&hugging_face::file(&self.repo, &path, &file.commit), None)
            }
            HubKind::ModelScope => {
                let (url, query) = modelscope::file(&self.repo, &path, &file.commit);
                self.url(&url, Some(&query))
            }
        };
        let mut request = self.client.get(url);
        let asked = match range == (0..file.bytes) {
            // The whole file: from servers without ranges, too.
            true => Asked::default(),
            false => {
                request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
                Asked { range: Some(range.clone()), etag: None }
            }
        };
        let response = self.answer(request).await?;
        answer::check(&asked, response.status(), response.headers())?;
        let length = answer::text(response.headers(), &CONTENT_LENGTH).and_then(|l| l.parse().ok());
        if length.is_some_and(|length: u64| length != range.end - range.start) {
            return Err(Error::protocol("the file has another length than its repository says"));
        }
        Ok(ObjectStream::of_response(response, address, &range, self.limits))
    }

    /// What the revision is now; asked for once.
    async fn snapshot(&self) -> Result<&Files<File>, Error> {
        self.snapshot
            .get_or_try_init(|| async {
                let repo = &self.repo;
                let (path, query) = match repo.hub {
                    HubKind::HuggingFace => hugging_face::listing(repo),
                    HubKind::ModelScope => modelscope::listing(repo),
                };
                let request = self.client.get(self.url(&path, Some(&query)));
                let answer = match self.answer(request).await {
                    Err(Error::NotFound { object, .. }) => {
                        return Err(Error::NotFound { object, bucket: true });
                    }
                    answer => client::body(answer?, ANSWER_BYTES_MAX),
                };
                let answer = within(self.limits.answer, answer).await??;
                let answer: Value = serde_json::from_slice(&answer)
                    .map_err(|_| malformed("is no JSON document"))?;
                let files = match repo.hub {
                    HubKind::HuggingFace => hugging_face::parse(repo, &answer)?,
                    HubKind::ModelScope => modelscope::parse(repo, &answer)?,
                };
                Ok(files.into())
            })
            .await
    }

    /// The endpoint with these components after its own.
    fn url(&self, components: &[&str], query: Option<&str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(components);
        }
        url.set_query(query);
        url
    }

    /// One request, redirects to where large files lie included; who we are is not said there.
    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<Response, Error> {
        let request = request.headers(self.identity.clone());
        let response = within(self.limits.answer, request.send())
            .await?
            .map_err(|error| client::failure(&error))?;
        let known = !self.identity.is_empty();
        match (response.status(), self.repo.hub) {
            (status, _) if status.is_success() => Ok(response),
            (_, HubKind::HuggingFace) => Err(hugging_face::refusal(&response, known)),
            (StatusCode::NOT_FOUND, HubKind::ModelScope) if !known => Err(Error::Denied {
                object: String::new(),
                reason: "no such repository or file, or a private one and no MODELSCOPE_API_TOKEN"
                    .to_owned(),
            }),
            (status, _) => Err(answer::refusal(status, response.headers(), b"")),
        }
    }
}

/// The headers that say who we are. ModelScope takes its token as a session's cookie, newer servers
/// as a bearer's too.
fn identity(hub: HubKind, settings: &Settings) -> Result<HeaderMap, Error> {
    let (token, variable) = match hub {
        HubKind::HuggingFace => (&settings.hub_token, "HF_TOKEN"),
        HubKind::ModelScope => (&settings.modelscope_token, "MODELSCOPE_API_TOKEN"),
    };
    let mut headers = HeaderMap::new();
    let Some(token) = token else { return Ok(headers) };
    let mut add = |name, value: String| {
        let value = Some(value).filter(|_| !token.contains([';', ',', ' ']));
        let mut value = value
            .and_then(|value| HeaderValue::try_from(value).ok())
            .ok_or_else(|| Error::usage(format!("{variable} is no token")))?;
        value.set_sensitive(true);
        headers.insert(name, value);
        Ok(())
    };
    add(AUTHORIZATION, format!("Bearer {token}"))?;
    if hub == HubKind::ModelScope {
        add(COOKIE, format!("m_session_id={token}"))?;
    }
    Ok(headers)
}

/// Whether this is the name of a commit, which never means another one.
fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn malformed(what: &str) -> Error {
    Error::protocol(format!("the hub's answer {what}"))
}
