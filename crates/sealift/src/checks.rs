//! A chain of checks for people: what is well, the first thing that is wrong, and what was not tried
//! because of it.

use serde::Serialize;

use crate::cli::Output;
use crate::code::Code;
use crate::command::doctor::{Finding, Level};
use crate::failure::Failure;
use crate::output::{self, row};

/// What has to go well before a key can be used: its source is there, accepts who asks, allows it to
/// have the key, has it, and it is one.
const STEPS: [&str; 5] = ["key source", "identity", "policy", "key", "key's form"];

/// What became of each check, in order.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    rows: Vec<Check>,
    first: Option<Failure>,
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    outcome: Outcome,
    /// What was found, or why it failed: code, cause and what to do.
    detail: String,
    /// What to do about a finding that is not well; a failure's detail has it already.
    #[serde(skip_serializing_if = "str::is_empty")]
    fix: &'static str,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Ok,
    Warning,
    Failed,
    NotTried,
    Skipped,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
            Self::NotTried => "not tried",
            Self::Skipped => "skipped",
        }
    }
}

impl Checks {
    pub(crate) fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.rows.push(Check { check, outcome: Outcome::Ok, detail: detail.into(), fix: "" });
    }

    /// What depends on something that failed.
    pub(crate) fn not_tried(&mut self, check: &'static str) {
        self.rows.push(Check { check, outcome: Outcome::NotTried, detail: String::new(), fix: "" });
    }

    pub(crate) fn failed(&mut self, check: &'static str, failure: Failure) {
        self.rows.push(Check { check, outcome: Outcome::Failed, detail: failure.line(), fix: "" });
        self.first.get_or_insert(failure);
    }

    /// A finding of the doctor's. Only an error is a failure.
    pub(crate) fn found(&mut self, found: Finding) {
        let Finding { id, level, seen, fix } = found;
        let outcome = match level {
            Level::Error(code) => {
                return self.failed(id, Failure::new(code, seen).hint(fix));
            }
            Level::Ok => Outcome::Ok,
            Level::Warning => Outcome::Warning,
            Level::Skipped => Outcome::Skipped,
        };
        self.rows.push(Check { check: id, outcome, detail: seen, fix });
    }

    /// Takes a result apart: what goes on, and what is said of it.
    pub(crate) fn take<T>(
        &mut self,
        check: &'static str,
        result: Result<T, Failure>,
        say: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                self.ok(check, say(&value));
                Some(value)
            }
            Err(failure) => {
                self.failed(check, failure);
                None
            }
        }
    }

    /// A key that cannot be asked for.
    pub(crate) fn no_release(&mut self) {
        STEPS.into_iter().for_each(|step| self.not_tried(step));
    }

    /// The steps of a key's release, as far as its result tells: those before the one that failed went
    /// well, those behind it were not tried.
    pub(crate) fn release<T>(
        &mut self,
        holder: &str,
        result: Result<T, Failure>,
        say: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        let (value, failure) = match result {
            Ok(value) => (Some(value), None),
            Err(failure) => (None, Some(failure)),
        };
        let failed_at = failure.as_ref().map_or(STEPS.len(), |failure| match failure.code() {
            Code::Attestation | Code::AccessDenied => 1,
            Code::KeyDenied => 2,
            Code::KeyNotFound => 3,
            Code::KeyUnusable | Code::Tampered | Code::Stale => 4,
            _ => 0,
        });
        let found = value.as_ref().map(say).unwrap_or_default();
        let details =
            [format!("{holder} answers"), String::new(), String::new(), String::new(), found];
        let identity = if holder == "file" { "not asked" } else { "accepted" };
        let details = details.into_iter().zip(["", identity, "allows it", "is there", ""]);
        let mut failure = failure;
        for (step, (check, (detail, otherwise))) in STEPS.into_iter().zip(details).enumerate() {
            let detail = if detail.is_empty() { otherwise.to_owned() } else { detail };
            match failure.take_if(|_| step == failed_at) {
                Some(failure) => self.failed(check, failure),
                None if step < failed_at => self.ok(check, detail),
                None => self.not_tried(check),
            }
        }
        value
    }

    /// Prints them. The first failure is the command's.
    pub(crate) fn finish(self, form: Output) -> Result<(), Failure> {
        let rows = |rows: &Vec<Check>| {
            let text = |Check { check, outcome, detail, fix }: &Check| {
                let stop = if fix.is_empty() { "" } else { ". " };
                row([&outcome.word(), check, &format!("{detail}{stop}{fix}")])
            };
            rows.iter().map(text).collect()
        };
        output::print(form, &self.rows, rows)?;
        match self.first {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(code: Code) -> Vec<&'static str> {
        let mut checks = Checks::default();
        checks.release("kbs", Err::<(), _>(Failure::new(code, "no")), |()| String::new());
        assert_eq!(checks.first.as_ref().map(Failure::code), Some(code));
        checks.rows.iter().map(|row| row.outcome.word()).collect()
    }

    #[test]
    fn a_release_fails_at_one_step_and_goes_no_further() {
        let (ok, no, not) = ("ok", "FAILED", "not tried");
        assert_eq!(outcomes(Code::KeyUnreachable), [no, not, not, not, not]);
        assert_eq!(outcomes(Code::Attestation), [ok, no, not, not, not]);
        assert_eq!(outcomes(Code::KeyDenied), [ok, ok, no, not, not]);
        assert_eq!(outcomes(Code::KeyNotFound), [ok, ok, ok, no, not]);
        assert_eq!(outcomes(Code::KeyUnusable), [ok, ok, ok, ok, no]);
        let mut checks = Checks::default();
        assert_eq!(checks.release("kbs", Ok(7), i32::to_string), Some(7));
        assert!(checks.first.is_none());
        assert_eq!(checks.rows.last().unwrap().detail, "7");
    }
}
