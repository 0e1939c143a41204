//! Who we are to Google and Azure: one server plays the store and every service that gives tokens,
//! and each test looks at what the store was shown.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};

use store::{Error, Location, Settings, Store};
use testkit::web::{Asked, Web};

/// What the store was asked, and by whom.
type Log = Arc<Mutex<Vec<Asked>>>;

fn answer(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .into_bytes()
}

/// Gives the token `good` to whoever asks rightly, and holds no object.
fn server() -> (Web, Log) {
    let log = Log::default();
    let seen = Arc::clone(&log);
    let server = Web::start(move |asked| {
        seen.lock().unwrap().push(asked.clone());
        let form = Asked::form(std::str::from_utf8(&asked.body).unwrap());
        let is = |name: &str, value: &str| form.get(name).is_some_and(|found| found == value);
        let token = r#"{"access_token":"good","expires_in":3600,"expires_on":"4102444800","token_type":"Bearer"}"#;
        match asked.path.as_str() {
            "/computeMetadata/v1/instance/service-accounts/default/token"
                if asked.header("metadata-flavor") == "Google" =>
            {
                answer(200, token)
            }
            "/tenant/oauth2/v2.0/token" if is("client_secret", "s&cret") => answer(200, token),
            "/tenant/oauth2/v2.0/token" if is("client_assertion", "federated") => {
                answer(200, token)
            }
            "/imds" if asked.header("metadata") == "true" => answer(200, token),
            path if path.contains("oauth2") || path.contains("computeMetadata") || path == "/imds" => {
                answer(401, r#"{"error":"invalid_client"}"#)
            }
            _ => answer(404, ""),
        }
    })
    .unwrap();
    (server, log)
}

/// One question to a store, and what it was shown: `None` if it was never asked.
async fn shown(uri: &str, env: &[(&str, &str)]) -> (Result<(), Error>, Option<String>) {
    let (server, log) = server();
    let env: Vec<_> = env
        .iter()
        .map(|(name, value)| {
            (*name, value.replace("SERVER", server.url().trim_start_matches("http://")))
        })
        .chain([
            ("STORAGE_EMULATOR_HOST", server.url()),
            ("AZURE_STORAGE_SERVICE_ENDPOINT", format!("{}/account", server.url())),
        ])
        .collect();
    let get = |name: &str| Some(env.iter().find(|(set, _)| *set == name)?.1.clone());
    let store = Store::open(&Location::parse(uri).unwrap(), &Settings::from_env(&get).unwrap());
    let result = store.unwrap().stat("o").await.map(drop);
    let log = log.lock().unwrap();
    let asked = log.iter().rfind(|asked| asked.path.contains("models"));
    let shown = asked.map(|asked| asked.header("authorization").to_owned());
    if let Err(error) = &result {
        let text = format!("{error:?} {error}");
        assert!(!text.contains("s&cret") && !text.contains("federated"), "{text}");
    }
    (result, shown)
}

const GCS: &str = "gs://models/x";
const AZURE: &str = "https://account.blob.core.windows.net/models/x";

#[tokio::test]
async fn google_is_shown_a_token_or_nothing() {
    let bearer = Some("Bearer good".to_owned());
    let (result, seen) = shown(GCS, &[("GOOGLE_OAUTH_ACCESS_TOKEN", "good")]).await;
    assert!(matches!(result, Err(Error::NotFound { .. })), "{result:?}");
    assert_eq!(seen, bearer);
    // Workload identity on GKE, and virtual machines.
    assert_eq!(shown(GCS, &[("GCE_METADATA_HOST", "SERVER")]).await.1, bearer);
    // Nobody: no header at all, and no marker in it.
    let nobody = [("GCE_METADATA_HOST", "127.0.0.1:1")];
    assert_eq!(shown(GCS, &nobody).await.1, Some(String::new()));
    // What is configured and fails is not passed over.
    let missing = [("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere"), ("GCE_METADATA_HOST", "SERVER")];
    let (result, seen) = shown(GCS, &missing).await;
    assert!(matches!(result, Err(Error::Denied { .. })), "{result:?}");
    assert_eq!(seen, None);
}

#[tokio::test]
async fn azure_is_shown_a_token_or_nothing() {
    let bearer = Some("Bearer good".to_owned());
    let entra = |more: &'static [(&'static str, &'static str)]| {
        let common = [
            ("AZURE_AUTHORITY_HOST", "http://SERVER"),
            ("AZURE_IMDS_ENDPOINT", "http://SERVER/imds"),
        ];
        [&common[..], more].concat()
    };
    let secret: &[_] = &[
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "me"),
        ("AZURE_CLIENT_SECRET", "s&cret"),
    ];
    assert_eq!(shown(AZURE, &entra(secret)).await.1, bearer);
    // As KServe's older Secrets have it.
    let older: &[_] =
        &[("AZ_TENANT_ID", "tenant"), ("AZ_CLIENT_ID", "me"), ("AZ_CLIENT_SECRET", "s&cret")];
    assert_eq!(shown(AZURE, &entra(older)).await.1, bearer);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "federated").unwrap();
    let path = file.path().to_str().unwrap();
    let mut workload = entra(&[("AZURE_TENANT_ID", "tenant"), ("AZURE_CLIENT_ID", "me")]);
    workload.push(("AZURE_FEDERATED_TOKEN_FILE", path));
    assert_eq!(shown(AZURE, &workload).await.1, bearer);
    assert_eq!(shown(AZURE, &entra(&[("AZURE_CLIENT_ID", "me")])).await.1, bearer);
    assert_eq!(shown(AZURE, &[]).await.1, Some(String::new()));

    let wrong: &[_] =
        &[("AZURE_TENANT_ID", "tenant"), ("AZURE_CLIENT_ID", "me"), ("AZURE_CLIENT_SECRET", "no")];
    let (result, seen) = shown(AZURE, &entra(wrong)).await;
    assert!(matches!(result, Err(Error::Denied { .. })), "{result:?}");
    assert_eq!(seen, None);
}
