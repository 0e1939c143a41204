//! How often one client may ask.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use audit::Log;
use broker::Config;
use broker::service::{Call, Service};
use common::{Dirs, NOW};
use hyper::body::Bytes;
use hyper::{HeaderMap, Method, Response};
use serde_json::Value;

fn ask(service: &Service, client: &str, method: Method, path: &str) -> Response<Bytes> {
    let client = format!("{client}:1").parse().unwrap();
    let body = Bytes::from_static(br#"{"version":"0.4.0","tee":"sample","extra-params":""}"#);
    let headers = HeaderMap::new();
    service.handle(&Call { method, path: path.to_owned(), query: None, headers, body, client })
}

#[test]
fn who_asks_too_often_is_told_when_to_come_again_and_others_are_served() {
    let dirs = Dirs::new();
    let clock = Arc::new(AtomicU64::new(NOW));
    let ticking = clock.clone();
    let config = Config {
        insecure_dev: true,
        client_rate: 1,
        ..Config::new(dirs.data(), dirs.keys.master_key.clone())
    };
    let log = Log::file(&dirs.root().join("log")).unwrap();
    let now = Arc::new(move || ticking.load(Ordering::SeqCst));
    let service = Service::open(&config, log, now).unwrap();
    let auth = |client: &str| ask(&service, client, Method::POST, "/kbs/v0/auth");
    for _ in 0..10 {
        assert_eq!(auth("10.0.0.1").status(), 200);
    }
    for (method, path) in [
        (Method::POST, "/kbs/v0/auth"),
        (Method::POST, "/kbs/v0/attest"),
        (Method::GET, "/kbs/v0/resource/a/b/c"),
    ] {
        let refused = ask(&service, "10.0.0.1", method, path);
        assert_eq!(refused.status(), 429, "{path}");
        assert_eq!(refused.headers()["retry-after"], "1");
        let body: Value = serde_json::from_slice(refused.body()).unwrap();
        let kind = "https://github.com/confidential-containers/kbs/errors/TooManyRequests";
        assert_eq!(body["type"], kind);
        assert!(body["detail"].is_string());
    }
    // Neither others, nor administrators and probes at the same address.
    assert_eq!(auth("10.0.0.2").status(), 200);
    assert_eq!(ask(&service, "10.0.0.1", Method::GET, "/kbs/v0/resource").status(), 401);
    let page = ask(&service, "10.0.0.1", Method::GET, "/metrics");
    let page = String::from_utf8(page.body().to_vec()).unwrap();
    assert!(page.contains("sealift_broker_refusals_total{type=\"TooManyRequests\"} 3\n"), "{page}");
    clock.fetch_add(1, Ordering::SeqCst);
    assert_eq!(auth("10.0.0.1").status(), 200);
    assert_eq!(auth("10.0.0.1").status(), 429);
}
