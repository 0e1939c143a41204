//! What the broker answers: a request in, a response out, no sockets and no waiting but for disks.

mod admin;
mod guest;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use audit::{Event, Head, Log};
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use seal::name::ResourceUri;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;
use tracing::{error, warn};

use crate::admin::Admins;
use crate::appraisal::AttestationPolicy;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::Error;
use crate::evidence::{Roots, Verifiers};
use crate::files;
use crate::master::MasterKey;
use crate::metrics::{Endpoint, Metrics};
use crate::policy::Policy;
use crate::rates::{RETRY_AFTER_SECONDS, Rates};
use crate::refusal::{Kind, Refusal};
use crate::resources::Resources;
use crate::session::Sessions;
use crate::throttle::{Sample, Throttle};
use crate::token::TokenKey;

/// How long a broker whose log refused a record is not ready: then somebody has to come who tries
/// again, since whoever is not ready is asked for nothing.
const UNREADY_SECONDS: u64 = 30;
/// Longest cause written to the log, in characters: some of it comes from clients.
const CAUSE_CHARS_MAX: usize = 200;
/// Most log lines about refusals in a second.
const LINES_PER_SECOND: u32 = 20;
/// Most audit records about refused evidence in a minute: anyone can send some.
const EVIDENCE_RECORDS_PER_MINUTE: u32 = 10;
/// The same about requests that do not come to evidence, apart: they must not use up the others'.
const REQUEST_RECORDS_PER_MINUTE: u32 = 10;

/// The broker, less its sockets.
#[derive(Debug)]
pub struct Service {
    resources: Resources,
    policy: Policy,
    tokens: TokenKey,
    sessions: Sessions,
    verifiers: Verifiers,
    attestation_policy: AttestationPolicy,
    admins: Admins,
    audit: Audit,
    metrics: Metrics,
    rates: Rates,
    throttle: Throttle,
    evidence_audit: Sample,
    request_audit: Sample,
    clock: ClockCell,
}

/// A complete request.
#[derive(Debug)]
pub struct Call {
    /// As sent.
    pub method: Method,
    /// The path, not decoded: no name that is served has an escape.
    pub path: String,
    /// The query, without `?`.
    pub query: Option<String>,
    /// As sent.
    pub headers: HeaderMap,
    /// All of it; its size was limited while it was read.
    pub body: Bytes,
    /// Who asks, for the audit log.
    pub client: SocketAddr,
}

/// A successful answer.
#[derive(Debug)]
struct Answer {
    body: String,
    content_type: &'static str,
    cookie: Option<String>,
    receipt: Option<String>,
}

/// Where a release's receipt travels: upstream's clients look at no header but the cookie.
const RECEIPT: HeaderName = HeaderName::from_static("sealift-receipt");

impl Answer {
    fn json(body: &Value) -> Self {
        Self { content_type: "application/json", ..Self::text(body.to_string()) }
    }

    fn text(body: impl Into<String>) -> Self {
        let content_type = "text/plain; charset=utf-8";
        Self { body: body.into(), content_type, cookie: None, receipt: None }
    }
}

impl Service {
    /// Opens the data directory and everything in it; nothing is served if any of it is unusable.
    pub fn open(config: &Config, log: Log, clock: Clock) -> Result<Self, Error> {
        Self::open_trusting(config, log, clock, Roots::of_vendors())
    }

    /// Like [`Service::open`], with other roots than the vendors': for tests with keys of their own.
    pub fn open_trusting(
        config: &Config,
        log: Log,
        clock: Clock,
        roots: Roots,
    ) -> Result<Self, Error> {
        let master = MasterKey::load(&config.master_key_file)?;
        let data_dir = &config.data_dir;
        files::create_dir(data_dir).map_err(|source| Error::file(data_dir, source))?;
        Ok(Self {
            tokens: TokenKey::load_or_create(data_dir, &master)?,
            policy: Policy::open(
                data_dir,
                &master,
                config.policy_file.clone(),
                config.insecure_dev,
            )?,
            resources: Resources::open(data_dir, &master)?,
            sessions: Sessions::new(&master),
            verifiers: Verifiers::configured(config, roots)?,
            attestation_policy: AttestationPolicy::open(
                config.attestation_policy_file.clone(),
                config.reference_values_file.clone(),
            )?,
            admins: Admins::load(&config.admin_public_keys, config.admin_issuers.clone())?,
            audit: Audit { log, failed_at: AtomicU64::new(0) },
            metrics: Metrics::new(),
            rates: Rates::new(config.client_rate),
            throttle: Throttle::new(LINES_PER_SECOND),
            evidence_audit: Sample::new(EVIDENCE_RECORDS_PER_MINUTE),
            request_audit: Sample::new(REQUEST_RECORDS_PER_MINUTE),
            clock: ClockCell(clock),
        })
    }

    /// Whether answering it takes more than a moment of computing: files, or the audit log's device.
    pub(crate) fn may_block(call: &Call) -> bool {
        call.path != "/kbs/v0/auth"
    }

