//! [`KeyUri`]: what the key of a recipient is called, whoever holds it.

use std::fmt::{self, Write as _};

use super::{ResourceUri, is_segment, refused};
use crate::Error;

mod services;

pub use services::{AzureKmsKey, GcpKmsKey, PluginUri};

/// The name of a key encryption key, or of a key that wraps one: `docs/format.md` §2.
///
/// The set is closed: a reader that does not know a kind refuses the bundle. Each kind has one
/// spelling for each key, so that equal names are equal text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyUri {
    /// A key broker's resource. The broker releases it.
    Kbs(ResourceUri),
    /// What a plugin of Trustee's key broker serves: released, or, for `kbs+pkcs11:///wrap-key`, a key
    /// of an HSM behind the broker, which unwraps.
    KbsPlugin(PluginUri),
    /// A value in Vault's or OpenBao's KV version 2 engine. The server releases it.
    VaultKv(VaultKv),
    /// A key of Vault's or OpenBao's Transit engine. It never leaves the server, which unwraps.
    VaultTransit(VaultTransit),
    /// A key of AWS KMS. It never leaves the service, which unwraps.
    AwsKms(AwsKmsKey),
    /// A key of Google's Cloud KMS. It never leaves the service, which unwraps.
    GcpKms(GcpKmsKey),
    /// A key of Azure's Managed HSM. It never leaves the service, which unwraps.
    AzureKms(AzureKmsKey),
    /// A key in a token that speaks PKCS#11. It never leaves the token, which unwraps.
    Pkcs11(Pkcs11Key),
}

impl KeyUri {
    /// Longest name, in bytes.
    pub const BYTES_MAX: usize = 1024;

    /// Parses any of the kinds.
    pub fn parse(uri: &str) -> Result<Self, Error> {
        if uri.len() > Self::BYTES_MAX {
            return Err(refused(uri, "longer than 1024 bytes"));
        }
        if let Some(path) = uri.strip_prefix("vault:///") {
            return parse_vault(path).ok_or_else(|| {
                refused(
                    uri,
                    "not `vault:///<mount>/keys/<key>` or `vault:///<mount>/data/<path>#<field>`",
                )
            });
        }
        if let Some(key) = uri.strip_prefix("awskms:///") {
            let key = AwsKmsKey::parse(key).ok_or_else(|| {
                refused(
                    uri,
                    "not `awskms:///<region>/<key id or alias/name>` or `awskms:///<key arn>`",
                )
            });
            return key.map(Self::AwsKms);
        }
        if let Some(key) = uri.strip_prefix("gcpkms:///") {
            let why = "not `gcpkms:///projects/<project>/locations/<location>/keyRings/<ring>/cryptoKeys/<key>`";
            return GcpKmsKey::parse(key).map(Self::GcpKms).ok_or_else(|| refused(uri, why));
        }
        if let Some(key) = uri.strip_prefix("azurekms:///") {
            let why = "not `azurekms:///<name>.managedhsm.azure.net/keys/<key>` or with a version";
            return AzureKmsKey::parse(key).map(Self::AzureKms).ok_or_else(|| refused(uri, why));
        }
        if let Some(plugin) = uri.strip_prefix("kbs+") {
            let why = "not `kbs+<plugin>:///<path>`";
            return PluginUri::parse(plugin).map(Self::KbsPlugin).ok_or_else(|| refused(uri, why));
        }
        if let Some(attributes) = uri.strip_prefix("pkcs11:") {
            let key = Pkcs11Key::parse(attributes).ok_or_else(|| {
                refused(
                    uri,
                    "not `pkcs11:token=<label>;object=<label>` or `pkcs11:token=<label>;id=<%hex>`",
                )
            });
            return key.map(Self::Pkcs11);
        }
        ResourceUri::parse(uri).map(Self::Kbs)
    }

    /// Whether the key's holder unwraps, and never releases: then a recipient carries a key of its
    /// own, wrapped by the named one, and nothing comes with a key that could pin a manifest.
    pub fn unwraps(&self) -> bool {
        match self {
            Self::Kbs(_) | Self::VaultKv(_) => false,
            Self::KbsPlugin(plugin) => plugin.unwraps(),
            Self::VaultTransit(_)
            | Self::AwsKms(_)
            | Self::GcpKms(_)
            | Self::AzureKms(_)
            | Self::Pkcs11(_) => true,
        }
    }

