//! A real key broker for tests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{sealift, text};

/// A key broker in this process, for as long as the test runs.
pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
    pub(crate) admin_key: PathBuf,
    pub(crate) audit_log: PathBuf,
}

impl Broker {
    /// With its data below `dir`. It accepts sample evidence, as `--insecure-dev` does.
    pub(crate) fn start(dir: &Path) -> Self {
        let keys = broker::init(&dir.join("data"), &dir.join("keys")).unwrap();
        let config = broker::Config {
            admin_public_keys: vec![keys.admin_public_key],
            insecure_dev: true,
            ..broker::Config::new(dir.join("data"), keys.master_key)
        };
        let audit_log = dir.join("broker.log");
        let log = audit::Log::file(&audit_log).unwrap();
        let service = broker::service::Service::open(&config, log, broker::system_clock()).unwrap();
        let (ready, address) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let server = broker::server::Server::bind(&config, Default::default()).await;
                let server = server.unwrap();
                ready.send(server.address()).unwrap();
                server.run(Arc::new(service), std::future::pending()).await;
            });
        });
        Self { address: address.recv().unwrap(), admin_key: keys.admin_key, audit_log }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `sealift key …` as its administrator.
    pub(crate) fn key(&self, command: &str, resource: &str, more: &[&str]) -> Command {
        let mut key = sealift();
        key.args(["key", command, "--resource-id", resource, "--kbs-url", &self.url()]);
        key.args(["--admin-key", text(&self.admin_key)]).args(more);
        key
    }

    /// As an administrator does.
    pub(crate) fn put(&self, resource: &str, bytes: &[u8]) {
        let path = resource.strip_prefix("kbs:///").unwrap();
        self.ask("POST", &format!("/kbs/v0/resource/{path}"), bytes);
    }

    /// From now on this decides.
    pub(crate) fn policy(&self, rego: &str) {
        let body = json!({"policy": URL_SAFE_NO_PAD.encode(rego)}).to_string();
        self.ask("POST", "/kbs/v0/resource-policy", body.as_bytes());
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) {
        let pem = std::fs::read_to_string(&self.admin_key).unwrap();
        let key: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let key = Ed25519KeyPair::from_pkcs8(&STANDARD.decode(key).unwrap()).unwrap();
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let claims = json!({"iss": "t", "sub": "t", "aud": ["KBS"], "role": "admin", "iat": now, "exp": now + 60});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&json!({"alg": "EdDSA"})), encode(&claims));
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes())));
        let mut stream = TcpStream::connect(self.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
        )
        .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}
