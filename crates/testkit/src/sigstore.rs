//! A Sigstore of our own: authority, certificate log, signature log and timestamp authority, which make
//! whatever they are told to.

use anyhow::Result;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData as _,
    SanType, SerialNumber, SigningKey as _, date_time_ymd,
};
use serde_json::{Value, json};

/// 2025-06-01, when certificates begin. They last ten minutes.
pub const BEGIN: u64 = 1_748_736_000;
/// A minute later, when things are signed.
pub const SIGNED_AT: u64 = BEGIN + 60;

/// Entries in the log beside ours, which is at this index.
const INDEX: usize = 5;
const ENTRIES: usize = 7;

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// Its services, with their keys.
#[derive(Debug)]
pub struct Sigstore {
    root: Issuer,
    issuer: Issuer,
    certificate_log: KeyPair,
    log: KeyPair,
    timestamp_root: Issuer,
    timestamp_key: KeyPair,
    timestamp_certificate: Vec<u8>,
}

/// Which log is asked, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    /// Rekor 1, `dsse` 0.0.1.
    Dsse,
    /// Rekor 1, `intoto` 0.0.2.
    Intoto,
    /// Rekor 2, `hashedrekord` 0.0.2.
    HashedRekord,
}

/// What is wrong with the authorities themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// The root's own certificate ended in 2025, before anything was signed.
    OldRoot,
    /// The timestamp authority's certificate does not say what it is for.
    UnnamedTimestamps,
    /// It says that it is for signing code, too.
    BroadTimestamps,
}

/// What becomes of the certificate's SCT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sct {
    /// As it should be.
    Good,
    /// There is no such extension.
    None,
    /// The extension is there twice.
    Twice,
    /// The list is empty.
    Empty,
    /// Signed by the signature log instead.
    OtherKey,
    /// For a certificate of another issuer.
    OtherIssuer,
    /// For a certificate with another serial number.
    OtherCertificate,
    /// With another byte behind it.
    Trailing,
}

/// How a signature is made; the default is as it should be.
#[derive(Debug, Clone)]
pub struct Request {
    /// The names in the certificate.
    pub names: Vec<SanType>,
    /// The provider, as Fulcio has it now.
    pub provider: Option<&'static str>,
    /// The provider, as Fulcio had it first.
    pub old_provider: Option<&'static str>,
    /// What the key may be used for.
    pub usages: Vec<KeyUsagePurpose>,
    /// What the certificate is for.
    pub extended: Vec<ExtendedKeyUsagePurpose>,
    /// The SCT.
    pub sct: Sct,
    /// When the SCT was made.
    pub sct_at: u64,
    /// When the log took the entry up.
    pub logged_at: u64,
    /// When the timestamp authority saw the signature; `None`: never.
    pub stamped_at: Option<u64>,
    /// What the timestamp authority saw instead of the signature.
    pub stamped: Option<Vec<u8>>,
    /// Whether somebody signs who does not have the certificate's key, which the log does not notice.
    pub forged: bool,
    /// What the entry itself says that it is, if not what it is.
    pub claimed: Option<&'static str>,
    /// Which entry.
    pub kind: LogKind,
    /// Whether the log promises.
    pub promise: bool,
    /// Whether the log proves.
    pub proof: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            names: vec![SanType::Rfc822Name("release@example.com".try_into().expect("ASCII"))],
            provider: Some("https://accounts.example.com"),
            old_provider: Some("https://accounts.example.com"),
            usages: vec![KeyUsagePurpose::DigitalSignature],
            extended: vec![ExtendedKeyUsagePurpose::CodeSigning],
            sct: Sct::Good,
            sct_at: BEGIN,
            logged_at: SIGNED_AT,
            stamped_at: None,
            stamped: None,
            forged: false,
            claimed: None,
            kind: LogKind::Dsse,
            promise: true,
            proof: true,
        }
    }
}

impl Sigstore {
    /// One with keys of its own. Its authorities last from 2020 to 2040.
    ///
    /// # Errors
    /// If a key cannot be made.
    pub fn new() -> Result<Self> {
        Self::flawed(Flaw::None)
    }

