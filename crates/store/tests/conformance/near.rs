//! Sources that everybody can have at home: a registry, a web server, a directory.

use store::{Rest, Store};
use tempfile::TempDir;
use testkit::hostile::{Fault, Hostile};
use testkit::line::Line;
use testkit::registry::{Door, Registry};

use super::suite::{
    FOLDER, LINE_BYTES_MIN, NEIGHBOUR, Or, Pinned, Source, conform, fill, model, skip, store,
};

struct Oci {
    registry: Registry,
    line: Line,
}

impl Source for Oci {
    const SOURCE: &'static str = "oci://";
    const SERVER: &'static str = "docker-registry";
    const STRANGER: Or<(&'static str, &'static str)> = Ok(("awsAnonymousCredential", "true"));
    const PINNED: Or<Pinned> = Ok(Pinned::AtSnapshot);

    fn uri(&self, folder: &str) -> String {
        format!("oci://{}/team/{folder}:v1", self.line.host())
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        let config = self.registry.docker_config().unwrap();
        // The registry is known by the name under which it is asked.
        let text = std::fs::read_to_string(&config).unwrap();
        let own = config.with_file_name("through-the-line.json");
        std::fs::write(&own, text.replace(&self.registry.host(), &self.line.host())).unwrap();
        vec![("KSERVE_OCI_DOCKER_CONFIG", own.to_str().unwrap().to_owned())]
    }

    fn line(&self) -> Or<&Line> {
        Ok(&self.line)
    }

    async fn replace(&self, object: &str, bytes: &[u8]) {
        let store = store(self, FOLDER);
        super::common::put(&store, object, bytes).await.unwrap();
        store.commit(Rest::Gone).await.unwrap();
    }

    async fn commit(&self, store: &Store) {
        store.commit(Rest::Gone).await.unwrap();
    }
}

#[tokio::test]
async fn registries_conform() {
    let Some(registry) = Registry::start(&Door::Basic).unwrap() else { return skip::<Oci>() };
    let line = Line::start(registry.host().parse().unwrap(), LINE_BYTES_MIN).unwrap();
    let source = Oci { registry, line };
    fill(&source).await;
    conform(&source).await;
}

const AUTHORIZATION: &str = "Basic c2VhbGlmdDpodW50ZXIy";

/// Shows its files to whoever sends [`AUTHORIZATION`].
struct Web {
    server: Hostile,
    line: Line,
}

impl Source for Web {
    const SOURCE: &'static str = "http(s)://";
    const SERVER: &'static str = "a web server of the tests";
    const STRANGER: Or<(&'static str, &'static str)> =
        Ok(("127.0.0.1-headers", r#"{"Authorization": "Basic hunter2"}"#));
    const LISTS: Or<()> = Err("plain HTTP has no listing");
    const WRITES: Or<()> = Err("for reading only");

    fn uri(&self, folder: &str) -> String {
        format!("http://{}/pub/{folder}", self.line.host())
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        let headers = serde_json::json!({ "Authorization": AUTHORIZATION }).to_string();
        vec![("127.0.0.1-headers", headers)]
    }

    fn line(&self) -> Or<&Line> {
        Ok(&self.line)
    }

    async fn replace(&self, object: &str, bytes: &[u8]) {
        self.server.put(&format!("pub/{FOLDER}/{object}"), bytes.to_vec());
    }
}

#[tokio::test]
async fn web_servers_conform() {
    let server = Hostile::start().unwrap();
    server.plan(|seen| {
        let known = seen.authorization.as_deref() == Some(AUTHORIZATION);
        (!known).then_some(Fault::Status { status: 403, code: "" })
    });
    for (name, bytes) in model() {
        server.put(&format!("pub/{FOLDER}/{name}"), bytes);
    }
    server.put(&format!("pub/{NEIGHBOUR}/x"), "x");
    let address = server.endpoint().replace("http://", "").parse().unwrap();
    let line = Line::start(address, LINE_BYTES_MIN).unwrap();
    conform(&Web { server, line }).await;
}

struct Directory {
    root: TempDir,
}

impl Source for Directory {
    const SOURCE: &'static str = "file://";
    const SERVER: &'static str = "the file system";
    const STRANGER: Or<(&'static str, &'static str)> =
        Err("the kernel says who may read, and refuses root nothing");

    fn uri(&self, folder: &str) -> String {
        format!("file://{}/{folder}", self.root.path().display())
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn line(&self) -> Or<&Line> {
        Err("there is no connection")
    }
}

#[tokio::test]
async fn directories_conform() {
    let source = Directory { root: tempfile::tempdir().unwrap() };
    fill(&source).await;
    conform(&source).await;
}
