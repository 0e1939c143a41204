//! `sealift secret seal`: one value, or those of a Kubernetes Secret.

use std::collections::{BTreeMap, BTreeSet};

use keys::sealed::{Content, PREFIX, SigningKey, TEXT_BYTES_MAX, seal};
use seal::key::Kek;
use seal::name::{KeyUri, ResourceUri};
use secret::Secret;
use serde::Serialize;
use volumes::audience::Audience;
use zeroize::Zeroizing;

use super::read;
use crate::cli::{Global, Output, SecretSeal};
use crate::code::Code;
use crate::command::keygen;
use crate::failure::Failure;
use crate::kubernetes::{self, Manifest};
use crate::output::{self, print_text};

/// Longest value: what its sealed text can carry.
const VALUE_BYTES_MAX: usize = TEXT_BYTES_MAX / 2;

pub(super) fn run(args: &SecretSeal, global: &Global) -> Result<(), Failure> {
    let sealer = Sealer::new(args)?;
    match &args.kubernetes {
        Some(path) => {
            let bytes = read(path, kubernetes::BYTES_MAX)?;
            let place = path.display();
            let manifest = Manifest::parse(bytes).map_err(|failure| failure.at(&place))?;
            kubernetes(args, &sealer, &manifest, global).map_err(|failure| failure.at(&place))
        }
        None => one(args, &sealer, global),
    }
}

/// What all values of one run share.
struct Sealer<'a> {
    args: &'a SecretSeal,
    signing_key: SigningKey,
    how: How,
}

enum How {
    /// `{key}` is still in it, perhaps.
    Vault(String),
    Envelope(Box<(ResourceUri, Kek)>),
}

impl<'a> Sealer<'a> {
    fn new(args: &'a SecretSeal) -> Result<Self, Failure> {
        let bytes = read(&args.signing_key, Secret::BYTES_MAX)?;
        let key = Secret::copy(&bytes).map_err(|error| Failure::usage(error.to_string()))?;
        let signing_key = SigningKey::parse(&key)
            .map_err(|error| Failure::from(error).at(args.signing_key.display()))?;
        let how = match (&args.resource, &args.kek_file) {
            (Some(resource), _) => How::Vault(resource.clone()),
            (None, Some(file)) => {
                let kek = keygen::read(file)?;
                let own = match kek.resource() {
                    Some(KeyUri::Kbs(own)) => Some(own),
                    Some(other) => {
                        let what =
                            format!("the key is {other}, and only brokers' keys open secrets");
                        return Err(Failure::usage(what).at(file.display()));
                    }
                    None => None,
                };
                let name = match (&args.kek, own) {
                    (Some(said), Some(own)) if said != own => {
                        let what = format!("the key is {own}, not {said}");
                        return Err(Failure::usage(what).at(file.display()));
                    }
                    (Some(name), _) | (None, Some(name)) => name.clone(),
                    (None, None) => {
                        return Err(Failure::usage("the key has no name of its own")
                            .at(file.display())
                            .hint("Add --kek kbs:///REPOSITORY/TYPE/TAG"));
                    }
                };
                How::Envelope(Box::new((name, kek)))
            }
            (None, None) => return Err(Failure::usage("neither --resource nor --kek-file")),
        };
        Ok(Self { args, signing_key, how })
    }

    fn audience(&self, key: Option<&str>) -> Audience {
        let args = &self.args.audience;
        let own = key.filter(|_| args.audience_keys).map(str::to_owned);
        Audience {
            namespace: args.audience_namespace.clone(),
            service_account: args.audience_service_account.clone(),
            key: own.or_else(|| args.audience_key.as_ref().map(ToString::to_string)),
            expires: args.expires,
        }
    }

    /// The resource of a vault secret.
    fn resource(template: &str, key: Option<&str>) -> Result<ResourceUri, Failure> {
        let name = key.map_or_else(|| template.to_owned(), |key| template.replace("{key}", key));
        let resource = ResourceUri::parse(&name);
        resource.map_err(|error| Failure::from(error).recode(Code::Usage).at("--resource"))
    }