    /// One with this flaw.
    ///
    /// # Errors
    /// If a key cannot be made.
    pub fn flawed(flaw: Flaw) -> Result<Self> {
        Self::with_log(KeyPair::generate()?, flaw)
    }

    /// One whose log signs with Ed25519, as Rekor 2 does.
    ///
    /// # Errors
    /// If a key cannot be made.
    pub fn with_ed25519() -> Result<Self> {
        Self::with_log(KeyPair::generate_for(&PKCS_ED25519)?, Flaw::None)
    }

    fn with_log(log: KeyPair, flaw: Flaw) -> Result<Self> {
        let mut oldest = authority("root", None);
        if flaw == Flaw::OldRoot {
            oldest.not_after = date_time_ymd(2025, 1, 1);
        }
        let root = CertifiedIssuer::self_signed(oldest, KeyPair::generate()?)?;
        let usage = Some(ExtendedKeyUsagePurpose::CodeSigning);
        let issuer =
            CertifiedIssuer::signed_by(authority("issuer", usage), KeyPair::generate()?, &root)?;
        let timestamp_root =
            CertifiedIssuer::self_signed(authority("tsa root", None), KeyPair::generate()?)?;
        let timestamp_key = KeyPair::generate()?;
        let mut params = params("tsa");
        params.serial_number = Some(SerialNumber::from_slice(&[9]));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // id-kp-timeStamping, critical, as RFC 3161 asks.
        let stamping = oid(&[0x2b, 6, 1, 5, 5, 7, 3, 8]);
        let mut stamping = vec![stamping];
        if flaw == Flaw::BroadTimestamps {
            stamping.push(oid(&[0x2b, 6, 1, 5, 5, 7, 3, 3]));
        }
        let usages = der(0x30, &[&stamping.concat()]);
        let mut usage = CustomExtension::from_oid_content(&[2, 5, 29, 37], usages);
        usage.set_criticality(true);
        if flaw != Flaw::UnnamedTimestamps {
            params.custom_extensions = vec![usage];
        }
        let timestamp_certificate =
            params.signed_by(&timestamp_key, &timestamp_root)?.der().to_vec();
        Ok(Self {
            root,
            issuer,
            certificate_log: KeyPair::generate()?,
            log,
            timestamp_root,
            timestamp_key,
            timestamp_certificate,
        })
    }

