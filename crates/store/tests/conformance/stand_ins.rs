//! Sources whose services nobody can have here: servers written from their published references.

use testkit::hostile::{Fault, Hostile};
use testkit::line::Line;

use super::common::cluster::Cluster;
use super::common::modelscope::{self, ModelScope};
use super::common::share::{self, FileService};
use super::suite::{FOLDER, LINE_BYTES_MIN, NEIGHBOUR, Or, Pinned, Source, conform, model};

/// The model, and the file beside it, by their whole names.
fn files() -> Vec<(String, Vec<u8>)> {
    let model = model().into_iter().map(|(name, bytes)| (format!("{FOLDER}/{name}"), bytes));
    model.chain([(format!("{NEIGHBOUR}/x"), b"x".to_vec())]).collect()
}

fn line_to(url: &str) -> Line {
    Line::start(url.replace("http://", "").parse().unwrap(), LINE_BYTES_MIN).unwrap()
}

struct Share {
    service: FileService,
    line: Line,
}

impl Source for Share {
    const SOURCE: &'static str = "https://….file.core.windows.net";
    const SERVER: &'static str = "a stand-in";
    const STRANGER: Or<(&'static str, &'static str)> =
        Ok(("AZURE_STORAGE_ACCESS_KEY", "aHVudGVyMi1odW50ZXIy"));
    const WRITES: Or<()> = Err("for reading only");

    fn uri(&self, folder: &str) -> String {
        format!("https://{}.file.core.windows.net/models/{folder}", share::ACCOUNT)
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        let endpoint = format!("http://{}", self.line.host());
        vec![
            ("AZURE_STORAGE_FILE_ENDPOINT", endpoint),
            ("AZURE_STORAGE_ACCESS_KEY", share::KEY.to_owned()),
        ]
    }

    fn line(&self) -> Or<&Line> {
        Ok(&self.line)
    }

    async fn replace(&self, object: &str, bytes: &[u8]) {
        self.service.put(&format!("{FOLDER}/{object}"), bytes.to_vec());
    }
}

#[tokio::test]
async fn azure_files_conforms() {
    let service = FileService::start();
    for (name, bytes) in files() {
        service.put(&name, bytes);
    }
    let line = line_to(&service.web.url());
    conform(&Share { service, line }).await;
}

const TOKEN: &str = "secret-of-the-hub";

/// The hub with one repository, which only the token opens.
struct Hub {
    server: Hostile,
    line: Line,
}

impl Hub {
    const COMMITS: [&str; 2] =
        ["0123456789abcdef0123456789abcdef01234567", "fedcba9876543210fedcba9876543210fedcba98"];

    fn start() -> Self {
        let server = Hostile::start().unwrap();
        server.plan(|seen| {
            let known = seen.authorization.as_deref() == Some(&format!("Bearer {TOKEN}"));
            (!known).then_some(Fault::Status { status: 401, code: "" })
        });
        let line = line_to(&server.endpoint());
        let this = Self { server, line };
        this.commit_files(Self::COMMITS[0], &files());
        this
    }

    /// The branch is at a commit with these files.
    fn commit_files(&self, commit: &str, files: &[(String, Vec<u8>)]) {
        let siblings: Vec<_> = files
            .iter()
            .map(|(name, bytes)| serde_json::json!({ "rfilename": name, "size": bytes.len() }))
            .collect();
        let info = serde_json::json!({ "sha": commit, "siblings": siblings }).to_string();
        self.server.put("api/models/org/model/revision/main", info);
        for (name, bytes) in files {
            self.server.put(&format!("org/model/resolve/{commit}/{name}"), bytes.clone());
        }
    }
}

impl Source for Hub {
    const SOURCE: &'static str = "hf://";
    const SERVER: &'static str = "a stand-in";
    const STRANGER: Or<(&'static str, &'static str)> = Ok(("HF_TOKEN", "another-hunter2"));
    const PINNED: Or<Pinned> = Ok(Pinned::AtSnapshot);
    const WRITES: Or<()> = Err("for reading only");

    fn uri(&self, folder: &str) -> String {
        format!("hf://org/model/{folder}")
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        let endpoint = format!("http://{}", self.line.host());
        vec![("HF_ENDPOINT", endpoint), ("HF_TOKEN", TOKEN.to_owned())]
    }

    fn line(&self) -> Or<&Line> {
        Ok(&self.line)
    }

    async fn replace(&self, object: &str, bytes: &[u8]) {
        self.commit_files(Self::COMMITS[1], &[(format!("{FOLDER}/{object}"), bytes.to_vec())]);
    }
}

#[tokio::test]
async fn hugging_face_conforms() {
    conform(&Hub::start()).await;
}

struct Scope {
    hub: ModelScope,
    line: Line,
}

impl Source for Scope {
    const SOURCE: &'static str = "modelscope://";
    const SERVER: &'static str = "a stand-in";
    const STRANGER: Or<(&'static str, &'static str)> =
        Ok(("MODELSCOPE_API_TOKEN", "another-hunter2"));
    const PINNED: Or<Pinned> = Ok(Pinned::AtSnapshot);
    const WRITES: Or<()> = Err("for reading only");

    fn uri(&self, folder: &str) -> String {
        format!("modelscope://org/model/{folder}")
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        let endpoint = format!("http://{}", self.line.host());
        vec![
            ("MODELSCOPE_DOMAIN", endpoint),
            ("MODELSCOPE_API_TOKEN", modelscope::TOKEN.to_owned()),
        ]
    }

    fn line(&self) -> Or<&Line> {
        Ok(&self.line)
    }

    async fn replace(&self, object: &str, bytes: &[u8]) {
        self.hub.put(&format!("{FOLDER}/{object}"), bytes.to_vec());
    }
}

#[tokio::test]
async fn modelscope_conforms() {
    let hub = ModelScope::start();
    for (name, bytes) in files() {
        hub.put(&name, bytes);
    }
    let line = line_to(&hub.web.url());
    conform(&Scope { hub, line }).await;
}

struct Hdfs {
    cluster: Cluster,
    line: Line,
    config: String,
}

impl Source for Hdfs {
    const SOURCE: &'static str = "hdfs://";
    const SERVER: &'static str = "a stand-in";
    const STRANGER: Or<(&'static str, &'static str)> = Ok(("HADOOP_USER_NAME", "somebody-else"));

    fn uri(&self, folder: &str) -> String {
        format!("hdfs://{folder}")
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        vec![("STORAGE_CONFIG", self.config.clone()), ("HADOOP_USER_NAME", "me".to_owned())]
    }

    fn line(&self) -> Or<&Line> {
        Ok(&self.line)
    }

    async fn replace(&self, object: &str, bytes: &[u8]) {
        self.cluster.put(&format!("/{FOLDER}/{object}"), bytes.to_vec());
    }
}

#[tokio::test]
async fn hdfs_conforms() {
    let mut line = None;
    let cluster = Cluster::start_behind(|data_node| {
        let to_data = line_to(data_node);
        let url = format!("http://{}", to_data.host());
        line = Some(to_data);
        url
    });
    for (name, bytes) in files() {
        cluster.put(&format!("/{name}"), bytes);
    }
    let nodes = format!("{};{}", cluster.standby.url(), cluster.active.url());
    let config = serde_json::json!({ "type": "hdfs", "HDFS_NAMENODE": nodes }).to_string();
    conform(&Hdfs { cluster, line: line.unwrap(), config }).await;
}
