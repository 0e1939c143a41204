//! `sealift key put|bump|check`: the administrator's side of a key broker, Sealift's or Trustee.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::{Method, RequestBuilder};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use seal::bundle::WRAPPED_KEY_BYTES_MAX;
use seal::key::Kek;
use seal::name::{Digest, PluginUri, ResourceUri};
use seal::pin::Pins;
use secret::Secret;
use serde::{Deserialize, Serialize};

use super::keygen;
use crate::checks::Checks;
use crate::cli::{BrokerArgs, Global, Key, KeyBump, KeyCheck, KeyPut};
use crate::code::Code;
use crate::failure::{Failure, chain};
use crate::output::{self, row};
use crate::recipients::Keys;

/// How long an administrator's token is good for: one request.
const TOKEN_SECONDS: u64 = 300;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest error body read.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

pub(crate) async fn run(args: &Key, global: &Global) -> Result<(), Failure> {
    match args {
        Key::Put(args) => put(args, global).await,
        Key::Bump(args) => bump(args, global).await,
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
    if let Some(own) = kek.resource().filter(|own| **own != (&args.resource_id).into()) {
        return Err(Failure::usage(format!("the key is {own}, not {}", args.resource_id))
            .at(args.key_file.display()));
    }
    if !args.model.is_empty() {
        kek = kek.with_pins(keygen::pins(&args.model)?);
    }
    if !args.purpose.is_empty() {
        kek = kek.with_purposes(keygen::distinct(&args.purpose)?);
    }
    if kek.pins().is_none_or(Pins::is_empty) && !args.allow_unpinned {
        return Err(Failure::new(Code::Stale, "the key says nothing of models and generations")
            .hint(
                "Add --model NAME@GENERATION, so that superseded bundles are refused, or say \
                 --allow-unpinned",
            ));
    }
    store(&args.broker, &args.resource_id, &kek.to_jwk()?, args.overwrite).await?;
    let registered = Registered {
        resource_id: args.resource_id.to_string(),
        kbs_url: args.broker.kbs_url.clone(),
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

/// Stores a value in a key broker.
pub(super) async fn store(
    broker: &BrokerArgs,
    resource: &ResourceUri,
    value: &Secret,
    overwrite: bool,
) -> Result<(), Failure> {
    let mut request = request(Method::POST, broker, resource)?
        .header("content-type", "application/octet-stream")
        .body(value.expose().to_vec());
    if !overwrite {
        request = request.header("if-none-match", "*");
    }
    ask(request, broker, resource).await
}

#[derive(Serialize)]
struct Bumped {
    resource_id: String,
    model: String,
    min_generation: u64,
}

async fn bump(args: &KeyBump, global: &Global) -> Result<(), Failure> {
    let body = serde_json::json!({
        "model": args.model.to_string(),
        "min_generation": args.min_generation,
        "digests": args.digest.iter().map(Digest::to_string).collect::<Vec<_>>(),
    });
    let request = request(Method::PATCH, &args.broker, &args.resource_id)?
        .header("content-type", "application/json")
        .body(body.to_string());
    ask(request, &args.broker, &args.resource_id).await?;
    let bumped = Bumped {
        resource_id: args.resource_id.to_string(),
        model: args.model.to_string(),
        min_generation: args.min_generation,
    };
    output::print(global.output, &bumped, |bumped| {
        vec![
            row([&"key", &bumped.resource_id]),
            row([&"opens", &format!("{}@{}", bumped.model, bumped.min_generation)]),
        ]
    })
}

async fn check(args: &KeyCheck, global: &Global) -> Result<(), Failure> {
    let log = super::audit::log_beside_result(&args.audit)?;
    let keys = Keys::new(&args.key, &args.remote, "check", &log);
    let name = &args.resource_id;
    // By the public key behind a broker administrators wrap, and who opens bundles is none.
    let both_ways = name.unwraps() && name.vouches();
    let kek = if both_ways { keys.tried(name).await } else { keys.released(name).await };
    let mut checks = Checks::default();
    checks.release(keys.holder(name), kek, |kek| {
        if both_ways {
            return "wraps, and unwraps what it wrapped".to_owned();
        }
        let opens = format!("opens {}", opens(&models(kek.pins())));
        match kek.purposes() {
            Some(purposes) => {
                let names: Vec<_> = purposes.iter().map(|purpose| purpose.name()).collect();
                format!("{opens}, for {} only", names.join(" "))
            }
            None => opens,
        }
    });
    if let Some(resource) = &args.pin_resource {
        checks.take("pins", keys.pins(resource).await, |pins| {
            let models = models(Some(pins));
            if models.is_empty() { "no model".to_owned() } else { models.join(" ") }
        });
    }
    checks.finish(global.output)
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

/// An administrator's request about a key.
fn request(
    method: Method,
    broker: &BrokerArgs,
    key: &ResourceUri,
) -> Result<RequestBuilder, Failure> {
    administer(method, broker, &format!("resource/{}", key.path()))
}

fn administer(method: Method, broker: &BrokerArgs, path: &str) -> Result<RequestBuilder, Failure> {
    let url = api_url(&broker.kbs_url, path)?;
    let client = client(broker.kbs_ca.as_deref())?;
    Ok(client.request(method, url).bearer_auth(admin_token(&broker.admin_key)?))
}

/// A key as the plugin `pkcs11` of Trustee's broker wraps it, by the public key in its HSM. That is
/// for administrators.
pub(crate) async fn wrap(
    broker: &BrokerArgs,
    name: &PluginUri,
    kek: &Kek,
) -> Result<Vec<u8>, Failure> {
    let request = administer(Method::POST, broker, &name.api_path())?;
    let answer = request.body(kek.expose().to_vec()).send().await;
    let mut answer = answer
        .map_err(|error| Failure::new(Code::KeyUnreachable, chain(&error)).at(&broker.kbs_url))?;
    if !answer.status().is_success() {
        return Err(refused(answer).await.at(name));
    }
    let mut wrapped = Vec::new();
    let broken = |error| Failure::new(Code::KeyUnreachable, chain(&error)).at(&broker.kbs_url);
    while let Some(chunk) = answer.chunk().await.map_err(broken)? {
        wrapped.extend_from_slice(&chunk);
        if wrapped.len() > WRAPPED_KEY_BYTES_MAX {
            break;
        }
    }
    match wrapped.len() {
        1..=WRAPPED_KEY_BYTES_MAX => Ok(wrapped),
        _ => {
            Err(Failure::new(Code::KeyUnreachable, "the broker's wrap is empty or too long")
                .at(name))
        }
    }
}

async fn ask(
    request: RequestBuilder,
    broker: &BrokerArgs,
    key: &ResourceUri,
) -> Result<(), Failure> {
    let answer = request.send().await;
    let answer = answer
        .map_err(|error| Failure::new(Code::KeyUnreachable, chain(&error)).at(&broker.kbs_url))?;
    match answer.status().is_success() {
        true => Ok(()),
        false => Err(refused(answer).await.at(key)),
    }
}

fn api_url(base: &str, path: &str) -> Result<url::Url, Failure> {
    let usage = || Failure::usage("the key broker's address is no http(s) URL").at(base);
    let url = url::Url::parse(base).map_err(|_| usage())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(usage());
    }
    // The body is a key: without TLS it may go to this machine only.
    if url.scheme() == "http" && !keys::http::is_loopback(&url) {
        return Err(Failure::usage("a key is not sent over plain http")
            .at(base)
            .hint("Use https:// and --kbs-ca"));
    }
    let base = base.trim_end_matches('/');
    url::Url::parse(&format!("{base}/kbs/v0/{path}")).map_err(|_| usage())
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
        405 => Failure::usage(what).hint(
            "This broker cannot change a key: register it anew with `sealift key put --overwrite`",
        ),
        409 | 412 => Failure::usage(what).hint("Say --overwrite to replace the key"),
        404 => Failure::new(Code::NotFound, what),
        500.. => Failure::new(Code::KeyUnreachable, what),
        _ => Failure::usage(what),
    }
}
