//! Whose word counts: `trusted_root.json`, as Sigstore's TUF repositories publish it.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use serde::Deserialize;
use webpki::EndEntityCert;
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};

use crate::Error;
use crate::certificate::{self, CERTIFICATE_BYTES_MAX, CERTIFICATES_MAX, CODE_SIGNING, refused};
use crate::error::{known, limit, malformed};
use crate::json;
use crate::key::LogKey;

const WHAT: &str = "trusted root";
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.trustedroot+json;version=0.1";
/// What `model_signing --trust_config` reads, with a trusted root in it.
const CONFIG_MEDIA_TYPE: &str = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json";
/// Largest file.
const BYTES_MAX: usize = 1 << 20;
/// Most authorities and logs, each.
const INSTANCES_MAX: usize = 64;

/// The authorities and logs of one Sigstore.
#[derive(Debug)]
pub(crate) struct TrustedRoot {
    authorities: Vec<Authority>,
    pub(crate) timestamp_authorities: Vec<Authority>,
    pub(crate) logs: Vec<Log>,
    pub(crate) certificate_logs: Vec<Log>,
}

/// Who makes certificates, or timestamps.
#[derive(Debug)]
pub(crate) struct Authority {
    /// Who signs first, the root last.
    chain: Vec<CertificateDer<'static>>,
    anchor: TrustAnchor<'static>,
    window: Window,
}

/// A log of certificates or signatures.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) id: Vec<u8>,
    pub(crate) key: LogKey,
    pub(crate) window: Window,
}

/// When something counts, both ends included.
#[derive(Debug)]
pub(crate) struct Window {
    start: Timestamp,
    end: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind<'a> {
    #[serde(borrow)]
    media_type: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    #[serde(borrow)]
    trusted_root: Document<'a>,
}

/// Members that are not known are passed over: the file is the deployer's, and those that Sigstore
/// added so far say who runs what.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    #[serde(borrow)]
    media_type: Cow<'a, str>,
    #[serde(borrow, default)]
    tlogs: Vec<StoredLog<'a>>,
    #[serde(borrow, default)]
    ctlogs: Vec<StoredLog<'a>>,
    #[serde(borrow, default)]
    certificate_authorities: Vec<StoredAuthority<'a>>,
    #[serde(borrow, default)]
    timestamp_authorities: Vec<StoredAuthority<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredLog<'a> {
    #[serde(borrow)]
    hash_algorithm: Cow<'a, str>,
    #[serde(borrow)]
    public_key: StoredKey<'a>,
    #[serde(borrow)]
    log_id: LogId<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredKey<'a> {
    #[serde(borrow)]
    raw_bytes: Cow<'a, str>,
    #[serde(borrow)]
    valid_for: Validity<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogId<'a> {
    #[serde(borrow)]
    key_id: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredAuthority<'a> {
    #[serde(borrow)]
    cert_chain: Chain<'a>,
    #[serde(borrow)]
    valid_for: Validity<'a>,
}

#[derive(Deserialize)]
struct Chain<'a> {
    #[serde(borrow)]
    certificates: Vec<StoredCertificate<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredCertificate<'a> {
    #[serde(borrow)]
    raw_bytes: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Validity<'a> {
    #[serde(borrow)]
    start: Cow<'a, str>,
    #[serde(borrow, default)]
    end: Option<Cow<'a, str>>,
}

impl TrustedRoot {
    /// Reads the file, or the trusted root in a client's trust configuration.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        limit(WHAT, bytes.len(), BYTES_MAX)?;
        let kind: Kind<'_> = json::read(WHAT, bytes)?;
        let document = match &*kind.media_type {
            CONFIG_MEDIA_TYPE => json::read::<Config<'_>>(WHAT, bytes)?.trusted_root,
            _ => json::read(WHAT, bytes)?,
        };
        known(WHAT, &document.media_type, MEDIA_TYPE)?;
        Ok(Self {
            authorities: all(&document.certificate_authorities, Authority::read)?,
            timestamp_authorities: all(&document.timestamp_authorities, Authority::read)?,
            logs: some(&document.tlogs)?,
            certificate_logs: some(&document.ctlogs)?,
        })
    }

    /// Who issued `leaf`, as a SubjectPublicKeyInfo: an authority that counted at all of these times,
    /// when the whole chain was valid.
    pub(crate) fn issuer(
        &self,
        leaf: &EndEntityCert<'_>,
        times: &[Timestamp],
    ) -> Result<Vec<u8>, Error> {
        let mut refusal = refused("no authority of the trusted root counted when it was used");
        for authority in &self.authorities {
            if times.iter().all(|&time| authority.window.contains(time)) {
                match authority.issuer(leaf, times) {
                    Ok(issuer) => return Ok(issuer),
                    Err(error) => refusal = error,
                }
            }
        }
        Err(refusal)
    }
}

