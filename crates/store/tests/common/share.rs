//! A stand-in for Azure Files, written from Microsoft's published REST reference: it checks shared
//! keys, shows two entries of a directory at a time, and knows one shared access signature.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use testkit::web::{self, Asked, Web, reply_with};

pub(crate) const ACCOUNT: &str = "acct";
/// The account's key.
pub(crate) const KEY: &str = "c2VhbGlmdC10ZXN0LXNlYWxpZnQtdGVzdA==";
/// A query that reads.
pub(crate) const SAS: &str = "sv=2022-11-02&sp=rl&sig=aHVudGVyMg%3D%3D";
const PAGE_ENTRIES: usize = 2;

type Files = Arc<Mutex<BTreeMap<String, (u64, Vec<u8>)>>>;

/// A share `models`.
pub(crate) struct FileService {
    files: Files,
    pub(crate) web: Web,
}

impl FileService {
    pub(crate) fn start() -> Self {
        let files: Files = Arc::default();
        let own = Arc::clone(&files);
        let web = Web::start(move |asked| {
            let known = asked.query.contains(SAS) || is_signed(asked);
            let path = Asked::unescaped(&asked.path);
            match (known, path.strip_prefix("/models/").or((path == "/models").then_some(""))) {
                (false, _) => refusal(asked, 403, "AuthenticationFailed"),
                (true, None) => refusal(asked, 404, "ShareNotFound"),
                (true, Some(path)) => answer(asked, path, &own.lock().unwrap()),
            }
        })
        .unwrap();
        Self { files, web }
    }

    /// A new file, also in place of one of that name; without the share.
    pub(crate) fn put(&self, path: &str, content: Vec<u8>) {
        let mut files = self.files.lock().unwrap();
        let version = files.values().map(|(version, _)| version + 1).max().unwrap_or(1);
        files.insert(path.to_owned(), (version, content));
    }
}

fn refusal(asked: &Asked, status: u16, code: &str) -> Vec<u8> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    reply(asked, status, &format!("x-ms-error-code: {code}\r\n"), body.as_bytes())
}

fn reply(asked: &Asked, status: u16, more: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = reply_with(status, more, body);
    if asked.method == "HEAD" {
        answer.truncate(answer.len() - body.len());
    }
    answer
}

fn answer(asked: &Asked, path: &str, files: &BTreeMap<String, (u64, Vec<u8>)>) -> Vec<u8> {
    let query = Asked::form(&asked.query);
    if query.get("comp").map(String::as_str) == Some("list") {
        return listing(asked, path, &query, files);
    }
    let Some((version, content)) = files.get(path) else {
        return refusal(asked, 404, "ResourceNotFound");
    };
    let etag = format!("ETag: \"0x{version:X}\"\r\n");
    web::file(asked, &etag, content)
}

fn listing(
    asked: &Asked,
    path: &str,
    query: &BTreeMap<String, String>,
    files: &BTreeMap<String, (u64, Vec<u8>)>,
) -> Vec<u8> {
    let folder = if path.is_empty() { String::new() } else { format!("{path}/") };
    let below = |name: &String| name.strip_prefix(&folder).map(str::to_owned);
    let mut nodes = BTreeMap::new();
    for (name, (version, content)) in files {
        let Some(rest) = below(name) else { continue };
        let name = rest.split('/').next().unwrap();
        let bytes = content.len();
        nodes.insert(
            name.to_owned(),
            match rest.contains('/') {
                true => format!("<Directory><Name>{name}</Name><Properties /></Directory>"),
                false => format!(
                    "<File><Name>{name}</Name><FileId>1</FileId><Properties><Content-Length>{bytes}\
                 </Content-Length><Etag>\"0x{version:X}\"</Etag></Properties></File>"
                ),
            },
        );
    }
    if nodes.is_empty() && !path.is_empty() {
        return refusal(asked, 404, "ResourceNotFound");
    }
    let from =
        query.get("marker").map_or(0, |marker| marker.trim_start_matches("at +").parse().unwrap());
    let page: String = nodes.values().skip(from).take(PAGE_ENTRIES).map(String::as_str).collect();
    let next = match nodes.len() > from + PAGE_ENTRIES {
        true => format!("<NextMarker>at +{}</NextMarker>", from + PAGE_ENTRIES),
        false => "<NextMarker />".to_owned(),
    };
    let body = format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults \
         ShareName=\"models\"><Marker /><Entries>{page}</Entries>{next}</EnumerationResults>"
    );
    reply(asked, 200, "", body.as_bytes())
}

/// "Authorize with Shared Key": for reading, of the standard headers only `Range` is ever there.
fn is_signed(asked: &Asked) -> bool {
    let ours = asked.headers.iter().filter(|(name, _)| name.starts_with("x-ms-"));
    let headers: String = ours.map(|(name, value)| format!("{name}:{value}\n")).collect();
    let query = Asked::form(&asked.query);
    let query: String = query.iter().map(|(name, value)| format!("\n{name}:{value}")).collect();
    let to_sign = format!(
        "{}\n\n\n\n\n\n\n\n\n\n\n{}\n{headers}/{ACCOUNT}{}{query}",
        asked.method,
        asked.header("range"),
        asked.path,
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(KEY).unwrap());
    let signature = STANDARD.encode(hmac::sign(&key, to_sign.as_bytes()));
    asked.header("authorization") == format!("SharedKey {ACCOUNT}:{signature}")
}
