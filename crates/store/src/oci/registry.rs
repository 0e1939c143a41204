//! Requests to one repository of a registry (OCI distribution-spec 1.1), tokens included.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;

use super::credentials::{self, Challenge, Credentials};
use super::manifest::{ACCEPTED, Descriptor, MANIFEST_TYPE, malformed};
use super::reference::{Reference, Sha256, Version};
use crate::answer::{self, Asked};
use crate::client::{self, Limits, within};
use crate::stream::RATE_MIN;
use crate::{Error, Settings};

/// The largest manifest or index, in bytes: what registries take at least, and most at most.
pub(super) const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The largest answer of a token server, in bytes.
const TOKEN_BYTES_MAX: usize = 256 * 1024;
/// How often what is pushed is sent: the caller cannot send it again, it has moved on.
const PUSH_ATTEMPTS_MAX: u32 = 4;
const PUSH_BACKOFF: Duration = Duration::from_millis(200);
/// Who we say that we are to a token server that knows us by a refresh token.
const CLIENT_ID: &str = "sealift";
const FORM_TYPE: &str = "application/x-www-form-urlencoded";
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What a request is for; tokens are made out for one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Access {
    Pull,
    Push,
}

/// A repository, and how to reach it.
pub(super) struct Registry {
    /// Follows redirects, as blobs often lie elsewhere. Tokens do not go there.
    reads: reqwest::Client,
    /// Follows none: for what carries a token or bytes that go nowhere else.
    direct: reqwest::Client,
    base: Url,
    repository: String,
    credentials: Option<Credentials>,
    /// What the registry last wanted to see.
    authorizations: Mutex<HashMap<Access, HeaderValue>>,
    pub(super) limits: Limits,
}

impl Registry {
    pub(super) fn open(reference: &Reference, settings: &Settings) -> Result<Self, Error> {
        let url = |scheme: &str| {
            Url::parse(&format!("{scheme}://{}", reference.host()))
                .map_err(|_| Error::usage("oci:// location names no registry"))
        };
        let base = url("https")?;
        let insecure = settings.oci_insecure.unwrap_or_else(|| client::is_loopback(&base));
        let base = if insecure { url("http")? } else { base };
        // A redirect or a token server may be https where the registry is not.
        let build = |redirects: fn() -> Policy| {
            client::build(&settings.verified(), redirects(), true).or_else(|error| match insecure {
                true => client::build(&settings.verified(), redirects(), false),
                false => Err(error),
            })
        };
        Ok(Self {
            reads: build(client::careful_redirects)?,
            direct: build(Policy::none)?,
            base,
            repository: reference.repository.clone(),
            credentials: credentials::configured(settings, reference)?,
            authorizations: Mutex::default(),
            limits: Limits::of(settings),
        })
    }

