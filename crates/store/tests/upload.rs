//! Uploads to a server that falters: a part is sent again, an object is whole or absent.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use store::{Error, Location, Settings, Store};
use testkit::hostile::{Fault, Hostile};

const MIB: usize = 1024 * 1024;
const OBJECT: &str = "models/m/x";

fn open(server: &Hostile) -> Store {
    let mut settings = Settings::default();
    settings.endpoint_url = Some(server.endpoint());
    settings.anonymous = true;
    Store::open(&Location::parse("s3://models/m").unwrap(), &settings).unwrap()
}

async fn put(store: &Store, bytes: usize) -> Result<(), Error> {
    let mut writer = store.writer("x").await?;
    for start in (0..bytes).step_by(MIB) {
        let fill = u8::try_from(start / MIB).unwrap();
        writer.write(Bytes::from(vec![fill; MIB.min(bytes - start)])).await?;
    }
    writer.finish().await
}

async fn check(store: &Store, bytes: usize) {
    let got = store.read("x", 64 * MIB as u64).await.unwrap();
    assert_eq!(got.len(), bytes);
    assert!(got.iter().enumerate().all(|(i, byte)| usize::from(*byte) == i / MIB));
}

#[tokio::test]
async fn a_part_is_sent_again_when_the_server_falters() {
    for fault in [
        Fault::Status { status: 503, code: "SlowDown" },
        Fault::Status { status: 500, code: "InternalError" },
        Fault::CutHead { after: 0 },
    ] {
        let server = Hostile::start().unwrap();
        let store = open(&server);
        for bytes in [5, 20 * MIB] {
            server.clear_log();
            let planned = fault.clone();
            // Each object's first two PUTs, whichever parts they are.
            server
                .plan(move |seen| (seen.method == "PUT" && seen.nth < 2).then(|| planned.clone()));
            put(&store, bytes).await.unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
            server.plan(|_| None);
            check(&store, bytes).await;
        }
        assert_eq!(server.unfinished_uploads(), 0);
    }
}

#[tokio::test]
async fn a_part_that_is_refused_is_not_sent_again() {
    let server = Hostile::start().unwrap();
    let store = open(&server);
    server.plan(|seen| {
        (seen.method == "PUT").then_some(Fault::Status { status: 403, code: "AccessDenied" })
    });
    assert!(matches!(put(&store, 5).await, Err(Error::Denied { .. })));
    assert_eq!(server.requests(OBJECT), 1);
}

#[tokio::test]
async fn a_server_that_stays_away_is_given_up() {
    let server = Hostile::start().unwrap();
    let store = open(&server);
    server.plan(|seen| {
        (seen.method == "PUT").then_some(Fault::Status { status: 503, code: "SlowDown" })
    });
    let error = put(&store, 5).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert_eq!(server.requests(OBJECT), 4);
}

#[tokio::test]
async fn an_unfinished_upload_leaves_nothing_behind() {
    let server = Hostile::start().unwrap();
    let store = open(&server);
    for drops in [false, true] {
        let mut writer = store.writer("x").await.unwrap();
        for _ in 0..20 {
            writer.write(Bytes::from(vec![0; MIB])).await.unwrap();
        }
        assert_eq!(server.unfinished_uploads(), 1);
        match drops {
            false => writer.abort().await.unwrap(),
            true => drop(writer),
        }
        let settled = async {
            while server.unfinished_uploads() > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), settled)
            .await
            .expect("the upload stays");
        assert!(server.names().is_empty());
    }
}

#[tokio::test]
async fn a_failed_completion_leaves_no_object() {
    let server = Hostile::start().unwrap();
    let store = open(&server);
    let error = b"<Error><Code>InternalError</Code></Error>";
    server.plan(|seen| {
        let completes = seen.method == "POST" && seen.query.contains("uploadId");
        completes.then_some(Fault::Body { bytes: Bytes::from_static(error) })
    });
    let result = put(&store, 20 * MIB).await;
    assert!(result.is_err(), "S3 may say 200 and mean failure");
    assert!(server.names().is_empty());
}
