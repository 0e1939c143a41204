//! The command line. Help texts are the reference: man pages and docs are made from them.
//!
//! Flags win over `SEALIFT_…` variables, which win over KServe's own variables.

mod secret;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use keys::Pcrs;
use keys::sealed::Signer;
use seal::key::Purpose;
use seal::name::{Digest, KeyUri, ModelName, ResourceUri};

pub use self::secret::{
    AudienceArgs, Item, ItemSource, Notice, PodArgs, Secret, SecretInspect, SecretKeygen,
    SecretPut, SecretSeal, SecretSync, SecretUnseal, SignerArgs,
};
pub use crate::command::doctor::Place;
use crate::opening::Accept;
use crate::progress;

mod remote;
mod signature;

pub use remote::{RemoteArgs, VaultAuth};
pub use signature::{SignMethod, SignatureArgs, SignaturePolicy, SigningArgs};

/// Sealed models into confidential VMs: plaintext exists only inside the guest, in memory.
#[derive(Debug, Parser)]
#[command(name = "sealift", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Exit codes are the numbers of the error codes: see `sealift explain E31`.")]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// Flags of every command
    #[command(flatten)]
    pub global: Global,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Form of the result on stdout
    #[arg(short, long, global = true, value_enum, default_value_t, env = "SEALIFT_OUTPUT")]
    pub output: Output,
    /// Say nothing but errors and the result
    #[arg(short, long, global = true, env = "SEALIFT_QUIET")]
    pub quiet: bool,
    /// Log filter, e.g. `info` or `sealift=debug`
    #[arg(long, global = true, default_value = "warn", env = "SEALIFT_LOG_LEVEL")]
    pub log_level: String,
    /// Form of the log on stderr
    #[arg(long, global = true, value_enum, default_value_t, env = "SEALIFT_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// How progress is shown on stderr
    #[arg(long, global = true, value_enum, default_value_t, env = "SEALIFT_PROGRESS")]
    pub progress: progress::Style,
    /// Seconds between progress lines
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds, default_value = "5", env = "SEALIFT_PROGRESS_INTERVAL")]
    pub progress_interval: Duration,
    /// Give up all files, system calls and privileges that the command does not need (Landlock,
    /// seccomp)
    #[arg(long, global = true, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, env = "SEALIFT_CONFINE")]
    pub confine: bool,
}

/// Form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON document.
    Json,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Seal a model directory into a bundle
    Seal(Seal),
    /// Open sealed bundles into memory: the storage initializer's job
    Init(Init),
    /// Open one sealed bundle, for a person with the key
    Open(Open),
    /// Put a sealed bundle on a node as it is, verified without a key: KServe's localModelDownloadJob
    Cache(Cache),
    /// Go through all that opening needs, say what is wrong first, and what the machine is like
    Doctor(Doctor),
    /// Show what a bundle says of itself; needs no key
    Inspect(Inspect),
    /// Check a bundle's objects against its manifest; needs no key
    Verify(Verify),
    /// Make a key that wraps models' data keys
    Keygen(Keygen),
    /// Register a key in a key broker, or test its release
    #[command(subcommand)]
    Key(Key),
    /// Replace the keys that a bundle is sealed for; data and digests stay
    Rewrap(Rewrap),
    /// Seal secrets for Kubernetes, and keep them current in a pod
    #[command(subcommand)]
    Secret(Secret),
    /// Open sealed secrets for this guest's agents
    #[command(subcommand)]
    Unsealer(Unsealer),
    /// Prepare and try this machine's attestation
    #[command(subcommand)]
    Attest(Attest),
    /// Check an audit log's hash chain
    #[command(subcommand)]
    Audit(Audit),
    /// Run the embedded key broker (the program sealift-broker)
    #[command(disable_help_flag = true)]
    Broker(Passed),
    /// Keep this node's volumes current in its guests (the program sealift-host)
    #[command(disable_help_flag = true)]
    Host(Passed),
    /// Receive volumes in a guest (the program sealift-guest)
    #[command(disable_help_flag = true)]
    Guest(Passed),
    /// Show how this node's volumes are (sealift host status)
    #[command(disable_help_flag = true)]
    Status(Passed),
    /// Print manifests for Kubernetes, as the Helm chart has them; touches no cluster
    Manifest(Manifest),
    /// Explain an error code, offline
    Explain(Explain),
    /// Print a shell completion script
    Completion(Completion),
    /// Write man pages
    Man(Man),
}

