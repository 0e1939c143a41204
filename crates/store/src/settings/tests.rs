use super::*;

fn from(variables: &[(&str, &str)]) -> Result<Settings, Error> {
    let env: HashMap<String, String> =
        variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Settings::from_env(&|name| env.get(name).cloned())
}

#[test]
fn an_empty_environment_gives_the_defaults() {
    let settings = from(&[]).unwrap();
    assert_eq!(settings.endpoint_url, None);
    assert!(settings.verify_tls && !settings.anonymous);
    assert_eq!(settings.connect_timeout, Duration::from_secs(15));
    assert_eq!(settings.read_timeout, Duration::from_secs(30));
}

#[test]
fn reads_what_kserve_injects() {
    let settings = from(&[
        ("AWS_ACCESS_KEY_ID", "AKIA"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ("S3_ENDPOINT", "minio.default:9000"),
        ("S3_USE_HTTPS", "0"),
        ("AWS_ENDPOINT_URL", ""),
        ("AWS_DEFAULT_REGION", "eu-west-1"),
        ("AWS_REGION", "us-west-2"),
        ("S3_VERIFY_SSL", "False"),
        ("awsAnonymousCredential", "true"),
        ("S3_USER_VIRTUAL_BUCKET", "1"),
        ("CA_BUNDLE_CONFIGMAP_NAME", "ca"),
        ("CA_BUNDLE_VOLUME_MOUNT_POINT", "/etc/ssl/custom-certs"),
        ("S3_CONNECT_TIMEOUT", "2.5"),
        ("S3_READ_TIMEOUT", "7"),
    ])
    .unwrap();
    assert_eq!(settings.endpoint_url.as_deref(), Some("http://minio.default:9000"));
    assert_eq!(settings.region.as_deref(), Some("eu-west-1"));
    assert!(!settings.verify_tls && settings.anonymous);
    assert_eq!(settings.addressing, Addressing::Virtual);
    assert_eq!(settings.ca_bundle, Some("/etc/ssl/custom-certs/cabundle.crt".into()));
    assert_eq!(settings.connect_timeout, Duration::from_millis(2_500));
    assert_eq!(settings.read_timeout, Duration::from_secs(7));
}

#[test]
fn the_storage_spec_wins_and_its_override_wins_key_by_key() {
    let settings = from(&[
        ("AWS_ACCESS_KEY_ID", "env"),
        ("AWS_SECRET_ACCESS_KEY", "env"),
        ("AWS_ENDPOINT_URL", "http://env:1"),
        (
            "STORAGE_CONFIG",
            r#"{"type":"s3","bucket":"b","endpoint_url":"http://spec:2","access_key_id":"spec","secret_access_key":"spec","verify_ssl":"0","anonymous":false}"#,
        ),
        ("STORAGE_OVERRIDE_CONFIG", r#"{"region":"eu-north-1","endpoint_url":"http://override:3"}"#),
    ])
    .unwrap();
    assert_eq!(settings.endpoint_url.as_deref(), Some("http://override:3"));
    assert_eq!(settings.access_key_id.as_deref(), Some("spec"));
    assert_eq!(settings.region.as_deref(), Some("eu-north-1"));
    assert!(!settings.verify_tls);
}

#[test]
fn a_storage_spec_of_another_type_changes_nothing() {
    let settings =
        from(&[("STORAGE_CONFIG", r#"{"type":"hdfs","endpoint_url":"http://x"}"#)]).unwrap();
    assert_eq!(settings.endpoint_url, None);
}

#[test]
fn refuses_bad_values_by_name_and_without_repeating_them() {
    for (name, value) in [
        ("S3_VERIFY_SSL", "hunter2"),
        ("S3_USE_HTTPS", "hunter2"),
        ("awsAnonymousCredential", "hunter2"),
        ("S3_USER_VIRTUAL_BUCKET", "hunter2"),
        ("S3_USE_VIRTUAL_BUCKET", "hunter2"),
        ("S3_CONNECT_TIMEOUT", "hunter2"),
        ("KSERVE_OCI_INSECURE_REGISTRY", "hunter2"),
        ("S3_READ_TIMEOUT", "-1"),
        ("S3_READ_TIMEOUT", "1e99"),
        ("S3_READ_TIMEOUT", "0"),
        ("AWS_ENDPOINT_URL", "hunter2"),
        ("AWS_ENDPOINT_URL", "ftp://host"),
        ("AWS_ENDPOINT_URL", "https://user:hunter2@host"),
        ("AWS_ENDPOINT_URL", "https://host/?hunter2"),
        ("S3_ENDPOINT", "user:hunter2@host"),
        ("AWS_DEFAULT_REGION", "hunter2 hunter2"),
        ("AWS_ACCESS_KEY_ID", "hunter2"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ("CA_BUNDLE_CONFIGMAP_NAME", "hunter2"),
        ("HTTPS_PROXY", "http://user:hunter2@:bad:"),
        ("STORAGE_CONFIG", "{\"hunter2\""),
        ("STORAGE_CONFIG", "[]"),
        ("STORAGE_CONFIG", r#"{"type":"s3","secret_access_key":{"hunter2":1}}"#),
    ] {
        let error = from(&[(name, value)]).expect_err(name);
        let text = error.to_string();
        assert!(matches!(error, Error::Usage { .. }) && text.contains(name), "{name}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn debug_shows_no_credential() {
    let settings = from(&[
        ("AWS_ACCESS_KEY_ID", "hunter2"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ("AWS_SESSION_TOKEN", "hunter2"),
        ("HTTPS_PROXY", "http://user:hunter2@proxy:3128"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "hunter2"),
    ])
    .unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
}
