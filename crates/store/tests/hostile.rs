//! Against a server that lies: each lie gives the documented error, and no wrong byte.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use store::{Error, Location, Settings, Store};
use testkit::hostile::{Fault, Hostile};

const OBJECT: &str = "models/m/x.sealed";
const LENGTH: usize = 300_000;

fn content() -> Vec<u8> {
    (0..LENGTH).map(|i| u8::try_from(i * 7 % 253).unwrap()).collect()
}

fn settings(server: &Hostile) -> Settings {
    let endpoint = server.endpoint();
    let mut settings = Settings::from_env(&|name| match name {
        "AWS_ENDPOINT_URL" => Some(endpoint.clone()),
        "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" => Some("any".to_owned()),
        _ => None,
    })
    .unwrap();
    settings.read_timeout = Duration::from_millis(300);
    settings
}

/// The same objects as S3 and as a plain web server.
fn stores(server: &Hostile) -> [Store; 2] {
    let settings = settings(server);
    ["s3://models/m".to_owned(), format!("{}/models/m", server.endpoint())]
        .map(|uri| Store::open(&Location::parse(&uri).unwrap(), &settings).unwrap())
}

async fn fetch(
    store: &Store,
    range: std::ops::Range<u64>,
    etag: Option<&str>,
) -> Result<Vec<u8>, Error> {
    let mut stream = store.stream("x.sealed", range, etag).await?;
    let mut bytes = Vec::new();
    while let Some(frame) = stream.next().await {
        bytes.extend_from_slice(&frame?);
    }
    Ok(bytes)
}

#[tokio::test]
async fn an_honest_server_is_believed() {
    let server = Hostile::start().unwrap();
    server.put(OBJECT, content());
    for store in stores(&server) {
        let meta = store.stat("x.sealed").await.unwrap();
        assert_eq!(meta.bytes, LENGTH as u64);
        let got = fetch(&store, 1_000..250_000, meta.etag.as_deref()).await.unwrap();
        assert!(got == content()[1_000..250_000]);
        assert!(store.read("x.sealed", LENGTH as u64).await.unwrap() == content());
    }
    assert_eq!(server.bytes(".sealed"), 2 * (249_000 + LENGTH as u64));
}

