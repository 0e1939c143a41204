//! [`Refused`]: which check evidence did not pass, by a name that stays.

use std::fmt;

/// A check that evidence failed. The name goes into the log, the audit record and the client's
/// error; what exactly was found goes into the log alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refused {
    /// Not the JSON of a `sample` attester.
    SampleFormat,
    /// `sample` evidence for another nonce or key.
    SampleReportData,
    /// Not upstream's JSON of an SNP report, or a part of the wrong length.
    SnpFormat,
    /// A report version other than 2 to 5.
    SnpVersion,
    /// A processor line without an embedded root, or not the line of the certificates.
    SnpProduct,
    /// No VCEK or VLEK, or more than one, in the certificates; or a VLEK without its ASVK.
    SnpChainMissing,
    /// A certificate that cannot be read, or is larger than any of AMD's.
    SnpCertificate,
    /// The root is not AMD's for this line.
    SnpChainRoot,
    /// A certificate that its issuer did not sign, or has no right to have.
    SnpChain,
    /// A certificate before or after its time.
    SnpChainExpired,
    /// No revocation list for the chain's line and kind.
    SnpCrlMissing,
    /// A revocation list that cannot be read, or is not the ARK's.
    SnpCrl,
    /// A revocation list before or after its time.
    SnpCrlStale,
    /// The ARK's list names the ASK or ASVK.
    CertificateRevoked,
    /// The report's TCB is not the certificate's.
    SnpTcb,
    /// The certificate is another chip's.
    SnpChipId,
    /// The certified key did not sign the report.
    SnpSignature,
    /// A report for another nonce or key.
    SnpReportData,
    /// Not asked for at VMPL 0.
    SnpVmpl,
    /// The guest's policy lets the host read its memory.
    SnpDebug,
    /// Not upstream's JSON of a TDX quote, or not a quote.
    TdxFormat,
    /// A quote that is not of a TD, or a version other than 4 and 5.
    TdxVersion,
    /// No PCK certificates that name a platform.
    TdxCertificate,
    /// No collateral for this platform.
    TdxCollateralMissing,
    /// Collateral that cannot be read.
    TdxCollateral,
    /// Collateral before or after its time.
    TdxCollateralStale,
    /// A certificate or collateral that Intel did not sign, or revoked.
    TdxChain,
    /// The quote or its quoting enclave is not signed as it should be.
    TdxSignature,
    /// The platform's TCB is revoked, or matches no known level.
    TdxTcb,
    /// Attributes of the TD or of the TDX module that are not acceptable.
    TdxAttributes,
    /// The host may debug or profile the TD.
    TdxDebug,
    /// A quote for another nonce or key.
    TdxReportData,
    /// Not upstream's JSON of a TPM's quote.
    TpmFormat,
    /// The list of trusted attestation keys cannot be read now.
    TpmTrust,
    /// The attestation key is not listed.
    TpmAkUnknown,
    /// Not a TPMT_SIGNATURE.
    TpmSignatureFormat,
    /// Not ECDSA, RSASSA or RSAPSS, fit for the key, with SHA-256.
    TpmSignatureAlgorithm,
    /// Not the attestation key's signature.
    TpmSignature,
    /// Not made by a TPM.
    TpmMagic,
    /// An attestation of something else than PCRs.
    TpmType,
    /// Not a TPMS_ATTEST.
    TpmQuoteFormat,
    /// A quote for another nonce or key.
    TpmReportData,
    /// Not a selection of PCRs 0 to 23 of the SHA-256 bank.
    TpmPcrSelection,
    /// More or fewer PCRs than were quoted.
    TpmPcrCount,
    /// Not the PCRs that were quoted.
    TpmPcrDigest,
    /// Not upstream's JSON of evidence from an Azure vTPM, or of a version other than 0 to 2.
    AzureFormat,
    /// Not a report of Azure's paravisor, or one of another TEE.
    AzureReport,
    /// The hardware's report is for other runtime data.
    AzureRuntimeData,
    /// The runtime data has not exactly one RSA key `HCLAkPub`.
    AzureKey,
    /// Version 2, and the runtime data is for another nonce or key.
    AzureUserData,
    /// Init-data of another format than `toml`, or that is none.
    InitDataFormat,
    /// Init-data that the TEE was not started with.
    InitDataMismatch,
}

