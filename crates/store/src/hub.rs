//! Hugging Face's hub, and whoever speaks its API (`HF_ENDPOINT`): a snapshot of one repository.
//! Reading only.
//!
//! A branch is resolved to its commit once, and everything is read at that commit; so what is read
//! is one state of the repository, however long that takes, without versions of single files.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderName, HeaderValue, RANGE};
use reqwest::Response;
use serde_json::Value;
use tokio::sync::OnceCell;
use url::Url;

use crate::answer::{self, Asked};
use crate::client::{self, Limits, within};
use crate::service::HubRepo;
use crate::snapshot::{self, Files};
use crate::stream::ObjectStream;
use crate::{Entry, Error, ObjectMeta, Settings};

const ENDPOINT: &str = "https://huggingface.co";
/// The answer for a repository of 100 000 files is some 20 MB.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One repository at one revision.
#[derive(Clone)]
pub(crate) struct Hub {
    client: reqwest::Client,
    endpoint: Url,
    repo: HubRepo,
    token: Option<HeaderValue>,
    snapshot: Arc<OnceCell<Snapshot>>,
    limits: Limits,
}

struct Snapshot {
    /// The commit's SHA.
    commit: String,
    /// Files below our folder, by name.
    files: Files<File>,
}

/// What the hub says of a file.
struct File {
    bytes: u64,
    /// Of one that is kept by Git LFS.
    sha256: Option<[u8; 32]>,
}

impl snapshot::File for File {
    fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Hub {
    pub(crate) fn open(repo: &HubRepo, settings: &Settings) -> Result<Self, Error> {
        let endpoint = settings.hub_endpoint.as_deref().unwrap_or(ENDPOINT);
        let endpoint =
            Url::parse(endpoint).map_err(|_| Error::usage("HF_ENDPOINT is not a URL"))?;
        if endpoint.scheme() != "https" && !client::is_loopback(&endpoint) {
            return Err(Error::usage("HF_ENDPOINT is neither https:// nor this machine"));
        }
        let client = client::build(&settings.verified(), client::careful_redirects(), true)?;
        let token = match &settings.hub_token {
            Some(token) if !settings.anonymous => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|_| Error::usage("HF_TOKEN is no token"))?;
                value.set_sensitive(true);
                Some(value)
            }
            _ => None,
        };
        let limits = Limits::of(settings);
        let snapshot = Arc::default();
        Ok(Self { client, endpoint, repo: repo.clone(), token, snapshot, limits })
    }

    pub(crate) async fn stat(&self, object: &str) -> Result<ObjectMeta, Error> {
        self.snapshot().await?.files.stat(object)
    }

    pub(crate) async fn list(&self, entries_max: usize) -> Result<Vec<Entry>, Error> {
        self.snapshot().await?.files.list(entries_max)
    }

    pub(crate) async fn get(
        &self,
        object: &str,
        range: Option<Range<u64>>,
        address: String,
    ) -> Result<ObjectStream, Error> {
        let Snapshot { commit, files } = self.snapshot().await?;
        let (file, range) = files.part(object, range)?;
        if range.is_empty() {
            return Ok(ObjectStream::empty(address));
        }
        let path = self.repo.path_of(object);
        let repo = [&self.repo.owner, &self.repo.name, "resolve", commit];
        let url = self.url(repo.into_iter().chain(path.split('/')));
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

    /// What the hub says a file's bytes hash to: it does so where it keeps them outside of Git.
    pub(crate) async fn sha256(&self, object: &str) -> Result<Option<[u8; 32]>, Error> {
        Ok(self.snapshot().await?.files.get(object)?.sha256)
    }

    /// What the revision is now; asked for once.
    async fn snapshot(&self) -> Result<&Snapshot, Error> {
        self.snapshot
            .get_or_try_init(|| async {
                let HubRepo { owner, name, revision, .. } = &self.repo;
                let mut url =
                    self.url(["api", "models", owner, name, "revision", revision].into_iter());
                url.set_query(Some("blobs=true"));
                let answer = self.answer(self.client.get(url)).await?;
                let answer =
                    within(self.limits.answer, client::body(answer, ANSWER_BYTES_MAX)).await??;
                self.parse(&answer)
            })
            .await
    }

    fn parse(&self, answer: &[u8]) -> Result<Snapshot, Error> {
        let malformed = |what: &str| Error::protocol(format!("the hub's answer {what}"));
        let answer: Value =
            serde_json::from_slice(answer).map_err(|_| malformed("is no JSON document"))?;
        let commit = answer["sha"]
            .as_str()
            .filter(|sha| sha.len() == 40 && sha.bytes().all(|b| b.is_ascii_hexdigit()))
            .ok_or_else(|| malformed("names no commit"))?;
        let listed = answer["siblings"].as_array().ok_or_else(|| malformed("lists no files"))?;
        let mut files = BTreeMap::new();
        for file in listed {
            let path =
                file["rfilename"].as_str().ok_or_else(|| malformed("has a nameless file"))?;
            let Some(name) = self.repo.name_of(path) else { continue };
            let bytes = file["size"]
                .as_u64()
                .or_else(|| file["lfs"]["size"].as_u64())
                .ok_or_else(|| malformed("says no size of a file"))?;
            let sha256 = match &file["lfs"]["sha256"] {
                Value::Null => None,
                sha256 => Some(
                    sha256
                        .as_str()
                        .and_then(snapshot::sha256)
                        .ok_or_else(|| malformed("has a digest that is none"))?,
                ),
            };
            if files.insert(name.to_owned(), File { bytes, sha256 }).is_some() {
                return Err(malformed("lists a file twice"));
            }
        }
        Ok(Snapshot { commit: commit.to_owned(), files: files.into() })
    }

    /// The endpoint with these components after its own.
    fn url<'a>(&self, components: impl Iterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(components);
        }
        url
    }

    /// One request, redirects to where large files lie included; the token does not go there.
    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<Response, Error> {
        let request = match &self.token {
            Some(token) => request.header(AUTHORIZATION, token.clone()),
            None => request,
        };
        let response = within(self.limits.answer, request.send())
            .await?
            .map_err(|error| client::failure(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let object = String::new();
        let code = answer::text(response.headers(), &HeaderName::from_static("x-error-code"));
        Err(match code {
            Some("RepoNotFound") if self.token.is_none() => Error::Denied {
                object,
                reason: "no such repository, or a private one and no HF_TOKEN".to_owned(),
            },
            Some("RepoNotFound" | "RevisionNotFound") => Error::NotFound { object, bucket: true },
            Some("GatedRepo") => Error::Denied {
                object,
                reason: "GatedRepo: accept its terms, and set HF_TOKEN".to_owned(),
            },
            _ => answer::refusal(response.status(), response.headers(), b""),
        })
    }
}
