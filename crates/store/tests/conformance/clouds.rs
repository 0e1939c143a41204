//! Sources with an object store behind them.

use testkit::clouds::{Azurite, GcsEmulator};
use testkit::line::Line;
use testkit::s3::S3Server;

use super::suite::{LINE_BYTES_MIN, Or, Pinned, Source, conform, fill, skip};

/// A line to the server at this URL, and the URL through it.
fn through(url: &str) -> (Line, String) {
    let authority = url.trim_start_matches("http://").split('/').next().unwrap();
    let line = Line::start(authority.parse().unwrap(), LINE_BYTES_MIN).unwrap();
    let url = url.replace(authority, &line.host());
    (line, url)
}

/// The variables with one of them changed.
fn changed(
    mut env: Vec<(&'static str, String)>,
    name: &'static str,
    value: &str,
) -> Vec<(&'static str, String)> {
    env.push((name, value.to_owned()));
    env
}

struct S3 {
    server: S3Server,
    line: Line,
    endpoint: String,
}

impl S3 {
    fn new(server: S3Server) -> Self {
        let (line, endpoint) = through(&server.endpoint());
        Self { server, line, endpoint }
    }
}

impl Source for S3 {
    const SOURCE: &'static str = "s3://";
    const SERVER: &'static str = "s3s-fs";
    const STRANGER: Or<(&'static str, &'static str)> =
        Ok(("AWS_SECRET_ACCESS_KEY", "hunter2-hunter2"));

    fn uri(&self, folder: &str) -> String {
        format!("s3://{}/{folder}", S3Server::BUCKET)
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        changed(self.server.env().into(), "AWS_ENDPOINT_URL", &self.endpoint)
    }

    fn line(&self) -> Or<&Line> {
        Ok(&self.line)
    }
}

#[tokio::test]
async fn s3_conforms() {
    let Some(server) = S3Server::start().unwrap() else { return skip::<S3>() };
    let source = S3::new(server);
    fill(&source).await;
    conform(&source).await;
}

/// Alibaba's, Tencent's and Huawei's stores, by the S3 that they speak.
struct S3Cloud<const CLOUD: usize> {
    s3: S3,
}

/// Scheme and variables: key, secret, region, endpoint.
const CLOUDS: [(&str, [&str; 4]); 3] = [
    ("oss://", ["OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_REGION", "OSS_ENDPOINT"]),
    (
        "cos://",
        [
            "TENCENTCLOUD_SECRET_ID",
            "TENCENTCLOUD_SECRET_KEY",
            "TENCENTCLOUD_REGION",
            "COS_ENDPOINT",
        ],
    ),
    ("obs://", ["OBS_ACCESS_KEY_ID", "OBS_SECRET_ACCESS_KEY", "OBS_REGION", "OBS_ENDPOINT"]),
];

impl<const CLOUD: usize> Source for S3Cloud<CLOUD> {
    const SOURCE: &'static str = CLOUDS[CLOUD].0;
    const SERVER: &'static str = "s3s-fs, by the S3 that the cloud speaks";
    const STRANGER: Or<(&'static str, &'static str)> = Ok((CLOUDS[CLOUD].1[1], "hunter2-hunter2"));

    fn uri(&self, folder: &str) -> String {
        format!("{}{}/{folder}", Self::SOURCE, S3Server::BUCKET)
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        let values = [S3Server::ACCESS_KEY, S3Server::SECRET_KEY, "us-east-1", &self.s3.endpoint];
        CLOUDS[CLOUD].1.into_iter().zip(values.map(str::to_owned)).collect()
    }

    fn line(&self) -> Or<&Line> {
        self.s3.line()
    }
}

async fn cloud_conforms<const CLOUD: usize>() {
    let Some(server) = S3Server::start().unwrap() else { return skip::<S3Cloud<CLOUD>>() };
    let source = S3Cloud::<CLOUD> { s3: S3::new(server) };
    fill(&source).await;
    conform(&source).await;
}

#[tokio::test]
async fn alibabas_store_conforms() {
    cloud_conforms::<0>().await;
}

#[tokio::test]
async fn tencents_store_conforms() {
    cloud_conforms::<1>().await;
}

#[tokio::test]
async fn huaweis_store_conforms() {
    cloud_conforms::<2>().await;
}

struct Azure {
    server: Azurite,
    line: Line,
    endpoint: String,
}

impl Source for Azure {
    const SOURCE: &'static str = "https://….blob.core.windows.net";
    const SERVER: &'static str = "Azurite";
    const STRANGER: Or<(&'static str, &'static str)> =
        Ok(("AZURE_STORAGE_ACCESS_KEY", "aHVudGVyMi1odW50ZXIy"));

    fn uri(&self, folder: &str) -> String {
        format!("https://{}.blob.core.windows.net/models/{folder}", Azurite::ACCOUNT)
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        changed(self.server.env().into(), "AZURE_STORAGE_SERVICE_ENDPOINT", &self.endpoint)
    }

    fn line(&self) -> Or<&Line> {
        Ok(&self.line)
    }
}

#[tokio::test]
async fn azure_blobs_conform() {
    let Some(server) = Azurite::start().unwrap() else { return skip::<Azure>() };
    server.create_container("models").unwrap();
    let (line, endpoint) = through(&server.endpoint());
    let source = Azure { server, line, endpoint };
    fill(&source).await;
    conform(&source).await;
}

struct Gcs {
    server: GcsEmulator,
    line: Line,
    endpoint: String,
}

impl Source for Gcs {
    const SOURCE: &'static str = "gs://";
    const SERVER: &'static str = "gcp-storage-emulator";
    const STRANGER: Or<(&'static str, &'static str)> = Err("the emulator checks no credentials");
    const PINNED: Or<Pinned> = Err("the emulator keeps to no generation");
    /// The emulator takes no object in parts.
    const LONG_BYTES: usize = 7_000_003;

    fn uri(&self, folder: &str) -> String {
        format!("gs://{}/{folder}", GcsEmulator::BUCKET)
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        changed(self.server.env().into(), "STORAGE_EMULATOR_HOST", &self.endpoint)
    }

    fn line(&self) -> Or<&Line> {
        Ok(&self.line)
    }
}

#[tokio::test]
async fn google_cloud_storage_conforms() {
    let Some(server) = GcsEmulator::start().unwrap() else { return skip::<Gcs>() };
    let env = server.env();
    let (line, endpoint) = through(&format!("http://{}", env[0].1));
    let source = Gcs { server, line, endpoint };
    fill(&source).await;
    conform(&source).await;
}