    /// Its `trusted_root.json`.
    #[must_use]
    pub fn trusted_root(&self) -> Value {
        let valid = json!({"start": "2020-01-01T00:00:00Z"});
        let log = |name: &str, key: &KeyPair| {
            json!({
                "baseUrl": format!("https://{name}.example.com"),
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": STANDARD.encode(key.subject_public_key_info()),
                    "keyDetails": match key.algorithm() == &PKCS_ED25519 {
                        true => "PKIX_ED25519",
                        false => "PKIX_ECDSA_P256_SHA_256",
                    },
                    "validFor": valid,
                },
                "logId": {"keyId": STANDARD.encode(id(key))},
            })
        };
        let authority = |chain: &[&[u8]]| {
            let certificates: Vec<_> =
                chain.iter().map(|der| json!({"rawBytes": STANDARD.encode(der)})).collect();
            json!({
                "subject": {"organization": "example.com", "commonName": "sigstore"},
                "uri": "https://sigstore.example.com",
                "certChain": {"certificates": certificates},
                "validFor": valid,
            })
        };
        json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log("rekor", &self.log)],
            "certificateAuthorities": [authority(&[self.issuer.der(), self.root.der()])],
            "ctlogs": [log("ctfe", &self.certificate_log)],
            "timestampAuthorities":
                [authority(&[&self.timestamp_certificate, self.timestamp_root.der()])],
        })
    }

    /// A signature file over an in-toto statement.
    ///
    /// # Errors
    /// If the request makes no certificate.
    pub fn sign(&self, payload: &[u8], request: &Request) -> Result<Value> {
        let key = KeyPair::generate()?;
        let certificate = self.certify(&key, request)?;
        let message = [
            format!("DSSEv1 28 application/vnd.in-toto+json {} ", payload.len()).as_bytes(),
            payload,
        ]
        .concat();
        let signature = match request.forged {
            true => KeyPair::generate()?.sign(&message)?,
            false => key.sign(&message)?,
        };
        let (kind, version, spec) = body(request.kind, &certificate, payload, &message, &signature);
        let claimed = request.claimed.unwrap_or(kind);
        let body = json!({"apiVersion": version, "kind": claimed, "spec": spec}).to_string();
        let mut material = json!({
            "certificate": {"rawBytes": STANDARD.encode(&certificate)},
            "tlogEntries": [self.entry(kind, version, body.as_bytes(), request)?],
        });
        if let Some(time) = request.stamped_at {
            let stamped = request.stamped.as_deref().unwrap_or(&signature);
            let response = STANDARD.encode(self.stamp(stamped, time)?);
            material["timestampVerificationData"] =
                json!({"rfc3161Timestamps": [{"signedTimestamp": response}]});
        }
        Ok(json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": material,
            "dsseEnvelope": {
                "payload": STANDARD.encode(payload),
                "payloadType": "application/vnd.in-toto+json",
                "signatures": [{"sig": STANDARD.encode(signature)}],
            },
        }))
    }

    /// A checkpoint that the log signs over any tree.
    ///
    /// # Errors
    /// If it cannot sign.
    pub fn checkpoint(&self, size: usize, root: &[u8]) -> Result<String> {
        let body = format!("rekor.example.com - 42\n{size}\n{}\n", STANDARD.encode(root));
        let signature = [&id(&self.log)[..4], &self.log.sign(body.as_bytes())?].concat();
        Ok(format!("{body}\n\u{2014} rekor.example.com {}\n", STANDARD.encode(signature)))
    }

    fn certify(&self, key: &KeyPair, request: &Request) -> Result<Vec<u8>> {
        let mut params = params("");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names.clone_from(&request.names);
        params.key_usages.clone_from(&request.usages);
        params.extended_key_usages.clone_from(&request.extended);
        params.not_before = date_time_ymd(2025, 6, 1);
        params.not_after = params.not_before + std::time::Duration::from_secs(600);
        params.serial_number = Some(SerialNumber::from_slice(&[7]));
        if let Some(provider) = request.old_provider {
            let content = provider.as_bytes().to_vec();
            params.custom_extensions.push(extension(1, content));
        }
        if let Some(provider) = request.provider {
            params.custom_extensions.push(extension(8, der(0x0c, &[provider.as_bytes()])));
        }
        if request.sct == Sct::OtherCertificate {
            params.serial_number = Some(SerialNumber::from_slice(&[8]));
        }
        let before = params.signed_by(key, &self.issuer)?;
        params.serial_number = Some(SerialNumber::from_slice(&[7]));
        let list = self.promises(&tbs(before.der()), request)?;
        // 1.3.6.1.4.1.11129.2.4.2
        let promises = CustomExtension::from_oid_content(
            &[1, 3, 6, 1, 4, 1, 11129, 2, 4, 2],
            der(0x04, &[&list]),
        );
        let times = match request.sct {
            Sct::None => 0,
            Sct::Twice => 2,
            _ => 1,
        };
        params.custom_extensions.extend(std::iter::repeat_n(promises, times));
        Ok(params.signed_by(key, &self.issuer)?.der().to_vec())
    }

    /// A list of SCTs (RFC 6962, §3.3).
    fn promises(&self, tbs: &[u8], request: &Request) -> Result<Vec<u8>> {
        let issuer = match request.sct {
            Sct::OtherIssuer => &self.root,
            _ => &self.issuer,
        };
        let time = (request.sct_at * 1000).to_be_bytes();
        let length = u32::try_from(tbs.len())?.to_be_bytes();
        let issuer = digest(&SHA256, &issuer.key().subject_public_key_info());
        let signed =
            [&[0, 0], &time[..], &[0, 1], issuer.as_ref(), &length[1..], tbs, &[0, 0]].concat();
        let key = match request.sct {
            Sct::OtherKey => &self.log,
            _ => &self.certificate_log,
        };
        let signature = vector(&key.sign(&signed)?)?;
        let mut promise =
            [&[0], &id(&self.certificate_log)[..], &time, &[0, 0, 4, 3], &signature].concat();
        if request.sct == Sct::Trailing {
            promise.push(0);
        }
        match request.sct {
            Sct::Empty => vector(&[]),
            _ => vector(&vector(&promise)?),
        }
    }

    /// An entry of the log, as signature files have it.
    fn entry(&self, kind: &str, version: &str, body: &[u8], request: &Request) -> Result<Value> {
        let encoded = STANDARD.encode(body);
        let time = request.logged_at;
        let id = id(&self.log);
        // Of Rekor 1 in all its trees, of Rekor 2 in this one.
        let index = match request.kind {
            LogKind::HashedRekord => INDEX,
            _ => 1000 + INDEX,
        };
        let mut entry = json!({
            "logIndex": index.to_string(),
            "logId": {"keyId": STANDARD.encode(&id)},
            "kindVersion": {"kind": kind, "version": version},
            "canonicalizedBody": encoded,
        });
        if request.promise {
            let log = id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let signed = format!(
                r#"{{"body":"{encoded}","integratedTime":{time},"logID":"{log}","logIndex":{index}}}"#
            );
            let promise = STANDARD.encode(self.log.sign(signed.as_bytes())?);
            entry["integratedTime"] = time.to_string().into();
            entry["inclusionPromise"] = json!({"signedEntryTimestamp": promise});
        }
        if request.proof {
            let mut leaves: Vec<Vec<u8>> =
                (0..ENTRIES).map(|other| hash(&[&[0], &other.to_be_bytes()])).collect();
            leaves[INDEX] = hash(&[&[0], body]);
            let (root, path) = (tree(&leaves), path(INDEX, &leaves));
            let path: Vec<_> = path.iter().map(|hash| STANDARD.encode(hash)).collect();
            entry["inclusionProof"] = json!({
                "logIndex": INDEX.to_string(),
                "rootHash": STANDARD.encode(&root),
                "treeSize": ENTRIES.to_string(),
                "hashes": path,
                "checkpoint": {"envelope": self.checkpoint(ENTRIES, &root)?},
            });
        }
        Ok(entry)
    }

    /// A response of the timestamp authority (RFC 3161).
    fn stamp(&self, message: &[u8], time: u64) -> Result<Vec<u8>> {
        let sha256 = der(0x30, &[&oid(&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1])]);
        let imprint = der(0x30, &[&sha256, &octets(digest(&SHA256, message).as_ref())]);
        let policy = oid(&[0x2b, 6, 1, 4, 1, 0x83, 0xbf, 0x30, 2]);
        let one = der(0x02, &[&[1]]);
        let time = der(0x18, &[generalized(time).as_bytes()]);
        let info = der(0x30, &[&one, &policy, &imprint, &one, &time]);
        let kind = oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 16, 1, 4]);
        let pkcs9 = |last: u8| oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, last]);
        let content_type = der(0x30, &[&pkcs9(3), &der(0x31, &[&kind])]);
        let info_digest = octets(digest(&SHA256, &info).as_ref());
        let message_digest = der(0x30, &[&pkcs9(4), &der(0x31, &[&info_digest])]);
        let attributes = [content_type, message_digest].concat();
        let signature = self.timestamp_key.sign(&der(0x31, &[&attributes]))?;
        let ecdsa = der(0x30, &[&oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2])]);
        let common_name = der(0x30, &[&oid(&[0x55, 4, 3]), &der(0x0c, &[b"tsa root"])]);
        let issuer = der(0x30, &[&der(0x31, &[&common_name])]);
        let signer = der(
            0x30,
            &[
                &der(0x02, &[&[3]]),
                &der(0x30, &[&issuer, &der(0x02, &[&[9]])]),
                &sha256,
                &der(0xa0, &[&attributes]),
                &ecdsa,
                &octets(&signature),
            ],
        );
        let content = der(0x30, &[&kind, &der(0xa0, &[&octets(&info)])]);
        let data = der(
            0x30,
            &[
                &der(0x02, &[&[3]]),
                &der(0x31, &[&sha256]),
                &content,
                &der(0xa0, &[&self.timestamp_certificate]),
                &der(0x31, &[&signer]),
            ],
        );
        let signed_data = oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2]);
        let token = der(0x30, &[&signed_data, &der(0xa0, &[&data])]);
        Ok(der(0x30, &[&der(0x30, &[&der(0x02, &[&[0]])]), &token]))
    }
}

