//! What came of each case, for whoever makes a table of it: one JSON object a line, appended to the
//! file that `SEALIFT_CONFORMANCE` names.
//!
//! ```json
//! {"source":"s3://","server":"s3s-fs","case":"list","result":"passed"}
//! {"source":"gs://","server":"gcp-storage-emulator","case":"denied","result":"impossible","why":"…"}
//! ```
//!
//! | result | means |
//! | --- | --- |
//! | `passed` | the source did what the case asks for |
//! | `failed` | it did not, or the case could not be brought about |
//! | `impossible` | there is no such case for this source, or its server cannot play it: `why` says |
//! | `skipped` | the server is not installed |

use std::fs::OpenOptions;
use std::io::Write;

use super::suite::Case;

const FILE: &str = "SEALIFT_CONFORMANCE";

/// One line in the making. It says `failed` if the test ends before it is told otherwise.
pub(crate) struct Row {
    source: &'static str,
    server: &'static str,
    case: Case,
    result: &'static str,
    why: &'static str,
}

impl Row {
    pub(crate) fn begin(source: &'static str, server: &'static str, case: Case) -> Self {
        Self { source, server, case, result: "failed", why: "" }
    }

    pub(crate) fn passed(mut self) {
        self.result = "passed";
    }

    pub(crate) fn impossible(mut self, why: &'static str) {
        (self.result, self.why) = ("impossible", why);
    }

    pub(crate) fn skipped(mut self) {
        self.result = "skipped";
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        let Some(path) = std::env::var_os(FILE) else { return };
        let case = self.case.name();
        let mut row = serde_json::json!({
            "source": self.source, "server": self.server, "case": case, "result": self.result,
        });
        if !self.why.is_empty() {
            row["why"] = self.why.into();
        }
        // One call, so that lines of several processes do not mix.
        let line = format!("{row}\n");
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("rows are collected");
    }
}
