//! [`Roots`]: what evidence must lead to.

use std::fmt;
use std::path::Path;

use x509_cert::Certificate;
use x509_cert::der::Encode;

use super::Rejection;
use super::snp::{AmdRoots, Line};
use crate::error::Error;
use crate::files;

/// Largest file of further certificates, in bytes.
const CERTIFICATES_BYTES_MAX: usize = 64 * 1024;

/// The keys of the makers of processors. No setting changes them.
pub struct Roots {
    pub(super) amd: AmdRoots,
    /// DER.
    pub(super) intel: Vec<u8>,
}

impl Roots {
    /// AMD's and Intel's own.
    pub fn of_vendors() -> Self {
        Self { amd: AmdRoots::embedded(), intel: super::tdx::intel_root() }
    }

    /// For tests with keys of their own: another root (DER) instead of AMD's for a line (`Milan`,
    /// `Genoa`, `Turin`).
    ///
    /// # Errors
    /// A line or a certificate that there is not.
    pub fn with_amd(mut self, line: &str, ark: &[u8]) -> Result<Self, Rejection> {
        let line = Line::named(line).ok_or(super::Refused::SnpProduct)?;
        self.amd.replace(line, ark)?;
        Ok(self)
    }

    /// For tests with keys of their own: another root (DER) instead of Intel's.
    #[must_use]
    pub fn with_intel(self, root: Vec<u8>) -> Self {
        Self { intel: root, ..self }
    }

    /// Adds ASKs and ASVKs (PEM) that guests need not send.
    pub(super) fn add_amd_certificates(&mut self, path: &Path) -> Result<(), Error> {
        let unusable = |why: String| Error::AmdCertificates { path: path.to_owned(), why };
        let pem = files::read(path, CERTIFICATES_BYTES_MAX)
            .map_err(|source| Error::file(path, source))?;
        let certificates =
            Certificate::load_pem_chain(&pem).map_err(|error| unusable(error.to_string()))?;
        if certificates.is_empty() {
            return Err(unusable("none in it".to_owned()));
        }
        for certificate in certificates {
            let subject = certificate.tbs_certificate().subject().to_string();
            let der = certificate.to_der().map_err(|error| unusable(error.to_string()))?;
            self.amd.add_intermediate(&der).map_err(|why| unusable(format!("{subject}: {why}")))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots").field("amd", &self.amd).finish_non_exhaustive()
    }
}
