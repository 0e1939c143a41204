//! `sealift unsealer run`: opens sealed secrets for the agents of this guest, for guests without
//! upstream's data hub. What it serves is the data hub's own API, so that the agents speak one.
//!
//! Every secret that leaves is in the audit log first.

mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use audit::Event;
use keys::Source;
use keys::sealed::{SealedSecret, Signer};
use seal::name::{Digest, ResourceUri};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::cli::{Global, Unsealer, UnsealerRun};
use crate::code::Code;
use crate::failure::Failure;
use crate::key_source;

pub(crate) async fn run(args: &Unsealer, global: &Global) -> Result<(), Failure> {
    let Unsealer::Run(args) = args;
    let listener = server::bind(&args.listen).await?;
    let opener = Opener::new(args)?;
    if !global.quiet {
        eprintln!("listening on unix:{}", args.listen.display());
    }
    server::serve(&listener, Arc::new(opener)).await
}

/// The key source, and who is believed.
struct Opener {
    source: Source,
    log: audit::Log,
    /// None: everybody.
    signers: Vec<Signer>,
    signer_dir: PathBuf,
    /// For one request as a whole.
    patience: Duration,
}

/// What was sealed, by whom, and the resource that it took.
type Opened = (Zeroizing<Vec<u8>>, Signer, ResourceUri);

impl Opener {
    fn new(args: &UnsealerRun) -> Result<Self, Failure> {
        Ok(Self {
            source: key_source::open(&args.key)?,
            log: super::audit::log(&args.audit_file)?,
            signers: args.signer.clone(),
            signer_dir: args.signer_dir.clone(),
            patience: args.key.key_timeout,
        })
    }

    /// What is sealed in `text`.
    async fn unseal(&self, text: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let secret = Digest::of(text).to_string();
        let opened = timeout(self.patience, self.open(text, &secret)).await;
        match opened.unwrap_or_else(|_| Err(self.too_slow())) {
            Ok((plaintext, signer, resource)) => {
                let (signer, resource) = (signer.to_string(), resource.to_string());
                self.log.record(Event::SecretOpened { secret, signer, resource })?;
                Ok(plaintext)
            }
            Err(failure) => {
                let (code, reason) = (failure.code().to_string(), failure.what().to_owned());
                self.log.record(Event::SecretRefused { secret, code, reason })?;
                Err(failure)
            }
        }
    }

    async fn open(&self, text: &[u8], secret: &str) -> Result<Opened, Failure> {
        let sealed = SealedSecret::parse(text)?;
        let signer = sealed.signer();
        if !self.signers.is_empty() && !self.signers.contains(signer) {
            let what = format!("it is signed by {signer}, which is none of --signer");
            return Err(Failure::new(Code::Mismatch, what));
        }
        let jwk = match signer {
            Signer::Resource(resource) => {
                self.release(resource, &format!("signer of {secret}")).await?
            }
            Signer::File(name) => Signer::read(name, &self.signer_dir)?,
        };
        let verified = sealed.verify(jwk.expose())?;
        let resource = verified.resource().clone();
        let released = self.release(&resource, &format!("sealed secret {secret}")).await?;
        Ok((verified.open(&released)?, signer.clone(), resource))
    }

    /// A resource of the key source.
    async fn resource(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let resource =
            ResourceUri::parse(name).map_err(|e| Failure::from(e).recode(Code::Usage))?;
        let released = timeout(self.patience, self.release(&resource, "GetResource")).await;
        let released = released.unwrap_or_else(|_| Err(self.too_slow()))?;
        Ok(Zeroizing::new(released.expose().to_vec()))
    }

    async fn release(&self, of: &ResourceUri, purpose: &str) -> Result<secret::Secret, Failure> {
        key_source::release_bytes(&self.source, of, purpose, self.patience, &self.log).await
    }

    fn too_slow(&self) -> Failure {
        let what = format!("no answer of the key source within {} s", self.patience.as_secs());
        Failure::new(Code::KeyUnreachable, what)
    }
}
