//! The command line of `sealift-host`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use host::guest::Protocol;

/// Keeps Kubernetes' volumes current in guests that share no filesystem with this node
#[derive(Debug, Parser)]
#[command(name = "sealift-host", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// The agent's socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value = "/run/sealift/host.sock",
        env = "SEALIFT_HOST_SOCKET"
    )]
    pub(crate) socket: PathBuf,
    /// Form of the result on stdout
    #[arg(short, long, global = true, default_value = "table", env = "SEALIFT_OUTPUT")]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// For programs: one JSON document
    Json,
}

/// Which agent is in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AgentKind {
    /// Ours
    Sealift,
    /// Kata's own, as it is: neither atomic nor verified
    Kata,
}

impl From<AgentKind> for Protocol {
    fn from(kind: AgentKind) -> Self {
        match kind {
            AgentKind::Sealift => Self::Sealift,
            AgentKind::Kata => Self::Kata,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the agent
    Run(Box<Run>),
    /// Keep a pod's volumes, or one volume, current in a guest
    Attach(Attach),
    /// Keep them current no longer; the guest removes them
    Detach(Detach),
    /// Look now, and wait until the guest has what the host has
    Sync(Sync),
    /// Show what the host has and the guest has not
    Diff(Diff),
    /// Show how volumes are
    Status(Status),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Kubelet's --root-dir
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/kubelet",
        env = "SEALIFT_KUBELET_ROOT"
    )]
    pub(crate) kubelet_root: PathBuf,
    /// Where what is attached is remembered
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/sealift/host",
        env = "SEALIFT_HOST_STATE_DIR"
    )]
    pub(crate) state_dir: PathBuf,
    /// Seconds after which every volume is looked at, whatever inotify says
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..), env = "SEALIFT_HOST_RESCAN")]
    pub(crate) rescan: u32,
    /// Be an NRI plugin of the container runtime at this socket: attach the volumes of pods that
    /// run in a guest, and mount the guest's directories in their containers
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true, default_missing_value = host::nri::SOCKET, env = "SEALIFT_NRI")]
    pub(crate) nri: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) plugin: Nri,
    #[command(flatten)]
    pub(crate) tls: Tls,
    /// Serve Prometheus metrics at IP:PORT or unix:/PATH, as /metrics; /healthz and /readyz too
    #[arg(long, value_name = "ADDRESS", env = "SEALIFT_HOST_METRICS")]
    pub(crate) metrics: Option<link::pages::Address>,
    /// Give up all files, system calls and privileges that it does not need (Landlock, seccomp)
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, env = "SEALIFT_HOST_CONFINE")]
    pub(crate) confine: bool,
    /// What to log: error, warn, info, debug
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "SEALIFT_LOG")]
    pub(crate) log_level: tracing::Level,
    /// Log JSON lines
    #[arg(long, env = "SEALIFT_LOG_JSON")]
    pub(crate) log_json: bool,
}

/// For guests at tls: addresses. Files are read again for every connection.
#[derive(Debug, Args)]
pub(crate) struct Tls {
    /// The CA of the guests at tls: addresses; PEM
    #[arg(
        long = "tls-ca",
        value_name = "FILE",
        requires = "cert",
        requires = "key",
        env = "SEALIFT_HOST_TLS_CA"
    )]
    pub(crate) ca: Option<PathBuf>,
    /// This host's certificate for them, and those between it and its CA; PEM
    #[arg(long = "tls-cert", value_name = "FILE", requires = "ca", env = "SEALIFT_HOST_TLS_CERT")]
    pub(crate) cert: Option<PathBuf>,
    /// Its private key, which nobody but its owner may read; PEM
    #[arg(long = "tls-key", value_name = "FILE", requires = "ca", env = "SEALIFT_HOST_TLS_KEY")]
    pub(crate) key: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "NRI")]
