//! `sealift key put|check`: the administrator's side of a key broker, Sealift's or Trustee.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keys::KeySource;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use seal::name::ResourceUri;
use seal::pin::Pins;
use secret::Secret;
use serde::{Deserialize, Serialize};

use super::keygen;
use crate::cli::{Global, Key, KeyCheck, KeyPut};
use crate::code::Code;
use crate::failure::{Failure, chain};
use crate::key_source;
use crate::output::{self, row};

/// How long an administrator's token is good for: one request.
const TOKEN_SECONDS: u64 = 300;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest error body read.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

pub(crate) async fn run(args: &Key, global: &Global) -> Result<(), Failure> {
    match args {
        Key::Put(args) => put(args, global).await,
        Key::Check(args) => check(args, global).await,
    }
}

#[derive(Serialize)]
struct Registered {
    resource_id: String,
    kbs_url: String,
    models: Vec<String>,
}

async fn put(args: &KeyPut, global: &Global) -> Result<(), Failure> {
    let mut kek = keygen::read(&args.key_file)?;
    if let Some(own) = kek.resource().filter(|own| **own != args.resource_id) {
        return Err(Failure::usage(format!("the key is {own}, not {}", args.resource_id))
            .at(args.key_file.display()));
    }
    if !args.model.is_empty() {
        kek = kek.with_pins(keygen::pins(&args.model)?);
    }
    if kek.pins().is_none_or(Pins::is_empty) && !args.allow_unpinned {
        return Err(Failure::new(Code::Stale, "the key says nothing of models and generations")
            .hint(
                "Add --model NAME@GENERATION, so that superseded bundles are refused, or say \
                 --allow-unpinned",
            ));
    }
    let broker = Administered {
        kbs_url: &args.kbs_url,
        kbs_ca: args.kbs_ca.as_deref(),
        admin_key: &args.admin_key,
    };
    broker.put(&args.resource_id, &kek.to_jwk()?, args.overwrite).await?;
    let registered = Registered {
        resource_id: args.resource_id.to_string(),
        kbs_url: args.kbs_url.clone(),
        models: models(kek.pins()),
    };
    output::print(global.output, &registered, |registered| {
        vec![
            row([&"registered", &registered.resource_id]),
            row([&"at", &registered.kbs_url]),
            row([&"opens", &opens(&registered.models)]),
        ]
    })
}

/// A key broker, and who may store in it.
pub(super) struct Administered<'a> {
    pub(super) kbs_url: &'a str,
    pub(super) kbs_ca: Option<&'a Path>,
    pub(super) admin_key: &'a Path,
}