/// `sealift seal`
#[derive(Debug, Args)]
pub struct Seal {
    /// The model's directory; with --from-jwe, any place. It is only read
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Where the bundle goes: a directory or s3://bucket/prefix
    #[arg(value_name = "DEST")]
    pub dest: String,
    /// Convert: DIR is any place that can be listed and holds upstream's JWE files. Plaintext is in
    /// memory only, one file at a time
    #[arg(long, requires = "jwe_key", conflicts_with = "sign_key")]
    pub from_jwe: bool,
    /// The key that opens the JWE files, with its file unless the key source shall be asked
    #[arg(long, value_name = "URI[=FILE]", value_parser = named_key, requires = "from_jwe")]
    pub jwe_key: Option<NamedKey>,
    /// Take files that are no JWE as they are: whoever can write there can have put them there
    #[arg(long, requires = "from_jwe")]
    pub accept_plain: bool,
    /// The key to seal for, as its users will name it; --key-file is that key, if it is released
    #[arg(long, value_name = "URI", value_parser = key_uri, env = "SEALIFT_RESOURCE_ID", required_unless_present = "recipients")]
    pub resource_id: Option<KeyUri>,
    /// A further key to seal for, with its file (a JWK) unless its holder shall be asked; may be
    /// repeated
    #[arg(long = "recipient", value_name = "URI[=FILE]", value_parser = named_key)]
    pub recipients: Vec<NamedKey>,
    /// The model's lineage name [default: the directory's name]
    #[arg(long, value_parser = model_name)]
    pub name: Option<ModelName>,
    /// The generation; raise it with each new version of the same name
    #[arg(long, default_value_t = 1)]
    pub generation: u64,
    /// Replace a bundle that is already at DEST
    #[arg(long)]
    pub overwrite: bool,
    /// The publisher's signature
    #[command(flatten)]
    pub signing: SigningArgs,
    /// Files sealed at a time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64), env = "SEALIFT_CONCURRENCY")]
    pub concurrency: u16,
    /// How to reach keys
    #[command(flatten)]
    pub key: KeyArgs,
    /// How to reach keys elsewhere
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// The administrator's Ed25519 key, PKCS#8 PEM, to wrap by `kbs+pkcs11:///wrap-key`
    #[arg(long, value_name = "FILE", env = "SEALIFT_ADMIN_KEY")]
    pub admin_key: Option<PathBuf>,
    /// How to reach the store
    #[command(flatten)]
    pub store: StoreArgs,
    /// Where audit records go
    #[command(flatten)]
    pub audit: AuditArgs,
}

/// `sealift init`
#[derive(Debug, Args)]
pub struct Init {
    /// Pairs of a source URI and a destination directory, as KServe passes them
    #[arg(value_name = "SRC DEST", required = true, num_args = 2..)]
    pub pairs: Vec<String>,
    /// What opens besides bundles
    #[command(flatten)]
    pub accept: AcceptArgs,
    /// Refuse plain models. Only `false` allows them, and only while CONFIDENTIAL_ENABLED is unset or false
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, env = "SEALIFT_REQUIRE_SEALED")]
    pub require_sealed: bool,
    /// Files of a plain model to fetch: a JSON array or a comma-separated list of patterns
    #[arg(
        long,
        value_name = "PATTERNS",
        default_value = "",
        hide_default_value = true,
        env = "STORAGE_ALLOW_PATTERNS"
    )]
    pub allow_patterns: String,
    /// Files of a plain model to leave out
    #[arg(
        long,
        value_name = "PATTERNS",
        default_value = "",
        hide_default_value = true,
        env = "STORAGE_IGNORE_PATTERNS"
    )]
    pub ignore_patterns: String,
    /// Where the one-line failure goes for Kubernetes
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/dev/termination-log",
        env = "SEALIFT_TERMINATION_LOG"
    )]
    pub termination_log: PathBuf,
    /// What opening needs
    #[command(flatten)]
    pub opening: Opening,
}

/// `sealift open`
#[derive(Debug, Args)]
pub struct Open {
    /// The bundle
    #[arg(value_name = "SRC")]
    pub source: String,
    /// A directory in memory (tmpfs)
    #[arg(value_name = "DEST")]
    pub dest: PathBuf,
    /// What opens besides bundles
    #[command(flatten)]
    pub accept: AcceptArgs,
    /// What opening needs
    #[command(flatten)]
    pub opening: Opening,
}

