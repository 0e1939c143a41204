//! HTTPS to a broker, under a private certificate authority.

#![expect(clippy::unwrap_used, reason = "allowed in test functions, and here beside them")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use keys::{Error, HttpSettings, Kbs, KeySource, SampleAttester};
use seal::name::ResourceUri;
use secret::Secret;
use tempfile::TempDir;
use testkit::kbs::FakeKbs;
use testkit::tls::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const PATH: &str = "default/key/one";

/// A TLS front for `broker`, with a certificate of `authority` for `name`.
async fn front(broker: &FakeKbs, authority: &Authority, name: &str) -> SocketAddr {
    let acceptor = TlsAcceptor::from(authority.server(&[name]).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, behind) = (listener.local_addr().unwrap(), broker.address());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut front = acceptor.accept(stream).await?;
                let mut back = TcpStream::connect(behind).await?;
                tokio::io::copy_bidirectional(&mut front, &mut back).await
            });
        }
    });
    address
}

fn bundle(dir: &TempDir, pem: &str) -> PathBuf {
    let path = dir.path().join("ca.pem");
    std::fs::write(&path, pem).unwrap();
    path
}

fn client(url: &str, ca_bundle: &Path) -> Result<Kbs, Error> {
    let settings =
        HttpSettings { ca_bundle: Some(ca_bundle.to_owned()), ..HttpSettings::default() };
    Kbs::new(url, Box::new(SampleAttester), &settings)
}

async fn ask(address: SocketAddr, ca_bundle: &Path) -> Result<Secret, Error> {
    let resource = ResourceUri::from_path(PATH).unwrap();
    client(&format!("https://{address}"), ca_bundle)?.release(&resource).await
}

#[tokio::test]
async fn a_private_authority_vouches_for_the_broker() {
    let (broker, authority, dir) =
        (FakeKbs::start().await.unwrap(), Authority::new().unwrap(), tempfile::tempdir().unwrap());
    broker.put(PATH, b"a key");
    let address = front(&broker, &authority, "127.0.0.1").await;
    let key = ask(address, &bundle(&dir, &authority.pem())).await.unwrap();
    assert_eq!(key.expose(), b"a key");
}

#[tokio::test]
async fn another_authority_or_name_is_a_tls_error_before_anything_is_sent() {
    let (broker, ours, dir) =
        (FakeKbs::start().await.unwrap(), Authority::new().unwrap(), tempfile::tempdir().unwrap());
    let bundle = bundle(&dir, &ours.pem());
    for (authority, name) in [(&Authority::new().unwrap(), "127.0.0.1"), (&ours, "kbs.example")] {
        let address = front(&broker, authority, name).await;
        let error = ask(address, &bundle).await.unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{name}: {error:?}");
        assert!(!error.is_transient());
    }
    assert_eq!(broker.requests(), [""; 0]);
}

#[tokio::test]
async fn a_server_without_tls_is_a_tls_error() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        stream.read_u8().await?;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await
    });
    let error = ask(address, &bundle(&dir, &Authority::new().unwrap().pem())).await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
}

#[test]
fn a_bundle_without_certificates_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for pem in ["", "no pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let error = client("https://kbs.example", &bundle(&dir, pem)).unwrap_err();
        assert!(matches!(error, Error::Usage(_) | Error::Tls { .. }), "{pem:?}: {error:?}");
    }
    let error = client("https://kbs.example", &dir.path().join("absent")).unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error:?}");
}