impl Administered<'_> {
    /// Stores a value.
    pub(super) async fn put(
        &self,
        resource: &ResourceUri,
        value: &Secret,
        overwrite: bool,
    ) -> Result<(), Failure> {
        let token = admin_token(self.admin_key)?;
        let url = resource_url(self.kbs_url, &resource.path())?;
        let mut request = client(self.kbs_ca)?
            .post(url)
            .bearer_auth(token)
            .header("content-type", "application/octet-stream")
            .body(value.expose().to_vec());
        if !overwrite {
            request = request.header("if-none-match", "*");
        }
        let answer = request.send().await.map_err(|error| unreachable(self.kbs_url, &error))?;
        if !answer.status().is_success() {
            return Err(refused(answer).await.at(resource));
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Checked {
    resource_id: String,
    source: &'static str,
    /// Which models it opens, from which generation on; empty for a key that pins nothing.
    models: Vec<String>,
}

async fn check(args: &KeyCheck, global: &Global) -> Result<(), Failure> {
    let log = super::audit::log_beside_result(&args.audit_file)?;
    let source = key_source::open(&args.key)?;
    let kek = key_source::release(&source, &args.resource_id, "check", &args.key, &log).await?;
    let checked = Checked {
        resource_id: args.resource_id.to_string(),
        source: source.kind(),
        models: models(kek.pins()),
    };
    output::print(global.output, &checked, |checked| {
        vec![
            row([&"released", &checked.resource_id]),
            row([&"by", &checked.source]),
            row([&"opens", &opens(&checked.models)]),
        ]
    })
}

fn models(pins: Option<&Pins>) -> Vec<String> {
    let generation = |minimum: Option<u64>| minimum.map_or(String::new(), |g| format!("@{g}"));
    let pins = pins.into_iter().flatten();
    pins.map(|(name, pin)| format!("{name}{}", generation(pin.min_generation))).collect()
}

fn opens(models: &[String]) -> String {
    if models.is_empty() { "any model, unpinned".into() } else { models.join(" ") }
}

/// A short-lived token as upstream's administration API asks for it: EdDSA, role `admin`.
fn admin_token(path: &Path) -> Result<String, Failure> {
    let unusable = |why: &str| Failure::usage(why.to_owned()).at(path.display());
    let mut pem = std::fs::read(path)
        .map_err(|error| Failure::new(Code::NotFound, error.to_string()).at(path.display()))?;
    let pem = Secret::take(&mut pem).map_err(|_| unusable("is too long for a key"))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem.expose())
        .map_err(|_| unusable("is no PKCS#8 private key in PEM form"))?;
    let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_pkcs8_der())
        .map_err(|_| unusable("is no Ed25519 private key"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let claims = serde_json::json!({
        "iss": "sealift", "sub": "admin", "aud": ["KBS"], "role": "admin",
        "iat": now, "exp": now + TOKEN_SECONDS,
    });
    let head = URL_SAFE_NO_PAD.encode(br#"{"alg":"EdDSA","typ":"JWT"}"#);
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = key.sign(signed.as_bytes());
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
}

fn resource_url(base: &str, path: &str) -> Result<url::Url, Failure> {
    let usage = || Failure::usage("the key broker's address is no http(s) URL").at(base);
    let url = url::Url::parse(base).map_err(|_| usage())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(usage());
    }
    // The body is a key: without TLS it may go to this machine only.
    let loopback = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if url.scheme() == "http" && !loopback {
        return Err(Failure::usage("a key is not sent over plain http")
            .at(base)
            .hint("Use https:// and --kbs-ca"));
    }
    let base = base.trim_end_matches('/');
    url::Url::parse(&format!("{base}/kbs/v0/resource/{path}")).map_err(|_| usage())
}

fn client(ca: Option<&Path>) -> Result<reqwest::Client, Failure> {
    let mut builder = reqwest::Client::builder()
        .timeout(REQUEST_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if let Some(path) = ca {
        let pem = std::fs::read(path)
            .map_err(|error| Failure::new(Code::NotFound, error.to_string()).at(path.display()))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|_| Failure::usage("is no PEM file of certificates").at(path.display()))?;
        builder = builder.tls_certs_only(certificates);
    }
    builder.build().map_err(|error| Failure::new(Code::Tls, chain(&error)))
}

fn unreachable(url: &str, error: &reqwest::Error) -> Failure {
    Failure::new(Code::KeyUnreachable, chain(error)).at(url)
}

/// The broker's refusal: its own words, bounded.
async fn refused(mut answer: reqwest::Response) -> Failure {
    #[derive(Deserialize)]
    struct Body {
        #[serde(rename = "type")]
        kind: String,
        detail: String,
    }
    let status = answer.status();
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > ANSWER_BYTES_MAX {
            break;
        }
    }
    let what = match serde_json::from_slice::<Body>(&bytes) {
        Ok(body) => {
            let variant = body.kind.rsplit('/').next().unwrap_or_default().to_owned();
            format!("the broker answered {} {variant}: {}", status.as_u16(), body.detail)
        }
        Err(_) => format!("the broker answered {}", status.as_u16()),
    };
    match status.as_u16() {
        401 | 403 => Failure::new(Code::AccessDenied, what)
            .hint("Check --admin-key against the broker's administrators"),
        409 | 412 => Failure::usage(what).hint("Say --overwrite to replace the key"),
        404 => Failure::new(Code::NotFound, what),
        500.. => Failure::new(Code::KeyUnreachable, what),
        _ => Failure::usage(what),
    }
}