/// What is encrypted in other ways than a bundle, with the weaker promises of its format.
#[derive(Debug, Clone, Args)]
pub struct AcceptArgs {
    /// Open upstream's *.jwe files too: no protection against swapped, missing or old files
    #[arg(long, env = "SEALIFT_ACCEPT_JWE")]
    pub accept_jwe: bool,
    /// Open encrypted container images too (ocicrypt): name them by their digest, since nothing else says which layers belong together
    #[arg(long, env = "SEALIFT_ACCEPT_ENCRYPTED_IMAGES")]
    pub accept_encrypted_images: bool,
}

impl AcceptArgs {
    /// Nothing plain.
    pub fn sealed(&self) -> Accept {
        Accept::Sealed { jwe: self.accept_jwe, images: self.accept_encrypted_images }
    }
}

/// `sealift cache`
#[derive(Debug, Args)]
pub struct Cache {
    /// The bundle; of a fragment `#digest=…`, `name=…` and `generation=…` are held against it
    #[arg(value_name = "SRC")]
    pub source: String,
    /// A directory, for this bundle alone
    #[arg(value_name = "DEST")]
    pub dest: PathBuf,
    /// Where audit records go
    #[command(flatten)]
    pub audit: AuditArgs,
    /// How to reach the store
    #[command(flatten)]
    pub store: StoreArgs,
    /// How patient to be
    #[command(flatten)]
    pub patience: Patience,
}

/// `sealift doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// The bundle, and where it would go, as `init` takes them; nothing is published. Without them
    /// the machine and the key are looked at
    #[arg(value_name = "SRC DEST", num_args = 2)]
    pub pair: Vec<String>,
    /// Where this is [default: what it looks like]
    #[arg(long, value_enum)]
    pub at: Option<Place>,
    /// What opening needs
    #[command(flatten)]
    pub opening: Opening,
}

/// What `init`, `open` and `doctor` share.
#[derive(Debug, Clone, Args)]
pub struct Opening {
    /// The key that opens the bundle; a bundle never chooses its own
    #[arg(long, value_name = "URI", value_parser = key_uri, env = "SEALIFT_RESOURCE_ID")]
    pub resource_id: Option<KeyUri>,
    /// The model's name, if the bundle must have just this one
    #[arg(long, value_parser = model_name, env = "SEALIFT_NAME")]
    pub name: Option<ModelName>,
    /// Lowest generation to open
    #[arg(long, env = "SEALIFT_MIN_GENERATION")]
    pub min_generation: Option<u64>,
    /// Manifest digest to open (sha256:…); may be repeated
    #[arg(long, value_parser = digest, env = "SEALIFT_DIGEST", value_delimiter = ',')]
    pub digest: Vec<Digest>,
    /// Where a document of pins is (kbs:///…), at the broker or data hub that releases keys: which
    /// models may be opened, from which generation on
    #[arg(long, value_name = "URI", value_parser = resource, env = "SEALIFT_PIN_RESOURCE")]
    pub pin_resource: Option<ResourceUri>,
    /// Open a bundle although nothing says that it is the current one
    #[arg(long, env = "SEALIFT_ALLOW_UNPINNED")]
    pub allow_unpinned: bool,
    /// Write plaintext to a disk
    #[arg(long, env = "SEALIFT_ALLOW_DISK")]
    pub allow_disk: bool,
    /// Byte budget of buffers; memory for the model itself is apart
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value = "64MiB", env = "SEALIFT_MAX_MEMORY")]
    pub max_memory: u64,
    /// Which publishers are believed
    #[command(flatten)]
    pub signature: SignatureArgs,
    /// How to reach the key
    #[command(flatten)]
    pub key: KeyArgs,
    /// How to reach keys elsewhere
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// How to reach the store
    #[command(flatten)]
    pub store: StoreArgs,
    /// How patient to be
    #[command(flatten)]
    pub patience: Patience,
    /// Where audit records go
    #[command(flatten)]
    pub audit: AuditArgs,
}

/// Where keys come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeySourceKind {
    /// Confidential Containers' data hub in this guest.
    Cdh,
    /// A key broker, attested to by this program itself.
    Kbs,
    /// A file: development, or a mounted Secret.
    File,
}

/// The kind of this guest's ephemeral key, which a key broker encrypts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum KbsKeyType {
    /// EC P-256, ECDH-ES+A256KW.
    #[default]
    P256,
    /// EC P-521, ECDH-ES+A256KW.
    P521,
    /// RSA 3072, RSA-OAEP-256.
    Rsa,
}

