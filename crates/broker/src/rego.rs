//! [`Rego`]: a policy text, parsed once, evaluated within limits.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use regorus::utils::limits::ExecutionTimerConfig;
use serde_json::Value;

/// Largest policy, in bytes of Rego.
pub const POLICY_BYTES_MAX: usize = 64 * 1024;
/// Longest evaluation.
pub const EVALUATION_TIME_MAX: Duration = Duration::from_millis(250);

/// Most reasons of a refusal that are passed on.
pub(crate) const REASONS_MAX: usize = 8;
/// Longest of them, in characters.
pub(crate) const REASON_CHARS_MAX: usize = 120;

/// What a policy may have beside its verdict: a set or an array of texts that say why not.
const REASONS: &str = "data.policy.reasons";

/// How often the evaluation looks at its clock, in the interpreter's units of work.
const WORK_BETWEEN_CHECKS: NonZeroU32 = NonZeroU32::new(64).expect("64 is not zero");

/// A parsed policy of the package `policy`.
pub(crate) struct Rego {
    engine: regorus::Engine,
    text: String,
    digest: String,
}

/// A function of one argument that a policy can call.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) body: Box<dyn regorus::Extension>,
}

impl Rego {
    /// Parses a text. An error says why not, with line and column.
    pub(crate) fn parse(text: String) -> Result<Self, String> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(format!("larger than {POLICY_BYTES_MAX} bytes"));
        }
        let mut engine = regorus::Engine::new();
        engine.set_execution_timer_config(ExecutionTimerConfig {
            limit: EVALUATION_TIME_MAX,
            check_interval: WORK_BETWEEN_CHECKS,
        });
        let package = engine
            .add_policy("policy.rego".to_owned(), text.clone())
            .map_err(|error| error.to_string())?;
        if package != "data.policy" {
            return Err("the package must be `policy`".to_owned());
        }
        let digest = hex::encode(digest(&SHA256, text.as_bytes()));
        Ok(Self { engine, text, digest })
    }

    /// Analyses it, once for all evaluations of `rule`: of a long policy that is most of one. Not for
    /// policies that are given data: data has them analysed anew, which refuses a rule with two
    /// defaults as one that has them twice. What a rule calls is looked up when it runs.
    pub(crate) fn prepared_for(mut self, rule: &str) -> Result<Self, String> {
        self.engine.compile_with_entrypoint(&rule.into()).map_err(|error| error.to_string())?;
        Ok(self)
    }

    /// The value of a rule.
    pub(crate) fn evaluate(
        &self,
        rule: &str,
        data: Option<Value>,
        input: Value,
        function: Option<Function>,
    ) -> Result<regorus::Value, String> {
        // A clone shares the parsed policy; upstream parses its text at each request.
        let mut engine = self.engine.clone();
        engine.set_input(input.into());
        function
            .map_or(Ok(()), |Function { name, body }| {
                engine.add_extension(name.to_owned(), 1, body)
            })
            .and_then(|()| data.map_or(Ok(()), |data| engine.add_data(data.into())))
            .and_then(|()| engine.eval_rule(rule.to_owned()))
            .map_err(|error| error.to_string())
    }

    /// Why it says no: the texts of the rule `reasons`, the first [`REASONS_MAX`] of them, cut at
    /// [`REASON_CHARS_MAX`]. None if the policy does not have the rule, or if it fails: upstream's
    /// policies only say no.
    pub(crate) fn reasons(
        &self,
        data: Option<Value>,
        input: Value,
        function: Option<Function>,
    ) -> Vec<String> {
        let found = self.evaluate(REASONS, data, input, function);
        let texts = |values: &mut dyn Iterator<Item = &regorus::Value>| {
            let texts = values.filter_map(|value| value.as_string().ok());
            texts.take(REASONS_MAX).map(|text| tidy(text)).collect()
        };
        match &found {
            Ok(regorus::Value::Set(set)) => texts(&mut set.iter()),
            Ok(regorus::Value::Array(array)) => texts(&mut array.iter()),
            _ => Vec::new(),
        }
    }

    /// SHA-256 of the text, hex.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// The Rego.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

/// One line of a bounded length.
fn tidy(text: &str) -> String {
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.chars().take(REASON_CHARS_MAX).map(plain).collect()
}

impl fmt::Debug for Rego {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rego").field("digest", &self.digest).finish_non_exhaustive()
    }
}
