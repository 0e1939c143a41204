//! `sealift secret`: sealed secrets of Confidential Containers, made, opened and kept current.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use keys::sealed::Signer;
use seal::name::ResourceUri;
use volumes::audience::{Time, is_name};
use volumes::name::TreePath;

use super::{AuditArgs, BrokerArgs, KeyArgs, resource, seconds, signer};

/// `sealift secret`
#[derive(Debug, Subcommand)]
pub enum Secret {
    /// Make a pair of keys that signs sealed secrets
    Keygen(SecretKeygen),
    /// Store a value in a key broker: a signer's public key, a secret, a key-encryption key
    Put(SecretPut),
    /// Seal one value, or the values of a Kubernetes Secret
    Seal(Box<SecretSeal>),
    /// Open what was sealed, with a guest's checks, for a person who may
    Unseal(Box<SecretUnseal>),
    /// Show what a sealed secret says of itself; needs no key
    Inspect(SecretInspect),
    /// Keep named secrets current in a directory in memory: an init container or a sidecar
    Sync(Box<SecretSync>),
}

/// `sealift secret keygen`
#[derive(Debug, Args)]
pub struct SecretKeygen {
    /// Where the private key goes (PKCS#8, PEM, 0600); never overwritten
    #[arg(long, value_name = "FILE")]
    pub signing_key: PathBuf,
    /// Where the public key goes (JWK), for the key broker; never overwritten
    #[arg(long, value_name = "FILE")]
    pub public_key: PathBuf,
}

/// `sealift secret put`
#[derive(Debug, Args)]
pub struct SecretPut {
    /// The value; `-` is stdin
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Its name
    #[arg(long, value_name = "URI", value_parser = resource)]
    pub resource: ResourceUri,
    /// Replace a value of the same name
    #[arg(long)]
    pub overwrite: bool,
    /// The broker
    #[command(flatten)]
    pub broker: BrokerArgs,
}

/// `sealift secret seal`
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("content").required(true).args(["resource", "kek_file"])))]
pub struct SecretSeal {
    /// A vault secret: the sealed text names this resource, which is the value. With --kubernetes,
    /// `{key}` stands for each key
    #[arg(long, value_name = "URI", conflicts_with = "value")]
    pub resource: Option<String>,
    /// An envelope: the sealed text carries the value, for this key-encryption key (`sealift keygen`)
    #[arg(long, value_name = "FILE", env = "SEALIFT_KEK_FILE")]
    pub kek_file: Option<PathBuf>,
    /// That key's name [default: the one that is in its file]
    #[arg(long, value_name = "URI", value_parser = resource, requires = "kek_file")]
    pub kek: Option<ResourceUri>,
    /// An envelope's value; `-` is stdin
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub value: PathBuf,
    /// The private key to sign with: PEM or JWK
    #[arg(long, value_name = "FILE", env = "SEALIFT_SIGNING_KEY")]
    pub signing_key: PathBuf,
    /// Where guests find its public part: kbs:///REPOSITORY/TYPE/TAG or the name of a key file
    #[arg(long, value_name = "KID", value_parser = signer, env = "SEALIFT_KID")]
    pub kid: Signer,
    /// Seal the values of this Kubernetes Secret (YAML; `-` is stdin), which is printed with them
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    pub kubernetes: Option<PathBuf>,
    /// Of the Kubernetes Secret, only this key; may be repeated [default: all]
    #[arg(long, value_name = "NAME", requires = "kubernetes", value_delimiter = ',')]
    pub key: Vec<String>,
    /// Whom it is for
    #[command(flatten)]
    pub audience: AudienceArgs,
}

/// Whom a secret is for; what is not said is not restricted.
#[derive(Debug, Clone, Args)]
pub struct AudienceArgs {
    /// Only for pods of this namespace
    #[arg(long, value_name = "NAME", value_parser = kubernetes_name)]
    pub audience_namespace: Option<String>,
    /// Only for pods of this service account
    #[arg(long, value_name = "NAME", value_parser = kubernetes_name)]
    pub audience_service_account: Option<String>,
    /// Only for the file of this path in its volume, which is the Secret's key unless the pod renames
    /// it by `items`
    #[arg(long, value_name = "PATH", value_parser = tree_path, conflicts_with = "kubernetes")]
    pub audience_key: Option<TreePath>,
    /// Each value of the Kubernetes Secret only for the file of its own key
    #[arg(long, requires = "kubernetes")]
    pub audience_keys: bool,
    /// Only until then (RFC 3339), by the guest's clock
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    pub expires: Option<Time>,
}

