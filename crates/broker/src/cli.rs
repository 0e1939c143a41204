//! The command line of `sealift-broker`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use audit::{PART_BYTES_DEFAULT, PART_BYTES_MAX, PART_BYTES_MIN, Target};
use broker::{Config, TlsFiles};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Releases keys to guests that prove what they are
#[derive(Debug, Parser)]
#[command(name = "sealift-broker", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the KBS attestation protocol
    Serve(Box<Serve>),
    /// Make a data directory, its master key and an administrator's key
    Init(Init),
    /// Write all resources, in the clear, and the policy into a new directory: to move to Trustee
    Export(Export),
    /// Store what a directory holds in `export`'s form
    Import(Import),
}

/// A broker that does not run, or does not mind.
#[derive(Debug, Args)]
pub(crate) struct Kept {
    /// Where resources are kept, encrypted
    #[arg(long, value_name = "DIR", env = "SEALIFT_BROKER_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    /// The 32 bytes that everything is encrypted under
    #[arg(long, value_name = "FILE", env = "SEALIFT_BROKER_MASTER_KEY_FILE")]
    pub(crate) master_key_file: PathBuf,
    /// Audit log, as of `serve` [default: DATA_DIR/audit.log]
    #[arg(long, value_name = "TARGET", env = "SEALIFT_BROKER_AUDIT_FILE")]
    audit_file: Option<PathBuf>,
    /// Most of the audit log in one file, 16384 to 1073741824; then it is renamed and the next begun
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u64).range(PART_BYTES_MIN..=PART_BYTES_MAX),
        default_value_t = PART_BYTES_DEFAULT,
        env = "SEALIFT_BROKER_AUDIT_PART_BYTES"
    )]
    pub(crate) audit_part_bytes: u64,
}

impl Kept {
    pub(crate) fn audit_to(&self) -> Target {
        audit_to(self.audit_file.as_deref(), &self.data_dir)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The directory to make; a tmpfs is the place for it
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) kept: Kept,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The directory: resources/REPOSITORY/TYPE/TAG, and policy.rego
    #[arg(value_name = "FROM")]
    pub(crate) from: PathBuf,
    /// Replace resources that exist
    #[arg(long)]
    pub(crate) overwrite: bool,
    #[command(flatten)]
    pub(crate) kept: Kept,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Address to listen on; port 0 is any free one
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080",
        env = "SEALIFT_BROKER_LISTEN"
    )]
    listen: SocketAddr,
    /// Where resources are kept, encrypted
    #[arg(long, value_name = "DIR", env = "SEALIFT_BROKER_DATA_DIR")]
    data_dir: PathBuf,
    /// The 32 bytes that everything is encrypted under
    #[arg(long, value_name = "FILE", env = "SEALIFT_BROKER_MASTER_KEY_FILE")]
    master_key_file: PathBuf,
    /// Certificate chain, PEM; required unless the address is a loopback one
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "SEALIFT_BROKER_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "SEALIFT_BROKER_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// The resource policy (Rego); administrators cannot change it then
    #[arg(long, value_name = "FILE", env = "SEALIFT_BROKER_POLICY")]
    policy: Option<PathBuf>,
    /// The attestation policy (Rego), instead of the built-in one
    #[arg(long, value_name = "FILE", env = "SEALIFT_BROKER_ATTESTATION_POLICY")]
    attestation_policy: Option<PathBuf>,
    /// Reference values (JSON) that the attestation policy compares measurements with
    #[arg(long, value_name = "FILE", env = "SEALIFT_BROKER_REFERENCE_VALUES")]
    reference_values: Option<PathBuf>,
    /// Intel's collateral, FMSPC.json each; without it, TDX is not verified
    #[arg(long, value_name = "DIR", env = "SEALIFT_BROKER_TDX_COLLATERAL_DIR")]
    tdx_collateral_dir: Option<PathBuf>,
    /// AMD's ASK and ASVK certificates that guests do not send themselves, PEM
    #[arg(long, value_name = "FILE", env = "SEALIFT_BROKER_AMD_CERTIFICATES")]
    amd_certificates: Option<PathBuf>,
    /// AMD's revocation lists, `milan.crl` and `milan-vlek.crl` for each line; without it revoked
    /// keys of AMD's are not noticed
    #[arg(long, value_name = "DIR", env = "SEALIFT_BROKER_SNP_CRL_DIR")]
    snp_crl_dir: Option<PathBuf>,
    /// An administrator's Ed25519 public key, PEM; may be repeated
    #[arg(
        long = "admin-public-key",
        value_name = "FILE",
        value_delimiter = ',',
        env = "SEALIFT_BROKER_ADMIN_PUBLIC_KEY"
    )]
    admin_public_keys: Vec<PathBuf>,
    /// The issuer (iss) that administrators' tokens must name; may be repeated; default any
    #[arg(
        long = "admin-issuer",
        value_name = "NAME",
        value_delimiter = ',',
        env = "SEALIFT_BROKER_ADMIN_ISSUER"
    )]
    admin_issuers: Vec<String>,
    /// Attestation keys of TPMs to trust, PEM, read again for each attestation; may be repeated;
    /// default none, and TPM evidence is refused
    #[arg(
        long = "tpm-trusted-key",
        value_name = "FILE",
        value_delimiter = ',',
        env = "SEALIFT_BROKER_TPM_TRUSTED_KEY"
    )]
    tpm_trusted_keys: Vec<PathBuf>,
    /// Requests a second that one client (an IPv4 address, an IPv6 /64) may make, ten seconds' worth of
    /// them at once; 0 is no limit. Loopback has none
    #[arg(
        long,
        value_name = "N",
        default_value_t = broker::CLIENT_RATE_DEFAULT,
        env = "SEALIFT_BROKER_CLIENT_RATE"
    )]
    client_rate: u32,
    /// Audit log: a file, `-` (standard output), journald:, syslog: or https://… [default:
    /// DATA_DIR/audit.log]
    #[arg(long, value_name = "TARGET", env = "SEALIFT_BROKER_AUDIT_FILE")]
    audit_file: Option<PathBuf>,
    /// Most of the audit log in one file, 16384 to 1073741824; then it is renamed and the next begun
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u64).range(PART_BYTES_MIN..=PART_BYTES_MAX),
        default_value_t = PART_BYTES_DEFAULT,
        env = "SEALIFT_BROKER_AUDIT_PART_BYTES"
    )]
    pub(crate) audit_part_bytes: u64,
    /// Development only: accept evidence that anyone can write, and plain HTTP anywhere
    #[arg(long, env = "SEALIFT_BROKER_INSECURE_DEV")]
    insecure_dev: bool,
    /// What to log: error, warn, info, debug, or directives as of tracing's EnvFilter
    #[arg(long, value_name = "FILTER", default_value = "info", env = "SEALIFT_BROKER_LOG_LEVEL")]
    pub(crate) log_level: String,
    /// Form of the log on standard error
    #[arg(long, value_enum, default_value = "text", env = "SEALIFT_BROKER_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
    /// Give up all files, system calls and privileges that it does not need (Landlock, seccomp)
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        action = clap::ArgAction::Set,
        env = "SEALIFT_BROKER_CONFINE"
    )]
    pub(crate) confine: bool,
    /// File to write the address to once it is listened on
    #[arg(long, value_name = "FILE", env = "SEALIFT_BROKER_READY_FILE")]
    pub(crate) ready_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Where resources will be kept, encrypted
    #[arg(long, value_name = "DIR", env = "SEALIFT_BROKER_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    /// Where the keys go, apart from the data [default: DATA_DIR-keys]
    #[arg(long, value_name = "DIR", env = "SEALIFT_BROKER_KEYS_DIR")]
    keys_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

