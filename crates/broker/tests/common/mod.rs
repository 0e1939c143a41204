//! A broker on an ephemeral port, and a guest and an administrator written by hand: raw HTTP, raw
//! JSON, RFC 7518 from its text. Nothing here shares code with the crates under test.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

pub mod azure;
pub mod guest;
pub mod http;
pub mod snp;
pub mod tdx;
pub mod vectors;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use audit::Log;
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use broker::evidence::Roots;
use broker::server::{Limits, Server};
use broker::service::Service;
use broker::{Config, TlsFiles};
use http::{Reply, Wire};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// The test clock's first second.
pub const NOW: u64 = 1_800_000_000;

/// What a test may ask for.
pub struct Setup {
    pub insecure_dev: bool,
    pub policy_file: Option<PathBuf>,
    pub issuers: Vec<String>,
    pub limits: Limits,
    pub log: Option<Log>,
    pub tls: Option<TlsFiles>,
    pub tpm_trusted_keys: Vec<PathBuf>,
    pub dirs: Arc<Dirs>,
    pub roots: Roots,
    pub evidence: Evidence,
}

/// What the attestation policy is made of.
#[derive(Default)]
pub struct Evidence {
    pub policy: Option<PathBuf>,
    pub references: Option<PathBuf>,
    pub tdx_collateral_dir: Option<PathBuf>,
    pub amd_certificates: Option<PathBuf>,
    pub snp_crl_dir: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            insecure_dev: true,
            policy_file: None,
            issuers: Vec::new(),
            limits: Limits::default(),
            log: None,
            tls: None,
            tpm_trusted_keys: Vec::new(),
            dirs: Arc::new(Dirs::new()),
            roots: Roots::of_vendors(),
            evidence: Evidence::default(),
        }
    }
}

/// Data and keys; brokers that share them are replicas.
pub struct Dirs {
    root: TempDir,
    pub keys: broker::Initialized,
}

impl Dirs {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let keys = broker::init(&root.path().join("data"), &root.path().join("keys")).unwrap();
        Self { root, keys }
    }

    pub fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }
}

/// A running broker; stopped and joined when dropped.
pub struct Broker {
    pub wire: Wire,
    pub dirs: Arc<Dirs>,
    pub clock: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Broker {
    /// `--insecure-dev`, default policy, audit log in the data directory.
    pub fn start() -> Self {
        Setup::default().start()
    }

    /// Sets the clock forward.
    pub fn pass(&self, seconds: u64) {
        self.clock.fetch_add(seconds, Ordering::SeqCst);
    }

    /// Sets the clock.
    pub fn set(&self, now: u64) {
        self.clock.store(now, Ordering::SeqCst);
    }

    pub fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    /// Whether it stopped in order.
    pub fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// An administrator's request.
    pub fn admin(&self, method: &str, path: &str, body: &[u8]) -> Reply {
        let token = format!("Bearer {}", self.admin_token(json!({})));
        self.wire.send(method, path, &[("Authorization", &token)], body)
    }

    /// A good administrator's token, with `changes` to its claims (`null` removes one).
    pub fn admin_token(&self, changes: Value) -> String {
        let mut claims = json!({
            "iss": "tests", "sub": "alice", "aud": ["KBS"], "role": "admin",
            "iat": self.now(), "exp": self.now() + 600,
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        sign_ed25519(&self.dirs.keys.admin_key, &json!({ "alg": "EdDSA", "typ": "JWT" }), &claims)
    }

    pub fn put(&self, resource: &str, value: &[u8]) {
        let reply = self.admin("POST", &format!("/kbs/v0/resource/{resource}"), value);
        assert_eq!(reply.status, 200, "{reply:?}");
    }

    pub fn set_policy(&self, rego: &str) -> Reply {
        let body = json!({ "policy": URL_SAFE_NO_PAD.encode(rego) }).to_string();
        self.admin("POST", "/kbs/v0/resource-policy", body.as_bytes())
    }

    /// The audit log's events.
    pub fn events(&self) -> Vec<Value> {
        let log = std::fs::read(self.dirs.data().join("audit.log")).unwrap();
        audit::verify(&log[..]).unwrap();
        log.split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice::<Value>(line).unwrap()["event"].clone())
            .collect()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

impl Setup {
    pub fn start(self) -> Broker {
        let config = Config {
            data_dir: self.dirs.data(),
            master_key_file: self.dirs.keys.master_key.clone(),
            policy_file: self.policy_file,
            attestation_policy_file: self.evidence.policy,
            reference_values_file: self.evidence.references,
            tdx_collateral_dir: self.evidence.tdx_collateral_dir,
            amd_certificates: self.evidence.amd_certificates,
            snp_crl_dir: self.evidence.snp_crl_dir,
            admin_public_keys: vec![self.dirs.keys.admin_public_key.clone()],
            admin_issuers: self.issuers,
            insecure_dev: self.insecure_dev,
            client_rate: broker::CLIENT_RATE_DEFAULT,
            listen: "127.0.0.1:0".parse().unwrap(),
            tls: self.tls,
            tpm_trusted_keys: self.tpm_trusted_keys,
        };
        let clock = Arc::new(AtomicU64::new(NOW));
        let log =
            self.log.unwrap_or_else(|| Log::file(&config.data_dir.join("audit.log")).unwrap());
        let ticking = clock.clone();
        let clock_of_tests = Arc::new(move || ticking.load(Ordering::SeqCst));
        let service = Service::open_trusting(&config, log, clock_of_tests, self.roots).unwrap();
        let (stop, stopped) = oneshot::channel();
        let (ready, address) = std::sync::mpsc::channel();
        let limits = self.limits;
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let server = Server::bind(&config, limits).await.unwrap();
                ready.send(server.address()).unwrap();
                let stop = async { stopped.await.unwrap_or(()) };
                server.run(Arc::new(service), stop).await;
            });
        });
        Broker {
            wire: Wire { address: address.recv().unwrap() },
            dirs: self.dirs,
            clock,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

/// A compact JWS by an Ed25519 key in a PKCS#8 PEM file.
pub fn sign_ed25519(key: &Path, header: &Value, claims: &Value) -> String {
    let message = jwt_message(header, claims);
    let signature = ed25519(key).sign(message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

pub fn jwt_message(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

fn ed25519(pem: &Path) -> Ed25519KeyPair {
    let text = std::fs::read_to_string(pem).unwrap();
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    Ed25519KeyPair::from_pkcs8(&STANDARD.decode(body).unwrap()).unwrap()
}