    /// Answers a request.
    pub fn handle(&self, call: &Call) -> Response<Bytes> {
        let started = Instant::now();
        let (endpoint, answer) = self.route(call);
        let response = match answer {
            Ok(answer) => respond(StatusCode::OK, answer),
            Err(refusal) => {
                if matches!(endpoint, Endpoint::Auth | Endpoint::Attest) {
                    self.record_refused(&call.method, &call.path, &refusal, &call.client);
                }
                self.refuse(&refusal, &call.client)
            }
        };
        self.metrics.answered(endpoint, response.status(), started.elapsed());
        response
    }

    fn route(&self, call: &Call) -> (Endpoint, Result<Answer, Refusal>) {
        let Some(path) = call.path.strip_prefix("/kbs/v0/") else {
            return self.route_public(call);
        };
        let (plugin, rest) = path.split_once('/').unwrap_or((path, ""));
        let method = call.method.as_str();
        match (plugin, rest, method) {
            ("auth", "", "POST") => (Endpoint::Auth, self.within_rate(call, Self::auth)),
            ("attest", "", "POST") => (Endpoint::Attest, self.within_rate(call, Self::attest)),
            ("resource", "", "GET") => (Endpoint::Admin, self.list_resources(call)),
            ("resource", _, "GET") => {
                (Endpoint::Resource, self.within_rate(call, |own, call| own.release(call, rest)))
            }
            ("resource", _, "POST") => (Endpoint::Admin, self.store_resource(call, rest)),
            ("resource", _, "PATCH") => (Endpoint::Admin, self.raise_pin(call, rest)),
            ("resource", _, "DELETE") => (Endpoint::Admin, self.delete_resource(call, rest)),
            ("resource-policy", "", "GET") => (Endpoint::Admin, self.show_policy(call)),
            ("resource-policy", "", "POST") => (Endpoint::Admin, self.store_policy(call)),
            ("auth" | "attest", "", _) => (Endpoint::Unknown, Err(wrong_method("POST"))),
            ("resource", _, _) => {
                (Endpoint::Unknown, Err(wrong_method("GET, POST, PATCH or DELETE")))
            }
            ("resource-policy", "", _) => (Endpoint::Unknown, Err(wrong_method("GET or POST"))),
            _ => (Endpoint::Unknown, Err(Refusal::new(Kind::PluginNotFound, "no such endpoint"))),
        }
    }

    /// Guests' requests, as often as a client may make them: before anything is done about one.
    fn within_rate(
        &self,
        call: &Call,
        answer: impl FnOnce(&Self, &Call) -> Result<Answer, Refusal>,
    ) -> Result<Answer, Refusal> {
        if self.rates.admit(call.client.ip(), self.clock.now()) {
            return answer(self, call);
        }
        Err(Refusal::new(Kind::TooManyRequests, "too many requests from this address, try again"))
    }

    fn route_public(&self, call: &Call) -> (Endpoint, Result<Answer, Refusal>) {
        let answer = match (call.path.as_str(), call.method.as_str()) {
            ("/healthz", "GET") => Ok(Answer::text("ok\n")),
            ("/readyz", "GET") => self.ready(),
            ("/metrics", "GET") => Ok(Answer {
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                ..Answer::text(self.metrics.page(self.ready().is_ok()))
            }),
            ("/.well-known/jwks.json", "GET") => Ok(Answer::json(&self.tokens.jwks())),
            ("/healthz" | "/readyz" | "/metrics" | "/.well-known/jwks.json", _) => {
                Err(wrong_method("GET"))
            }
            _ => {
                let refusal = Refusal::new(Kind::InvalidRequestPath, "no such endpoint");
                return (Endpoint::Unknown, Err(refusal));
            }
        };
        (Endpoint::Public, answer)
    }

    /// Ready is: a release would not fail for a reason of ours.
    fn ready(&self) -> Result<Answer, Refusal> {
        let failed_at = self.audit.failed_at.load(Ordering::Relaxed);
        if self.clock.now() < failed_at.saturating_add(UNREADY_SECONDS) {
            return Err(audit_unavailable());
        }
        self.policy.current().map_err(policy_unusable)?;
        self.attestation_policy.check().map_err(attestation_policy_unusable)?;
        self.resources.check().map_err(internal)?;
        Ok(Answer::text("ready\n"))
    }