impl Refused {
    /// The name, kebab-case.
    pub fn name(self) -> &'static str {
        match self {
            Self::SampleFormat => "sample-format",
            Self::SampleReportData => "sample-report-data",
            Self::SnpFormat => "snp-format",
            Self::SnpVersion => "snp-version",
            Self::SnpProduct => "snp-product",
            Self::SnpChainMissing => "snp-chain-missing",
            Self::SnpCertificate => "snp-certificate",
            Self::SnpChainRoot => "snp-chain-root",
            Self::SnpChain => "snp-chain",
            Self::SnpChainExpired => "snp-chain-expired",
            Self::SnpCrlMissing => "snp-crl-missing",
            Self::SnpCrl => "snp-crl",
            Self::SnpCrlStale => "snp-crl-stale",
            Self::CertificateRevoked => "certificate-revoked",
            Self::SnpTcb => "snp-tcb",
            Self::SnpChipId => "snp-chip-id",
            Self::SnpSignature => "snp-signature",
            Self::SnpReportData => "snp-report-data",
            Self::SnpVmpl => "snp-vmpl",
            Self::SnpDebug => "snp-debug",
            Self::TdxFormat => "tdx-format",
            Self::TdxVersion => "tdx-version",
            Self::TdxCertificate => "tdx-certificate",
            Self::TdxCollateralMissing => "tdx-collateral-missing",
            Self::TdxCollateral => "tdx-collateral",
            Self::TdxCollateralStale => "tdx-collateral-stale",
            Self::TdxChain => "tdx-chain",
            Self::TdxSignature => "tdx-signature",
            Self::TdxTcb => "tdx-tcb",
            Self::TdxAttributes => "tdx-attributes",
            Self::TdxDebug => "tdx-debug",
            Self::TdxReportData => "tdx-report-data",
            Self::TpmFormat => "tpm-format",
            Self::TpmTrust => "tpm-trust",
            Self::TpmAkUnknown => "tpm-ak-unknown",
            Self::TpmSignatureFormat => "tpm-signature-format",
            Self::TpmSignatureAlgorithm => "tpm-signature-algorithm",
            Self::TpmSignature => "tpm-signature",
            Self::TpmMagic => "tpm-magic",
            Self::TpmType => "tpm-type",
            Self::TpmQuoteFormat => "tpm-quote-format",
            Self::TpmReportData => "tpm-report-data",
            Self::TpmPcrSelection => "tpm-pcr-selection",
            Self::TpmPcrCount => "tpm-pcr-count",
            Self::TpmPcrDigest => "tpm-pcr-digest",
            Self::AzureFormat => "azure-format",
            Self::AzureReport => "azure-report",
            Self::AzureRuntimeData => "azure-runtime-data",
            Self::AzureKey => "azure-key",
            Self::AzureUserData => "azure-user-data",
            Self::InitDataFormat => "init-data-format",
            Self::InitDataMismatch => "init-data-mismatch",
        }
    }

    /// A rejection for this reason; `cause` is for the log.
    pub fn because(self, cause: impl fmt::Display) -> Rejection {
        Rejection { reason: self, cause: cause.to_string() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Evidence that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The check.
    pub reason: Refused,
    /// What was found, for the log: some of it comes from the client.
    pub cause: String,
}

impl From<Refused> for Rejection {
    fn from(reason: Refused) -> Self {
        Self { reason, cause: String::new() }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        if self.cause.is_empty() { Ok(()) } else { write!(f, ": {}", self.cause) }
    }
}