/// What a log keeps of a signature.
fn body(
    kind: LogKind,
    certificate: &[u8],
    payload: &[u8],
    message: &[u8],
    signature: &[u8],
) -> (&'static str, &'static str, Value) {
    let encoded = STANDARD.encode(certificate);
    let lines: Vec<_> = encoded.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    let pem =
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    let (pem, text) = (STANDARD.encode(pem), STANDARD.encode(signature));
    let hex: String =
        digest(&SHA256, payload).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let hash = json!({"algorithm": "sha256", "value": hex});
    match kind {
        LogKind::Dsse => {
            let signatures = json!([{"signature": text, "verifier": pem}]);
            let spec = json!({"envelopeHash": hash, "payloadHash": hash, "signatures": signatures});
            ("dsse", "0.0.1", spec)
        }
        LogKind::Intoto => {
            let signatures = json!([{"publicKey": pem, "sig": STANDARD.encode(text)}]);
            let envelope =
                json!({"payloadType": "application/vnd.in-toto+json", "signatures": signatures});
            let content = json!({"envelope": envelope, "hash": hash, "payloadHash": hash});
            ("intoto", "0.0.2", json!({"content": content}))
        }
        LogKind::HashedRekord => {
            let digest = STANDARD.encode(digest(&SHA256, message));
            let verifier = json!({
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "x509Certificate": {"rawBytes": encoded},
            });
            let content = json!({
                "data": {"algorithm": "SHA2_256", "digest": digest},
                "signature": {"content": text, "verifier": verifier},
            });
            ("hashedrekord", "0.0.2", json!({"hashedRekordV002": content}))
        }
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2040, 1, 1));
    params
}

