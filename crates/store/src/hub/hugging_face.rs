//! Hugging Face's own API.

use std::collections::BTreeMap;

use http::header::HeaderName;
use reqwest::Response;
use serde_json::Value;

use super::{File, malformed};
use crate::answer;
use crate::service::HubRepo;
use crate::{Error, snapshot};

pub(super) const ENDPOINT: &str = "https://huggingface.co";

/// Where the files of a revision are listed.
pub(super) fn listing(repo: &HubRepo) -> (Vec<&str>, String) {
    let path = vec!["api", "models", &repo.owner, &repo.name, "revision", &repo.revision];
    (path, "blobs=true".to_owned())
}

/// The files below the repository's folder; all of them are read at the commit that the revision is.
pub(super) fn parse(repo: &HubRepo, answer: &Value) -> Result<BTreeMap<String, File>, Error> {
    let commit = answer["sha"]
        .as_str()
        .filter(|sha| super::is_commit(sha))
        .ok_or_else(|| malformed("names no commit"))?;
    let listed = answer["siblings"].as_array().ok_or_else(|| malformed("lists no files"))?;
    let mut files = BTreeMap::new();
    for file in listed {
        let path = file["rfilename"].as_str().ok_or_else(|| malformed("has a nameless file"))?;
        let Some(name) = repo.name_of(path) else { continue };
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
        let file = File { bytes, sha256, commit: commit.to_owned() };
        if files.insert(name.to_owned(), file).is_some() {
            return Err(malformed("lists a file twice"));
        }
    }
    Ok(files)
}

/// Where a file is read.
pub(super) fn file<'a>(repo: &'a HubRepo, path: &'a str, commit: &'a str) -> Vec<&'a str> {
    [&repo.owner, &repo.name, "resolve", commit].into_iter().chain(path.split('/')).collect()
}

/// What a refusal means.
pub(super) fn refusal(response: &Response, has_token: bool) -> Error {
    let object = String::new();
    let code = answer::text(response.headers(), &HeaderName::from_static("x-error-code"));
    match code {
        Some("RepoNotFound") if !has_token => Error::Denied {
            object,
            reason: "no such repository, or a private one and no HF_TOKEN".to_owned(),
        },
        Some("RepoNotFound" | "RevisionNotFound") => Error::NotFound { object, bucket: true },
        Some("GatedRepo") => Error::Denied {
            object,
            reason: "GatedRepo: accept its terms, and set HF_TOKEN".to_owned(),
        },
        _ => answer::refusal(response.status(), response.headers(), b""),
    }
}
