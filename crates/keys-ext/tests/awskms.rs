//! [`AwsKms`] against moto, the signature against AWS's own example, and servers that misbehave.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::{BTreeMap, HashMap};

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{answering, bundle, fresh, http};
use keys::{Error, HttpSettings};
use keys_ext::{AwsKms, AwsKmsSettings, RemoteKey};
use seal::name::{AwsKmsKey, KeyUri};
use serde_json::json;
use testkit::moto::Moto;

const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

fn kms(endpoint: &str, variables: &[(&str, &str)]) -> AwsKms {
    let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    AwsKms::new(AwsKmsSettings {
        endpoint: Some(endpoint.to_owned()),
        variables: variables.collect(),
        http: HttpSettings::default(),
    })
}

fn with_keys(endpoint: &str) -> AwsKms {
    kms(endpoint, &[("AWS_ACCESS_KEY_ID", ID), ("AWS_SECRET_ACCESS_KEY", SECRET)])
}

fn key(id: &str) -> AwsKmsKey {
    let uri = match id.starts_with("arn:") {
        true => format!("awskms:///{id}"),
        false => format!("awskms:///{}/{id}", Moto::REGION),
    };
    match KeyUri::parse(&uri).unwrap() {
        KeyUri::AwsKms(key) => key,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn kms_unwraps_what_it_wrapped_for_this_bundle_and_this_key_alone() {
    let Some(moto) = Moto::start().unwrap() else { return };
    let (one, other) = (moto.key().unwrap(), moto.key().unwrap());
    moto.must("CreateAlias", json!({"AliasName": "alias/team/llama", "TargetKeyId": one})).unwrap();
    let described = moto.must("DescribeKey", json!({"KeyId": one})).unwrap();
    let arn = described["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    let (kms, kek) = (with_keys(&moto.endpoint()), fresh());
    let alias = format!("{}:alias/team/llama", arn.rsplit_once(':').unwrap().0);
    for name in [one.as_str(), &alias, &arn] {
        let wrapped = kms.wrap(&key(name), &kek, &bundle("1")).await.unwrap();
        let unwrapped = kms.unwrap(&key(name), &wrapped, &bundle("1")).await.unwrap();
        assert_eq!(unwrapped.expose(), kek.expose());
        let moved = kms.unwrap(&key(name), &wrapped, &bundle("2")).await;
        assert!(matches!(moved, Err(Error::Unwrap { .. })), "{moved:?}");
        let wrong = kms.unwrap(&key(&other), &wrapped, &bundle("1")).await;
        // AWS says IncorrectKeyException, of which the units above tell; moto AccessDenied.
        let refused = matches!(wrong, Err(Error::Unwrap { .. } | Error::Denied { .. }));
        assert!(refused, "{wrong:?}");
        let mut changed = wrapped.clone();
        *changed.last_mut().unwrap() ^= 1;
        let changed = kms.unwrap(&key(name), &changed, &bundle("1")).await;
        assert!(matches!(changed, Err(Error::Unwrap { .. })), "{changed:?}");
    }
    // Of whichever account the credentials are.
    let anybodys = key("alias/team/llama");
    let refused = kms.wrap(&anybodys, &kek, &bundle("1")).await;
    assert!(matches!(refused, Err(Error::Usage(_))), "{refused:?}");
    let refused = kms.unwrap(&anybodys, &[7; 32], &bundle("1")).await;
    assert!(matches!(refused, Err(Error::Usage(_))), "{refused:?}");
    let missing = kms.wrap(&key("00000000-0000-4000-8000-000000000000"), &kek, &bundle("1")).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// SigV4 as its documentation describes it, for a POST or GET without a query.
fn signature(
    method: &str,
    query: &str,
    headers: &BTreeMap<String, String>,
    payload_hash: &str,
    scope: [&str; 3],
    time: &str,
) -> String {
    let canonical: String =
        headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let names = headers.keys().cloned().collect::<Vec<_>>().join(";");
    let request = format!("{method}\n/\n{query}\n{canonical}\n{names}\n{payload_hash}");
    let [date, region, service] = scope;
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{time}\n{date}/{region}/{service}/aws4_request\n{}",
        sha256_hex(request.as_bytes())
    );
    let mac = |key: &[u8], text: &str| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
    };
    let mut signing = format!("AWS4{SECRET}").into_bytes();
    for part in [date, region, service, "aws4_request", &to_sign] {
        signing = mac(&signing, part);
    }
    hex::encode(signing)
}

#[test]
fn the_tests_own_signature_is_that_of_awss_example() {
    // "Task 1" to "Task 3" of the Signature Version 4 documentation: IAM's ListUsers.
    let headers = BTreeMap::from([
        ("content-type".into(), "application/x-www-form-urlencoded; charset=utf-8".into()),
        ("host".into(), "iam.amazonaws.com".into()),
        ("x-amz-date".into(), "20150830T123600Z".into()),
    ]);
    let scope = ["20150830", "us-east-1", "iam"];
    let query = "Action=ListUsers&Version=2010-05-08";
    let signed = signature("GET", query, &headers, &sha256_hex(b""), scope, "20150830T123600Z");
    assert_eq!(signed, "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7");
}

/// Checks a request as KMS would.
fn check_signature(request: &str, session: Option<&str>) {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let all: HashMap<String, &str> = head
        .lines()
        .skip(1)
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    let authorization = all["authorization"].strip_prefix("AWS4-HMAC-SHA256 ").unwrap();
    let parts: HashMap<&str, &str> =
        authorization.split(", ").map(|part| part.split_once('=').unwrap()).collect();
    let credential: Vec<&str> = parts["Credential"].split('/').collect();
    let [id, date, region, service, "aws4_request"] = credential[..] else {
        panic!("{credential:?}")
    };
    assert_eq!((id, region, service), (ID, Moto::REGION, "kms"));
    let headers: BTreeMap<String, String> =
        parts["SignedHeaders"].split(';').map(|name| (name.into(), all[name].to_owned())).collect();
    for name in ["host", "x-amz-date", "x-amz-target", "x-amz-content-sha256", "content-type"] {
        assert!(headers.contains_key(name), "{name} is not signed");
    }
    assert_eq!(headers.get("x-amz-security-token").map(String::as_str), session);
    let payload = sha256_hex(body.as_bytes());
    assert_eq!(headers["x-amz-content-sha256"], payload);
    let expected =
        signature("POST", "", &headers, &payload, [date, region, service], all["x-amz-date"]);
    assert_eq!(parts["Signature"], expected);
}

#[tokio::test]
async fn requests_are_signed_body_and_target_included() {
    let good = format!(r#"{{"Plaintext":"{}"}}"#, STANDARD.encode([7; 32]));
    let (endpoint, requests) = answering(http("200 OK", good.as_bytes()));
    let unwrapped = with_keys(&endpoint).unwrap(&key("k"), b"wrapped", &bundle("1")).await.unwrap();
    assert_eq!(unwrapped.expose(), [7; 32]);
    let request = requests.recv().unwrap();
    check_signature(&request, None);
    assert!(request.contains("TrentService.Decrypt"));
    let body: serde_json::Value =
        serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["EncryptionContext"], json!({"sealift:bundle": "1".repeat(32)}));
    assert_eq!(body["KeyId"], "k");
}

#[tokio::test]
async fn credentials_come_from_a_container_or_an_instance_too() {
    let good = format!(r#"{{"Plaintext":"{}"}}"#, STANDARD.encode([7; 32]));
    let ours = json!({
        "AccessKeyId": ID, "SecretAccessKey": SECRET, "Token": "session",
        "Expiration": "2099-01-01T00:00:00Z", "Code": "Success",
    });
    let (service, _) = answering(http("200 OK", ours.to_string().as_bytes()));
    let (endpoint, requests) = answering(http("200 OK", good.as_bytes()));
    let container =
        kms(&endpoint, &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{service}/c"))]);
    container.unwrap(&key("k"), b"wrapped", &bundle("1")).await.unwrap();
    check_signature(&requests.recv().unwrap(), Some("session"));

    let nobody = kms(&endpoint, &[("AWS_EC2_METADATA_DISABLED", "true")]);
    let nobody = nobody.unwrap(&key("k"), b"wrapped", &bundle("1")).await;
    assert!(matches!(nobody, Err(Error::Login { .. })), "{nobody:?}");
    assert!(nobody.unwrap_err().to_string().contains("no credentials"));
    assert!(requests.try_recv().is_err(), "nothing is sent unsigned");
}

#[tokio::test]
async fn whatever_kms_answers_there_is_an_error_and_no_key() {
    let throttled = br#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#;
    let denied = br#"{"__type":"AccessDeniedException","Message":"no"}"#;
    let of = async |answer: Vec<u8>| {
        let kms = with_keys(&answering(answer).0);
        kms.unwrap(&key("k"), b"wrapped", &bundle("1")).await.map(drop).unwrap_err()
    };
    assert!(of(http("400 Bad Request", throttled)).await.is_transient());
    assert!(matches!(of(http("400 Bad Request", denied)).await, Error::Denied { .. }));
    assert!(of(http("500 Internal Server Error", b"")).await.is_transient());
    assert!(of(Vec::new()).await.is_transient());
    for answer in [
        http("200 OK", b""),
        http("200 OK", b"{}"),
        http("200 OK", b"garbage"),
        http("200 OK", &vec![b' '; 1 << 20]),
        http("200 OK", &[b'['; 10_000]),
        http("302 Found", b""),
        http("400 Bad Request", &vec![b'x'; 1 << 20]),
    ] {
        let error = of(answer).await;
        assert!(!error.is_transient(), "{error}");
        assert!(!format!("{error:?}").contains(SECRET));
    }
    assert!(!format!("{:?}", with_keys("http://127.0.0.1:1")).contains(SECRET));
    let remote = with_keys("http://kms.example").wrap(&key("k"), &fresh(), &bundle("1")).await;
    assert!(matches!(remote, Err(Error::Usage(_))), "{remote:?}");
}