fn authority(name: &str, usage: Option<ExtendedKeyUsagePurpose>) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = usage.into_iter().collect();
    params
}

/// One of Fulcio's own.
fn extension(last: u64, content: Vec<u8>) -> CustomExtension {
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 57264, 1, last], content)
}

/// A log's name: the hash of its key.
fn id(key: &KeyPair) -> Vec<u8> {
    digest(&SHA256, &key.subject_public_key_info()).as_ref().to_vec()
}

/// The TBSCertificate, which is the first element of a certificate of 256 to 65535 bytes.
fn tbs(certificate: &[u8]) -> Vec<u8> {
    let rest = &certificate[4..];
    let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
    rest[..4 + length].to_vec()
}

/// The hash of a tree, as RFC 6962 defines it.
fn tree(leaves: &[Vec<u8>]) -> Vec<u8> {
    match leaves {
        [leaf] => leaf.clone(),
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            hash(&[&[1], &tree(left), &tree(right)])
        }
    }
}

/// The path to a leaf, as RFC 6962 defines it.
fn path(index: usize, leaves: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut inner, sibling) = match index.checked_sub(left.len()) {
        Some(index) => (path(index, right), tree(left)),
        None => (path(index, left), tree(right)),
    };
    inner.push(sibling);
    inner
}

/// The largest power of two below `count`.
fn split(count: usize) -> usize {
    count.next_power_of_two() / 2
}

fn hash(parts: &[&[u8]]) -> Vec<u8> {
    digest(&SHA256, &parts.concat()).as_ref().to_vec()
}

/// A vector with a length of two bytes, as TLS has them.
fn vector(bytes: &[u8]) -> Result<Vec<u8>> {
    Ok([&u16::try_from(bytes.len())?.to_be_bytes()[..], bytes].concat())
}

/// DER of one value.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let length = match content.len() {
        0..128 => vec![length[7]],
        _ => [&[0x80 | significant.len().to_be_bytes()[7]], significant].concat(),
    };
    [&[tag], &length[..], &content].concat()
}

fn oid(content: &[u8]) -> Vec<u8> {
    der(0x06, &[content])
}

fn octets(content: &[u8]) -> Vec<u8> {
    der(0x04, &[content])
}

/// A time of 2025-06-01 or the days after it, as DER has it.
fn generalized(time: u64) -> String {
    let (days, seconds) = ((time - BEGIN) / 86_400, (time - BEGIN) % 86_400);
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    format!("202506{:02}{hours:02}{minutes:02}{:02}Z", days + 1, seconds % 60)
}
