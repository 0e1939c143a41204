//! JWE through `seal` and nothing else: what the interoperability suite sets beside jwcrypto.
//!
//! Answers one JSON request a line with one JSON line, so that a suite needs one process:
//!
//! - `{"do":"encrypt","plaintext":B64,"key":B64,"wrap":"A256KW"|"A256GCMKW","kid":…,"aad":B64?}` → `{"token":…}`
//! - `{"do":"decrypt","token":TEXT,"key":B64,"aad":B64?}` → `{"plaintext":B64}`
//! - `{"do":"encrypt-to","jwk":{…},"plaintext":B64}` → `{"token":…}`
//! - `{"do":"key-pair"}` → `{"jwk":{…}}`; `{"do":"decrypt-response","token":…}` → `{"plaintext":B64}`
//!
//! A refusal is `{"refused":…}`.

use std::io::{BufRead as _, Write as _};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use seal::jwe::{self, Jwe, KeyWrap, TeeKeyKind, TeeKeyPair, TeePublicKey};
use serde_json::{Value, json};

fn main() -> Result<()> {
    let mut pair = None;
    let mut stdout = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let answer = answer(&request, &mut pair)
            .unwrap_or_else(|error| json!({ "refused": format!("{error:#}") }));
        writeln!(stdout, "{answer}")?;
        stdout.flush()?;
    }
    Ok(())
}

fn answer(request: &Value, pair: &mut Option<TeeKeyPair>) -> Result<Value> {
    match text(request, "do")? {
        "encrypt" => {
            let wrap = match text(request, "wrap")? {
                "A256KW" => KeyWrap::A256Kw,
                "A256GCMKW" => KeyWrap::A256GcmKw,
                other => bail!("unknown wrap {other}"),
            };
            let (plaintext, key) = (bytes(request, "plaintext")?, bytes(request, "key")?);
            let aad = optional_bytes(request, "aad")?;
            let kid = text(request, "kid")?;
            Ok(json!({ "token": jwe::encrypt(&plaintext, &key, wrap, kid, aad.as_deref())? }))
        }
        "decrypt" => {
            let token = Jwe::parse(text(request, "token")?.as_bytes())?;
            let aad = optional_bytes(request, "aad")?;
            let plaintext = token.decrypt(&bytes(request, "key")?, aad.as_deref())?;
            Ok(json!({ "plaintext": BASE64.encode(&*plaintext) }))
        }
        "encrypt-to" => {
            let key = TeePublicKey::from_jwk(&request["jwk"])?;
            Ok(json!({ "token": key.encrypt(&bytes(request, "plaintext")?)? }))
        }
        "key-pair" => {
            let kind = match text(request, "kind")? {
                "P-256" => TeeKeyKind::P256,
                "P-521" => TeeKeyKind::P521,
                "RSA" => TeeKeyKind::Rsa,
                other => bail!("unknown kind {other}"),
            };
            Ok(json!({ "jwk": pair.insert(TeeKeyPair::generate(kind)?).public_jwk() }))
        }
        "decrypt-response" => {
            let pair = pair.as_ref().context("no key pair was asked for")?;
            let plaintext = pair.decrypt(request["token"].to_string().as_bytes())?;
            Ok(json!({ "plaintext": BASE64.encode(plaintext.expose()) }))
        }
        other => bail!("unknown request {other}"),
    }
}

fn text<'a>(request: &'a Value, member: &str) -> Result<&'a str> {
    request[member].as_str().with_context(|| format!("no {member}"))
}

fn bytes(request: &Value, member: &str) -> Result<Vec<u8>> {
    Ok(BASE64.decode(text(request, member)?)?)
}

fn optional_bytes(request: &Value, member: &str) -> Result<Option<Vec<u8>>> {
    request.get(member).map(|_| bytes(request, member)).transpose()
}