/// Whose signatures count.
#[derive(Debug, Clone, Args)]
pub struct SignerArgs {
    /// Whose signatures count: kbs:///REPOSITORY/TYPE/TAG or the name of a file in --signer-dir; may
    /// be repeated [default: everybody whose public key is there]
    #[arg(long, value_name = "KID", value_parser = signer, value_delimiter = ',', env = "SEALIFT_SIGNER")]
    pub signer: Vec<Signer>,
    /// Signers' public keys (JWK) that are files
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/confidential-containers/cdh/sealed-secret",
        env = "SEALIFT_SIGNER_DIR"
    )]
    pub signer_dir: PathBuf,
}

/// Which pod this is. Worth as much as who may choose the arguments.
#[derive(Debug, Clone, Args)]
pub struct PodArgs {
    /// This pod's namespace. Without it, secrets that are for one namespace are refused
    #[arg(long, value_name = "NAME", value_parser = kubernetes_name, env = "SEALIFT_AUDIENCE_NAMESPACE")]
    pub audience_namespace: Option<String>,
    /// This pod's service account, likewise
    #[arg(long, value_name = "NAME", value_parser = kubernetes_name, env = "SEALIFT_AUDIENCE_SERVICE_ACCOUNT")]
    pub audience_service_account: Option<String>,
}

/// `sealift secret unseal`
#[derive(Debug, Args)]
pub struct SecretUnseal {
    /// The sealed text itself, or a file that holds it; `-` is stdin
    #[arg(value_name = "SEALED", required_unless_present = "kubernetes")]
    pub sealed: Option<String>,
    /// Open the values of this Kubernetes Secret (YAML; `-` is stdin), which is printed with them
    #[arg(long, value_name = "FILE", conflicts_with = "sealed")]
    pub kubernetes: Option<PathBuf>,
    /// The file that it will be; without it, a secret that is for one file is refused
    #[arg(long, value_name = "PATH", value_parser = tree_path, conflicts_with = "kubernetes")]
    pub audience_key: Option<TreePath>,
    /// Which pod to open it as
    #[command(flatten)]
    pub pod: PodArgs,
    /// Who is believed
    #[command(flatten)]
    pub signers: SignerArgs,
    /// How to reach keys and secrets
    #[command(flatten)]
    pub key: KeyArgs,
    /// Where audit records go
    #[command(flatten)]
    pub audit: AuditArgs,
}

/// `sealift secret inspect`
#[derive(Debug, Args)]
pub struct SecretInspect {
    /// The sealed text itself, or a file that holds it; `-` is stdin
    #[arg(value_name = "SEALED")]
    pub sealed: String,
}

/// `sealift secret sync`
#[derive(Debug, Args)]
pub struct SecretSync {
    /// The directory, in memory; programs read in `DIR/data`
    #[arg(long, value_name = "DIR", env = "SEALIFT_SECRETS_DIR")]
    pub dir: PathBuf,
    /// A file and where it is from: PATH=kbs:///REPOSITORY/TYPE/TAG, or PATH=sealed:FILE for a sealed
    /// secret; `,mode=0400` at the end is its mode; may be repeated
    #[arg(long = "item", value_name = "PATH=SOURCE[,mode=MODE]", required = true, value_parser = item)]
    pub items: Vec<Item>,
    /// Mode of files that have none of their own
    #[arg(long, value_name = "MODE", default_value = "0440", value_parser = mode)]
    pub mode: u32,
    /// Owner of the files [default: this process]
    #[arg(long, value_name = "UID")]
    pub uid: Option<u32>,
    /// Their group [default: this process's]
    #[arg(long, value_name = "GID")]
    pub gid: Option<u32>,
    /// Fetch once, and end: an init container
    #[arg(long, conflicts_with_all = ["interval", "exec", "signal"])]
    pub once: bool,
    /// Seconds between two looks at the key source; SIGHUP asks for one now
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "300", env = "SEALIFT_SECRETS_INTERVAL")]
    pub interval: Duration,
    /// Write secrets to a disk
    #[arg(long, env = "SEALIFT_ALLOW_DISK")]
    pub allow_disk: bool,
    /// A file that is made once all items are there
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// After a change, send this signal to the process whose number is in a file: FILE:SIGHUP
    #[arg(long, value_name = "PID-FILE:SIGNAL", value_parser = notice)]
    pub signal: Option<Notice>,
    /// After a change, run this program; all that follows are its arguments
    #[arg(long, value_name = "PROGRAM", num_args = 1.., allow_hyphen_values = true)]
    pub exec: Vec<std::ffi::OsString>,
    /// Where the one-line failure goes for Kubernetes
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/dev/termination-log",
        env = "SEALIFT_TERMINATION_LOG"
    )]
    pub termination_log: PathBuf,
    /// Which pod this is
    #[command(flatten)]
    pub pod: PodArgs,
    /// Who is believed
    #[command(flatten)]
    pub signers: SignerArgs,
    /// How to reach keys and secrets
    #[command(flatten)]
    pub key: KeyArgs,
    /// Where audit records go
    #[command(flatten)]
    pub audit: AuditArgs,
}

