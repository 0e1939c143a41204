//! What the agent measures, for Prometheus.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use link::exposition::{Exposition, Histogram, Kind, float};

use crate::agent::VolumeReport;

/// No runtime is to be a plugin of.
const NO_RUNTIME: u8 = 0;
/// One is, and does not take us for its plugin.
const AWAY: u8 = 1;
/// One does.
const CONNECTED: u8 = 2;

/// Whether the runtime takes the agent for its plugin.
#[derive(Debug, Default)]
pub(crate) struct Runtime(AtomicU8);

impl Runtime {
    /// From now on it does, or does not.
    pub(crate) fn set(&self, connected: bool) {
        self.0.store(if connected { CONNECTED } else { AWAY }, Ordering::Relaxed);
    }

    /// `None` if there is none to be a plugin of.
    pub(crate) fn connected(&self) -> Option<bool> {
        match self.0.load(Ordering::Relaxed) {
            NO_RUNTIME => None,
            state => Some(state == CONNECTED),
        }
    }
}

/// Counted since the agent's start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// See [`Runtime`].
    pub(crate) runtime: Runtime,
    /// From noticing a change to the guest's acknowledgement.
    pub(crate) lag: Histogram,
    /// Attempts that failed.
    pub(crate) failures: AtomicU64,
    /// Connections made to guests.
    pub(crate) connections: AtomicU64,
    /// Those that could not be made.
    pub(crate) unreachable: AtomicU64,
}

/// The document: each volume, then the counters. Names end in their unit.
pub(crate) fn render(volumes: &[VolumeReport], counters: &Counters) -> String {
    let mut text = Exposition::default();
    text.family("sealift_build_info", Kind::Gauge, "The agent's version.")
        .sample(&[("agent", "host"), ("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let mut gauge = |name, help, value: &dyn Fn(&VolumeReport) -> Option<f64>| {
        let mut family = text.family(name, Kind::Gauge, help);
        for report in volumes {
            if let Some(value) = value(report) {
                family.sample(&[("volume", &report.volume), ("guest", &report.guest)], value);
            }
        }
    };
    let flag = |so: bool| Some(float(u64::from(so)));
    gauge("sealift_volume_current", "Whether the guest has what the host has.", &|report| {
        flag(report.current)
    });
    gauge("sealift_volume_sequence", "The revision that the guest has; 0: none.", &|report| {
        Some(float(report.sequence))
    });
    gauge(
        "sealift_volume_lag_seconds",
        "Since a change was noticed that the guest does not have; 0 if it has all.",
        &|report| Some(float(report.lag_ms) / 1e3),
    );
    gauge(
        "sealift_volume_last_success_timestamp_seconds",
        "When the guest last had what the host has.",
        &|report| report.last_success.map(float),
    );
    gauge(
        "sealift_volume_failing",
        "Whether there is a reason why it is not current, or not watched.",
        &|report| flag(report.failure.is_some()),
    );
    gauge("sealift_volume_size_bytes", "Bytes of all files.", &|report| Some(float(report.bytes)));
    gauge(
        "sealift_volume_token_expiry_timestamp_seconds",
        "When the earliest of its service-account tokens expires.",
        &|report| report.token_expires.map(float),
    );
    gauge(
        "sealift_volume_token_alarm",
        "Whether that is near and kubelet has not renewed it.",
        &|report| report.token_expires.and_then(|_| flag(report.token_alarm)),
    );
    text.family("sealift_volumes", Kind::Gauge, "Volumes that are kept current.")
        .sample(&[], float(volumes.len() as u64));
    let runtime = counters.runtime.connected();
    let mut family = text.family(
        "sealift_nri_connected",
        Kind::Gauge,
        "Whether the container runtime takes the agent for its plugin; absent without --nri.",
    );
    if let Some(connected) = runtime {
        family.flag(&[], connected);
    }
    text.family(
        "sealift_revision_lag_seconds",
        Kind::Histogram,
        "From noticing a change to the guest's acknowledgement.",
    )
    .histogram(&counters.lag);
    let mut count = |name, help, counter: &AtomicU64| {
        let value = float(counter.load(Ordering::Relaxed));
        text.family(name, Kind::Counter, help).sample(&[], value);
    };
    count("sealift_sync_failures_total", "Attempts that failed.", &counters.failures);
    count("sealift_guest_connections_total", "Connections made to guests.", &counters.connections);
    count(
        "sealift_guest_failures_total",
        "Connections to guests that could not be made.",
        &counters.unreachable,
    );
    text.finish()
}
