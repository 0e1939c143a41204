//! Kubelet's side of the CRI (`runtime.v1`), as far as pods are made by it: unary gRPC calls over a
//! socket file. Source: kubernetes/cri-api, `pkg/apis/runtime/v1/api.proto`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use testkit::proto::{bytes_of, number_of, put, put_number, text_of};

/// Longer than any timeout of a runtime's for its plugins.
const PATIENCE: Duration = Duration::from_secs(60);
/// `NamespaceMode`: the node's own.
const NODE: u64 = 2;

/// A runtime that makes pods.
pub struct Cri {
    socket: PathBuf,
    tokio: tokio::runtime::Runtime,
}

/// A pod that runs.
pub struct Sandbox {
    pub id: String,
    config: Vec<u8>,
}

/// A mount of a container: destination and source.
pub type Mount<'a> = (&'a str, &'a Path);

impl Cri {
    pub fn new(socket: PathBuf) -> Self {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { socket, tokio }
    }

    /// Whether the runtime serves pods already.
    pub fn is_ready(&self) -> bool {
        self.call("Version", &[]).is_ok()
    }

    /// A pod on the node's own network, which takes no plugin of CNI's.
    pub fn run_pod(&self, uid: &str, handler: &str) -> Result<Sandbox, String> {
        let mut metadata = Vec::new();
        put(&mut metadata, 1, format!("web-{uid}"));
        put(&mut metadata, 2, uid);
        put(&mut metadata, 3, "shop");
        let mut namespaces = Vec::new();
        put_number(&mut namespaces, 1, NODE);
        let mut security = Vec::new();
        put(&mut security, 1, namespaces);
        let mut linux = Vec::new();
        put(&mut linux, 1, format!("/{}", cgroup()));
        put(&mut linux, 2, security);
        let mut config = Vec::new();
        put(&mut config, 1, metadata);
        put(&mut config, 8, linux);
        let mut request = Vec::new();
        put(&mut request, 1, &config);
        put(&mut request, 2, handler);
        let id = text_of(&self.call("RunPodSandbox", &request)?, 1).unwrap();
        Ok(Sandbox { id, config })
    }

    /// Makes a container with these mounts; its id. It does nothing when it is started.
    pub fn create(
        &self,
        sandbox: &Sandbox,
        image: &str,
        name: &str,
        mounts: &[Mount<'_>],
    ) -> Result<String, String> {
        let mut config = Vec::new();
        let (mut metadata, mut spec) = (Vec::new(), Vec::new());
        put(&mut metadata, 1, name);
        put(&mut config, 1, metadata);
        put(&mut spec, 1, image);
        put(&mut config, 2, spec);
        for (destination, source) in mounts {
            let mut mount = Vec::new();
            put(&mut mount, 1, destination);
            put(&mut mount, 2, source.to_str().unwrap());
            put_number(&mut mount, 3, 1);
            put(&mut config, 7, mount);
        }
        let mut request = Vec::new();
        put(&mut request, 1, &sandbox.id);
        put(&mut request, 2, config);
        put(&mut request, 3, &sandbox.config);
        Ok(text_of(&self.call("CreateContainer", &request)?, 1).unwrap())
    }

    pub fn start(&self, container: &str) -> Result<(), String> {
        self.about("StartContainer", container).map(drop)
    }

    /// What a command in a container prints, if it succeeds.
    pub fn exec(&self, container: &str, command: &[&str]) -> Result<Vec<u8>, String> {
        let mut request = Vec::new();
        put(&mut request, 1, container);
        command.iter().for_each(|word| put(&mut request, 2, word));
        let answer = self.call("ExecSync", &request)?;
        let of = |number| bytes_of(&answer, number).unwrap().pop().unwrap_or_default();
        match number_of(&answer, 3).unwrap() {
            0 => Ok(of(1).to_vec()),
            _ => Err(String::from_utf8_lossy(of(2)).into_owned()),
        }
    }

    pub fn remove_pod(&self, sandbox: &str) -> Result<(), String> {
        self.about("StopPodSandbox", sandbox)?;
        self.about("RemovePodSandbox", sandbox).map(drop)
    }

    /// The ids of all pods.
    pub fn pods(&self) -> Result<Vec<String>, String> {
        let answer = self.call("ListPodSandbox", &[])?;
        let ids = bytes_of(&answer, 1).unwrap().into_iter();
        Ok(ids.map(|pod| text_of(pod, 1).unwrap()).collect())
    }

    fn about(&self, method: &str, id: &str) -> Result<Vec<u8>, String> {
        let mut request = Vec::new();
        put(&mut request, 1, id);
        self.call(method, &request)
    }

    fn call(&self, method: &str, request: &[u8]) -> Result<Vec<u8>, String> {
        let late = |_| Err(format!("{method}: no answer in {PATIENCE:?}"));
        let call = async { tokio::time::timeout(PATIENCE, self.unary(method, request)).await };
        self.tokio.block_on(call).unwrap_or_else(late)
    }

    async fn unary(&self, method: &str, message: &[u8]) -> Result<Vec<u8>, String> {
        let fail = |error: &dyn std::fmt::Display| format!("{method}: {error}");
        let stream = tokio::net::UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|error| fail(&error))?;
        let (mut client, connection) =
            h2::client::handshake(stream).await.map_err(|error| fail(&error))?;
        tokio::spawn(connection);
        let request = http::Request::post(format!("http://cri/runtime.v1.RuntimeService/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (answer, mut body) =
            client.send_request(request, false).map_err(|error| fail(&error))?;
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let framed = [&[0], &length[..], message].concat();
        body.send_data(Bytes::from(framed), true).map_err(|error| fail(&error))?;
        let (head, mut body) = answer.await.map_err(|error| fail(&error))?.into_parts();
        let mut received = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(|error| fail(&error))?;
            body.flow_control().release_capacity(data.len()).map_err(|error| fail(&error))?;
            received.extend_from_slice(&data);
        }
        // A call that fails may have its status where others have their first headers.
        let trailers = body.trailers().await.map_err(|error| fail(&error))?.unwrap_or(head.headers);
        let trailer = |name| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
        match trailer("grpc-status") {
            "0" => Ok(received.get(5..).unwrap_or_default().to_vec()),
            code => Err(format!("{method}: {code}: {}", unescaped(trailer("grpc-message")))),
        }
    }
}

/// gRPC writes messages with `%` and two digits for what is not printable ASCII.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or("").as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).unwrap_or(("", part));
        bytes.extend(u8::from_str_radix(digits, 16));
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The control group of this process's pods.
pub fn cgroup() -> String {
    format!("sealift-{}", std::process::id())
}

/// How long something takes.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    (work(), begun.elapsed())
}
