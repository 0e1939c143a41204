//! The host of a confidential guest may set `http_proxy`. A key must not travel there.
//!
//! Each case runs in a child process with its own environment: this same test program, asked for
//! one ignored test.

#![expect(clippy::unwrap_used, reason = "allowed in test functions, and here beside them")]

use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keys::{Cdh, HttpSettings, Kbs, KeySource, SampleAttester};
use seal::name::ResourceUri;
use testkit::kbs::FakeKbs;

const PATH: &str = "default/key/one";
const URL: &str = "SEALIFT_TEST_URL";

/// Runs the ignored test `child` with every proxy variable set. Returns whether it passed, and how
/// many connections the proxy saw.
fn behind_a_proxy(child: &str, url: &str) -> (bool, usize) {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    // Accepts and hangs up. Ends with the process.
    std::thread::spawn(move || {
        while proxy.accept().is_ok() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", child, "--ignored", "--nocapture"]).env(URL, url);
    command.env_remove("NO_PROXY").env_remove("no_proxy").env_remove("REQUEST_METHOD");
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    {
        command.env(name, &address);
    }
    let output = command.output().unwrap();
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    }
    (output.status.success(), seen.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_in_the_environment_sees_no_request_for_a_key() {
    let fake = FakeKbs::start().await.unwrap();
    fake.put(PATH, b"a key");
    let by_name = format!("http://localhost:{}", fake.address().port());
    for url in [fake.url(), by_name] {
        assert_eq!(behind_a_proxy("child_asks_cdh", &url), (true, 0), "{url}");
        assert_eq!(behind_a_proxy("child_asks_kbs", &url), (true, 0), "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_of_this_test_is_one_that_clients_do_use() {
    let fake = FakeKbs::start().await.unwrap();
    let (passed, seen) = behind_a_proxy("child_asks_with_an_ordinary_client", &fake.url());
    assert!(passed && seen > 0, "passed: {passed}, seen: {seen}");
}

fn url() -> String {
    std::env::var(URL).unwrap()
}

async fn assert_released(source: impl KeySource) {
    let key = source.release(&ResourceUri::from_path(PATH).unwrap()).await.unwrap();
    assert_eq!(key.expose(), b"a key");
}

#[tokio::test]
#[ignore = "a child process of the tests above"]
async fn child_asks_cdh() {
    assert_released(Cdh::new(&url(), &HttpSettings::default()).unwrap()).await;
}

#[tokio::test]
#[ignore = "a child process of the tests above"]
async fn child_asks_kbs() {
    let source = Kbs::new(&url(), Box::new(SampleAttester), &HttpSettings::default());
    assert_released(source.unwrap()).await;
}

#[tokio::test]
#[ignore = "a child process of the tests above"]
async fn child_asks_with_an_ordinary_client() {
    assert!(reqwest::get(url()).await.is_err(), "the proxy hangs up");
}
