//! [`Tsm`]: reports of the TEE's own hardware through the kernel's configfs-tsm, one interface for
//! AMD SEV-SNP, Intel TDX and Arm CCA (Linux, Documentation/ABI/testing/configfs-tsm-report).
//!
//! ```text
//! mkdir <root>/<name>      an entry of our own
//!   provider               whose reports: decides the TEE
//!   privlevel  <- "0"…"3"  the VMPL, if one is asked for (SNP)
//!   inblob     <- 64 bytes report data, padded with zeroes
//!   outblob    ->          the report or quote
//!   auxblob    ->          SNP: the host's table of certificates, may be absent
//!   generation ->          number of writes so far; another than ours: somebody interfered
//! rmdir <root>/<name>
//! ```
//!
//! The evidence is upstream's, for each TEE. **Not run on silicon yet**: tested against a stand-in
//! that behaves as the kernel's sources do.

mod snp;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Attester;
use crate::Error;

/// TSM_REPORT_INBLOB_MAX: report data of every TEE so far.
const INBLOB_BYTES: usize = 64;
/// Largest report read. A TDX quote has about 5 KiB, a CCA token less.
const OUTBLOB_BYTES_MAX: usize = 128 * 1024;
/// Largest certificate table read; the kernel's own limit for SNP is 16 KiB.
const AUXBLOB_BYTES_MAX: usize = 64 * 1024;
/// Largest event log read: firmware reserves 64 KiB for it.
const EVENT_LOG_BYTES_MAX: usize = 512 * 1024;
/// Longest attribute that is a line of text.
const LINE_BYTES_MAX: usize = 64;
/// How often a report is asked for anew because of a race.
const ATTEMPTS_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// The confidential computing event log, which explains TDX's runtime measurements.
const EVENT_LOG: &str = "/sys/firmware/acpi/tables/data/CCEL";

