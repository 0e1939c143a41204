//! ModelScope's API, as its SDK uses it (`modelscope.hub.api`, `modelscope.hub.file_download`).

use std::collections::BTreeMap;

use serde_json::Value;
use url::form_urlencoded::Serializer;

use super::{File, malformed};
use crate::service::HubRepo;
use crate::{Error, snapshot};

pub(super) const ENDPOINT: &str = "https://www.modelscope.cn";

/// Where the files of a revision are listed.
pub(super) fn listing(repo: &HubRepo) -> (Vec<&str>, String) {
    let asked = [("Revision", repo.revision.as_str()), ("Recursive", "True")];
    let query = Serializer::new(String::new()).extend_pairs(asked).finish();
    (vec!["api", "v1", "models", &repo.owner, &repo.name, "repo", "files"], query)
}

/// The files below the repository's folder. Each has the commit that made it what it is, at which it
/// is read; where the answer names none, the revision is left, and the digest tells.
pub(super) fn parse(repo: &HubRepo, answer: &Value) -> Result<BTreeMap<String, File>, Error> {
    if answer["Success"].as_bool() == Some(false) {
        return Err(malformed("says that it failed"));
    }
    let listed = answer["Data"]["Files"].as_array().ok_or_else(|| malformed("lists no files"))?;
    let mut files = BTreeMap::new();
    for file in listed {
        match file["Type"].as_str() {
            Some("blob") => {}
            Some("tree") => continue,
            _ => return Err(malformed("has something that is no file and no directory")),
        }
        let path = file["Path"].as_str().ok_or_else(|| malformed("has a nameless file"))?;
        let Some(name) = repo.name_of(path) else { continue };
        let bytes = file["Size"].as_u64().ok_or_else(|| malformed("says no size of a file"))?;
        let sha256 = match &file["Sha256"] {
            Value::Null => None,
            Value::String(text) if text.is_empty() => None,
            sha256 => Some(
                sha256
                    .as_str()
                    .and_then(snapshot::sha256)
                    .ok_or_else(|| malformed("has a digest that is none"))?,
            ),
        };
        let commit = file["Revision"].as_str().filter(|commit| super::is_commit(commit));
        let commit = commit.unwrap_or(&repo.revision).to_owned();
        if files.insert(name.to_owned(), File { bytes, sha256, commit }).is_some() {
            return Err(malformed("lists a file twice"));
        }
    }
    Ok(files)
}

/// Where a file is read.
pub(super) fn file<'a>(repo: &'a HubRepo, path: &str, commit: &str) -> (Vec<&'a str>, String) {
    let asked = [("Revision", commit), ("FilePath", path)];
    let query = Serializer::new(String::new()).extend_pairs(asked).finish();
    (vec!["api", "v1", "models", &repo.owner, &repo.name, "repo"], query)
}
