//! [`release_with_retry`]: asking again, within one deadline.

use std::fmt::Display;
use std::time::Duration;

use seal::name::ResourceUri;
use secret::Secret;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{Error, KeySource};

/// Longest deadline: instants far beyond cannot be represented.
const DEADLINE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often and how long to ask.
#[derive(Debug, Clone)]
pub struct Retry {
    /// Limit on everything together, attempts and pauses. At most a week.
    pub deadline: Duration,
    /// Bound of the first pause. Each later bound is twice as long.
    pub pause_first: Duration,
    /// Bound of the longest pause.
    pub pause_max: Duration,
    /// Attempts in a row that may end with [`Error::Opaque`], which is more often final than not.
    pub opaque_attempts_max: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(120),
            pause_first: Duration::from_millis(200),
            pause_max: Duration::from_secs(10),
            opaque_attempts_max: 3,
        }
    }
}

/// Releases `resource`, asking again after transient errors only. The pauses are random between
/// zero and a bound that doubles ("full jitter"), so that a thousand pods that lost their broker
/// together do not come back together.
pub async fn release_with_retry(
    source: &impl KeySource,
    resource: &ResourceUri,
    retry: &Retry,
) -> Result<Secret, Error> {
    with_retry(&resource, source.kind(), retry, || source.release(resource)).await
}

/// The same for whatever else is asked of `source` about `resource`.
pub async fn with_retry<T, Asked: Future<Output = Result<T, Error>>>(
    resource: &impl Display,
    source: &'static str,
    retry: &Retry,
    mut ask: impl FnMut() -> Asked,
) -> Result<T, Error> {
    let started = Instant::now();
    let end = started + retry.deadline.min(DEADLINE_MAX);
    let mut last = None;
    let mut opaque_attempts = 0;
    for attempt in 1.. {
        let Ok(outcome) = timeout_at(end, ask()).await else { break };
        let elapsed_ms = started.elapsed().as_millis();
        let error = match outcome {
            Ok(key) => {
                tracing::info!(%resource, source, attempt, elapsed_ms, "key released");
                return Ok(key);
            }
            Err(error) => error,
        };
        opaque_attempts = match error {
            Error::Opaque { .. } => opaque_attempts + 1,
            _ => 0,
        };
        let mut pause = retry.pause(attempt, random());
        if let Error::Busy { after, .. } = &error {
            // Its own after that: all who were told the same would come back together.
            pause += *after;
        }
        let again = error.is_transient()
            && opaque_attempts < retry.opaque_attempts_max
            && Instant::now() + pause < end;
        tracing::warn!(%resource, source, attempt, elapsed_ms, again, %error, "key not released");
        if !again {
            return Err(error);
        }
        last = Some(error);
        sleep(pause).await;
    }
    Err(last.unwrap_or_else(|| Error::Unreachable {
        endpoint: source.to_owned(),
        why: format!("no answer within {} s", retry.deadline.as_secs()),
        source: None,
    }))
}

impl Retry {
    /// The pause after the `attempt`-th attempt, from 1: `random` of 2^32 parts of its bound.
    fn pause(&self, attempt: u32, random: u32) -> Duration {
        let doubled = self.pause_first.saturating_mul(1 << (attempt - 1).min(30));
        let bound = doubled.min(self.pause_max);
        bound.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness all clients would pause alike, which is worse for the broker, not for us.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    type Answer = fn() -> Result<Secret, Error>;

    /// Answers from a script, and counts.
    struct Scripted {
        answers: Mutex<Vec<Answer>>,
        attempts: AtomicUsize,
    }

    impl Scripted {
        /// The last answer repeats.
        fn new(answers: &[Answer]) -> Self {
            let answers = Mutex::new(answers.iter().rev().copied().collect());
            Self { answers, attempts: AtomicUsize::new(0) }
        }

        fn attempts(&self) -> usize {
            self.attempts.load(Ordering::Relaxed)
        }
    }

    impl KeySource for Scripted {
        fn kind(&self) -> &'static str {
            "scripted"
        }

        async fn release(&self, _: &ResourceUri) -> Result<Secret, Error> {
            self.attempts.fetch_add(1, Ordering::Relaxed);
            let mut answers = self.answers.lock().unwrap();
            let answer = *answers.last().unwrap();
            if answers.len() > 1 {
                answers.pop();
            }
            answer()
        }
    }

