//! Keys of Google's and Microsoft's key services, and of plugins of key brokers.

use std::fmt;

use super::is_segment;

/// `gcpkms:///projects/<project>/locations/<location>/keyRings/<ring>/cryptoKeys/<key>`: the name
/// that Google's own API has for it, without a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GcpKmsKey(String);

impl GcpKmsKey {
    /// What the API calls the key: `projects/…`.
    pub fn resource(&self) -> &str {
        &self.0
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let ["projects", project, "locations", location, "keyRings", ring, "cryptoKeys", key] =
            text.split('/').collect::<Vec<_>>()[..]
        else {
            return None;
        };
        let clean = [project, location].iter().all(|part| is_short(part, is_lower))
            && [ring, key].iter().all(|part| is_short(part, is_word));
        clean.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for GcpKmsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gcpkms:///{}", self.0)
    }
}

/// `azurekms:///<host>/keys/<key>`, or `…/<version>` behind it: an Azure key identifier without its
/// `https://`. The host is that of a Key Vault or Managed HSM, in one of Azure's clouds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AzureKmsKey {
    host: String,
    key: String,
    version: Option<String>,
}

/// The domains below which Azure has its Managed HSMs, and its vaults.
const MANAGED_HSMS: [&str; 3] =
    ["managedhsm.azure.net", "managedhsm.azure.cn", "managedhsm.usgovcloudapi.net"];
const VAULTS: [&str; 3] = ["vault.azure.net", "vault.azure.cn", "vault.usgovcloudapi.net"];

impl AzureKmsKey {
    /// Bytes of a key's version: hex digits.
    pub const VERSION_BYTES: usize = 32;

    /// `<name>.managedhsm.azure.net`, or another cloud's, or a vault's.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The service that access tokens are for: the host without its first label.
    pub fn domain(&self) -> &str {
        self.host.split_once('.').map_or("", |(_, domain)| domain)
    }

    /// Whether it is in a vault and not in a Managed HSM.
    pub fn is_in_vault(&self) -> bool {
        VAULTS.contains(&self.domain())
    }

    /// The key's name.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The one version that is meant, if it is one: 32 hex digits.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Whether `text` is a version: 32 lower-case hex digits.
    pub fn is_version(text: &str) -> bool {
        text.len() == Self::VERSION_BYTES
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, key, version) = match text.split('/').collect::<Vec<_>>()[..] {
            [host, "keys", key] => (host, key, None),
            [host, "keys", key, version] => (host, key, Some(version)),
            _ => return None,
        };
        let (name, domain) = host.split_once('.')?;
        let is_azure = MANAGED_HSMS.contains(&domain) || VAULTS.contains(&domain);
        let is_key = is_short_to(key, 127, |b| b.is_ascii_alphanumeric() || b == b'-');
        let is_named = is_short_to(name, 24, is_lower) && is_key;
        (is_azure && is_named && version.is_none_or(Self::is_version)).then(|| Self {
            host: host.to_owned(),
            key: key.to_owned(),
            version: version.map(str::to_owned),
        })
    }
}

impl fmt::Display for AzureKmsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "azurekms:///{}/keys/{}", self.host, self.key)?;
        self.version().map_or(Ok(()), |version| write!(f, "/{version}"))
    }
}

/// `kbs+<plugin>:///<path>`: what a plugin of Trustee's key broker serves, at
/// `/kbs/v0/<plugin>/<path>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PluginUri {
    plugin: String,
    path: String,
}

impl PluginUri {
    /// Longest name of a plugin, in bytes.
    const PLUGIN_BYTES_MAX: usize = 63;
    /// Most segments of a path.
    const DEPTH_MAX: usize = 8;
    /// What a broker serves below `/kbs/v0/` that is no plugin, or has a name of its own
    /// (`kbs:///`).
    const RESERVED: [&'static str; 6] =
        ["auth", "attest", "resource", "resource-policy", "attestation-policy", "reference-value"];

    /// The path below `/kbs/v0/`: `<plugin>/<path>`.
    pub fn api_path(&self) -> String {
        format!("{}/{}", self.plugin, self.path)
    }

    /// Whether it is the one key of the plugin `pkcs11`, which never leaves its HSM.
    pub fn unwraps(&self) -> bool {
        self.plugin == "pkcs11" && self.path == "wrap-key"
    }

    /// From what stands behind `kbs+`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (plugin, path) = text.split_once(":///")?;
        let is_plugin = is_short_to(plugin, Self::PLUGIN_BYTES_MAX, is_lower)
            && plugin.starts_with(|c: char| c.is_ascii_lowercase())
            && !Self::RESERVED.contains(&plugin);
        let is_path = path.split('/').count() <= Self::DEPTH_MAX && path.split('/').all(is_segment);
        (is_plugin && is_path).then(|| Self { plugin: plugin.to_owned(), path: path.to_owned() })
    }
}

impl fmt::Display for PluginUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kbs+{}:///{}", self.plugin, self.path)
    }
}

fn is_short(text: &str, allowed: fn(u8) -> bool) -> bool {
    is_short_to(text, 63, allowed)
}

fn is_short_to(text: &str, bytes_max: usize, allowed: fn(u8) -> bool) -> bool {
    (1..=bytes_max).contains(&text.len()) && text.bytes().all(allowed)
}

fn is_lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-".contains(&byte)
}
