//! Trust: a private authority works when it is named, and nothing else does.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::HashMap;
use std::path::Path;

use store::{Error, Location, Settings, Store};
use testkit::hostile::{Fault, Hostile};
use testkit::tls::Authority;

/// A TLS server for `names` with one object, and its authority's certificate in a file.
fn server(names: &[&str], dir: &Path) -> Hostile {
    let authority = Authority::new().unwrap();
    std::fs::write(dir.join("cabundle.crt"), authority.pem()).unwrap();
    let server = Hostile::start_tls(authority.server(names).unwrap()).unwrap();
    server.put("models/m/sealift.json", "{}");
    server
}

async fn read(server: &Hostile, variables: &[(&'static str, &str)]) -> [Result<Vec<u8>, Error>; 2] {
    let mut env: HashMap<&str, String> = HashMap::from([
        ("AWS_ENDPOINT_URL", server.endpoint()),
        ("awsAnonymousCredential", "true".to_owned()),
    ]);
    env.extend(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let settings = Settings::from_env(&|name| env.get(name).cloned()).unwrap();
    let read = async |uri: &str| {
        Store::open(&Location::parse(uri).unwrap(), &settings)?.read("sealift.json", 10).await
    };
    [read("s3://models/m").await, read(&format!("{}/models/m", server.endpoint())).await]
}

#[tokio::test]
async fn a_private_authority_is_trusted_when_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&["127.0.0.1"], dir.path());
    let file = dir.path().join("cabundle.crt");
    for variables in [
        vec![("AWS_CA_BUNDLE", file.to_str().unwrap())],
        vec![
            ("CA_BUNDLE_CONFIGMAP_NAME", "ca"),
            ("CA_BUNDLE_VOLUME_MOUNT_POINT", dir.path().to_str().unwrap()),
        ],
        vec![("S3_VERIFY_SSL", "0")],
    ] {
        for result in read(&server, &variables).await {
            assert_eq!(result.unwrap(), b"{}", "{variables:?}");
        }
    }
}

#[tokio::test]
async fn an_unknown_authority_is_refused_and_not_tried_again() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = server(&["127.0.0.1"], dir.path());
    std::fs::write(other.path().join("ca.pem"), Authority::new().unwrap().pem()).unwrap();
    let file = other.path().join("ca.pem");
    for variables in [vec![], vec![("AWS_CA_BUNDLE", file.to_str().unwrap())]] {
        for result in read(&server, &variables).await {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Tls { .. }) && !error.is_transient(), "{error:?}");
        }
    }
    assert_eq!(server.log().len(), 0);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&["elsewhere.example"], dir.path());
    let file = dir.path().join("cabundle.crt");
    for result in read(&server, &[("AWS_CA_BUNDLE", file.to_str().unwrap())]).await {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_a_tls_error() {
    let server = Hostile::start().unwrap();
    let endpoint = server.endpoint().replace("http://", "https://");
    for result in read(&server, &[("AWS_ENDPOINT_URL", &endpoint)]).await.into_iter().take(1) {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn tls_that_is_cut_without_a_goodbye_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&["127.0.0.1"], dir.path());
    let file = dir.path().join("cabundle.crt");
    for fault in [Fault::Reset { after: 1 }, Fault::Cut { after: 1 }, Fault::CutHead { after: 20 }]
    {
        let planned = fault.clone();
        server.plan(move |_| Some(planned.clone()));
        for result in read(&server, &[("AWS_CA_BUNDLE", file.to_str().unwrap())]).await {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Network { .. }), "{fault:?}: {error:?}");
        }
    }
}

#[tokio::test]
async fn a_redirect_never_leads_from_https_to_http() {
    let dir = tempfile::tempdir().unwrap();
    let (secure, plain) = (server(&["127.0.0.1"], dir.path()), Hostile::start().unwrap());
    plain.put("models/m/sealift.json", "{}");
    let to = format!("{}/models/m/sealift.json", plain.endpoint());
    secure.plan(move |_| Some(Fault::Redirect { to: to.clone() }));
    let file = dir.path().join("cabundle.crt");
    for result in read(&secure, &[("AWS_CA_BUNDLE", file.to_str().unwrap())]).await {
        assert!(result.is_err());
    }
    assert_eq!(plain.log().len(), 0);
}

#[test]
fn a_bundle_that_cannot_be_used_is_a_usage_error() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "no certificate").unwrap();
    for file in [empty, dir.path().join("absent.pem")] {
        let mut settings = Settings::default();
        settings.ca_bundle = Some(file);
        let error = Store::open(&Location::parse("s3://models/m").unwrap(), &settings).unwrap_err();
        assert!(
            matches!(&error, Error::Usage { what } if what.contains("AWS_CA_BUNDLE")),
            "{error:?}"
        );
    }
}

/// `S3_VERIFY_SSL` is for S3's own service: HDFS has a setting of its own.
#[tokio::test]
async fn whoever_gives_up_the_check_for_s3_keeps_it_for_hdfs() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&["127.0.0.1"], dir.path());
    let status = r#"{"FileStatus":{"type":"FILE","length":2,"pathSuffix":""}}"#;
    server.put("webhdfs/v1/m/x", status);
    let stat = async |skip: &str| {
        let config = format!(
            r#"{{"type":"hdfs","HDFS_NAMENODE":"{}","TLS_SKIP_VERIFY":"{skip}"}}"#,
            server.endpoint()
        );
        let env = [("STORAGE_CONFIG", config.as_str()), ("S3_VERIFY_SSL", "false")];
        common::open("hdfs://m", env).unwrap().stat("x").await
    };
    let refused = stat("false").await.unwrap_err();
    assert!(matches!(refused, Error::Tls { .. }), "{refused:?}");
    assert_eq!(server.log().len(), 0);
    assert_eq!(stat("true").await.unwrap().bytes, 2);
}