    struct Hanging;

    impl KeySource for Hanging {
        fn kind(&self) -> &'static str {
            "hanging"
        }

        async fn release(&self, _: &ResourceUri) -> Result<Secret, Error> {
            std::future::pending().await
        }
    }

    fn resource() -> ResourceUri {
        ResourceUri::from_path("a/b/c").unwrap()
    }

    fn released() -> Result<Secret, Error> {
        Ok(Secret::copy(b"key").unwrap())
    }

    fn unreachable() -> Result<Secret, Error> {
        Err(Error::Unreachable { endpoint: String::new(), why: String::new(), source: None })
    }

    fn empty() -> Result<Secret, Error> {
        Err(Error::Empty { resource: resource().into() })
    }

    fn busy() -> Result<Secret, Error> {
        let after = Duration::from_secs(30);
        Err(Error::Busy { endpoint: String::new(), why: String::new(), after })
    }

    fn opaque() -> Result<Secret, Error> {
        Err(Error::Opaque { resource: resource().into(), elapsed: Duration::ZERO })
    }

    fn denied() -> Result<Secret, Error> {
        Err(Error::Denied { resource: resource().into(), detail: String::new() })
    }

    #[tokio::test(start_paused = true)]
    async fn asks_again_after_transient_errors_until_the_key_is_there() {
        let source = Scripted::new(&[unreachable, empty, opaque, unreachable, released]);
        let key = release_with_retry(&source, &resource(), &Retry::default()).await.unwrap();
        assert_eq!(key.expose(), b"key");
        assert_eq!(source.attempts(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn asks_once_when_the_answer_is_final() {
        let source = Scripted::new(&[denied]);
        let error = release_with_retry(&source, &resource(), &Retry::default()).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }));
        assert_eq!(source.attempts(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_on_opaque_answers_after_three_in_a_row() {
        let source = Scripted::new(&[opaque, opaque, unreachable, opaque]);
        let error = release_with_retry(&source, &resource(), &Retry::default()).await.unwrap_err();
        assert!(matches!(error, Error::Opaque { .. }));
        assert_eq!(source.attempts(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_server_is_left_alone_for_as_long_as_it_asks_within_the_deadline() {
        let (source, started) = (Scripted::new(&[busy, busy, released]), Instant::now());
        release_with_retry(&source, &resource(), &Retry::default()).await.unwrap();
        assert!(started.elapsed() >= Duration::from_secs(60));

        let (source, started) = (Scripted::new(&[busy]), Instant::now());
        let retry = Retry { deadline: Duration::from_secs(20), ..Retry::default() };
        let error = release_with_retry(&source, &resource(), &retry).await.unwrap_err();
        assert!(matches!(error, Error::Busy { .. }));
        assert_eq!(source.attempts(), 1);
        assert!(started.elapsed() < retry.deadline, "nobody waits for what comes too late");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_error_is_reported_by_the_deadline() {
        let retry = Retry { deadline: Duration::from_secs(60), ..Retry::default() };
        let (source, started) = (Scripted::new(&[unreachable]), Instant::now());
        let error = release_with_retry(&source, &resource(), &retry).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }));
        assert!(started.elapsed() <= retry.deadline);
        assert!(source.attempts() > 5, "{} attempts", source.attempts());
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_hangs_is_left_at_the_deadline() {
        let (retry, started) = (Retry::default(), Instant::now());
        let error = release_with_retry(&Hanging, &resource(), &retry).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }));
        let late = started.elapsed().saturating_sub(retry.deadline);
        assert!(late < Duration::from_millis(10), "{late:?} late");
    }

    #[test]
    fn pauses_are_spread_below_a_bound_that_doubles_up_to_its_maximum() {
        let retry = Retry::default();
        let bounds: Vec<u128> =
            (1..=8).map(|attempt| retry.pause(attempt, u32::MAX).as_millis()).collect();
        assert_eq!(bounds, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(retry.pause(u32::MAX, u32::MAX), retry.pause_max);
        assert_eq!(retry.pause(3, 0), Duration::ZERO);
        assert_eq!(retry.pause(2, u32::MAX / 2).as_millis(), 200);
    }
}
