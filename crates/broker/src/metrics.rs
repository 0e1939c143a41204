//! Numbers for Prometheus. Labels come from closed sets: no resource name, no address, nothing that
//! a client chooses, so that the page neither grows with requests nor tells what is kept here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::StatusCode;

use crate::protocol::Tee;
use crate::refusal::Kind;

/// What was asked for, for labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Endpoint {
    Auth,
    Attest,
    Resource,
    Admin,
    Public,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Requests,
    RequestSeconds,
    Attestations,
    Releases,
    Refusals,
    AuditFailures,
    Ready,
    Connections,
    BuildInfo,
}

impl Family {
    fn name_type_help(self) -> [&'static str; 3] {
        match self {
            Self::Requests => ["requests_total", "counter", "Requests answered."],
            Self::RequestSeconds => {
                ["request_seconds_total", "counter", "Time spent answering requests."]
            }
            Self::Attestations => ["attestations_total", "counter", "Evidence appraised."],
            Self::Releases => ["releases_total", "counter", "Resources released."],
            Self::Refusals => ["refusals_total", "counter", "Requests refused, by error type."],
            Self::AuditFailures => {
                ["audit_failures_total", "counter", "Audit records that could not be written."]
            }
            Self::Ready => ["ready", "gauge", "Whether /readyz says so."],
            Self::Connections => ["connections", "gauge", "Open connections."],
            Self::BuildInfo => ["build_info", "gauge", "Always 1."],
        }
    }
}

/// All series.
#[derive(Debug)]
pub(crate) struct Metrics(Mutex<BTreeMap<(Family, String), f64>>);

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self(Mutex::default());
        metrics.add(Family::AuditFailures, "", 0.0);
        metrics.add(Family::Connections, "", 0.0);
        // From zero, so that the first of a kind is an increase.
        for kind in Kind::ALL {
            metrics.add(Family::Refusals, &refusal(kind), 0.0);
        }
        for tee in Tee::VERIFIED {
            metrics.add(Family::Releases, &release(tee), 0.0);
            for accepted in [true, false] {
                metrics.add(Family::Attestations, &attestation(tee, accepted), 0.0);
            }
        }
        metrics.add(
            Family::BuildInfo,
            concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}"),
            1.0,
        );
        metrics
    }

    pub(crate) fn answered(&self, endpoint: Endpoint, status: StatusCode, took: Duration) {
        let status = status.as_u16();
        self.add(
            Family::Requests,
            &format!("{{endpoint=\"{endpoint:?}\",status=\"{status}\"}}"),
            1.0,
        );
        self.add(
            Family::RequestSeconds,
            &format!("{{endpoint=\"{endpoint:?}\"}}"),
            took.as_secs_f64(),
        );
    }

    pub(crate) fn attested(&self, tee: Tee, accepted: bool) {
        self.add(Family::Attestations, &attestation(tee, accepted), 1.0);
    }

    pub(crate) fn released(&self, tee: Tee) {
        self.add(Family::Releases, &release(tee), 1.0);
    }

    pub(crate) fn refused(&self, kind: Kind) {
        self.add(Family::Refusals, &refusal(kind), 1.0);
    }

    pub(crate) fn audit_failed(&self) {
        self.add(Family::AuditFailures, "", 1.0);
    }

    pub(crate) fn connections(&self, change: f64) {
        self.add(Family::Connections, "", change);
    }

    fn add(&self, family: Family, labels: &str, value: f64) {
        *self.lock().entry((family, labels.to_owned())).or_default() += value;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Family, String), f64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page of a broker that is ready, or not.
    pub(crate) fn page(&self, ready: bool) -> String {
        self.lock().insert((Family::Ready, String::new()), f64::from(u8::from(ready)));
        let series = self.lock();
        let mut page = String::new();
        let mut last = None;
        for ((family, labels), value) in &*series {
            let [name, kind, help] = family.name_type_help();
            let name = format!("sealift_broker_{name}");
            if last.replace(family) != Some(family) {
                let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            }
            let _ = writeln!(page, "{name}{labels} {value}");
        }
        page
    }
}

fn attestation(tee: Tee, accepted: bool) -> String {
    let outcome = if accepted { "accepted" } else { "refused" };
    format!("{{tee=\"{tee}\",outcome=\"{outcome}\"}}")
}

fn release(tee: Tee) -> String {
    format!("{{tee=\"{tee}\"}}")
}

fn refusal(kind: Kind) -> String {
    format!("{{type=\"{kind:?}\"}}")
}
