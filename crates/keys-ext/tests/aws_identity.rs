//! Who [`AwsKms`] says to be: a web identity by `moto`'s STS, and by stand-ins of the container's and
//! the instance's services, which are not to be had here.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{bundle, fresh};
use keys::{Error, HttpSettings};
use keys_ext::{AwsKms, AwsKmsSettings, RemoteKey};
use seal::name::{AwsKmsKey, KeyUri};
use secret::Secret;
use serde_json::json;
use testkit::moto::Moto;
use testkit::web::{Asked, Web, reply};

const ROLE: &str = "arn:aws:iam::123456789012:role/opener";
const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.e30.c2ln";

fn kms(endpoint: &str, variables: &[(&str, &str)]) -> AwsKms {
    let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    AwsKms::new(AwsKmsSettings {
        endpoint: Some(endpoint.to_owned()),
        variables: variables.collect(),
        http: HttpSettings::default(),
    })
}

fn key(id: &str) -> AwsKmsKey {
    match KeyUri::parse(&format!("awskms:///{}/{id}", Moto::REGION)).unwrap() {
        KeyUri::AwsKms(key) => key,
        other => panic!("{other}"),
    }
}

/// KMS that unwraps anything, and the session tokens that it was asked with.
fn any_kms() -> (Web, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&seen);
    let web = Web::start(move |asked| {
        assert!(asked.header("authorization").starts_with("AWS4-HMAC-SHA256 "), "unsigned");
        shared.lock().unwrap().push(asked.header("x-amz-security-token").to_owned());
        reply(200, json!({"Plaintext": STANDARD.encode([7; 32])}).to_string().as_bytes())
    });
    (web.unwrap(), seen)
}

async fn unwrap(kms: &AwsKms) -> Result<Secret, Error> {
    kms.unwrap(&key("k"), b"wrapped", &bundle("1")).await
}