    /// The response to a request that is refused, logged and counted.
    pub(crate) fn refuse(&self, refusal: &Refusal, client: &SocketAddr) -> Response<Bytes> {
        self.metrics.refused(refusal.kind);
        let (admitted, swallowed) = self.throttle.admit(self.clock.now());
        if swallowed > 0 {
            warn!(swallowed, "refusals not logged");
        }
        if admitted {
            let cause: String = refusal.cause.chars().take(CAUSE_CHARS_MAX).collect();
            let (kind, detail) = (refusal.kind, &refusal.detail);
            // Both may quote the client; Debug escapes what would forge a line.
            if refusal.status().is_server_error() {
                error!(?kind, %client, ?detail, ?cause, "failed");
            } else {
                warn!(?kind, %client, ?detail, ?cause, "refused");
            }
        }
        let mut response = respond(refusal.status(), Answer::json(&refusal.body()));
        if refusal.kind == Kind::TooManyRequests {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS.into());
        }
        response
    }

    /// Records a request that did not come to evidence and is its client's fault; within the limit of
    /// such records. One that came too often is in the numbers only.
    pub(crate) fn record_refused(
        &self,
        method: &Method,
        path: &str,
        refusal: &Refusal,
        client: &SocketAddr,
    ) {
        let is_theirs = refusal.status().is_client_error();
        if refusal.is_recorded || !is_theirs || refusal.kind == Kind::TooManyRequests {
            return;
        }
        // Refused either way: a log that does not take this record must not change that.
        self.request_audit.take(self.clock.now() / 60, |left_out| {
            let cause: String = refusal.cause.chars().take(CAUSE_CHARS_MAX).collect();
            let separator = if cause.is_empty() { "" } else { ": " };
            let event = Event::RequestRefused {
                request: format!("{method} {path}").chars().take(CAUSE_CHARS_MAX).collect(),
                reason: format!("{:?}: {}{separator}{cause}", refusal.kind, refusal.detail),
                client: client.to_string(),
                left_out,
            };
            may_wait(|| self.record(event)).ok()
        });
    }

    /// Records what is about to be done. An error means: do not do it.
    fn record(&self, event: Event) -> Result<Head, Refusal> {
        let recorded = self.audit.log.record_at(event);
        let failed_at = if recorded.is_ok() { 0 } else { self.clock.now() };
        self.audit.failed_at.store(failed_at, Ordering::Relaxed);
        recorded.map_err(|error| {
            self.metrics.audit_failed();
            audit_unavailable().because(error)
        })
    }

    /// A connection was opened (`1.0`) or closed (`-1.0`).
    pub(crate) fn count_connection(&self, change: f64) {
        self.metrics.connections(change);
    }
}

#[derive(Debug)]
struct Audit {
    log: Log,
    /// When the last record was refused, in seconds; 0: it was accepted.
    failed_at: AtomicU64,
}

struct ClockCell(Clock);

impl ClockCell {
    fn now(&self) -> u64 {
        (self.0)()
    }
}

impl std::fmt::Debug for ClockCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// Does what waits for a disk, wherever: challenges are answered on the threads of the runtime.
fn may_wait<T>(work: impl FnOnce() -> T) -> T {
    let moves = Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if moves { block_in_place(work) } else { work() }
}

fn respond(status: StatusCode, answer: Answer) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(answer.body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &str| {
        headers.insert(name, HeaderValue::from_str(value).expect("built from printable ASCII"));
    };
    set(header::CONTENT_TYPE, answer.content_type);
    set(header::CACHE_CONTROL, "no-store");
    if let Some(cookie) = answer.cookie {
        set(header::SET_COOKIE, &cookie);
    }
    if let Some(receipt) = answer.receipt {
        set(RECEIPT, &receipt);
    }
    response
}

fn parse<T: DeserializeOwned>(body: &[u8], what: &str) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::new(Kind::SerdeError, format!("not {what}")).because(error))
}

fn resource(path: &str) -> Result<ResourceUri, Refusal> {
    ResourceUri::from_path(path).map_err(|error| {
        let detail = "a resource is named <repository>/<type>/<tag>";
        Refusal::new(Kind::InvalidRequestPath, detail).because(error)
    })
}

fn absent(resource: &ResourceUri) -> Refusal {
    Refusal::new(Kind::InvalidRequestPath, format!("there is no resource {}", resource.path()))
}

fn wrong_method(allowed: &str) -> Refusal {
    Refusal::new(Kind::MethodNotAllowed, format!("use {allowed}"))
}

fn audit_unavailable() -> Refusal {
    Refusal::new(Kind::AuditUnavailable, "the audit log cannot be written, nothing was done")
}

fn policy_unusable(error: Error) -> Refusal {
    Refusal::new(Kind::PolicyEngineError, "the resource policy is unusable, nothing is released")
        .because(chain(&error))
}

fn attestation_policy_unusable(error: Error) -> Refusal {
    Refusal::new(Kind::PolicyEngineError, "the attestation policy is unusable, nobody is attested")
        .because(chain(&error))
}

fn internal(error: Error) -> Refusal {
    Refusal::new(Kind::PluginInternalError, "Plugin internal error").because(chain(&error))
}

/// An error and its sources, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain(source)));
    format!("{error}{}", source.unwrap_or_default())
}

/// The answer for a version that we do not speak, a TEE that we cannot verify, bad evidence: all
/// that attesting again, differently, may cure.
fn attestation(detail: impl Into<String>) -> Refusal {
    Refusal::new(Kind::AttestationError, detail)
}