/// How to reach the key.
#[derive(Debug, Clone, Args)]
pub struct KeyArgs {
    /// Where keys come from [default: file with --key-file, kbs with --kbs-url, else cdh]
    #[arg(long, value_enum, env = "SEALIFT_KEY_SOURCE")]
    pub key_source: Option<KeySourceKind>,
    /// The data hub's REST address
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8006", env = "CDH_ADDR")]
    pub cdh_addr: String,
    /// The key broker's address
    #[arg(long, value_name = "URL", env = "SEALIFT_KBS_URL")]
    pub kbs_url: Option<String>,
    /// Certificates to trust for the key broker, PEM
    #[arg(long, value_name = "FILE", env = "SEALIFT_KBS_CA")]
    pub kbs_ca: Option<PathBuf>,
    /// The kind of key that the key broker encrypts to [default: p256]
    #[arg(
        long,
        value_enum,
        default_value_t,
        hide_default_value = true,
        env = "SEALIFT_KBS_KEY_TYPE"
    )]
    pub kbs_key_type: KbsKeyType,
    /// A key, or a directory of keys REPOSITORY/TYPE/TAG
    #[arg(long, value_name = "PATH", env = "SEALIFT_KEY_FILE")]
    pub key_file: Option<PathBuf>,
    /// Seconds to keep trying a key source that does not answer
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "60", env = "SEALIFT_KEY_TIMEOUT")]
    pub key_timeout: Duration,
    /// What to attest with to a key broker
    #[command(flatten)]
    pub attester: AttesterArgs,
    /// Attest with the sample attester, which proves nothing, unless another is named. Never in
    /// production
    #[arg(long, env = "SEALIFT_INSECURE_DEV")]
    pub insecure_dev: bool,
}

/// What proves what this machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AttesterKind {
    /// The TEE's own reports, by the kernel's configfs-tsm: SNP, TDX, CCA.
    Tsm,
    /// A TPM 2.0's quote.
    Tpm,
    /// The vTPM of a confidential machine of Azure with SNP.
    AzSnpVtpm,
    /// The same with TDX.
    AzTdxVtpm,
    /// Nothing, for development; needs --insecure-dev.
    Sample,
}

/// Which attester, and how to reach it.
#[derive(Debug, Clone, Args)]
pub struct AttesterArgs {
    /// What to attest with to a key broker; nothing is detected [default: sample with --insecure-dev]
    #[arg(long, value_enum, env = "SEALIFT_ATTESTER")]
    pub attester: Option<AttesterKind>,
    /// Where the kernel makes reports
    #[arg(long, value_name = "DIR", default_value = keys::Tsm::ROOT, env = "SEALIFT_TSM_ROOT")]
    pub tsm_root: PathBuf,
    /// Privilege level (VMPL) that a report is for [default: the kernel's]
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(..=i64::from(keys::Tsm::PRIVLEVEL_MAX)), env = "SEALIFT_TSM_PRIVLEVEL")]
    pub tsm_privlevel: Option<u8>,
    /// Azure's metadata service, which has the VCEK's certificate and makes TDX quotes
    #[arg(long, value_name = "URL", default_value = keys::AzureVtpm::METADATA, env = "SEALIFT_AZURE_METADATA_URL")]
    pub azure_metadata_url: String,
    /// The TPM
    #[command(flatten)]
    pub tpm: TpmArgs,
}

/// Which TPM, and what of it.
#[derive(Debug, Clone, Args)]
pub struct TpmArgs {
    /// The TPM's device, or the unix socket of a software TPM
    #[arg(long, value_name = "PATH", default_value = "/dev/tpmrm0", env = "SEALIFT_TPM_DEVICE")]
    pub tpm_device: PathBuf,
    /// Persistent handle of the attestation key [default: 0x81010002; Azure's is 0x81000003]
    #[arg(long, value_name = "HANDLE", value_parser = persistent_handle, env = "SEALIFT_TPM_KEY_HANDLE")]
    pub tpm_key_handle: Option<u32>,
    /// PCRs to quote, e.g. 0-9,14; Trustee wants all
    #[arg(long, value_name = "LIST", default_value = "0-23", env = "SEALIFT_TPM_PCRS")]
    pub tpm_pcrs: Pcrs,
}

/// How to reach the store. KServe's and the AWS SDKs' variables are honoured.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// S3 endpoint [env: AWS_ENDPOINT_URL, S3_ENDPOINT]
    #[arg(long, value_name = "URL")]
    pub endpoint_url: Option<String>,
    /// S3 region [env: AWS_DEFAULT_REGION, AWS_REGION]
    #[arg(long)]
    pub region: Option<String>,
    /// Send no credentials [env: awsAnonymousCredential]
    #[arg(long)]
    pub anonymous: bool,
    /// Certificates to trust, PEM [env: AWS_CA_BUNDLE, CA_BUNDLE_VOLUME_MOUNT_POINT]
    #[arg(long, value_name = "FILE")]
    pub ca_bundle: Option<PathBuf>,
}

