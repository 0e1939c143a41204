//! Encrypted layers of container images, made by others: OpenSSL in Python, and `skopeo`, which has
//! containers/ocicrypt in it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::server::named_by;

/// The name of the annotation with packets of Confidential Containers.
pub const PACKETS: &str = "org.opencontainers.image.enc.keys.provider.attestation-agent";
/// The name of the annotation with the public options.
pub const PUBLIC: &str = "org.opencontainers.image.enc.pubopts";

/// An encrypted layer.
#[derive(Debug, Clone)]
pub struct Encrypted {
    /// Its bytes.
    pub ciphertext: Vec<u8>,
    /// The value of [`PACKETS`].
    pub packets: String,
    /// The value of [`PUBLIC`].
    pub public: String,
}

impl Encrypted {
    /// Encrypts `plaintext` for the key `kek`, called `kid`; `None`, and a note, without Python.
    ///
    /// # Errors
    /// If the program fails.
    pub fn new(plaintext: &[u8], kid: &str, kek: &[u8]) -> Result<Option<Self>> {
        let asked = json!({
            "kid": kid, "kek": hex::encode(kek), "plaintext": hex::encode(plaintext),
        });
        let Some(answer) = python(&asked)? else { return Ok(None) };
        let text = |name: &str| answer[name].as_str().context("the answer is incomplete");
        Ok(Some(Self {
            ciphertext: hex::decode(text("ciphertext")?)?,
            packets: text("packet")?.to_owned(),
            public: text("pubopts")?.to_owned(),
        }))
    }
}

/// Copies an image with `skopeo`; `None`, and a note, without it.
///
/// # Errors
/// If it fails.
pub fn skopeo_copy(arguments: &[&str]) -> Result<Option<()>> {
    let Some(program) = named_by("SEALIFT_SKOPEO") else { return Ok(None) };
    let mut copy = Command::new(program);
    copy.args(["--insecure-policy", "copy", "--quiet"]).args(arguments);
    let output = copy.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(Some(()))
}

/// In the manifest at `path`, replaces what `skopeo --encryption-key jwe:…` has wrapped for the RSA
/// key `pem` by packets for `kek`, called `kid`: Debian's skopeo knows no key providers.
///
/// # Errors
/// If a layer is not encrypted so, or Python is missing.
pub fn rewrap(path: &Path, pem: &str, kid: &str, kek: &[u8]) -> Result<()> {
    const JWE: &str = "org.opencontainers.image.enc.keys.jwe";
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    for layer in manifest["layers"].as_array_mut().context("no layers")? {
        let notes = layer["annotations"].as_object_mut().context("no annotations")?;
        let jwe = notes.remove(JWE).context("not encrypted for an RSA key")?;
        let asked = json!({ "kid": kid, "kek": hex::encode(kek), "jwe": jwe, "pem": pem });
        let answer = python(&asked)?.context("no Python")?;
        notes.insert(PACKETS.to_owned(), answer["packet"].clone());
    }
    Ok(std::fs::write(path, manifest.to_string())?)
}

fn python(asked: &Value) -> Result<Option<Value>> {
    let Some(python) = named_by("SEALIFT_PYTHON") else { return Ok(None) };
    let mut child = Command::new(python)
        .args(["-c", include_str!("ocicrypt.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("it was asked for")?.write_all(asked.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(Some(serde_json::from_slice(&output.stdout)?))
}