/// Attests with what the kernel's configfs-tsm offers.
pub struct Tsm {
    root: PathBuf,
    privlevel: Option<u8>,
    provider: Provider,
    event_log: PathBuf,
    configfs: Box<dyn Configfs>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TsmError {
    /// Entries cannot be made.
    #[error(
        "no report can be asked for in {}: this is no guest of SNP, TDX or CCA, its kernel has no \
         configfs-tsm (Linux 6.7, CONFIG_TSM_REPORTS), or configfs is not mounted or not writable",
        root.display()
    )]
    Unavailable {
        /// Where reports are asked for.
        root: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An attribute that cannot be read or written.
    #[error("the report's {attribute} cannot be {done}")]
    Attribute {
        /// Its name.
        attribute: &'static str,
        /// `read` or `written`.
        done: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A TEE that no evidence form is known for.
    #[error("the kernel's provider is {0:?}: sev_guest, tdx_guest and arm_cca_guest are supported")]
    Provider(String),
    /// An attribute that is not what it should be.
    #[error("the report's {attribute} is unusable: {why}")]
    Malformed {
        /// Its name.
        attribute: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// Somebody else writes to our entries.
    #[error("something interfered with each of {ATTEMPTS_MAX} reports")]
    Race,
    /// More report data than there is room for.
    #[error("report data of {0} bytes, where {INBLOB_BYTES} fit")]
    ReportData(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Provider {
    Snp,
    Tdx,
    Cca,
}

/// What an entry gives. No certificates: an empty auxblob.
struct Blobs {
    outblob: Vec<u8>,
    auxblob: Vec<u8>,
}

impl Tsm {
    /// The kernel's directory.
    pub const ROOT: &str = "/sys/kernel/config/tsm/report";
    /// The highest privilege level number (TSM_REPORT_PRIVLEVEL_MAX).
    pub const PRIVLEVEL_MAX: u8 = 3;

    /// Asks the kernel whose reports there are. `privlevel` is the VMPL that a report is for;
    /// without one the kernel's default stands.
    pub fn open(root: &Path, privlevel: Option<u8>) -> Result<Self, Error> {
        Self::over(root, privlevel, Box::new(Kernel))
            .map_err(|fault| Error::Evidence { tee: "tsm", source: fault.into() })
    }

    fn over(
        root: &Path,
        privlevel: Option<u8>,
        configfs: Box<dyn Configfs>,
    ) -> Result<Self, TsmError> {
        let provider = Entry::make(configfs.as_ref(), root)?.provider()?;
        Ok(Self {
            root: root.to_owned(),
            privlevel,
            provider,
            event_log: EVENT_LOG.into(),
            configfs,
        })
    }

    fn report(&self, report_data: &[u8]) -> Result<Value, TsmError> {
        if report_data.len() > INBLOB_BYTES {
            return Err(TsmError::ReportData(report_data.len()));
        }
        let mut inblob = [0; INBLOB_BYTES];
        inblob[..report_data.len()].copy_from_slice(report_data);
        for attempt in 1..=ATTEMPTS_MAX {
            // A new entry each time: what interfered may still hold the old one.
            match self.report_once(&inblob)? {
                Some(blobs) => return self.evidence_of(&blobs),
                None => tracing::warn!(attempt, "something interfered with the report"),
            }
            thread::sleep(PAUSE);
        }
        Err(TsmError::Race)
    }

    /// What the hardware said, or `None` if that may not be over `inblob`.
    fn report_once(&self, inblob: &[u8]) -> Result<Option<Blobs>, TsmError> {
        let entry = Entry::make(self.configfs.as_ref(), &self.root)?;
        if entry.provider()? != self.provider {
            return Err(TsmError::Malformed { attribute: "provider", why: "it has changed" });
        }
        let steps = || -> Result<Blobs, TsmError> {
            if let Some(privlevel) = self.privlevel {
                entry.write("privlevel", privlevel.to_string().as_bytes())?;
            }
            entry.write("inblob", inblob)?;
            let outblob = entry.read("outblob", OUTBLOB_BYTES_MAX)?;
            let auxblob = match self.provider {
                Provider::Snp => entry.read_optional("auxblob", AUXBLOB_BYTES_MAX)?,
                Provider::Tdx | Provider::Cca => Vec::new(),
            };
            Ok(Blobs { outblob, auxblob })
        };
        match steps() {
            Ok(blobs) => {
                // Each write counts, and only ours may. Nothing else tells that a write of inblob
                // failed: the kernel looks at it when the file is closed.
                let writes = 1 + u64::from(self.privlevel.is_some());
                Ok((entry.generation()? == writes).then_some(blobs))
            }
            // EBUSY, EWOULDBLOCK: written by somebody else meanwhile.
            Err(TsmError::Attribute { source, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::ResourceBusy | io::ErrorKind::WouldBlock
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn evidence_of(&self, blobs: &Blobs) -> Result<Value, TsmError> {
        let Blobs { outblob, auxblob } = blobs;
        let malformed = |attribute| move |why| TsmError::Malformed { attribute, why };
        if outblob.is_empty() {
            return Err(malformed("outblob")("it is empty"));
        }
        match self.provider {
            Provider::Snp => Ok(json!({
                "attestation_report": snp::report(outblob).map_err(malformed("outblob"))?,
                "cert_chain": snp::certificates(auxblob).map_err(malformed("auxblob"))?,
            })),
            Provider::Tdx => Ok(json!({
                "cc_eventlog": self.read_event_log()?.map(|log| STANDARD.encode(log)),
                "quote": STANDARD.encode(outblob),
            })),
            Provider::Cca => Ok(json!({ "token": outblob })),
        }
    }

    fn read_event_log(&self) -> Result<Option<Vec<u8>>, TsmError> {
        match read(&self.event_log, EVENT_LOG_BYTES_MAX) {
            Ok(log) => Ok(Some(log)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => {
                Err(TsmError::Attribute { attribute: "event log (CCEL)", done: "read", source })
            }
        }
    }
}

impl Attester for Tsm {
    fn tee(&self) -> &'static str {
        match self.provider {
            Provider::Snp => "snp",
            Provider::Tdx => "tdx",
            Provider::Cca => "cca",
        }
    }

    fn evidence(&self, report_data: &[u8]) -> Result<Value, Error> {
        self.report(report_data)
            .map_err(|fault| Error::Evidence { tee: self.tee(), source: fault.into() })
    }
}

impl fmt::Debug for Tsm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tsm")
            .field("root", &self.root)
            .field("privlevel", &self.privlevel)
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}

/// What is done to configfs. A trait, because the tests' stand-in has to react to each step at
/// once, as the kernel does.
trait Configfs: Send + Sync {
    fn make(&self, entry: &Path) -> io::Result<()>;
    fn write(&self, attribute: &Path, bytes: &[u8]) -> io::Result<()>;
    /// At most `bytes_max` bytes; more are an error.
    fn read(&self, attribute: &Path, bytes_max: usize) -> io::Result<Vec<u8>>;
    fn remove(&self, entry: &Path) -> io::Result<()>;
}

struct Kernel;

impl Configfs for Kernel {
    fn make(&self, entry: &Path) -> io::Result<()> {
        fs::create_dir(entry)
    }

    fn write(&self, attribute: &Path, bytes: &[u8]) -> io::Result<()> {
        // In one call: the kernel takes each as a whole value.
        let mut file = OpenOptions::new().write(true).open(attribute)?;
        match file.write(bytes)? {
            written if written == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn read(&self, attribute: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
        read(attribute, bytes_max)
    }

    fn remove(&self, entry: &Path) -> io::Result<()> {
        // Its attributes go with it.
        fs::remove_dir(entry)
    }
}

fn read(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("over {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// An entry of ours; removed when dropped.
struct Entry<'a> {
    configfs: &'a dyn Configfs,
    path: PathBuf,
}

impl<'a> Entry<'a> {
    fn make(configfs: &'a dyn Configfs, root: &Path) -> Result<Self, TsmError> {
        let unavailable = |source| TsmError::Unavailable { root: root.to_owned(), source };
        let mut name = [0; 8];
        rand::fill(&mut name).map_err(|_| unavailable(io::Error::other("no randomness")))?;
        let path = root.join(format!("sealift-{:016x}", u64::from_le_bytes(name)));
        configfs.make(&path).map_err(unavailable)?;
        Ok(Self { configfs, path })
    }

    fn provider(&self) -> Result<Provider, TsmError> {
        match self.line("provider")?.as_str() {
            "sev_guest" => Ok(Provider::Snp),
            "tdx_guest" => Ok(Provider::Tdx),
            "arm_cca_guest" => Ok(Provider::Cca),
            other => Err(TsmError::Provider(other.to_owned())),
        }
    }

    fn generation(&self) -> Result<u64, TsmError> {
        let line = self.line("generation")?;
        let why = "it is not a number";
        line.parse().map_err(|_| TsmError::Malformed { attribute: "generation", why })
    }

    fn line(&self, attribute: &'static str) -> Result<String, TsmError> {
        let bytes = self.read(attribute, LINE_BYTES_MAX)?;
        let line = String::from_utf8(bytes)
            .map_err(|_| TsmError::Malformed { attribute, why: "it is not text" })?;
        Ok(line.trim_end_matches('\n').to_owned())
    }

    fn write(&self, attribute: &'static str, bytes: &[u8]) -> Result<(), TsmError> {
        self.configfs
            .write(&self.path.join(attribute), bytes)
            .map_err(|source| TsmError::Attribute { attribute, done: "written", source })
    }

    fn read(&self, attribute: &'static str, bytes_max: usize) -> Result<Vec<u8>, TsmError> {
        self.configfs
            .read(&self.path.join(attribute), bytes_max)
            .map_err(|source| TsmError::Attribute { attribute, done: "read", source })
    }

    /// Nothing, if there is no such attribute.
    fn read_optional(&self, attribute: &'static str, max: usize) -> Result<Vec<u8>, TsmError> {
        match self.read(attribute, max) {
            Err(TsmError::Attribute { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Vec::new())
            }
            other => other,
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.configfs.remove(&self.path) {
            tracing::warn!(entry = %self.path.display(), %error, "the report's entry stays behind");
        }
    }
}

#[cfg(test)]
mod tests;