/// How patient a transfer is.
#[derive(Debug, Clone, Args)]
pub struct Patience {
    /// Requests in flight [default: as many as --max-memory allows, at most 16]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256), env = "SEALIFT_CONCURRENCY")]
    pub concurrency: Option<u16>,
    /// Attempts at one range that bring nothing new
    #[arg(long, default_value_t = 5, env = "SEALIFT_RETRIES")]
    pub retries: u32,
    /// Seconds of silence after which a connection counts as stalled
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "30", env = "SEALIFT_STALL_TIMEOUT")]
    pub stall_timeout: Duration,
    /// Seconds that one whole run may take
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "21600", env = "SEALIFT_TIMEOUT")]
    pub timeout: Duration,
}

/// `sealift inspect`
#[derive(Debug, Args)]
pub struct Inspect {
    /// The bundle
    #[arg(value_name = "SRC")]
    pub source: String,
    /// How to reach the store
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `sealift verify`
#[derive(Debug, Args)]
pub struct Verify {
    /// The bundle; `#digest=sha256:…` also checks the manifest's digest
    #[arg(value_name = "SRC")]
    pub source: String,
    /// The key that opens the bundle. With it, and a way to it (a file, a broker, a holder that the
    /// name tells), the manifest and every segment are authenticated too
    #[arg(long, value_name = "URI", value_parser = key_uri, env = "SEALIFT_RESOURCE_ID")]
    pub resource_id: Option<KeyUri>,
    /// Which publishers are believed; needs the key
    #[command(flatten)]
    pub signature: SignatureArgs,
    /// How to reach the key
    #[command(flatten)]
    pub key: KeyArgs,
    /// How to reach keys elsewhere
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// Where audit records go
    #[command(flatten)]
    pub audit: AuditArgs,
    /// How to reach the store
    #[command(flatten)]
    pub store: StoreArgs,
    /// How patient to be
    #[command(flatten)]
    pub patience: Patience,
}

/// `sealift keygen`
#[derive(Debug, Args)]
pub struct Keygen {
    /// The key's name
    #[arg(long, value_name = "URI", value_parser = released_key, env = "SEALIFT_RESOURCE_ID")]
    pub resource_id: KeyUri,
    /// Where the JWK goes; never overwritten
    #[arg(short = 'f', long, value_name = "FILE")]
    pub key_file: PathBuf,
    /// Models that the key may open, and from which generation on: NAME or NAME@GENERATION
    #[arg(long, value_name = "NAME[@GENERATION]", value_parser = model_pin)]
    pub model: Vec<ModelPin>,
    /// What the key may be used for; any, if none is said
    #[arg(long, value_name = "open|seal|secret|sign", value_parser = purpose, value_delimiter = ',')]
    pub purpose: Vec<Purpose>,
}

fn purpose(text: &str) -> Result<Purpose, String> {
    let known = || Purpose::ALL.map(Purpose::name).join(", ");
    Purpose::parse(text).ok_or_else(|| format!("none of {}", known()))
}

/// A model and the lowest generation of it that a key opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPin {
    /// The model.
    pub name: ModelName,
    /// The lowest generation.
    pub min_generation: u64,
}

/// `sealift key`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Register a key in a key broker (Sealift's or Trustee)
    Put(KeyPut),
    /// Have the key broker refuse older bundles of a model from now on; never lowers what is demanded
    Bump(KeyBump),
    /// Ask for a key as a workload would, and say what came; never prints the key
    Check(Box<KeyCheck>),
}

/// `sealift key put`
#[derive(Debug, Args)]
pub struct KeyPut {
    /// The key's name
    #[arg(long, value_name = "URI", value_parser = resource, env = "SEALIFT_RESOURCE_ID")]
    pub resource_id: ResourceUri,
    /// The key: a JWK from `sealift keygen`
    #[arg(long, value_name = "FILE", env = "SEALIFT_KEY_FILE")]
    pub key_file: PathBuf,
    /// Models that the key may open, and from which generation on; replaces what the JWK says
    #[arg(long, value_name = "NAME[@GENERATION]", value_parser = model_pin)]
    pub model: Vec<ModelPin>,
    /// What the key may be used for; replaces what the JWK says
    #[arg(long, value_name = "open|seal|secret|sign", value_parser = purpose, value_delimiter = ',')]
    pub purpose: Vec<Purpose>,
    /// Register a key that pins nothing
    #[arg(long)]
    pub allow_unpinned: bool,
    /// Replace a key of the same name
    #[arg(long)]
    pub overwrite: bool,
    /// The broker
    #[command(flatten)]
    pub broker: BrokerArgs,
}

