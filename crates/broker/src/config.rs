//! What the broker is told: one struct, made in `main` from flags and environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::error::Error;

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where resources, the policy and the token key are kept.
    pub data_dir: PathBuf,
    /// 32 raw bytes, kept elsewhere.
    pub master_key_file: PathBuf,
    /// The operator's policy; administrators cannot change it then.
    pub policy_file: Option<PathBuf>,
    /// The operator's attestation policy; else the default one.
    pub attestation_policy_file: Option<PathBuf>,
    /// What the attestation policy compares measurements with.
    pub reference_values_file: Option<PathBuf>,
    /// Intel's collateral, `<fmspc>.json` each. None: TDX is not verified.
    pub tdx_collateral_dir: Option<PathBuf>,
    /// AMD's intermediate certificates (ASK, ASVK) that guests need not send, PEM.
    pub amd_certificates: Option<PathBuf>,
    /// AMD's revocation lists; without it revocation is not looked at.
    pub snp_crl_dir: Option<PathBuf>,
    /// Administrators' Ed25519 public keys, PEM. None: the admin API refuses everybody.
    pub admin_public_keys: Vec<PathBuf>,
    /// `iss` of administrators' tokens. Empty: any.
    pub admin_issuers: Vec<String>,
    /// Accepts `sample` evidence, releases to it by default, and allows plain HTTP anywhere.
    pub insecure_dev: bool,
    /// Public keys of TPMs' attestation keys, PEM. None: TPM evidence is refused.
    pub tpm_trusted_keys: Vec<PathBuf>,
    /// Requests a second that one client may make, 10 seconds' worth of them at once; 0 is no limit.
    pub client_rate: u32,
    /// Where to listen; port 0 is any free one.
    pub listen: SocketAddr,
    /// Certificate chain and key, PEM.
    pub tls: Option<TlsFiles>,
}

/// A certificate chain and its private key.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Leaf first, PEM.
    pub certificates: PathBuf,
    /// PKCS#8, PKCS#1 or SEC 1, PEM.
    pub key: PathBuf,
}

impl Config {
    /// Nothing but what is needed: verifies SNP alone, releases to affirming guests, and listens on
    /// any free loopback port.
    pub fn new(data_dir: PathBuf, master_key_file: PathBuf) -> Self {
        Self {
            data_dir,
            master_key_file,
            policy_file: None,
            attestation_policy_file: None,
            reference_values_file: None,
            tdx_collateral_dir: None,
            amd_certificates: None,
            snp_crl_dir: None,
            admin_public_keys: Vec::new(),
            admin_issuers: Vec::new(),
            insecure_dev: false,
            tpm_trusted_keys: Vec::new(),
            client_rate: crate::CLIENT_RATE_DEFAULT,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
        }
    }

    /// Refuses settings that would send tokens over a network in the clear.
    pub fn check(&self) -> Result<(), Error> {
        if self.tls.is_none() && !self.listen.ip().is_loopback() && !self.insecure_dev {
            return Err(Error::Settings(
                "plain HTTP is only for loopback addresses: give --tls-cert and --tls-key",
            ));
        }
        Ok(())
    }
}
