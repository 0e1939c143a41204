//! Answers, for people and for programs.

use std::time::{SystemTime, UNIX_EPOCH};

use host::agent::{Change, VolumeReport};
use host::api::Answer;
use volumes::report::{self, duration, short, table};

use crate::cli::Output;

/// Only the volumes of one pod.
pub(crate) fn of_pod(answer: Answer, pod: Option<&str>) -> Answer {
    match (answer, pod) {
        (Answer::Volumes(volumes), Some(pod)) => {
            let prefix = format!("{pod}.");
            let of_pod = |report: &VolumeReport| report.volume.starts_with(&prefix);
            Answer::Volumes(volumes.into_iter().filter(of_pod).collect())
        }
        (answer, _) => answer,
    }
}

pub(crate) fn answer(answer: &Answer, output: Output) -> String {
    let json = || match answer {
        Answer::Volumes(volumes) => serde_json::to_string_pretty(volumes),
        Answer::Changes(changes) => serde_json::to_string_pretty(changes),
        Answer::Guest(volumes) => serde_json::to_string_pretty(volumes),
        Answer::Failed { .. } => serde_json::to_string_pretty(answer),
    };
    match (output, answer) {
        (Output::Json, _) => json().map_or(String::new(), |json| json + "\n"),
        (Output::Table, Answer::Volumes(volumes)) => table(&volumes_rows(volumes)),
        (Output::Table, Answer::Changes(changes)) => table(&changes_rows(changes)),
        (Output::Table, Answer::Guest(volumes)) => table(&report::rows(volumes)),
        (Output::Table, Answer::Failed { what, .. }) => format!("{what}\n"),
    }
}

fn volumes_rows(volumes: &[VolumeReport]) -> Vec<Vec<String>> {
    let header =
        ["VOLUME", "STATUS", "REVISION", "DIGEST", "LAG", "LAST SUCCESS", "TOKEN", "REASON"];
    let mut rows = vec![header.map(String::from).to_vec()];
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for report in volumes {
        let status = match (report.current, report.token_alarm) {
            (true, false) => "Current",
            (true, true) => "TokenExpiring",
            (false, _) if report.sequence == 0 => "Pending",
            (false, _) => "Stale",
        };
        let digest = report.digest.as_deref().unwrap_or("-");
        rows.push(vec![
            report.volume.clone(),
            status.into(),
            report.sequence.to_string(),
            short(digest).into(),
            if report.current { "-".into() } else { duration(report.lag_ms / 1000) },
            report.last_success.map_or("never".into(), |at| ago(now, at)),
            report.token_expires.map_or("-".into(), |at| match at.checked_sub(now) {
                Some(left) => format!("{} left", duration(left)),
                None => "expired".into(),
            }),
            report.failure.clone().unwrap_or_else(|| match report.atomic {
                true => "-".into(),
                false => "kata-agent: not atomic, not verified".into(),
            }),
        ]);
    }
    rows
}

fn changes_rows(changes: &[Change]) -> Vec<Vec<String>> {
    let mut rows = vec![["CHANGE", "PATH", "BYTES"].map(String::from).to_vec()];
    rows.extend(changes.iter().map(|change| {
        let bytes = change.bytes.map_or("-".into(), |bytes| bytes.to_string());
        vec![change.change.clone(), change.path.escape_debug().to_string(), bytes]
    }));
    rows
}

fn ago(now: u64, at: u64) -> String {
    format!("{} ago", duration(now.saturating_sub(at)))
}