/// `sealift key bump`
#[derive(Debug, Args)]
pub struct KeyBump {
    /// The key's name
    #[arg(long, value_name = "URI", value_parser = resource, env = "SEALIFT_RESOURCE_ID")]
    pub resource_id: ResourceUri,
    /// The model
    #[arg(long, value_name = "NAME", value_parser = model_name)]
    pub model: ModelName,
    /// The lowest generation of it that may still be opened
    #[arg(long, value_name = "GENERATION")]
    pub min_generation: u64,
    /// The only manifests that may be opened; may be repeated. Needed if the key names some already
    #[arg(long, value_name = "sha256:HEX", value_parser = digest)]
    pub digest: Vec<Digest>,
    /// The broker
    #[command(flatten)]
    pub broker: BrokerArgs,
}

/// A key broker, and who administers it
#[derive(Debug, Args)]
pub struct BrokerArgs {
    /// The key broker's address
    #[arg(long, value_name = "URL", env = "SEALIFT_KBS_URL")]
    pub kbs_url: String,
    /// Certificates to trust for the key broker, PEM
    #[arg(long, value_name = "FILE", env = "SEALIFT_KBS_CA")]
    pub kbs_ca: Option<PathBuf>,
    /// The administrator's Ed25519 key, PKCS#8 PEM
    #[arg(long, value_name = "FILE", env = "SEALIFT_ADMIN_KEY")]
    pub admin_key: PathBuf,
}

/// `sealift key check`
#[derive(Debug, Args)]
pub struct KeyCheck {
    /// The key's name
    #[arg(long, value_name = "URI", value_parser = key_uri, env = "SEALIFT_RESOURCE_ID")]
    pub resource_id: KeyUri,
    /// A document of pins to try as well, as for `init`
    #[arg(long, value_name = "URI", value_parser = resource, env = "SEALIFT_PIN_RESOURCE")]
    pub pin_resource: Option<ResourceUri>,
    /// How to reach the key
    #[command(flatten)]
    pub key: KeyArgs,
    /// How to reach keys elsewhere
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// Where audit records go
    #[command(flatten)]
    pub audit: AuditArgs,
}

/// `sealift attest`
#[derive(Debug, Subcommand)]
pub enum Attest {
    /// Make an attestation key in a TPM, and print its public half for the broker's list
    TpmKey(AttestTpmKey),
    /// Print the evidence over given bytes, as a broker would get it
    Evidence(AttestEvidence),
}

/// `sealift attest tpm-key`
#[derive(Debug, Args)]
pub struct AttestTpmKey {
    /// Print the key that is there already; make none
    #[arg(long)]
    pub show: bool,
    /// The TPM
    #[command(flatten)]
    pub tpm: TpmArgs,
}

/// `sealift attest evidence`
#[derive(Debug, Args)]
pub struct AttestEvidence {
    /// What the evidence is over: at most 64 bytes in hex
    #[arg(long, value_name = "HEX", value_parser = report_data)]
    pub report_data: ReportData,
    /// What to attest with
    #[command(flatten)]
    pub attester: AttesterArgs,
    /// Allow the sample attester, which proves nothing
    #[arg(long, env = "SEALIFT_INSECURE_DEV")]
    pub insecure_dev: bool,
}

/// What evidence is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportData(pub Vec<u8>);

/// `sealift unsealer`
#[derive(Debug, Subcommand)]
pub enum Unsealer {
    /// Serve the data hub's API (UnsealSecret, GetResource) on a unix socket, for root and this user
    Run(UnsealerRun),
}

/// `sealift unsealer run`
#[derive(Debug, Args)]
pub struct UnsealerRun {
    /// Where the guest's agents connect
    #[arg(long, value_name = "unix:/PATH", value_parser = unix_socket, default_value = "unix:/run/sealift-unsealer.sock", env = "SEALIFT_UNSEALER_LISTEN")]
    pub listen: PathBuf,
    /// Serve Prometheus metrics at IP:PORT or unix:/PATH, as /metrics; /healthz and /readyz too
    #[arg(long, value_name = "ADDRESS", env = "SEALIFT_UNSEALER_METRICS")]
    pub metrics: Option<link::pages::Address>,
    /// Who is believed
    #[command(flatten)]
    pub signers: SignerArgs,
    /// Which pod this guest is for
    #[command(flatten)]
    pub pod: PodArgs,
    /// How to reach keys and secrets
    #[command(flatten)]
    pub key: KeyArgs,
    /// Where audit records go
    #[command(flatten)]
    pub audit: AuditArgs,
}

