//! What the unsealer counts, for Prometheus. Labels are calls and codes: no secret's name, no resource.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use link::exposition::{Exposition, Histogram, Kind, float};

use crate::code::Code;

/// Counted since the start.
#[derive(Debug)]
pub(super) struct Metrics {
    opened: AtomicU64,
    fetched: AtomicU64,
    /// From zero, so that the first of a kind is an increase.
    failures: BTreeMap<Code, AtomicU64>,
    took: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            opened: AtomicU64::default(),
            fetched: AtomicU64::default(),
            failures: Code::ALL.iter().map(|&code| (code, AtomicU64::default())).collect(),
            took: Histogram::default(),
        }
    }
}

impl Metrics {
    /// A sealed secret was opened, or not.
    pub(super) fn opened(&self, failed: Option<Code>, took: Duration) {
        self.count(&self.opened, failed, took);
    }

    /// A resource was fetched, or not.
    pub(super) fn fetched(&self, failed: Option<Code>, took: Duration) {
        self.count(&self.fetched, failed, took);
    }

    fn count(&self, done: &AtomicU64, failed: Option<Code>, took: Duration) {
        let counter = failed.and_then(|code| self.failures.get(&code)).unwrap_or(done);
        counter.fetch_add(1, Ordering::Relaxed);
        self.took.observe(took);
    }

    /// The page.
    pub(super) fn page(&self) -> String {
        let count = |counter: &AtomicU64| float(counter.load(Ordering::Relaxed));
        let mut text = Exposition::default();
        text.family("sealift_build_info", Kind::Gauge, "The program's version.")
            .sample(&[("agent", "unsealer"), ("version", env!("CARGO_PKG_VERSION"))], 1.0);
        let answered = "Requests answered with what was asked for.";
        text.family("sealift_unsealer_answers_total", Kind::Counter, answered)
            .sample(&[("call", "unseal")], count(&self.opened))
            .sample(&[("call", "resource")], count(&self.fetched));
        let refused = "Requests that failed, by the failure's code.";
        let mut family = text.family("sealift_unsealer_failures_total", Kind::Counter, refused);
        for (code, counter) in &self.failures {
            family.sample(&[("code", &code.to_string())], count(counter));
        }
        let took = "From a request to its answer, the key source's included.";
        text.family("sealift_unsealer_request_duration_seconds", Kind::Histogram, took)
            .histogram(&self.took);
        text.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_counts_under_its_code_alone() {
        let metrics = Metrics::default();
        metrics.opened(Some(Code::KeyDenied), Duration::ZERO);
        metrics.fetched(None, Duration::ZERO);
        let page = metrics.page();
        for line in [
            "sealift_unsealer_failures_total{code=\"E21\"} 1",
            "sealift_unsealer_failures_total{code=\"E50\"} 0",
            "sealift_unsealer_answers_total{call=\"unseal\"} 0",
            "sealift_unsealer_answers_total{call=\"resource\"} 1",
            "sealift_unsealer_request_duration_seconds_count 2",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in {page}");
        }
    }
}