#[tokio::test]
async fn every_lie_about_a_range_is_refused() {
    let lies = [
        Fault::IgnoreRange,
        Fault::ShiftRange { by: 1 },
        Fault::ClaimRange { value: "bytes 0-99/300000".to_owned() },
        Fault::ClaimRange { value: "bytes */300000".to_owned() },
        Fault::ClaimRange { value: "bytes 1000-18446744073709551615/*".to_owned() },
        Fault::ClaimRange { value: String::new() },
        Fault::ClaimLength { off_by: 10 },
        Fault::ClaimLength { off_by: -10 },
        Fault::ClaimEncoding { value: "gzip" },
        Fault::Longer { by: 1 },
        Fault::Endless,
        Fault::Status { status: 416, code: "InvalidRange" },
    ];
    let server = Hostile::start().unwrap();
    server.put(OBJECT, content());
    for store in stores(&server) {
        for lie in &lies {
            let planned = lie.clone();
            server.plan(move |_| Some(planned.clone()));
            let error = fetch(&store, 1_000..2_000, None).await.expect_err(&format!("{lie:?}"));
            assert!(
                matches!(error, Error::Protocol { .. }) && !error.is_transient(),
                "{lie:?}: {error:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_transient_and_gives_only_right_bytes() {
    let server = Hostile::start().unwrap();
    server.put(OBJECT, content());
    for store in stores(&server) {
        for fault in [
            Fault::Cut { after: 0 },
            Fault::Cut { after: 1 },
            Fault::Cut { after: 99_999 },
            Fault::CutHead { after: 0 },
            Fault::CutHead { after: 30 },
            Fault::Reset { after: 0 },
            Fault::Reset { after: 50_000 },
            Fault::NotHttp,
            Fault::HugeHeader { bytes: 1_000_000 },
        ] {
            let planned = fault.clone();
            server.plan(move |_| Some(planned.clone()));
            let error = match store.stream("x.sealed", 0..100_000, None).await {
                Err(error) => error,
                Ok(mut stream) => {
                    let mut got = Vec::new();
                    loop {
                        match stream.next().await {
                            Some(Ok(frame)) => got.extend_from_slice(&frame),
                            Some(Err(error)) => {
                                assert!(got == content()[..got.len()], "{fault:?}");
                                assert!(stream.next().await.is_none(), "an error is the end");
                                break error;
                            }
                            None => panic!("{fault:?} went unnoticed"),
                        }
                    }
                }
            };
            assert!(
                matches!(error, Error::Network { .. }) && error.is_transient(),
                "{fault:?}: {error:?}"
            );
        }
    }
}

#[tokio::test]
async fn silence_and_trickles_end_in_time() {
    let server = Hostile::start().unwrap();
    server.put(OBJECT, content());
    for store in stores(&server) {
        for fault in [
            Fault::Stall { after: 0 },
            Fault::Stall { after: 10 },
            Fault::Slow { bytes_per_second: 500 },
        ] {
            let planned = fault.clone();
            server.plan(move |_| Some(planned.clone()));
            let since = Instant::now();
            let error = fetch(&store, 0..1_000, None).await.expect_err(&format!("{fault:?}"));
            assert!(
                matches!(error, Error::Timeout { .. }) && error.is_transient(),
                "{fault:?}: {error:?}"
            );
            assert!(since.elapsed() < Duration::from_secs(3), "{fault:?}: {:?}", since.elapsed());
        }
    }
}

#[tokio::test]
async fn another_version_is_noticed_even_if_the_server_ignores_the_condition() {
    let server = Hostile::start().unwrap();
    server.put(OBJECT, content());
    for store in stores(&server) {
        let etag = store.stat("x.sealed").await.unwrap().etag;
        server.plan(|_| Some(Fault::ClaimEtag { value: "\"other\"".to_owned() }));
        let error = fetch(&store, 0..10, etag.as_deref()).await.unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error:?}");
        server.plan(|_| None);
        server.put(OBJECT, content());
        let error = fetch(&store, 0..10, etag.as_deref()).await.unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn statuses_become_the_documented_errors() {
    let server = Hostile::start().unwrap();
    server.put(OBJECT, content());
    for store in stores(&server) {
        for (status, code) in
            [(503, "SlowDown"), (500, ""), (502, ""), (504, ""), (429, ""), (408, "")]
        {
            server.plan(move |_| Some(Fault::Status { status, code }));
            let error = fetch(&store, 0..10, None).await.unwrap_err();
            assert!(
                matches!(error, Error::Unavailable { .. }) && error.is_transient(),
                "{status}: {error:?}"
            );
        }
        server.plan(|_| Some(Fault::Status { status: 403, code: "AccessDenied" }));
        assert!(matches!(fetch(&store, 0..10, None).await, Err(Error::Denied { .. })));
        assert!(matches!(store.stat("x.sealed").await, Err(Error::Denied { .. })));
        server.plan(|_| Some(Fault::Status { status: 404, code: "NoSuchKey" }));
        assert!(matches!(fetch(&store, 0..10, None).await, Err(Error::NotFound { .. })));
        server.plan(|_| None);
        assert!(fetch(&store, 0..10, None).await.is_ok());
    }
}

#[tokio::test]
async fn nothing_is_tried_again_here() {
    let server = Hostile::start().unwrap();
    server.put(OBJECT, content());
    for store in stores(&server) {
        server.clear_log();
        server.plan(|_| Some(Fault::Status { status: 503, code: "" }));
        assert!(fetch(&store, 0..10, None).await.is_err());
        assert!(store.read("x.sealed", 1).await.is_err());
        assert_eq!(server.requests(".sealed"), 2);
    }
}

#[tokio::test]
async fn a_missing_bucket_is_told_apart_from_a_missing_object() {
    let server = Hostile::start().unwrap();
    server.plan(|_| Some(Fault::Status { status: 404, code: "NoSuchBucket" }));
    let [s3, _] = stores(&server);
    assert_eq!(
        s3.read("sealift.json", 10).await.unwrap_err().to_string(),
        "s3://models: no such bucket"
    );
}

#[tokio::test]
async fn an_object_above_the_limit_is_refused_before_it_is_read() {
    let server = Hostile::start().unwrap();
    server.put_made("models/m/sealift.json", 1 << 62, |_, length| Bytes::from(vec![0; length]));
    for store in stores(&server) {
        assert!(matches!(store.read("sealift.json", 1 << 20).await, Err(Error::TooLarge { .. })));
    }
    assert!(
        server.bytes("sealift.json") < 16 << 20,
        "{} bytes were taken",
        server.bytes("sealift.json")
    );
}

#[tokio::test]
async fn an_endless_refusal_is_not_read_to_its_end() {
    let server = Hostile::start().unwrap();
    server.plan(|_| Some(Fault::Endless));
    for store in stores(&server) {
        let error = store.read("absent", 10).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    }
    let [s3, _] = stores(&server);
    let error = s3.list(10).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
}

#[tokio::test]
async fn redirects_are_few_and_never_followed_for_s3() {
    let server = Hostile::start().unwrap();
    server.put("models/m/there", content());
    server.put("models/m/x.sealed", content());
    let [s3, http] = stores(&server);

    server.plan(|seen| {
        (seen.object == OBJECT).then(|| Fault::Redirect { to: "/models/m/there".to_owned() })
    });
    assert!(matches!(
        fetch(&s3, 0..10, None).await,
        Err(Error::Protocol { .. } | Error::Usage { .. })
    ));
    assert_eq!(fetch(&http, 0..10, None).await.unwrap(), content()[..10]);

    server.clear_log();
    server.plan(|seen| Some(Fault::Redirect { to: format!("/{}", seen.object) }));
    let error = fetch(&http, 0..10, None).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    assert!(server.requests(".sealed") <= 6);
}

#[tokio::test]
async fn a_listing_with_unclean_names_is_refused() {
    for hostile in ["../../escape.txt", "a/../b", "/etc/passwd", "a//b", "a\\b", "./a", " a"] {
        let server = Hostile::start().unwrap();
        server.put("models/m/good", "good");
        server.put(&format!("models/m/{hostile}"), "evil");
        let [s3, http] = stores(&server);
        let error = s3.list(100).await.expect_err(hostile);
        assert!(matches!(error, Error::Protocol { .. }), "{hostile}: {error:?}");
        assert!(matches!(http.list(100).await, Err(Error::Unsupported { .. })));
    }
}

#[tokio::test]
async fn a_listing_from_outside_of_the_prefix_is_refused() {
    let server = Hostile::start().unwrap();
    let page = |keys: &str| {
        let page =
            format!("<ListBucketResult><IsTruncated>false</IsTruncated>{keys}</ListBucketResult>");
        Fault::Body { bytes: page.into() }
    };
    let key = |key: &str| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00Z</LastModified><Size>1</Size></Contents>"
        )
    };
    let [s3, _] = stores(&server);
    for keys in [key("other/x"), key("m"), key("mm/x"), key("m/x") + &key("m/x")] {
        let fault = page(&keys);
        server.plan(move |_| Some(fault.clone()));
        let error = s3.list(100).await.expect_err(&keys);
        assert!(matches!(error, Error::Protocol { .. }), "{keys}: {error:?}");
    }
    let fault = page(&key("m/"));
    server.plan(move |_| Some(fault.clone()));
    assert_eq!(s3.list(100).await.unwrap(), []);
}

#[tokio::test]
async fn a_long_listing_is_paged_and_bounded() {
    let server = Hostile::start().unwrap();
    for i in 0..2_500 {
        server.put(&format!("models/m/f{i:05}"), "x");
    }
    let [s3, _] = stores(&server);
    assert_eq!(s3.list(2_500).await.unwrap().len(), 2_500);
    assert!(matches!(s3.list(2_499).await, Err(Error::TooLarge { .. })));
    assert_eq!(server.log().len(), 6);
}

#[tokio::test]
async fn pinned_names_are_checked_before_anything_is_sent() {
    let server = Hostile::start().unwrap();
    for store in stores(&server) {
        for name in ["", "../x", "/x", "a//b", "x ", "a\nb"] {
            assert!(matches!(store.read(name, 1).await, Err(Error::Usage { .. })), "{name:?}");
            assert!(
                matches!(store.stream(name, 0..1, None).await, Err(Error::Usage { .. })),
                "{name:?}"
            );
            assert!(matches!(store.stat(name).await, Err(Error::Usage { .. })), "{name:?}");
            assert!(matches!(store.writer(name).await, Err(Error::Usage { .. })), "{name:?}");
        }
    }
    assert_eq!(server.log().len(), 0);
}

/// Every place where an answer can break off: in its head as well as in its body.
#[tokio::test]
async fn an_answer_that_is_cut_at_any_byte_is_noticed() {
    const BODY: u64 = 400;
    let server = Hostile::start().unwrap();
    server.put(OBJECT, content());
    for store in stores(&server) {
        for head in [true, false] {
            for after in 0.. {
                server.plan(move |_| {
                    Some(match head {
                        true => Fault::CutHead { after: usize::try_from(after).unwrap() },
                        false => Fault::Cut { after },
                    })
                });
                match fetch(&store, 1_000..1_000 + BODY, None).await {
                    Err(error) => {
                        assert!(matches!(error, Error::Network { .. }), "{after}: {error:?}")
                    }
                    // Cut after the last byte of the body, which is no cut.
                    Ok(_) => {
                        assert!(!head && after == BODY, "a cut after {after} bytes went unnoticed");
                        break;
                    }
                }
                if head && after > 1_000 {
                    break;
                }
            }
        }
    }
}

/// Why there is a transport of ours below opendal: by itself it takes the wrong bytes for the right
/// ones. When this fails, opendal has learned to check.
#[tokio::test]
async fn opendal_alone_would_believe_these_lies() {
    let server = Hostile::start().unwrap();
    server.put(OBJECT, content());
    let builder = opendal::services::S3::default()
        .bucket("models")
        .region("us-east-1")
        .endpoint(&server.endpoint())
        .skip_signature()
        .disable_config_load();
    let client = opendal_http_transport_reqwest::ReqwestTransport::new(reqwest::Client::new());
    let context =
        opendal::OperationContext::new().with_http_transport(opendal::HttpTransporter::new(client));
    let opendal = opendal::Operator::new(builder).unwrap().with_context(context);
    for lie in [Fault::ShiftRange { by: 1 }, Fault::ClaimEncoding { value: "gzip" }] {
        server.plan(move |_| Some(lie.clone()));
        assert!(opendal.read_with("m/x.sealed").range(1_000..2_000).await.is_ok());
    }
    server.plan(|_| Some(Fault::IgnoreRange));
    let reader = opendal.reader("m/x.sealed").await.unwrap();
    let mut frames = reader.into_bytes_stream(1_000..2_000).await.unwrap();
    let first = frames.next().await.unwrap().unwrap();
    assert!(content().starts_with(&first), "the beginning of the object, not of the range");
}

#[tokio::test]
async fn buckets_are_addressed_as_the_settings_say() {
    let proxy = Hostile::start().unwrap();
    for (scheme, virtual_bucket, host, object) in [
        ("s3", None, "s3.example:9000", "models/m/x.sealed"),
        ("s3", Some("true"), "models.s3.example:9000", "m/x.sealed"),
        ("oss", None, "models.s3.example:9000", "m/x.sealed"),
    ] {
        let settings = Settings::from_env(&|name| match name {
            "AWS_ENDPOINT_URL" | "OSS_ENDPOINT" => Some("http://s3.example:9000".to_owned()),
            "OSS_REGION" => Some("x-1".to_owned()),
            "awsAnonymousCredential" => Some("true".to_owned()),
            "S3_USER_VIRTUAL_BUCKET" => virtual_bucket.map(str::to_owned),
            "HTTP_PROXY" => Some(proxy.endpoint()),
            _ => None,
        })
        .unwrap();
        let location = Location::parse(&format!("{scheme}://models/m")).unwrap();
        let store = Store::open(&location, &settings).unwrap();
        assert!(matches!(store.read("x.sealed", 1).await, Err(Error::NotFound { .. })));
        let seen = proxy.log().pop().unwrap().request;
        assert_eq!((seen.host.as_str(), seen.object.as_str()), (host, object));
    }
}