impl Serve {
    pub(crate) fn config(&self) -> Config {
        let tls = self.tls_cert.clone().zip(self.tls_key.clone());
        Config {
            data_dir: self.data_dir.clone(),
            master_key_file: self.master_key_file.clone(),
            policy_file: self.policy.clone(),
            attestation_policy_file: self.attestation_policy.clone(),
            reference_values_file: self.reference_values.clone(),
            tdx_collateral_dir: self.tdx_collateral_dir.clone(),
            amd_certificates: self.amd_certificates.clone(),
            snp_crl_dir: self.snp_crl_dir.clone(),
            admin_public_keys: self.admin_public_keys.clone(),
            admin_issuers: self.admin_issuers.clone(),
            insecure_dev: self.insecure_dev,
            tpm_trusted_keys: self.tpm_trusted_keys.clone(),
            client_rate: self.client_rate,
            listen: self.listen,
            tls: tls.map(|(certificates, key)| TlsFiles { certificates, key }),
        }
    }

    pub(crate) fn audit_to(&self) -> Target {
        audit_to(self.audit_file.as_deref(), &self.data_dir)
    }
}

fn audit_to(named: Option<&Path>, data_dir: &Path) -> Target {
    named.map_or_else(|| Target::File(data_dir.join("audit.log")), Target::parse)
}

impl Init {
    pub(crate) fn keys_dir(&self) -> PathBuf {
        self.keys_dir.clone().unwrap_or_else(|| {
            let mut name = self.data_dir.clone().into_os_string();
            name.push("-keys");
            name.into()
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_flag_has_a_variable() {
        let mut command = Cli::command();
        command.build();
        for subcommand in command.get_subcommands() {
            // What overwrites is said each time.
            let named = |flag: &&clap::Arg| {
                !flag.is_positional() && flag.get_id() != "help" && flag.get_id() != "overwrite"
            };
            for flag in subcommand.get_arguments().filter(named) {
                let long = flag.get_long().unwrap().replace('-', "_").to_uppercase();
                let variable = flag.get_env().unwrap().to_str().unwrap();
                assert_eq!(variable, format!("SEALIFT_BROKER_{long}"));
            }
        }
    }

    #[test]
    fn its_reference_is_the_generated_page() {
        let page = testkit::pages::reference(Cli::command());
        testkit::pages::hold("docs/reference/sealift-broker.md", &page).unwrap();
    }

    #[test]
    fn keys_lie_beside_the_data_not_in_it() {
        let cli = Cli::try_parse_from(["sealift-broker", "init", "--data-dir", "/a/b"]).unwrap();
        let Command::Init(init) = cli.command else { panic!("not init") };
        assert_eq!(init.keys_dir(), PathBuf::from("/a/b-keys"));
    }
}