/// `sealift rewrap`
#[derive(Debug, Args)]
pub struct Rewrap {
    /// The bundle; its `sealift.json` is replaced
    #[arg(value_name = "LOCATION")]
    pub location: String,
    /// A key that opens the bundle now; --key-file is that key, if it is released
    #[arg(long, value_name = "URI", value_parser = key_uri, env = "SEALIFT_RESOURCE_ID")]
    pub resource_id: KeyUri,
    /// A key that shall open it, with its file (a JWK) unless its holder shall be asked: all that
    /// shall, none is kept by itself
    #[arg(long = "to", value_name = "URI[=FILE]", required = true, value_parser = named_key)]
    pub recipients: Vec<NamedKey>,
    /// Write the new `sealift.json` to this file instead
    #[arg(long, value_name = "FILE")]
    pub manifest_out: Option<PathBuf>,
    /// How to reach keys
    #[command(flatten)]
    pub key: KeyArgs,
    /// How to reach keys elsewhere
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// The administrator's Ed25519 key, PKCS#8 PEM, to wrap by `kbs+pkcs11:///wrap-key`
    #[arg(long, value_name = "FILE", env = "SEALIFT_ADMIN_KEY")]
    pub admin_key: Option<PathBuf>,
    /// How to reach the store
    #[command(flatten)]
    pub store: StoreArgs,
    /// Where audit records go
    #[command(flatten)]
    pub audit: AuditArgs,
}

/// A key to wrap for.
#[derive(Debug, Clone)]
pub struct NamedKey {
    /// The key's name.
    pub key: KeyUri,
    /// The key, if it is here.
    pub file: Option<PathBuf>,
}

/// Where audit records go.
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    /// Where audit records go: a file, journald:, syslog:, https://…, or `-`: stdout, of commands whose
    /// result is there stderr
    #[arg(long, value_name = "TARGET", default_value = "-", env = "SEALIFT_AUDIT_FILE")]
    pub audit_file: PathBuf,
    /// Most of the audit log in one file, 16KiB to 1GiB; then it is renamed and the next begun
    #[arg(long, value_name = "BYTES", value_parser = part_bytes, default_value = "64MiB", env = "SEALIFT_AUDIT_PART_BYTES")]
    pub audit_part_bytes: u64,
}

/// `sealift audit`
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Check that no record was changed, removed or put in between
    Verify {
        /// The log, with the parts beside it; one record a line. Of a log whose older parts are kept
        /// elsewhere: that place first, `/archive/audit.log /var/log/audit.log`. `-` is stdin; from a
        /// pod's log: `grep '^{"seq"'` first
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// The last record before the first one here, `seq` and `head` of those that are kept elsewhere
        #[arg(long, value_name = "SEQ:HASH")]
        after: Option<audit::Head>,
        /// Check every broker's receipt in it, with these public keys: a file with the JSON of the
        /// broker's `/.well-known/jwks.json`
        #[arg(long, value_name = "FILE")]
        broker_keys: Option<PathBuf>,
        /// Fail if a key that a broker released has no receipt
        #[arg(long, requires = "broker_keys")]
        require_receipts: bool,
        /// The broker's own log, with the parts beside it: each receipt must name a record there; may be
        /// repeated, as FILE
        #[arg(long, value_name = "FILE", requires = "broker_keys")]
        broker_log: Vec<PathBuf>,
    },
}

/// Arguments passed on to another program.
#[derive(Debug, Args)]
pub struct Passed {
    /// See that program's own --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<std::ffi::OsString>,
}

/// `sealift manifest`
#[derive(Debug, Args)]
pub struct Manifest {
    /// Which objects
    #[arg(value_enum)]
    pub kind: ManifestKind,
    /// A file with values of the chart; may be repeated, the last one wins
    #[arg(short = 'f', long, value_name = "FILE")]
    pub values: Vec<PathBuf>,
    /// A value of the chart, e.g. image.registry=registry.example/team; the value is YAML; may be
    /// repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// The namespace of what has one
    #[arg(short, long, value_name = "NAME", default_value = "sealift", value_parser = namespace)]
    pub namespace: String,
}

