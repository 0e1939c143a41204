//! Where credentials come from when none are given, and how long that may take.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use store::{Error, Location, Settings, Store};
use testkit::hostile::{Fault, Hostile};

fn open(server: &Hostile, variables: &[(&'static str, String)]) -> Store {
    let mut env = HashMap::from([("AWS_ENDPOINT_URL", server.endpoint())]);
    env.extend(variables.iter().cloned());
    let settings = Settings::from_env(&|name| env.get(name).cloned()).unwrap();
    Store::open(&Location::parse("s3://models/m").unwrap(), &settings).unwrap()
}

fn server() -> Hostile {
    let server = Hostile::start().unwrap();
    server.put("models/m/x", "{}");
    server
}

#[tokio::test]
async fn without_any_source_access_is_denied_with_advice() {
    let server = server();
    let store = open(&server, &[("AWS_EC2_METADATA_DISABLED", "true".to_owned())]);
    let error = store.read("x", 10).await.unwrap_err();
    assert!(
        matches!(&error, Error::Denied { reason, .. } if reason.contains("AWS_ACCESS_KEY_ID")),
        "{error:?}"
    );
    assert_eq!(server.log().len(), 0);
}

#[tokio::test]
async fn a_metadata_service_that_hangs_is_given_two_seconds() {
    let (server, metadata) = (server(), Hostile::start().unwrap());
    metadata.plan(|_| Some(Fault::Stall { after: 0 }));
    metadata.put("latest/api/token", "token");
    let store = open(&server, &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.endpoint())]);
    let since = Instant::now();
    let error = store.read("x", 10).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    assert_eq!(metadata.log().len(), 1);
}

#[tokio::test]
async fn the_metadata_service_is_not_asked_when_there_are_keys() {
    let (server, metadata) = (server(), Hostile::start().unwrap());
    let metadata_at = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.endpoint());
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    let profile = "[default]\naws_access_key_id = id\naws_secret_access_key = secret\n";
    std::fs::write(home.path().join(".aws/credentials"), profile).unwrap();
    for variables in [
        vec![
            ("AWS_ACCESS_KEY_ID", "id".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ],
        vec![("awsAnonymousCredential", "true".to_owned())],
        vec![("HOME", home.path().to_str().unwrap().to_owned())],
    ] {
        let variables = [variables, vec![metadata_at.clone()]].concat();
        assert_eq!(open(&server, &variables).read("x", 10).await.unwrap(), b"{}");
    }
    assert_eq!(metadata.log().len(), 0);
}

#[tokio::test]
async fn container_credentials_are_used_and_not_asked_through_a_proxy() {
    let (server, container, proxy) =
        (server(), Hostile::start().unwrap(), Hostile::start().unwrap());
    let keys = r#""AccessKeyId":"id","SecretAccessKey":"secret","Token":"token""#;
    let answer = format!(r#"{{{keys},"Expiration":"2099-01-01T00:00:00Z"}}"#);
    container.put("v1/credentials", answer);
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/v1/credentials", container.endpoint())),
        ("http_proxy", proxy.endpoint()),
    ];
    // The store itself is reached through the proxy, which has nothing.
    assert!(matches!(open(&server, &variables).read("x", 10).await, Err(Error::NotFound { .. })));
    assert_eq!((container.log().len(), proxy.log().len()), (1, 1));

    let direct =
        [variables[0].clone(), variables[1].clone(), ("no_proxy", "127.0.0.0/8".to_owned())];
    assert_eq!(open(&server, &direct).read("x", 10).await.unwrap(), b"{}");
    assert_eq!(proxy.log().len(), 1);
}

#[tokio::test]
async fn a_configured_source_that_fails_is_not_passed_over() {
    let (server, metadata) = (server(), Hostile::start().unwrap());
    let variables = [
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r".to_owned()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/nonexistent/token".to_owned()),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.endpoint()),
    ];
    let error = open(&server, &variables).read("x", 10).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert_eq!((metadata.log().len(), server.log().len()), (0, 0));
}
