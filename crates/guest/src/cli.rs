//! The command line of `sealift-guest`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use guest::confine::Require;
use guest::socket::Address;
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
    /// Bind-mount a volume onto a directory, read-only
    Bind(Bind),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Where the host connects: vsock:PORT or unix:/PATH; may be repeated
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "vsock:1027",
        value_delimiter = ',',
        env = "SEALIFT_GUEST_LISTEN"
    )]
    pub(crate) listen: Vec<Address>,
    /// Where volumes are kept
    #[arg(long, value_name = "DIR", default_value = "/run/sealift", env = "SEALIFT_GUEST_ROOT")]
    pub(crate) root: PathBuf,
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
    /// Milliseconds for which an earlier revision stays, for who holds a directory of it open
    #[arg(long, value_name = "MS", default_value_t = 2_000, env = "SEALIFT_GUEST_GRACE_MS")]
    pub(crate) grace_ms: u32,
    /// Directories instead of mounts, without limits of their own: for where nobody may mount
    #[arg(long, env = "SEALIFT_GUEST_PLAIN_DIRECTORIES")]
    pub(crate) plain_directories: bool,
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

#[derive(Debug, Args)]
pub(crate) struct Bind {
    /// Where volumes are kept
    #[arg(long, value_name = "DIR", default_value = "/run/sealift", env = "SEALIFT_GUEST_ROOT")]
    pub(crate) root: PathBuf,
    /// The volume, as the host names it
    pub(crate) volume: String,
    /// An existing directory
    pub(crate) target: PathBuf,
}

fn category(name: &str) -> Result<Category, String> {
    Category::parse(name).ok_or_else(|| {
        let names: Vec<_> = Category::ALL.into_iter().map(Category::as_str).collect();
        format!("one of {}", names.join(", "))
    })
}