/// A file to keep current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where it is in the volume.
    pub path: TreePath,
    /// Where it is from.
    pub from: ItemSource,
    /// Its mode, if it has one of its own.
    pub mode: Option<u32>,
}

/// Where a file is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemSource {
    /// A resource of the key source.
    Resource(ResourceUri),
    /// A sealed secret in a file.
    Sealed(PathBuf),
}

/// Whom to tell of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Holds the process's number.
    pub pid_file: PathBuf,
    /// What is sent.
    pub signal: rustix::process::Signal,
}

fn item(text: &str) -> Result<Item, String> {
    let (path, rest) = text.split_once('=').ok_or("PATH=SOURCE")?;
    let (from, mode) = match rest.rsplit_once(",mode=") {
        Some((from, text)) => (from, Some(self::mode(text)?)),
        None => (rest, None),
    };
    let from = match from.strip_prefix("sealed:") {
        Some("") => return Err("sealed:FILE".into()),
        Some(file) => ItemSource::Sealed(file.into()),
        None => ItemSource::Resource(resource(from)?),
    };
    Ok(Item { path: tree_path(path)?, from, mode })
}

/// Permission bits in octal; not setuid, setgid or sticky, which no volume has.
fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.filter(|_| text.len() <= 4).ok_or_else(|| "an octal mode up to 0777".into())
}

fn notice(text: &str) -> Result<Notice, String> {
    use rustix::process::Signal;
    let (pid_file, name) = text.rsplit_once(':').ok_or("PID-FILE:SIGNAL")?;
    let signal = match name.strip_prefix("SIG").unwrap_or(name) {
        "HUP" => Signal::HUP,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        "INT" => Signal::INT,
        "TERM" => Signal::TERM,
        _ => return Err("SIGHUP, SIGUSR1, SIGUSR2, SIGINT or SIGTERM".into()),
    };
    Ok(Notice { pid_file: pid_file.into(), signal })
}

fn kubernetes_name(text: &str) -> Result<String, String> {
    match is_name(text) {
        true => Ok(text.to_owned()),
        false => Err("lower-case letters, digits, `-` and `.`".into()),
    }
}

fn tree_path(text: &str) -> Result<TreePath, String> {
    TreePath::parse(text).map_err(|error| error.to_string())
}

/// Any RFC 3339 time, as the one form that is sealed.
fn expiry(text: &str) -> Result<Time, String> {
    let time: jiff::Timestamp = text.parse().map_err(|_| "a time as 2027-01-01T00:00:00Z")?;
    Time::parse(&time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .ok_or_else(|| "a time from 1970 to 9999".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_a_path_a_source_and_perhaps_a_mode() {
        let read = item("tls/key=kbs:///team/tls/key,mode=0400").unwrap();
        assert_eq!((read.path.as_str(), read.mode), ("tls/key", Some(0o400)));
        let read = item("a=sealed:/etc/x=y,z").unwrap();
        assert_eq!(read.from, ItemSource::Sealed("/etc/x=y,z".into()));
        for bad in [
            "a",
            "=kbs:///a/b/c",
            "../a=kbs:///a/b/c",
            "a=kbs:///a/b",
            "a=sealed:",
            "a=file:/x",
            "a=kbs:///a/b/c,mode=4755",
            "a=kbs:///a/b/c,mode=9",
            "a=kbs:///a/b/c,mode=",
        ] {
            assert!(item(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_expiry_is_written_in_one_form() {
        let written = |text| expiry(text).map(|time| time.to_string());
        assert_eq!(written("2027-01-01T02:00:00+02:00").unwrap(), "2027-01-01T00:00:00Z");
        assert_eq!(written("2027-01-01T00:00:00.9Z").unwrap(), "2027-01-01T00:00:00Z");
        for bad in ["2027-01-01", "1969-01-01T00:00:00Z", "soon", ""] {
            assert!(written(bad).is_err(), "{bad}");
        }
    }
}
