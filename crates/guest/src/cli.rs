//! The command line of `sealift-guest`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use guest::confine::Require;
use link::listen::Address;
use volumes::name::Category;

/// Receives volumes from the host and makes each revision visible in one step
#[derive(Debug, Parser)]
#[command(name = "sealift-guest", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the agent
    Run(Run),
    /// The agent's second process, which `run` starts and shares standard input with
    #[command(hide = true)]
    Receive(Run),
    /// Show how the volumes are
    Status(Status),
    /// Bind-mount a volume onto a directory, read-only
    Bind(Bind),
    /// Be an OCI createContainer hook: bind-mount what the container's config.json names
    Hook(Hook),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Where the host connects: vsock:PORT, unix:/PATH or tls:IP:PORT; may be repeated
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "vsock:1027",
        value_delimiter = ',',
        env = "SEALIFT_GUEST_LISTEN"
    )]
    pub(crate) listen: Vec<Address>,
    #[command(flatten)]
    pub(crate) tls: Tls,
    /// Where volumes are kept
    #[arg(long, value_name = "DIR", default_value = "/run/sealift", value_parser = absolute, env = "SEALIFT_GUEST_ROOT")]
    pub(crate) root: PathBuf,
    /// The key source that opens sealed values, which are refused without it, and that has the
    /// certificate of tls: addresses: unix:/PATH of upstream's data hub
    /// (/run/confidential-containers/cdh.sock) or of `sealift unsealer`
    #[arg(long, value_name = "ADDRESS", value_parser = unix_socket, env = "SEALIFT_GUEST_KEY_SOURCE")]
    pub(crate) key_source: Option<PathBuf>,
    /// Seconds that an answer of the key source may take; more than it tries for itself, so that it
    /// can say why not
    #[arg(long, value_name = "SECONDS", default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=600), env = "SEALIFT_GUEST_KEY_SOURCE_TIMEOUT")]
    pub(crate) key_source_timeout: u16,
    #[command(flatten)]
    pub(crate) audience: Audience,
    /// Kinds of volumes that are accepted; default all
    #[arg(long = "category", value_name = "NAME", value_delimiter = ',', value_parser = category, env = "SEALIFT_GUEST_CATEGORIES")]
    pub(crate) categories: Vec<Category>,
    /// Volumes at a time
    #[arg(long, value_name = "N", default_value_t = 256, env = "SEALIFT_GUEST_MAX_VOLUMES")]
    pub(crate) max_volumes: u16,
    /// Files and directories in a volume
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=16_384), env = "SEALIFT_GUEST_MAX_ENTRIES")]
    pub(crate) max_entries: u32,
    /// MiB in a volume
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1_024), env = "SEALIFT_GUEST_MAX_MIB")]
    pub(crate) max_mib: u64,
    /// MiB of the agent's own memory for names, owners and digests of the files of all volumes
    /// together; what does not fit is refused
    #[arg(long, value_name = "MIB", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=1_024), env = "SEALIFT_GUEST_MAX_INDEX_MIB")]
    pub(crate) max_index_mib: u16,
    /// Milliseconds for which an earlier revision stays, for who holds a directory of it open
    #[arg(long, value_name = "MS", default_value_t = 2_000, env = "SEALIFT_GUEST_GRACE_MS")]
    pub(crate) grace_ms: u32,
    /// Directories instead of mounts, without limits of their own: for where nobody may mount
    #[arg(long, env = "SEALIFT_GUEST_PLAIN_DIRECTORIES")]
    pub(crate) plain_directories: bool,
    /// Serve Prometheus metrics at IP:PORT or unix:/PATH, too, as /metrics; they are at DIR/status.sock anyway
    #[arg(long, value_name = "ADDRESS", env = "SEALIFT_GUEST_METRICS")]
    pub(crate) metrics: Option<link::pages::Address>,
    /// What has to hold before the host is heard
    #[arg(
        long,
        value_name = "WHAT",
        value_enum,
        default_value = "seccomp",
        env = "SEALIFT_GUEST_CONFINE"
    )]
    pub(crate) confine: Require,
    /// What to log: error, warn, info, debug
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "SEALIFT_LOG")]
    pub(crate) log_level: tracing::Level,
    /// Log JSON lines
    #[arg(long, env = "SEALIFT_LOG_JSON")]
    pub(crate) log_json: bool,
}