/// What `sealift manifest` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ManifestKind {
    /// KServe's ClusterStorageContainers.
    Csc,
    /// An InferenceService, as an example.
    Isvc,
    /// An LLMInferenceService, as an example.
    Llmisvc,
    /// Admission policies: model volumes in memory, by annotation.
    Policy,
    /// The key broker.
    Broker,
    /// The agent of each node.
    Agents,
    /// Alerts, and what the Prometheus operator scrapes
    Monitoring,
}

/// A DNS label: anything else would change the YAML.
fn namespace(text: &str) -> Result<String, &'static str> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let whole = text.len() <= 63 && text.bytes().all(inner);
    match whole && !text.is_empty() && !text.starts_with('-') && !text.ends_with('-') {
        true => Ok(text.into()),
        false => Err("at most 63 lower-case letters, digits and `-`"),
    }
}

/// `sealift explain`
#[derive(Debug, Args)]
pub struct Explain {
    /// A code such as E31; without one, all are listed
    pub code: Option<String>,
}

/// `sealift completion`
#[derive(Debug, Args)]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `sealift man`
#[derive(Debug, Args)]
pub struct Man {
    /// A directory for one page per command; without it the main page goes to stdout
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(0) | Err(_) => Err("whole seconds, at least 1".into()),
        Ok(seconds) => Ok(Duration::from_secs(u64::from(seconds))),
    }
}

/// Reads `64MiB`, `1GiB`, `65536`.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" | "Ki" => 1 << 10,
        "MiB" | "Mi" => 1 << 20,
        "GiB" | "Gi" => 1 << 30,
        _ => return Err("a number with B, KiB, MiB or GiB".into()),
    };
    let number: u64 = digits.parse().map_err(|_| "a number with B, KiB, MiB or GiB")?;
    number.checked_mul(unit).ok_or_else(|| "too large".into())
}

fn part_bytes(text: &str) -> Result<u64, String> {
    let range = audit::PART_BYTES_MIN..=audit::PART_BYTES_MAX;
    bytes(text)
        .and_then(|size| range.contains(&size).then_some(size).ok_or("16KiB to 1GiB".to_owned()))
}

fn resource(text: &str) -> Result<ResourceUri, String> {
    ResourceUri::parse(text).map_err(|error| format!("{error}; it looks like kbs:///team/llama/v1"))
}

fn key_uri(text: &str) -> Result<KeyUri, String> {
    KeyUri::parse(text).map_err(|error| format!("{error}; it looks like kbs:///team/llama/v1"))
}

fn released_key(text: &str) -> Result<KeyUri, String> {
    match key_uri(text)? {
        key if key.unwraps() => Err(format!("{key} is made by its holder, and never released")),
        key => Ok(key),
    }
}

fn signer(text: &str) -> Result<Signer, String> {
    Signer::parse(text).map_err(|error| error.to_string())
}

fn persistent_handle(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0x").unwrap_or_default();
    let handle = u32::from_str_radix(digits, 16).ok();
    handle
        .filter(|handle| handle >> 24 == 0x81)
        .ok_or_else(|| "a persistent handle, 0x81000000 to 0x81ffffff".into())
}

fn report_data(text: &str) -> Result<ReportData, String> {
    match hex::decode(text) {
        Ok(bytes) if bytes.len() <= 64 => Ok(ReportData(bytes)),
        _ => Err("at most 64 bytes in hex".into()),
    }
}

fn unix_socket(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix:").map(|path| path.strip_prefix("//").unwrap_or(path));
    path.filter(|path| path.starts_with('/')).map(Into::into).ok_or_else(|| "unix:/PATH".into())
}

fn model_name(text: &str) -> Result<ModelName, String> {
    ModelName::parse(text).map_err(|error| error.to_string())
}

fn digest(text: &str) -> Result<Digest, String> {
    Digest::parse(text).map_err(|error| error.to_string())
}

fn model_pin(text: &str) -> Result<ModelPin, String> {
    let (name, generation) = text.rsplit_once('@').unwrap_or((text, "1"));
    let min_generation = generation.parse().map_err(|_| "a generation is a whole number")?;
    Ok(ModelPin { name: model_name(name)?, min_generation })
}

/// `URI[=FILE]`. The names of keys that are released hold no `=`; others are never files.
fn named_key(text: &str) -> Result<NamedKey, String> {
    match text.split_once('=') {
        Some((uri, file)) if !text.starts_with("pkcs11:") => {
            Ok(NamedKey { key: key_uri(uri)?, file: Some(file.into()) })
        }
        _ => Ok(NamedKey { key: key_uri(text)?, file: None }),
    }
}