pub(crate) struct Nri {
    /// The plugin's name, as in the runtime's list of required plugins
    #[arg(long, value_name = "NAME", default_value = "sealift", value_parser = plugin_name, env = "SEALIFT_NRI_NAME")]
    pub(crate) nri_name: String,
    /// The plugin's place among others, 0 to 99
    #[arg(long, value_name = "INDEX", default_value_t = 50, value_parser = clap::value_parser!(u8).range(..100), env = "SEALIFT_NRI_INDEX")]
    pub(crate) nri_index: u8,
    /// Runtime handlers whose pods run in a guest [default: those that begin with kata]
    #[arg(long, value_name = "HANDLER", value_delimiter = ',', env = "SEALIFT_NRI_RUNTIME")]
    pub(crate) nri_runtime: Vec<String>,
    /// Where Kata's shims keep their sandboxes
    #[arg(long, value_name = "DIR", value_delimiter = ',', default_values = host::nri::shim::DIRS, env = "SEALIFT_NRI_SHIM_DIR")]
    pub(crate) nri_shim_dir: Vec<PathBuf>,
    /// The port of the agent in each guest, if that is ours
    #[arg(long, value_name = "PORT", default_value_t = 1027, env = "SEALIFT_NRI_PORT")]
    pub(crate) nri_port: u32,
    /// Where our agent in a guest keeps volumes: its --root
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/sealift",
        env = "SEALIFT_NRI_GUEST_ROOT"
    )]
    pub(crate) nri_guest_root: PathBuf,
    /// Which agent is in the guests
    #[arg(long, value_name = "KIND", default_value = "sealift", env = "SEALIFT_AGENT")]
    pub(crate) agent: AgentKind,
    /// Refuse containers with a subPath of a volume, which would never be updated
    #[arg(long, env = "SEALIFT_NRI_REFUSE_SUBPATH")]
    pub(crate) nri_refuse_subpath: bool,
}

fn plugin_name(name: &str) -> Result<String, &'static str> {
    match host::nri::is_name(name) {
        true => Ok(name.into()),
        false => Err("only letters, digits and `_.+-`"),
    }
}

#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// Which agent is in the guest
    #[arg(long, value_name = "KIND", default_value = "sealift", env = "SEALIFT_AGENT")]
    pub(crate) agent: AgentKind,
    /// The guest agent's address: unix:/PATH, vsock:CID:PORT, hvsock:/PATH:PORT, tls:HOST:PORT, or
    /// tls:NAME@HOST:PORT for a guest whose certificate has another name than HOST
    #[arg(long, value_name = "ADDRESS", env = "SEALIFT_GUEST")]
    pub(crate) guest: String,
    /// All Secret, ConfigMap, projected and downward-API volumes of the pod with this UID
    #[arg(long, value_name = "UID", required_unless_present = "path", conflicts_with = "path")]
    pub(crate) pod: Option<String>,
    /// The volume at this path
    #[arg(long, value_name = "DIR")]
    pub(crate) path: Option<PathBuf>,
    /// Seconds to wait until the guest has them; 0: do not wait
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) wait: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Detach {
    /// All volumes of the pod with this UID
    #[arg(long, value_name = "UID", required_unless_present = "volume", conflicts_with = "volume")]
    pub(crate) pod: Option<String>,
    /// A volume, as `status` names it
    pub(crate) volume: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Sync {
    /// A volume, as `status` names it; without it all
    pub(crate) volume: Option<String>,
    /// Seconds to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) wait: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// A volume, as `status` names it
    pub(crate) volume: String,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Only the volumes of the pod with this UID
    #[arg(long, value_name = "UID")]
    pub(crate) pod: Option<String>,
    /// What the guest at this address says of all its volumes
    #[arg(long, value_name = "ADDRESS", conflicts_with = "pod")]
    pub(crate) guest: Option<String>,
    /// All volumes, which is what it shows anyway without --pod
    #[arg(short = 'A', long)]
    pub(crate) all: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn its_reference_is_the_generated_page() {
        let page = testkit::pages::reference(Cli::command());
        testkit::pages::hold("docs/reference/sealift-host.md", &page).unwrap();
    }
}
