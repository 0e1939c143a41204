//! How to reach keys that are neither a key broker's nor in a file.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// How to reach `vault:///`, `awskms:///`, `gcpkms:///`, `azurekms:///` and `pkcs11:` keys. The variables
/// of Vault's own client and of the clouds' tools are honoured.
#[derive(Debug, Clone, Args)]
pub struct RemoteArgs {
    /// Vault's or OpenBao's address
    #[arg(long, value_name = "URL", env = "VAULT_ADDR")]
    pub vault_addr: Option<String>,
    /// The namespace in it
    #[arg(long, value_name = "NAME", env = "VAULT_NAMESPACE")]
    pub vault_namespace: Option<String>,
    /// Certificates to trust for Vault, PEM
    #[arg(long, value_name = "FILE", env = "VAULT_CACERT")]
    pub vault_ca: Option<PathBuf>,
    /// How to log in to Vault [default: token]
    #[arg(
        long,
        value_enum,
        default_value_t,
        hide_default_value = true,
        env = "SEALIFT_VAULT_AUTH"
    )]
    pub vault_auth: VaultAuth,
    /// Vault's token, one line; without it the variable VAULT_TOKEN is the token
    #[arg(long, value_name = "FILE", env = "SEALIFT_VAULT_TOKEN_FILE")]
    pub vault_token_file: Option<PathBuf>,
    /// The role to log in as, by kubernetes or jwt
    #[arg(long, value_name = "ROLE", env = "SEALIFT_VAULT_ROLE")]
    pub vault_role: Option<String>,
    /// Where the login method is mounted [default: its own name]
    #[arg(long, value_name = "PATH", env = "SEALIFT_VAULT_AUTH_MOUNT")]
    pub vault_auth_mount: Option<String>,
    /// The JWT to log in with [default for kubernetes: the service account's token]
    #[arg(long, value_name = "FILE", env = "SEALIFT_VAULT_JWT_FILE")]
    pub vault_jwt_file: Option<PathBuf>,
    /// Address of AWS KMS [default: the region's own]
    #[arg(long, value_name = "URL", env = "AWS_ENDPOINT_URL_KMS")]
    pub aws_kms_endpoint: Option<String>,
    /// Certificates to trust for AWS KMS, PEM
    #[arg(long, value_name = "FILE", env = "SEALIFT_AWS_KMS_CA")]
    pub aws_kms_ca: Option<PathBuf>,
    /// Address of Google's Cloud KMS [default: its own]
    #[arg(long, value_name = "URL", env = "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS")]
    pub gcp_kms_endpoint: Option<String>,
    /// Address of Azure's Managed HSM [default: the host in the key's name]
    #[arg(long, value_name = "URL", env = "SEALIFT_AZURE_KMS_ENDPOINT")]
    pub azure_kms_endpoint: Option<String>,
    /// The library of the PKCS#11 token's maker
    #[arg(long, value_name = "FILE", env = "SEALIFT_PKCS11_MODULE")]
    pub pkcs11_module: Option<PathBuf>,
    /// The token's PIN, one line; without it the variable SEALIFT_PKCS11_PIN is the PIN
    #[arg(long, value_name = "FILE", env = "SEALIFT_PKCS11_PIN_FILE")]
    pub pkcs11_pin_file: Option<PathBuf>,
    /// The program that loads the library [default: sealift-pkcs11 beside this one]
    #[arg(long, value_name = "FILE", env = "SEALIFT_PKCS11_HELPER")]
    pub pkcs11_helper: Option<PathBuf>,
}

/// How to log in to Vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum VaultAuth {
    /// With a token that somebody else got.
    #[default]
    Token,
    /// As this pod's service account.
    Kubernetes,
    /// With any other JWT: a workload identity.
    Jwt,
    /// With the attestation token of the broker at --kbs-url, by the jwt method.
    Attestation,
}
