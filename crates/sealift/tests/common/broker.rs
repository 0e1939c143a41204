//! A key broker in this process, for as long as the test runs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::{sealift, succeed, text};

pub(crate) struct Broker {
    address: SocketAddr,
    pub(crate) admin_key: PathBuf,
    pub(crate) audit_log: PathBuf,
}

impl Broker {
    /// With its data below `dir`. It accepts sample evidence, as `--insecure-dev` does.
    pub(crate) fn start(dir: &Path, policy_file: Option<PathBuf>) -> Self {
        let keys = broker::init(&dir.join("data"), &dir.join("keys")).unwrap();
        let config = broker::Config {
            data_dir: dir.join("data"),
            master_key_file: keys.master_key,
            policy_file,
            admin_public_keys: vec![keys.admin_public_key],
            admin_issuers: vec![],
            insecure_dev: true,
            listen: "127.0.0.1:0".parse().unwrap(),
            tls: None,
            tpm_trusted_keys: vec![],
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

    /// Registers a key file.
    pub(crate) fn put(&self, resource: &str, key_file: &Path) {
        succeed(&mut self.key("put", resource, &["--key-file", text(key_file)]));
    }
}
