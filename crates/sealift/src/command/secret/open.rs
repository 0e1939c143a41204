//! `sealift secret unseal|inspect`: what is sealed, and what is said of it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use keys::sealed::{PREFIX, SealedSecret, TEXT_BYTES_MAX};
use serde::Serialize;
use volumes::audience::{Audience, File};
use zeroize::Zeroizing;

use super::read;
use crate::cli::{Global, SecretInspect, SecretUnseal};
use crate::code::Code;
use crate::failure::Failure;
use crate::kubernetes::{self, Manifest};
use crate::opener::Opener;
use crate::output::{self, print_text, row};

pub(super) async fn unseal(args: &SecretUnseal, global: &Global) -> Result<(), Failure> {
    let log = crate::command::audit::log_beside_result(&args.audit)?;
    let opener = Opener::new(&args.key, &args.signers, &args.pod, log)?;
    if let Some(path) = &args.kubernetes {
        return kubernetes(path, &opener, global).await.map_err(|f| f.at(path.display()));
    }
    let text = text(args.sealed.as_deref().unwrap_or("-"))?;
    let file = args.audience_key.as_ref().map_or(File::Unknown, |path| File::At(path.as_str()));
    let opened = opener.unseal(&text, file).await?;
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(&opened.plaintext).and_then(|()| stdout.flush());
    written.map_err(|error| Failure::new(Code::Publish, format!("stdout: {error}")))
}

async fn kubernetes(path: &Path, opener: &Opener, global: &Global) -> Result<(), Failure> {
    let manifest = Manifest::parse(read(path, kubernetes::BYTES_MAX)?)?;
    let mut values = BTreeMap::new();
    for entry in &manifest.entries {
        let key = &*entry.key;
        let sealed = entry.value.starts_with(PREFIX.as_bytes());
        if sealed {
            let opened = opener.unseal(&entry.value, File::At(key)).await;
            values.insert(key, opened.map_err(|failure| failure.at(key))?.plaintext);
        }
        if !global.quiet {
            eprintln!("{key}: {}", if sealed { "opened" } else { "is not sealed" });
        }
    }
    print_text(&manifest.with(&values)?)
}

#[derive(Serialize)]
struct Inspected {
    /// `false`: without the signer's key, nothing here is proven.
    verified: bool,
    algorithm: &'static str,
    kid: String,
    kind: &'static str,
    resource: String,
    cipher: Option<&'static str>,
    audience: Audience,
}

pub(super) fn inspect(args: &SecretInspect, global: &Global) -> Result<(), Failure> {
    let text = text(&args.sealed)?;
    let sealed = SealedSecret::parse(&text)?;
    let claims = sealed.claimed()?;
    let inspected = Inspected {
        verified: false,
        algorithm: "ES256",
        kid: sealed.signer().to_string(),
        kind: claims.kind,
        resource: claims.resource.to_string(),
        cipher: claims.cipher,
        audience: claims.audience,
    };
    if !global.quiet {
        eprintln!("not verified: whoever could write it could have written this");
    }
    output::print(global.output, &inspected, |inspected| {
        let Audience { namespace, service_account, key, expires } = &inspected.audience;
        let or_any = |name: &Option<String>| name.clone().unwrap_or_else(|| "any".into());
        vec![
            row([&"signed by", &inspected.kid]),
            row([&"kind", &inspected.kind]),
            row([&"resource", &inspected.resource]),
            row([&"cipher", &inspected.cipher.unwrap_or("-")]),
            row([&"namespace", &or_any(namespace)]),
            row([&"service account", &or_any(service_account)]),
            row([&"file", &or_any(key)]),
            row([&"expires", &expires.map_or("never".into(), |at| at.to_string())]),
        ]
    })
}

/// A sealed text, by itself or in a file, without the line break that an editor adds: a person's
/// copy is not what a guest is given.
fn text(argument: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut text = match argument.starts_with(PREFIX) && !Path::new(argument).exists() {
        true => Zeroizing::new(argument.as_bytes().to_vec()),
        false => read(Path::new(argument), TEXT_BYTES_MAX)?,
    };
    let length = text.trim_ascii_end().len();
    text.truncate(length);
    Ok(text)
}
