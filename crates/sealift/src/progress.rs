//! What a person or a pod log sees of a transfer.
//!
//! On a terminal a bar; anywhere else one line every few seconds, complete in itself, since carriage
//! returns vanish in container logs:
//! `stream 1.2/4.0 GiB (30%), 5/8 files, 812 MiB/s, eta 4 s`

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::trace::Timed;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Style {
    /// A bar on a terminal, lines elsewhere.
    #[default]
    Auto,
    /// A bar.
    Tty,
    /// Lines.
    Plain,
    /// Nothing.
    None,
}

/// Counters that the workers raise.
#[derive(Debug)]
pub struct Progress {
    phase: &'static str,
    bytes_total: u64,
    files_total: u64,
    bytes: AtomicU64,
    files: AtomicU64,
    retries: AtomicU32,
    /// Bytes that were there before: they count as done, not towards the rate.
    resumed: u64,
    started: Instant,
    /// Objects and when they were worked on, for who has asked for that.
    times: OnceLock<Times>,
}

#[derive(Debug)]
struct Times {
    objects: Vec<String>,
    /// By the object's index: the first beginning and the last end.
    worked: Mutex<BTreeMap<usize, (SystemTime, SystemTime)>>,
}

impl Progress {
    /// Counters of one phase.
    pub fn new(phase: &'static str, bytes_total: u64, files_total: u64, resumed: u64) -> Arc<Self> {
        Arc::new(Self {
            phase,
            bytes_total,
            files_total,
            bytes: AtomicU64::new(resumed),
            files: AtomicU64::new(0),
            retries: AtomicU32::new(0),
            resumed,
            started: Instant::now(),
            times: OnceLock::new(),
        })
    }

    /// Adds bytes done.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a piece; `last_of_file` counts its file.
    pub fn piece_done(&self, last_of_file: bool) {
        self.files.fetch_add(u64::from(last_of_file), Ordering::Relaxed);
    }

    /// From now on [`Progress::took`] is kept, for these objects.
    pub(crate) fn time(&self, objects: Vec<String>) {
        let _ = self.times.set(Times { objects, worked: Mutex::default() });
    }

    /// An object, by its index, was worked on from `begun` until now.
    pub(crate) fn took(&self, object: usize, begun: SystemTime) {
        let Some(times) = self.times.get() else { return };
        let now = SystemTime::now();
        let mut worked = times.worked.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = worked.entry(object).or_insert((begun, now));
        (*first, *last) = (begun.min(*first), now.max(*last));
    }

    /// All that was kept.
    pub(crate) fn timed(&self) -> Vec<Timed> {
        let Some(times) = self.times.get() else { return Vec::new() };
        let worked = times.worked.lock().unwrap_or_else(PoisonError::into_inner);
        let timed = worked.iter().filter_map(|(&index, &(begun, ended))| {
            Some(Timed { object: times.objects.get(index)?.clone(), begun, ended })
        });
        timed.collect()
    }

    /// Counts a retry.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Retries so far.
    pub fn retries(&self) -> u32 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Time since the phase began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn line(&self) -> String {
        let bytes = self.bytes.load(Ordering::Relaxed);
        let files = self.files.load(Ordering::Relaxed);
        let rate = rate(bytes.saturating_sub(self.resumed), self.elapsed());
        let percent = (bytes * 100).checked_div(self.bytes_total).unwrap_or(100).min(100);
        let left = self.bytes_total.saturating_sub(bytes);
        let eta = left.checked_div(rate).map_or("-".into(), |s| format!("{s} s"));
        format!(
            "{} {}/{} ({percent}%), {files}/{} files, {}/s, eta {eta}",
            self.phase,
            size(bytes),
            size(self.bytes_total),
            self.files_total,
            size(rate),
        )
    }
}

/// Shows `progress` until the returned guard is dropped.
pub fn show(progress: &Arc<Progress>, style: Style, interval: Duration) -> Shown {
    let terminal = std::io::stderr().is_terminal();
    let task = match style {
        Style::None => return Shown { task: None, bar: None },
        Style::Tty => None,
        Style::Auto if terminal => None,
        Style::Auto | Style::Plain => Some(Arc::clone(progress)),
    };
    if let Some(progress) = task {
        let handle = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            ticks.tick().await;
            loop {
                ticks.tick().await;
                eprintln!("{}", progress.line());
            }
        });
        return Shown { task: Some(handle), bar: None };
    }
    let bar = ProgressBar::with_draw_target(
        Some(progress.bytes_total),
        ProgressDrawTarget::stderr_with_hz(10),
    );
    bar.set_style(
        ProgressStyle::with_template("{prefix} {bar:30} {bytes}/{total_bytes} {msg}")
            .expect("the template is valid, as the bar's test shows"),
    );
    bar.set_prefix(progress.phase);
    let (shown, watched) = (bar.clone(), Arc::clone(progress));
    let handle = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            let bytes = watched.bytes.load(Ordering::Relaxed);
            shown.set_position(bytes);
            let rate = rate(bytes.saturating_sub(watched.resumed), watched.elapsed());
            shown.set_message(format!("{}/s", size(rate)));
        }
    });
    Shown { task: Some(handle), bar: Some(bar) }
}

/// A progress display that ends when it is dropped.
#[derive(Debug)]
pub struct Shown {
    task: Option<tokio::task::JoinHandle<()>>,
    bar: Option<ProgressBar>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Bytes per second.
pub fn rate(bytes: u64, elapsed: Duration) -> u64 {
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    u64::try_from(u128::from(bytes) * 1000 / u128::from(millis)).unwrap_or(u64::MAX)
}

/// Bytes for people: `4.0 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (4 << 30, "4.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_line_is_whole_for_an_empty_model_too() {
        let progress = Progress::new("stream", 0, 0, 0);
        assert!(progress.line().starts_with("stream 0 B/0 B (100%), 0/0 files, "));
    }

    #[tokio::test]
    async fn the_bar_has_a_valid_template() {
        drop(show(&Progress::new("stream", 1, 1, 0), Style::Tty, Duration::from_secs(1)));
    }
}