impl Authority {
    /// The one that signs, for authorities that sign other things than certificates.
    pub(crate) fn signer(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// Checks the chain of [`Self::signer`].
    pub(crate) fn verify_signer(&self, time: Timestamp, usage: &'static [u8]) -> Result<(), Error> {
        if !self.window.contains(time) {
            return Err(refused("the authority did not count then"));
        }
        let entity = EndEntityCert::try_from(self.signer()).map_err(refused)?;
        self.path(&entity, time, usage).map(drop)
    }

    fn issuer(&self, leaf: &EndEntityCert<'_>, times: &[Timestamp]) -> Result<Vec<u8>, Error> {
        let mut issuer = Vec::new();
        for &time in times {
            issuer = self.path(leaf, time, CODE_SIGNING)?;
        }
        let certificate = Certificate::from_der(&issuer).map_err(refused)?;
        certificate.tbs_certificate().subject_public_key_info().to_der().map_err(refused)
    }

    /// Verifies the chain from `entity` to the root, and returns the certificate above `entity`.
    fn path(
        &self,
        entity: &EndEntityCert<'_>,
        time: Timestamp,
        usage: &'static [u8],
    ) -> Result<Vec<u8>, Error> {
        let (root, intermediates) = self.chain.split_last().ok_or_else(|| refused("no chain"))?;
        let anchors = std::slice::from_ref(&self.anchor);
        let path = certificate::path(entity, intermediates, anchors, unix(time)?, usage)?;
        // Nobody else looks at the root's own times.
        let parsed = Certificate::from_der(root).map_err(refused)?;
        let validity = parsed.tbs_certificate().validity();
        let since_epoch = unix(time)?.as_secs();
        if since_epoch < validity.not_before.to_unix_duration().as_secs()
            || since_epoch > validity.not_after.to_unix_duration().as_secs()
        {
            return Err(refused("the root was not valid when it was used"));
        }
        let issuer = path.intermediate_certificates().next().map(|issuer| issuer.der().to_vec());
        Ok(issuer.unwrap_or_else(|| root.to_vec()))
    }

    fn read(stored: &StoredAuthority<'_>) -> Result<Self, Error> {
        let certificates = &stored.cert_chain.certificates;
        limit("number of certificates", certificates.len(), CERTIFICATES_MAX)?;
        let chain: Vec<CertificateDer<'static>> = certificates
            .iter()
            .map(|certificate| {
                let der = decode(&certificate.raw_bytes)?;
                limit("certificate", der.len(), CERTIFICATE_BYTES_MAX)?;
                Ok(CertificateDer::from(der))
            })
            .collect::<Result<_, Error>>()?;
        let root = chain.last().ok_or_else(|| malformed(WHAT, "an authority without a chain"))?;
        let anchor = webpki::anchor_from_trusted_cert(root)
            .map_err(|_| malformed(WHAT, "a certificate that cannot be read"))?
            .to_owned();
        Ok(Self { chain, anchor, window: Window::read(&stored.valid_for)? })
    }
}

impl Log {
    /// The log with this name that counted at all of these times.
    pub(crate) fn find<'a>(logs: &'a [Self], id: &[u8], times: &[Timestamp]) -> Option<&'a Self> {
        logs.iter().find(|log| log.id == id && times.iter().all(|&time| log.window.contains(time)))
    }

    /// `None` for one whose algorithms are not known: it vouches for nothing.
    fn read(stored: &StoredLog<'_>) -> Result<Option<Self>, Error> {
        let window = Window::read(&stored.public_key.valid_for)?;
        let (id, key) = (decode(&stored.log_id.key_id)?, decode(&stored.public_key.raw_bytes)?);
        let key = LogKey::from_spki(&key).filter(|_| stored.hash_algorithm == "SHA2_256");
        Ok(key.map(|key| Self { id, key, window }))
    }
}

impl Window {
    pub(crate) fn contains(&self, time: Timestamp) -> bool {
        self.start <= time && self.end.is_none_or(|end| time <= end)
    }

    fn read(stored: &Validity<'_>) -> Result<Self, Error> {
        let time = |text: &str| {
            text.parse::<Timestamp>().map_err(|_| malformed(WHAT, "a time that is not RFC 3339"))
        };
        Ok(Self { start: time(&stored.start)?, end: stored.end.as_deref().map(time).transpose()? })
    }
}

fn all<S, T>(stored: &[S], read: impl Fn(&S) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    limit("number of authorities or logs", stored.len(), INSTANCES_MAX)?;
    stored.iter().map(read).collect()
}

fn some(stored: &[StoredLog<'_>]) -> Result<Vec<Log>, Error> {
    Ok(all(stored, Log::read)?.into_iter().flatten().collect())
}

fn decode(base64: &str) -> Result<Vec<u8>, Error> {
    STANDARD.decode(base64).map_err(|_| malformed(WHAT, "not canonical base64"))
}

fn unix(time: Timestamp) -> Result<UnixTime, Error> {
    let seconds = u64::try_from(time.as_second()).map_err(|_| refused("a time before 1970"))?;
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}