fn token_file(dir: &Path) -> String {
    let file = dir.join("token");
    std::fs::write(&file, format!("{JWT}\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_web_identity_becomes_a_role_by_sts() {
    let Some(moto) = Moto::start().unwrap() else { return };
    let (id, dir) = (moto.key().unwrap(), tempfile::tempdir().unwrap());
    let (endpoint, file) = (moto.endpoint(), token_file(dir.path()));
    let irsa = kms(
        &endpoint,
        &[
            ("AWS_ROLE_ARN", ROLE),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", &file),
            ("AWS_STS_REGIONAL_ENDPOINTS", "regional"),
            ("AWS_ENDPOINT_URL_STS", &endpoint),
        ],
    );
    let kek = fresh();
    let wrapped = irsa.wrap(&key(&id), &kek, &bundle("1")).await.unwrap();
    let unwrapped = irsa.unwrap(&key(&id), &wrapped, &bundle("1")).await.unwrap();
    assert_eq!(unwrapped.expose(), kek.expose());
}

#[tokio::test]
async fn what_sts_refuses_is_a_login_and_nothing_is_sent_unsigned() {
    let dir = tempfile::tempdir().unwrap();
    let file = token_file(dir.path());
    let (service, seen) = any_kms();
    let answers = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
    let next = Arc::clone(&answers);
    let sts = Web::start(move |asked| {
        let form = Asked::form(&String::from_utf8_lossy(&asked.body));
        assert_eq!(form["Action"], "AssumeRoleWithWebIdentity");
        assert_eq!((form["RoleArn"].as_str(), form["WebIdentityToken"].as_str()), (ROLE, JWT));
        next.lock().unwrap().remove(0)
    });
    let (sts, kms_url) = (sts.unwrap(), service.url());
    let with = |sts: &str, file: &str| {
        let set = [
            ("AWS_ROLE_ARN", ROLE),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", file),
            ("AWS_ENDPOINT_URL_STS", sts),
        ];
        kms(&kms_url, &set)
    };
    let of = async |answer: Vec<u8>| {
        answers.lock().unwrap().push(answer);
        unwrap(&with(&sts.url(), &file)).await.unwrap_err()
    };
    let refusal = |code: &str| {
        format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>no</Message>\
             </Error><RequestId>1</RequestId></ErrorResponse>"
        )
    };
    for code in ["ExpiredTokenException", "InvalidIdentityToken", "AccessDenied"] {
        let error = of(reply(400, refusal(code).as_bytes())).await;
        assert!(matches!(error, Error::Login { .. }), "{code}: {error:?}");
        assert!(!format!("{error:?}").contains(JWT));
    }
    // The library takes an answer that was cut at our limit for a broken connection.
    for answer in [reply(503, b"busy"), Vec::new(), reply(200, &vec![b' '; 1 << 20])] {
        let error = of(answer).await;
        assert!(error.is_transient(), "{error:?}");
    }
    let error = of(reply(200, b"<x/>")).await;
    assert!(matches!(error, Error::Login { .. }), "{error:?}");
    let missing = unwrap(&with(&sts.url(), "/nowhere")).await;
    assert!(matches!(missing, Err(Error::Login { .. })), "{missing:?}");
    let clear = unwrap(&with("http://sts.example", &file)).await;
    assert!(matches!(clear, Err(Error::Usage(_))), "{clear:?}");
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_instance_is_asked_by_imdsv2() {
    let (service, seen) = any_kms();
    let imds = Web::start(|asked| {
        let with_token = asked.header("x-aws-ec2-metadata-token") == "imds-token";
        match (asked.method.as_str(), asked.path.as_str()) {
            ("PUT", "/latest/api/token")
                if !asked.header("x-aws-ec2-metadata-token-ttl-seconds").is_empty() =>
            {
                reply(200, b"imds-token")
            }
            ("GET", "/latest/meta-data/iam/security-credentials/") if with_token => {
                reply(200, b"opener")
            }
            ("GET", "/latest/meta-data/iam/security-credentials/opener") if with_token => {
                let credentials = json!({
                    "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z",
                    "AccessKeyId": "ASIAX", "SecretAccessKey": "x", "Token": "of the instance",
                    "Expiration": "2099-01-01T00:00:00Z",
                });
                reply(200, credentials.to_string().as_bytes())
            }
            _ => reply(401, b""),
        }
    });
    let imds = imds.unwrap();
    let of = |imds: &str| kms(&service.url(), &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds)]);
    unwrap(&of(&imds.url())).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), ["of the instance"]);
    // Version 1, without tokens, or nobody.
    let first = Web::start(|asked| reply(if asked.method == "PUT" { 404 } else { 200 }, b"opener"));
    for without in [first.unwrap().url(), "http://127.0.0.1:1".to_owned()] {
        let nobody = unwrap(&of(&without)).await;
        assert!(matches!(nobody, Err(Error::Login { .. })), "{nobody:?}");
    }
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_containers_service_is_asked_with_the_token_of_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let (file, (service, seen)) = (token_file(dir.path()), any_kms());
    let agent = Web::start(|asked| match asked.header("authorization") {
        JWT => {
            let credentials = json!({
                "AccessKeyId": "ASIAX", "SecretAccessKey": "x", "Token": "of the container",
                "Expiration": "2099-01-01T00:00:00Z",
            });
            reply(200, credentials.to_string().as_bytes())
        }
        _ => reply(401, b"{}"),
    });
    let agent = agent.unwrap();
    let uri = format!("{}/v1/credentials", agent.url());
    let of = |file: &str| {
        let set = [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file),
        ];
        kms(&service.url(), &set)
    };
    unwrap(&of(&file)).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), ["of the container"]);
    std::fs::write(&file, "another").unwrap();
    for refused in [unwrap(&of(&file)).await, unwrap(&of("/nowhere")).await] {
        assert!(matches!(refused, Err(Error::Login { .. })), "{refused:?}");
    }
    assert_eq!(seen.lock().unwrap().len(), 1);
}