/// Which pod this guest is for. Worth as much as who may choose the arguments: measure them.
#[derive(Debug, Clone, Args)]
pub(crate) struct Audience {
    /// The namespace of this guest's pod. Without it, sealed values that are for one namespace are
    /// refused
    #[arg(long = "audience-namespace", value_name = "NAME", value_parser = kubernetes_name, env = "SEALIFT_AUDIENCE_NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Its service account, likewise
    #[arg(long = "audience-service-account", value_name = "NAME", value_parser = kubernetes_name, env = "SEALIFT_AUDIENCE_SERVICE_ACCOUNT")]
    pub(crate) service_account: Option<String>,
}

/// For tls: addresses. Files are read again for every connection.
#[derive(Debug, Args)]
pub(crate) struct Tls {
    /// This guest's certificate for tls: addresses, and those between it and the CA; PEM. Both this
    /// and the key may be kbs:///REPOSITORY/TYPE/TAG instead, released by --key-source
    #[arg(
        long = "tls-cert",
        value_name = "FILE",
        value_parser = file_or_resource,
        requires = "key",
        requires = "client_ca",
        env = "SEALIFT_GUEST_TLS_CERT"
    )]
    pub(crate) cert: Option<PathBuf>,
    /// Its private key, which nobody but its owner may read; PEM
    #[arg(long = "tls-key", value_name = "FILE", value_parser = file_or_resource, requires = "cert", env = "SEALIFT_GUEST_TLS_KEY")]
    pub(crate) key: Option<PathBuf>,
    /// The CA of the hosts that may connect; PEM
    #[arg(
        long = "tls-client-ca",
        value_name = "FILE",
        value_parser = absolute,
        requires = "cert",
        env = "SEALIFT_GUEST_TLS_CLIENT_CA"
    )]
    pub(crate) client_ca: Option<PathBuf>,
    /// Of those, only hosts with one of these DNS or URI names in their certificates
    #[arg(
        long = "tls-client-name",
        value_name = "NAME",
        value_delimiter = ',',
        requires = "cert",
        env = "SEALIFT_GUEST_TLS_CLIENT_NAMES"
    )]
    pub(crate) client_names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Where volumes are kept
    #[arg(long, value_name = "DIR", default_value = "/run/sealift", value_parser = absolute, env = "SEALIFT_GUEST_ROOT")]
    pub(crate) root: PathBuf,
    /// Form of the result on stdout
    #[arg(short, long, default_value = "table", env = "SEALIFT_OUTPUT")]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// For programs: one JSON document
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Bind {
    /// Where volumes are kept
    #[arg(long, value_name = "DIR", default_value = "/run/sealift", value_parser = absolute, env = "SEALIFT_GUEST_ROOT")]
    pub(crate) root: PathBuf,
    /// The volume, as the host names it
    pub(crate) volume: String,
    /// An existing directory
    pub(crate) target: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Hook {
    /// Where volumes are kept
    #[arg(long, value_name = "DIR", default_value = "/run/sealift", value_parser = absolute, env = "SEALIFT_GUEST_ROOT")]
    pub(crate) root: PathBuf,
    /// Seconds to wait for volumes that have not come yet
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) wait: u16,
}

/// A path that stays the same wherever it is read.
fn absolute(path: &str) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}

fn file_or_resource(path: &str) -> std::io::Result<PathBuf> {
    match guest::identity::is_resource(path) {
        true => Ok(path.into()),
        false => absolute(path),
    }
}

fn kubernetes_name(name: &str) -> Result<String, &'static str> {
    match volumes::audience::is_name(name) {
        true => Ok(name.to_owned()),
        false => Err("lower-case letters, digits, `-` and `.`"),
    }
}

fn category(name: &str) -> Result<Category, String> {
    Category::parse(name).ok_or_else(|| {
        let names: Vec<_> = Category::ALL.into_iter().map(Category::as_str).collect();
        format!("one of {}", names.join(", "))
    })
}

fn unix_socket(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix:").map(|path| path.strip_prefix("//").unwrap_or(path));
    path.filter(|path| path.starts_with('/')).map(Into::into).ok_or_else(|| "unix:/PATH".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn its_reference_is_the_generated_page() {
        let page = testkit::pages::reference(Cli::command());
        testkit::pages::hold("docs/reference/sealift-guest.md", &page).unwrap();
    }
}