    /// Whether only who may use the key can wrap by it. A public key is nobody's secret: what opens
    /// under such a name may be anybody's bundle, and only a manifest digest tells whose it is.
    pub fn vouches(&self) -> bool {
        !matches!(self, Self::KbsPlugin(plugin) if plugin.unwraps())
    }
}

impl fmt::Display for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kbs(resource) => resource.fmt(f),
            Self::KbsPlugin(plugin) => plugin.fmt(f),
            Self::GcpKms(key) => key.fmt(f),
            Self::AzureKms(key) => key.fmt(f),
            Self::VaultKv(VaultKv { mount, path, field }) => {
                write!(f, "vault:///{mount}/data/{path}#{field}")
            }
            Self::VaultTransit(VaultTransit { mount, key }) => {
                write!(f, "vault:///{mount}/keys/{key}")
            }
            Self::AwsKms(key) => match key.is_arn() {
                true => write!(f, "awskms:///{}", key.id),
                false => write!(f, "awskms:///{}/{}", key.region, key.id),
            },
            Self::Pkcs11(Pkcs11Key { token, object }) => {
                write!(f, "pkcs11:token={}", Escaped(token.as_bytes()))?;
                match object {
                    Pkcs11Object::Label(label) => {
                        write!(f, ";object={}", Escaped(label.as_bytes()))
                    }
                    Pkcs11Object::Id(id) => {
                        f.write_str(";id=")?;
                        id.iter().try_for_each(|byte| write!(f, "%{byte:02X}"))
                    }
                }
            }
        }
    }
}

impl From<ResourceUri> for KeyUri {
    fn from(resource: ResourceUri) -> Self {
        Self::Kbs(resource)
    }
}

impl From<&ResourceUri> for KeyUri {
    fn from(resource: &ResourceUri) -> Self {
        Self::Kbs(resource.clone())
    }
}

impl From<PluginUri> for KeyUri {
    fn from(plugin: PluginUri) -> Self {
        Self::KbsPlugin(plugin)
    }
}

/// `vault:///<mount>/data/<path>#<field>`: the path of Vault's own API (`<mount>/data/<path>`), as
/// its policies spell it, and the member of that secret that is the key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VaultKv {
    mount: String,
    path: String,
    field: String,
}

impl VaultKv {
    /// The path of Vault's API below `/v1/`.
    pub fn api_path(&self) -> String {
        format!("{}/data/{}", self.mount, self.path)
    }

    /// The secret's member.
    pub fn field(&self) -> &str {
        &self.field
    }
}

/// `vault:///<mount>/keys/<key>`: the path of Vault's own API for a Transit key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VaultTransit {
    mount: String,
    key: String,
}

impl VaultTransit {
    /// Where the engine is mounted.
    pub fn mount(&self) -> &str {
        &self.mount
    }

    /// The key's name.
    pub fn key(&self) -> &str {
        &self.key
    }
}

fn parse_vault(path: &str) -> Option<KeyUri> {
    let (path, field) = path.split_once('#').map_or((path, None), |(p, field)| (p, Some(field)));
    let segments: Vec<&str> = path.split('/').collect();
    if !segments.iter().copied().chain(field).all(is_segment) {
        return None;
    }
    // A mount may have several segments. It ends before the first `keys` or `data` after its first.
    let at =
        1 + segments.get(1..)?.iter().position(|segment| ["keys", "data"].contains(segment))?;
    let (mount, rest) = (segments[..at].join("/"), segments[at + 1..].join("/"));
    match (segments[at], field, segments.len() - at - 1) {
        ("keys", None, 1) => Some(KeyUri::VaultTransit(VaultTransit { mount, key: rest })),
        ("data", Some(field), 1..) => {
            Some(KeyUri::VaultKv(VaultKv { mount, path: rest, field: field.to_owned() }))
        }
        _ => None,
    }
}

