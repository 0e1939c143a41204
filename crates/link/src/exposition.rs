//! Prometheus' text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Its media type.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family of samples measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up, but for a restart.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bounds.
    Histogram,
}

/// A document in the making.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Begins a family. `name` is a metric's name, `help` one line.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Family { text: &mut self.0, name }
    }

    /// The document.
    pub fn finish(self) -> String {
        self.0
    }
}

/// A family, to which samples are added.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    /// One sample.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        self.line("", labels, value)
    }

    /// One sample that is either so or not.
    pub fn flag(&mut self, labels: &[(&str, &str)], value: bool) -> &mut Self {
        self.line("", labels, f64::from(u8::from(value)))
    }

    /// A histogram's samples.
    pub fn histogram(&mut self, histogram: &Histogram) -> &mut Self {
        let mut count = 0;
        for (bound, bucket) in Histogram::BOUNDS.iter().zip(&histogram.buckets) {
            count += bucket.load(Ordering::Relaxed);
            self.line("_bucket", &[("le", &bound.to_string())], float(count));
        }
        count += histogram.beyond.load(Ordering::Relaxed);
        self.line("_bucket", &[("le", "+Inf")], float(count));
        let sum = Duration::from_nanos(histogram.sum_ns.load(Ordering::Relaxed));
        self.line("_sum", &[], sum.as_secs_f64());
        self.line("_count", &[], float(count))
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) -> &mut Self {
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (at, (name, value)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{name}=\"{}\"", escaped(value));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{after} {value}");
        self
    }
}

/// As a sample's value: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "the format's numbers are f64")]
pub fn float(value: u64) -> f64 {
    value as f64
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// How long something took, counted by upper bounds.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; Self::BOUNDS.len()],
    beyond: AtomicU64,
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Upper bounds, in seconds.
    pub const BOUNDS: [f64; 12] =
        [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0];

    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = Self::BOUNDS.iter().zip(&self.buckets).find(|(bound, _)| seconds <= **bound);
        bucket.map_or(&self.beyond, |(_, bucket)| bucket).fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(nanos, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_as_prometheus_reads_them() {
        let mut text = Exposition::default();
        text.family("up", Kind::Gauge, "Whether it runs.").flag(&[], true);
        text.family("sent_bytes_total", Kind::Counter, "Sent.")
            .sample(&[("guest", "unix:/a \"b\"\\\n"), ("x", "")], float(1 << 53));
        assert_eq!(
            text.finish(),
            "# HELP up Whether it runs.\n# TYPE up gauge\nup 1\n\
             # HELP sent_bytes_total Sent.\n# TYPE sent_bytes_total counter\n\
             sent_bytes_total{guest=\"unix:/a \\\"b\\\"\\\\\\n\",x=\"\"} 9007199254740992\n"
        );
    }

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let histogram = Histogram::default();
        for ms in [1, 2, 2, 120_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let mut text = Exposition::default();
        text.family("lag_seconds", Kind::Histogram, "Lag.").histogram(&histogram);
        let text = text.finish();
        for line in [
            "lag_seconds_bucket{le=\"0.001\"} 1",
            "lag_seconds_bucket{le=\"0.0025\"} 3",
            "lag_seconds_bucket{le=\"60\"} 3",
            "lag_seconds_bucket{le=\"+Inf\"} 4",
            "lag_seconds_sum 120.005",
            "lag_seconds_count 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