    fn seal(&self, key: Option<&str>, plaintext: &[u8]) -> Result<Sealed, Failure> {
        let audience = self.audience(key);
        let vault;
        let (content, kind, resource) = match &self.how {
            How::Vault(template) => {
                vault = Self::resource(template, key)?;
                (Content::Vault(&vault), "vault", &vault)
            }
            How::Envelope(envelope) => {
                let (name, kek) = &**envelope;
                (Content::Envelope { key: name, kek, plaintext }, "envelope", name)
            }
        };
        let sealed = seal(&content, &audience, &self.args.kid, &self.signing_key)?;
        let (kid, resource) = (self.args.kid.to_string(), resource.to_string());
        Ok(Sealed { sealed, kind, kid, resource, audience })
    }
}

#[derive(Serialize)]
struct Sealed {
    sealed: String,
    kind: &'static str,
    kid: String,
    resource: String,
    audience: Audience,
}

fn one(args: &SecretSeal, sealer: &Sealer<'_>, global: &Global) -> Result<(), Failure> {
    let plaintext = match sealer.how {
        How::Vault(_) => Zeroizing::new(Vec::new()),
        How::Envelope(..) => read(&args.value, VALUE_BYTES_MAX)?,
    };
    let sealed = sealer.seal(None, &plaintext)?;
    match global.output {
        // As it belongs into a file or a Secret: a line break would be part of the value.
        Output::Table => print_text(&sealed.sealed),
        Output::Json => output::print(global.output, &sealed, |_| Vec::new()),
    }
}

fn kubernetes(
    args: &SecretSeal,
    sealer: &Sealer<'_>,
    manifest: &Manifest,
    global: &Global,
) -> Result<(), Failure> {
    check(args, sealer, manifest)?;
    let chosen = |key: &str| args.key.is_empty() || args.key.iter().any(|chosen| chosen == key);
    let (mut values, mut says) = (BTreeMap::new(), Vec::new());
    for entry in &manifest.entries {
        let key = &*entry.key;
        if !chosen(key) {
            says.push(format!("{key}: left as it is"));
        } else if entry.value.starts_with(PREFIX.as_bytes()) {
            says.push(format!("{key}: is sealed already, left as it is"));
        } else {
            let sealed = sealer.seal(Some(key), &entry.value).map_err(|failure| failure.at(key))?;
            says.push(match sealed.kind {
                "vault" => format!("{key}: sealed; its value has to be at {}", sealed.resource),
                _ => format!("{key}: sealed for {}", sealed.resource),
            });
            values.insert(key, Zeroizing::new(sealed.sealed.into_bytes()));
        }
    }
    let keys: BTreeSet<&str> = values.keys().copied().collect();
    let text = manifest.with(&values)?;
    if let Some((line, key)) = manifest.trace(&keys, &text) {
        return Err(Failure::usage(format!("line {line} still tells the value of {key}"))
            .hint("Remove it there, or choose other keys with --key"));
    }
    if let Some(objection) = manifest.objections(&keys) {
        says.push(format!("warning: {objection}"));
    }
    if !global.quiet {
        says.iter().for_each(|line| eprintln!("{line}"));
    }
    print_text(&text)
}

/// What would be sealed and could never be opened.
fn check(args: &SecretSeal, sealer: &Sealer<'_>, manifest: &Manifest) -> Result<(), Failure> {
    let has = |key: &String| manifest.entries.iter().any(|entry| entry.key == *key);
    if let Some(key) = args.key.iter().find(|key| !has(key)) {
        return Err(Failure::usage(format!("{} has no key {key}", manifest.name)));
    }
    match (&args.audience.audience_namespace, &manifest.namespace) {
        (Some(said), Some(own)) if said != own => {
            return Err(Failure::usage(format!("it is of the namespace {own}, not {said}")));
        }
        _ => {}
    }
    match &sealer.how {
        How::Vault(template) if !template.contains("{key}") && manifest.entries.len() > 1 => {
            if args.key.len() != 1 {
                return Err(Failure::usage("one resource for several keys")
                    .hint("Put {key} into --resource, or choose one --key"));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