    fn url(&self, rest: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().push("v2").extend(self.repository.split('/')).extend(rest);
        }
        url
    }

    /// A manifest or index, and its digest, which was compared with whatever names it.
    pub(super) async fn manifest(&self, version: &Version) -> Result<(Vec<u8>, Sha256), Error> {
        let url = self.url(&["manifests", &version.to_string()]);
        let response = self
            .send(Access::Pull, &self.reads, Method::GET, url, Bytes::new(), &|request| {
                request.header(ACCEPT, ACCEPTED)
            })
            .await?;
        answer::check(&Asked::default(), response.status(), response.headers())?;
        let said = content_digest(&response);
        let json = client::body(response, MANIFEST_BYTES_MAX);
        let json = within(self.limits.answer, json).await??;
        let digest = Sha256::of(&json);
        let wrong = matches!(version, Version::Digest(named) if *named != digest)
            || said.is_some_and(|said| said != digest);
        match wrong {
            true => Err(malformed("is not the one that its digest names")),
            false => Ok((json, digest)),
        }
    }

    /// The bytes of a blob, or of a range of it; the answer's head was checked.
    pub(super) async fn blob(
        &self,
        blob: &Descriptor,
        range: &std::ops::Range<u64>,
    ) -> Result<Response, Error> {
        let url = self.url(&["blobs", &blob.digest.to_string()]);
        // The whole blob: from registries without ranges, too.
        let asked = match *range == (0..blob.bytes) {
            true => Asked::default(),
            false => Asked { range: Some(range.clone()), etag: None },
        };
        let response =
            self.send(Access::Pull, &self.reads, Method::GET, url, Bytes::new(), &|request| {
                match &asked.range {
                    Some(range) => {
                        request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1))
                    }
                    None => request,
                }
            })
            .await?;
        answer::check(&asked, response.status(), response.headers())?;
        if response.content_length().is_some_and(|length| length != range.end - range.start) {
            return Err(Error::protocol("the blob has another length than its manifest says"));
        }
        Ok(response)
    }

    /// A blob in memory, held against its digest: an image's configuration.
    pub(super) async fn small_blob(&self, blob: &Descriptor) -> Result<Vec<u8>, Error> {
        if blob.bytes > MANIFEST_BYTES_MAX as u64 {
            return Err(malformed("has a configuration that is too large"));
        }
        let response = self.blob(blob, &(0..blob.bytes)).await?;
        let bytes = client::body(response, MANIFEST_BYTES_MAX);
        let bytes = within(self.limits.answer, bytes).await??;
        match Sha256::of(&bytes) == blob.digest {
            true => Ok(bytes),
            false => Err(malformed("has a configuration that is not what its digest names")),
        }
    }

    /// Where to send a new blob.
    pub(super) async fn begin_upload(&self) -> Result<(Url, Response), Error> {
        let url = self.url(&["blobs", "uploads", ""]);
        let response = self.push(Method::POST, url, Bytes::new(), &|request| request).await?;
        Ok((self.next(&response)?, response))
    }

    /// A request that changes something; only this registry ever sees its bytes. It is sent again
    /// after a failure that may pass: should the registry have taken a chunk twice, the digest at the
    /// upload's end tells.
    pub(super) async fn push(
        &self,
        method: Method,
        url: Url,
        body: Bytes,
        edit: &(dyn Fn(RequestBuilder) -> RequestBuilder + Sync),
    ) -> Result<Response, Error> {
        let mut attempt = 1;
        loop {
            let (method, url, body) = (method.clone(), url.clone(), body.clone());
            match self.send(Access::Push, &self.direct, method, url, body, edit).await {
                Err(error) if attempt < PUSH_ATTEMPTS_MAX && error.is_transient() => {
                    tracing::debug!(attempt, %error, "a part of an artifact is sent again");
                    tokio::time::sleep(PUSH_BACKOFF * 4_u32.pow(attempt - 1)).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// Stores a manifest under a tag.
    pub(super) async fn push_manifest(&self, tag: &str, json: Vec<u8>) -> Result<(), Error> {
        let digest = Sha256::of(&json);
        let url = self.url(&["manifests", tag]);
        let edit = |request: RequestBuilder| request.header("content-type", MANIFEST_TYPE);
        let response = self.push(Method::PUT, url, json.into(), &edit).await?;
        match content_digest(&response) {
            Some(said) if said != digest => Err(malformed("is stored under another digest")),
            _ => Ok(()),
        }
    }

    /// The URL with which an upload goes on.
    pub(super) fn next(&self, response: &Response) -> Result<Url, Error> {
        let next = answer::text(response.headers(), &LOCATION)
            .and_then(|location| response.url().join(location).ok())
            .ok_or_else(|| Error::protocol("the registry does not say where to upload to"))?;
        match next.origin() == self.base.origin() {
            true => Ok(next),
            false => Err(Error::protocol("the registry sends an upload to another server")),
        }
    }

    /// A request, once more after a challenge. Only success is returned.
    async fn send(
        &self,
        access: Access,
        client: &reqwest::Client,
        method: Method,
        url: Url,
        body: Bytes,
        edit: &(dyn Fn(RequestBuilder) -> RequestBuilder + Sync),
    ) -> Result<Response, Error> {
        let sending = Duration::from_secs(body.len() as u64 / RATE_MIN);
        let time_max = self.limits.answer.saturating_add(sending);
        let mut challenged = false;
        loop {
            let used = self.authorizations.lock().await.get(&access).cloned();
            let mut request = edit(client.request(method.clone(), url.clone()));
            if method != Method::GET {
                request = request.header("content-length", body.len()).body(body.clone());
            }
            if let Some(value) = &used {
                request = request.header(AUTHORIZATION, value.clone());
            }
            let response =
                within(time_max, request.send()).await?.map_err(|error| client::failure(&error))?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            // Whoever was redirected to has no claim on this registry's credentials.
            let ours = response.url().origin() == self.base.origin();
            if status != StatusCode::UNAUTHORIZED || challenged || !ours {
                return Err(refusal(&response));
            }
            challenged = true;
            self.authorize(access, used, &response).await?;
        }
    }

    /// Answers a challenge, unless another request has done so meanwhile.
    async fn authorize(
        &self,
        access: Access,
        used: Option<HeaderValue>,
        response: &Response,
    ) -> Result<(), Error> {
        let mut authorizations = self.authorizations.lock().await;
        if authorizations.get(&access) != used.as_ref() {
            return Ok(());
        }
        let mut challenges = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenge = challenges.find_map(|value| value.to_str().ok().and_then(Challenge::parse));
        let value = match challenge {
            Some(Challenge::Bearer { realm, service }) => {
                self.token(access, &realm, service.as_deref()).await?
            }
            Some(Challenge::Basic) if used.is_none() => match &self.credentials {
                Some(Credentials::Password(credentials)) => credentials.clone(),
                Some(Credentials::Identity(_)) | None => return Err(nobody()),
            },
            _ => return Err(refusal(response)),
        };
        authorizations.insert(access, value);
        Ok(())
    }

    /// A token for this repository alone, whatever scope the challenge names.
    async fn token(
        &self,
        access: Access,
        realm: &str,
        service: Option<&str>,
    ) -> Result<HeaderValue, Error> {
        let mut realm = Url::parse(realm)
            .map_err(|_| Error::protocol("the registry's challenge names no token server"))?;
        let near = self.base.scheme() == "http"
            && realm.scheme() == "http"
            && (client::is_loopback(&realm) || realm.host() == self.base.host());
        let userinfo = !realm.username().is_empty() || realm.password().is_some();
        if (realm.scheme() != "https" && !near) || userinfo {
            return Err(Error::protocol(
                "the registry's challenge sends our credentials to a server without TLS",
            ));
        }
        let actions = if access == Access::Pull { "pull" } else { "pull,push" };
        let scope = format!("repository:{}:{actions}", self.repository);
        let asked = [("service", service.unwrap_or_default()), ("scope", &scope)];
        let asked = asked.into_iter().filter(|(_, value)| !value.is_empty());
        let request = match &self.credentials {
            // Distribution's "OAuth2 Token Authentication".
            Some(Credentials::Identity(token)) => {
                let grant = [
                    ("grant_type", "refresh_token"),
                    ("client_id", CLIENT_ID),
                    ("refresh_token", token),
                ];
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                form.extend_pairs(grant.into_iter().chain(asked));
                self.direct.post(realm).header(CONTENT_TYPE, FORM_TYPE).body(form.finish())
            }
            Some(Credentials::Password(credentials)) => {
                realm.query_pairs_mut().extend_pairs(asked);
                self.direct.get(realm).header(AUTHORIZATION, credentials.clone())
            }
            None => {
                realm.query_pairs_mut().extend_pairs(asked);
                self.direct.get(realm)
            }
        };
        let response = within(self.limits.answer, request.send())
            .await?
            .map_err(|error| client::failure(&error))?;
        if !response.status().is_success() {
            return Err(refusal(&response));
        }
        let json = within(self.limits.answer, client::body(response, TOKEN_BYTES_MAX)).await??;
        let answer: Value = serde_json::from_slice(&json).unwrap_or_default();
        let token = answer["token"].as_str().or(answer["access_token"].as_str());
        let value = token
            .filter(|token| !token.is_empty())
            .and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
        let mut value =
            value.ok_or_else(|| Error::protocol("the registry's token server sent no token"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

fn content_digest(response: &Response) -> Option<Sha256> {
    answer::text(response.headers(), &CONTENT_DIGEST).and_then(Sha256::parse)
}

fn nobody() -> Error {
    Error::Denied {
        object: String::new(),
        reason: "the registry wants credentials, and KSERVE_OCI_DOCKER_CONFIG or \
                 DOCKER_CONFIG/config.json has none for it"
            .to_owned(),
    }
}

fn refusal(response: &Response) -> Error {
    match response.status() {
        status if status.is_redirection() => {
            Error::protocol("the registry sends the request elsewhere, where it must not go")
        }
        status => answer::refusal(status, response.headers(), b""),
    }
}