/// `awskms:///<key arn>`, or `awskms:///<region>/<key id>`, or `awskms:///<region>/alias/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AwsKmsKey {
    region: String,
    id: String,
}

impl AwsKmsKey {
    /// The region that has it.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// What KMS takes as a `KeyId`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it names one key and no other, whoever asks: an alias without its account is another
    /// key in another account.
    pub fn is_definite(&self) -> bool {
        self.is_arn() || !is_alias(&self.id)
    }

    fn is_arn(&self) -> bool {
        self.id.starts_with("arn:")
    }

    fn parse(text: &str) -> Option<Self> {
        let (region, id) = if text.starts_with("arn:") {
            let [_, partition, "kms", region, account, key] =
                text.split(':').collect::<Vec<_>>()[..]
            else {
                return None;
            };
            let digits = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
            let named = match key.strip_prefix("key/") {
                Some(id) => is_key_id(id),
                None => is_alias(key),
            };
            if !is_region(partition) || !digits || !named {
                return None;
            }
            (region, text)
        } else {
            let (region, id) = text.split_once('/')?;
            if !is_key_id(id) && !is_alias(id) {
                return None;
            }
            (region, id)
        };
        is_region(region).then(|| Self { region: region.to_owned(), id: id.to_owned() })
    }
}

fn is_region(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_key_id(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// AWS: `alias/` and `[a-zA-Z0-9/_-]+`.
fn is_alias(text: &str) -> bool {
    text.strip_prefix("alias/").is_some_and(|name| {
        (1..=250).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-".contains(&b))
    })
}

/// `pkcs11:token=<label>;object=<label>` or `pkcs11:token=<label>;id=<%hex>`: RFC 7512 with just
/// these attributes, in this order. Labels are UTF-8 in which everything but letters, digits and
/// `-._~` is percent-encoded; of an id, every byte is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pkcs11Key {
    token: String,
    object: Pkcs11Object,
}

/// How a key is found in its token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pkcs11Object {
    /// `CKA_LABEL`.
    Label(String),
    /// `CKA_ID`.
    Id(Vec<u8>),
}

impl Pkcs11Key {
    /// PKCS#11's tokens have labels of 32 bytes.
    const TOKEN_BYTES_MAX: usize = 32;
    const OBJECT_BYTES_MAX: usize = 255;

    /// The token's label.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The key in it.
    pub fn object(&self) -> &Pkcs11Object {
        &self.object
    }

    fn parse(attributes: &str) -> Option<Self> {
        let (token, object) = attributes.strip_prefix("token=")?.split_once(';')?;
        let token = label(token, Self::TOKEN_BYTES_MAX)?;
        let object = match object.split_once('=')? {
            ("object", text) => Pkcs11Object::Label(label(text, Self::OBJECT_BYTES_MAX)?),
            ("id", text) => Pkcs11Object::Id(unescape(text, Self::OBJECT_BYTES_MAX)?),
            _ => return None,
        };
        let key = Self { token, object };
        // One spelling: `%41` for `A`, `%c3` for `%C3`, or an id in letters are other text for the
        // same key.
        let spelled = KeyUri::Pkcs11(key.clone()).to_string();
        (spelled.strip_prefix("pkcs11:") == Some(attributes)).then_some(key)
    }
}

fn label(text: &str, bytes_max: usize) -> Option<String> {
    let label = String::from_utf8(unescape(text, bytes_max)?).ok()?;
    (!label.contains(char::is_control)).then_some(label)
}

/// 1 to `bytes_max` bytes.
fn unescape(text: &str, bytes_max: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let mut byte = [first];
        rest = tail;
        if first == b'%' {
            hex::decode_to_slice(tail.get(..2)?, &mut byte).ok()?;
            rest = &tail[2..];
        }
        bytes.push(byte[0]);
    }
    (1..=bytes_max).contains(&bytes.len()).then_some(bytes)
}

/// RFC 3986's unreserved characters as they are, all others as `%XX`.
struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                f.write_char(char::from(byte))
            }
            _ => write!(f, "%{byte:02X}"),
        })
    }
}
