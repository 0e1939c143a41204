//! [`Opener`]: opens sealed secrets by the key source, for the unsealer's clients, for a person, or
//! into a directory. Every secret that leaves it is in the audit log first.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use audit::Event;
use keys::Source;
use keys::sealed::{SealedSecret, Signer};
use seal::name::{Digest, ResourceUri};
use secret::Secret;
use tokio::time::timeout;
use volumes::audience::{File, Place, Time};
use zeroize::Zeroizing;

use crate::cli::{KeyArgs, PodArgs, SignerArgs};
use crate::code::Code;
use crate::failure::Failure;
use crate::key_source;
use crate::recording::record;

/// The key source, who is believed, and which pod this is.
pub(crate) struct Opener {
    source: Source,
    log: audit::Log,
    /// None: everybody.
    signers: Vec<Signer>,
    signer_dir: PathBuf,
    pod: PodArgs,
    /// For one request as a whole.
    patience: Duration,
}

/// What was sealed, and until when it may be opened.
pub(crate) struct Opened {
    pub(crate) plaintext: Zeroizing<Vec<u8>>,
    pub(crate) expires: Option<Time>,
}

impl Opener {
    pub(crate) fn new(
        key: &KeyArgs,
        signers: &SignerArgs,
        pod: &PodArgs,
        log: audit::Log,
    ) -> Result<Self, Failure> {
        Ok(Self {
            source: key_source::open(key)?,
            log,
            signers: signers.signer.clone(),
            signer_dir: signers.signer_dir.clone(),
            pod: pod.clone(),
            patience: key.key_timeout,
        })
    }

    pub(crate) fn log(&self) -> &audit::Log {
        &self.log
    }

    /// What is sealed in `text`, which will be `file`.
    pub(crate) async fn unseal(&self, text: &[u8], file: File<'_>) -> Result<Opened, Failure> {
        let secret = Digest::of(text).to_string();
        let opened = timeout(self.patience, self.open(text, file, &secret)).await;
        match opened.unwrap_or_else(|_| Err(self.too_slow())) {
            Ok((opened, signer, resource)) => {
                let (signer, resource) = (signer.to_string(), resource.to_string());
                record(&self.log, Event::SecretOpened { secret, signer, resource })?;
                Ok(opened)
            }
            Err(failure) => {
                let (code, reason) = (failure.code().to_string(), failure.what().to_owned());
                record(&self.log, Event::SecretRefused { secret, code, reason })?;
                Err(failure)
            }
        }
    }

    async fn open(
        &self,
        text: &[u8],
        file: File<'_>,
        secret: &str,
    ) -> Result<(Opened, Signer, ResourceUri), Failure> {
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
        let expires = verified.audience().expires;
        let admitted = verified.admit(&Place {
            namespace: self.pod.audience_namespace.as_deref(),
            service_account: self.pod.audience_service_account.as_deref(),
            file,
            now: SystemTime::now(),
        })?;
        let resource = admitted.resource().clone();
        let released = self.release(&resource, &format!("sealed secret {secret}")).await?;
        let plaintext = admitted.open(&released)?;
        Ok((Opened { plaintext, expires }, signer.clone(), resource))
    }

    /// A resource of the key source.
    pub(crate) async fn resource(
        &self,
        resource: &ResourceUri,
        purpose: &str,
    ) -> Result<Secret, Failure> {
        let released = timeout(self.patience, self.release(resource, purpose)).await;
        released.unwrap_or_else(|_| Err(self.too_slow()))
    }

    async fn release(&self, of: &ResourceUri, purpose: &str) -> Result<Secret, Failure> {
        key_source::release_bytes(&self.source, of, purpose, self.patience, &self.log).await
    }

    fn too_slow(&self) -> Failure {
        let what = format!("no answer of the key source within {} s", self.patience.as_secs());
        Failure::new(Code::KeyUnreachable, what)
    }
}
