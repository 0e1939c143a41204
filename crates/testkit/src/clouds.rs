//! Stores of the large clouds as their emulators play them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::server::{Server, named_by};
use crate::tls::Issued;

/// Azurite, Microsoft's own emulator of Azure Storage. It checks signatures.
#[derive(Debug)]
pub struct Azurite {
    server: Server,
    _root: TempDir,
}

impl Azurite {
    /// The one account that it has, and its published key.
    pub const ACCOUNT: &str = "devstoreaccount1";
    /// See [`Azurite::ACCOUNT`].
    pub const KEY: &str =
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

    /// Starts it without any container; `None`, and a note, if `SEALIFT_AZURITE` names no
    /// `azurite-blob`.
    ///
    /// # Errors
    /// If the server does not come up.
    pub fn start() -> Result<Option<Self>> {
        Self::start_with(None)
    }

    /// The same over TLS, with this certificate.
    ///
    /// # Errors
    /// If the server does not come up.
    pub fn start_tls(issued: &Issued) -> Result<Option<Self>> {
        Self::start_with(Some(issued))
    }

    fn start_with(issued: Option<&Issued>) -> Result<Option<Self>> {
        let Some(program) = named_by("SEALIFT_AZURITE") else { return Ok(None) };
        let root = TempDir::new()?;
        let (certificate, key) = (root.path().join("cert.pem"), root.path().join("key.pem"));
        if let Some(issued) = issued {
            issued.write(&certificate, &key)?;
        }
        let server = Server::start(|port| {
            let mut command = Command::new(&program);
            command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
            command.args(["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--location"]);
            command.arg(root.path());
            if issued.is_some() {
                command.arg("--cert").arg(&certificate).arg("--key").arg(&key);
            }
            command
        })?;
        Ok(Some(Self { server, _root: root }))
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Makes a container, with a request signed for the account (Shared Key, version 2015-02-21 and
    /// later).
    ///
    /// # Errors
    /// If the server does not make it.
    pub fn create_container(&self, name: &str) -> Result<()> {
        let account = Self::ACCOUNT;
        let mut date = Command::new("date");
        date.env("LC_ALL", "C").args(["-u", "+%a, %d %b %Y %H:%M:%S GMT"]);
        let date = String::from_utf8(date.output()?.stdout)?;
        let date = date.trim();
        let to_sign = format!(
            "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:2021-08-06\n\
             /{account}/{account}/{name}\nrestype:container"
        );
        let key = STANDARD.decode(Self::KEY).context("the account's key")?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let signature = STANDARD.encode(hmac::sign(&key, to_sign.as_bytes()));
        let mut connection = TcpStream::connect(("127.0.0.1", self.server.port()))?;
        write!(
            connection,
            "PUT /{account}/{name}?restype=container HTTP/1.1\r\nHost: 127.0.0.1\r\n\
             x-ms-date: {date}\r\nx-ms-version: 2021-08-06\r\nContent-Length: 0\r\n\
             Authorization: SharedKey {account}:{signature}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 201"), "no container: {answer}");
        Ok(())
    }

    /// A shared access signature of the account for reading and listing blobs, as the query of a URI
    /// (account SAS, version 2019-02-02).
    #[must_use]
    pub fn read_only_sas() -> String {
        let (version, permissions, until) = ("2019-02-02", "rl", "2099-01-01T00:00:00Z");
        let account = Self::ACCOUNT;
        let to_sign =
            format!("{account}\n{permissions}\nb\nsco\n\n{until}\n\nhttps,http\n{version}\n");
        let key = STANDARD.decode(Self::KEY).expect("the account's key is base64");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let signature = STANDARD.encode(hmac::sign(&key, to_sign.as_bytes()));
        let escaped = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        let until = until.replace(':', "%3A");
        format!(
            "sv={version}&ss=b&srt=sco&sp={permissions}&se={until}&spr=https%2Chttp&sig={escaped}"
        )
    }

    /// The account's base URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{}", self.server.port(), Self::ACCOUNT)
    }

    /// The variables with which Sealift reaches it.
    #[must_use]
    pub fn env(&self) -> [(&'static str, String); 2] {
        [
            ("AZURE_STORAGE_SERVICE_ENDPOINT", self.endpoint()),
            ("AZURE_STORAGE_ACCESS_KEY", Self::KEY.to_owned()),
        ]
    }
}

/// `gcp-storage-emulator`, which plays Google Cloud Storage. It checks no credentials.
#[derive(Debug)]
pub struct GcsEmulator {
    server: Server,
    _root: TempDir,
}

impl GcsEmulator {
    /// The bucket that exists.
    pub const BUCKET: &str = "models";

    /// Starts it; `None`, and a note, if `SEALIFT_GCS_EMULATOR` names no program.
    ///
    /// # Errors
    /// If the server does not come up.
    pub fn start() -> Result<Option<Self>> {
        let Some(program) = named_by("SEALIFT_GCS_EMULATOR") else { return Ok(None) };
        let root = TempDir::new()?;
        let server = Server::start(|port| {
            let mut command = Command::new(&program);
            command.args(["start", "--host", "127.0.0.1", "--port", &port.to_string()]);
            command.args(["--in-memory", "--default-bucket", Self::BUCKET]);
            command.current_dir(root.path());
            command
        })?;
        Ok(Some(Self { server, _root: root }))
    }

    /// The variables with which Sealift reaches it.
    #[must_use]
    pub fn env(&self) -> [(&'static str, String); 2] {
        [
            ("STORAGE_EMULATOR_HOST", format!("127.0.0.1:{}", self.server.port())),
            ("GOOGLE_OAUTH_ACCESS_TOKEN", "sealift-test".to_owned()),
        ]
    }
}
