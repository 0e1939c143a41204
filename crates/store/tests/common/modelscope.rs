//! A stand-in for ModelScope, written from the requests of its published SDK.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use testkit::web::{self, Asked, Web, reply};

/// Opens the repository.
pub(crate) const TOKEN: &str = "ms-secret-of-the-hub";

/// Each file by its path, as its commits made it; the last one is on the branch.
type Files = Arc<Mutex<BTreeMap<String, Vec<(String, Vec<u8>)>>>>;

/// `org/model`, at the branch `master`.
pub(crate) struct ModelScope {
    files: Files,
    pub(crate) web: Web,
}

impl ModelScope {
    pub(crate) fn start() -> Self {
        let files: Files = Arc::default();
        let own = Arc::clone(&files);
        let web = Web::start(move |asked| {
            if asked.header("cookie") != format!("m_session_id={TOKEN}") {
                return reply(403, b"{}");
            }
            let query = Asked::form(&asked.query);
            let own = own.lock().unwrap();
            match asked.path.as_str() {
                "/api/v1/models/org/model/repo/files" if query["Revision"] == "master" => {
                    let files: Vec<_> = own.iter().flat_map(|it| described(it.0, it.1)).collect();
                    let answer =
                        json!({ "Code": 200, "Success": true, "Data": { "Files": files } });
                    reply(200, answer.to_string().as_bytes())
                }
                "/api/v1/models/org/model/repo" => {
                    let commits = own.get(&query["FilePath"]);
                    let at = |it: &&(String, Vec<u8>)| it.0 == query["Revision"];
                    match commits.and_then(|commits| commits.iter().find(at)) {
                        Some((_, content)) => web::file(asked, "", content),
                        None => reply(404, b"{}"),
                    }
                }
                _ => reply(404, b"{}"),
            }
        })
        .unwrap();
        Self { files, web }
    }

    /// A commit that puts this file there.
    pub(crate) fn put(&self, path: &str, content: Vec<u8>) {
        let mut files = self.files.lock().unwrap();
        let commits = files.values().map(Vec::len).sum::<usize>();
        let commit = format!("{:040x}", commits + 1);
        files.entry(path.to_owned()).or_default().push((commit, content));
    }
}

/// A file, and the directory before it.
fn described(path: &str, commits: &[(String, Vec<u8>)]) -> Vec<Value> {
    let (commit, content) = commits.last().unwrap();
    let file = json!({
        "Path": path, "Type": "blob", "Size": content.len(), "Sha256": sha256(content),
        "Revision": commit,
    });
    let directory = path.rsplit_once('/').map(|(directory, _)| {
        json!({ "Path": directory, "Type": "tree", "Size": 0, "Sha256": "", "Revision": commit })
    });
    directory.into_iter().chain([file]).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
