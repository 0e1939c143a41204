//! [`Trace`]: the story of one initialization for OpenTelemetry, from the plan to the receipt, where a
//! collector is named by `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`.
//!
//! Spans are `init` and below it `plan`, `key`, `fetch`, `record` and `publish`, one of each for each
//! model or key, and below `fetch` the objects that took longest, [`OBJECTS_MAX`] at most. What they
//! tell leaves the TEE, as logs do: places without their queries, names of objects, sizes and times,
//! codes of failures; no key and nothing of what it opens. A collector that is away costs nothing but
//! a warning, and [`FLUSH`] at the end.
//!
//! Sources: OTLP 1.x over HTTP, binary; the variables are those of the specification's
//! `protocol/exporter.md` and `configuration/sdk-environment-variables.md`, which the SDK reads.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use store::Settings;
use tokio::runtime::Handle;

use crate::failure::{Failure, chain};

/// Longest that the end waits for the collector.
const FLUSH: Duration = Duration::from_secs(2);
/// Objects of one model that have spans of their own: those that took longest.
pub(crate) const OBJECTS_MAX: usize = 64;
/// Longest answer of a collector that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// A trace, or nothing where no collector is named.
#[derive(Debug)]
pub(crate) struct Trace(Option<Recording>);

#[derive(Debug)]
struct Recording {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    root: Context,
}

impl Trace {
    /// None.
    pub(crate) const OFF: Self = Self(None);

    /// Begins one, of `models` models, if the environment names a collector. Whatever is wrong with
    /// that is a warning.
    pub(crate) fn begin(models: usize, settings: &Settings) -> Self {
        let set = |name| std::env::var(name).is_ok_and(|value| !value.is_empty());
        let named = set("OTEL_EXPORTER_OTLP_ENDPOINT") || set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let off = std::env::var("OTEL_SDK_DISABLED")
            .is_ok_and(|so| so.eq_ignore_ascii_case("true"))
            || std::env::var("OTEL_TRACES_EXPORTER").is_ok_and(|name| name == "none");
        if !named || off {
            return Self::OFF;
        }
        match Recording::begin(models, settings) {
            Ok(recording) => Self(Some(recording)),
            Err(why) => {
                tracing::warn!(%why, "no trace");
                Self::OFF
            }
        }
    }

    /// Whether anybody wants to know.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a span below `init`.
    pub(crate) fn span(&self, name: &'static str) -> Span {
        Span(self.0.as_ref().map(|on| {
            let span = on.tracer.start_with_context(name, &on.root);
            (on.tracer.clone(), on.root.with_span(span))
        }))
    }

    /// How it ended.
    pub(crate) fn end<T>(&self, result: &Result<T, Failure>) {
        if let Some(on) = &self.0 {
            ended(&on.root, result);
        }
    }
}

impl Recording {
    fn begin(models: usize, settings: &Settings) -> Result<Self, String> {
        let mut settings = settings.clone();
        // The store's switch is not the collector's.
        settings.verify_tls = true;
        if let Ok(bundle) = std::env::var("OTEL_EXPORTER_OTLP_CERTIFICATE") {
            settings.ca_bundle = Some(bundle.into());
        }
        let http = store::http_client(&settings).map_err(|error| chain(&error))?;
        let client = Client { http, runtime: Handle::current(), warned: Arc::default() };
        let exporter = SpanExporter::builder().with_http().with_http_client(client).build();
        let exporter = exporter.map_err(|error| chain(&error))?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("sealift-init");
        }
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.with_attribute(version).build())
            .build();
        let tracer = provider.tracer("sealift");
        let given = std::env::var("TRACEPARENT").ok();
        let parent = given.as_deref().and_then(parent);
        if given.is_some() && parent.is_none() {
            tracing::warn!(
                "TRACEPARENT is not one of W3C's trace contexts: this trace has no parent"
            );
        }
        let parent = parent
            .map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        let mut root = tracer.start_with_context("init", &parent);
        root.set_attribute(KeyValue::new("sealift.models", number(models as u64)));
        Ok(Self { provider, tracer, root: parent.with_span(root) })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.root.span().end();
        // Also where a signal ends the process: the workers that send it run on meanwhile.
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH) {
            tracing::warn!(error = %chain(&error), "the trace was not delivered");
        }
    }
}

/// One step; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Span(Option<(SdkTracer, Context)>);

impl Span {
    /// Adds an attribute. `value` leaves the TEE.
    pub(crate) fn set(&self, name: &'static str, value: impl Into<Value>) -> &Self {
        if let Some((_, context)) = &self.0 {
            context.span().set_attribute(KeyValue::new(name, value));
        }
        self
    }

    /// The same for a count.
    pub(crate) fn count(&self, name: &'static str, value: u64) -> &Self {
        self.set(name, number(value))
    }

    /// How it ended; the result is handed on.
    pub(crate) fn end<T>(self, result: Result<T, Failure>) -> Result<T, Failure> {
        if let Some((_, context)) = &self.0 {
            ended(context, &result);
        }
        result
    }

    /// Adds the objects that took longest: name, beginning, end, bytes.
    pub(crate) fn objects(&self, mut timed: Vec<Timed>) {
        let Some((tracer, context)) = &self.0 else { return };
        timed.sort_by_key(|one| std::cmp::Reverse(one.took()));
        timed.truncate(OBJECTS_MAX);
        for Timed { object, begun, ended } in timed {
            let mut span = tracer
                .span_builder("object")
                .with_start_time(begun)
                .with_attributes([KeyValue::new("sealift.object", object)])
                .start_with_context(tracer, context);
            span.end_with_timestamp(ended);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some((_, context)) = &self.0 {
            context.span().end();
        }
    }
}

/// When an object was first asked for, and when its last bytes were written.
#[derive(Debug, Clone)]
pub(crate) struct Timed {
    /// Its name in the store.
    pub(crate) object: String,
    pub(crate) begun: SystemTime,
    pub(crate) ended: SystemTime,
}

impl Timed {
    fn took(&self) -> Duration {
        self.ended.duration_since(self.begun).unwrap_or_default()
    }
}

fn ended<T>(context: &Context, result: &Result<T, Failure>) {
    let span = context.span();
    match result {
        Ok(_) => span.set_status(Status::Ok),
        Err(failure) => {
            let code = failure.code();
            span.set_attribute(KeyValue::new("error.type", code.to_string()));
            span.set_status(Status::error(format!("{code} {}", code.slug())));
        }
    }
    span.end();
}

/// OTLP's whole numbers are signed.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// `00-<trace id>-<parent id>-<flags>` (W3C Trace Context, 3.2). A later version may say more behind.
fn parent(text: &str) -> Option<SpanContext> {
    let lower_hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = text.split('-');
    let mut part = |length: usize| parts.next().filter(|p| p.len() == length && lower_hex(p));
    let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

/// Our HTTP client for the exporter, whose thread knows no runtime.
#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    runtime: Handle,
    /// Once is enough.
    warned: Arc<AtomicBool>,
}

impl HttpClient for Client {
    fn send_bytes<'own, 'sent>(
        &'own self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'sent>>
    where
        'own: 'sent,
        Self: 'sent,
    {
        let (http, warned) = (self.http.clone(), Arc::clone(&self.warned));
        let sent = self.runtime.spawn(async move {
            let answer = post(&http, request).await;
            let why = match &answer {
                Ok(answer) if answer.status().is_success() => None,
                Ok(answer) => Some(format!("it answers {}", answer.status())),
                Err(why) => Some(why.clone()),
            };
            if let Some(why) = why
                && !warned.swap(true, Ordering::Relaxed)
            {
                tracing::warn!(%why, "the collector of traces");
            }
            answer
        });
        Box::pin(async move { Ok(sent.await??) })
    }
}

async fn post(http: &reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
    // The URL, which may have a secret in it, stays out of messages.
    let failed = |error: reqwest::Error| chain(&error.without_url());
    let (parts, body) = request.into_parts();
    let url = parts.uri.to_string();
    let sent = http.request(parts.method, url).headers(parts.headers).body(body);
    let mut answer = sent.timeout(FLUSH).send().await.map_err(failed)?;
    let status = answer.status();
    let mut read = Vec::new();
    while let Some(frame) = answer.chunk().await.map_err(failed)? {
        if read.len() + frame.len() > ANSWER_BYTES_MAX {
            return Err("its answer is too long".into());
        }
        read.extend_from_slice(&frame);
    }
    let mut response = Response::new(read.into());
    *response.status_mut() = status;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_what_w3c_says() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = parent(good).unwrap();
        assert_eq!(context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert!(context.is_remote() && context.is_sampled());
        assert!(parent(&good.replacen("00", "01", 1)).is_some());
        assert!(parent(&(good.replacen("00", "01", 1) + "-more")).is_some());
        for bad in [
            "",
            "00",
            &good.to_uppercase(),
            &good.replacen("00", "ff", 1),
            &(good.to_owned() + "-more"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        ] {
            assert!(parent(bad).is_none(), "{bad}");
        }
        for end in 0..good.len() {
            assert!(parent(&good[..end]).is_none(), "{end}");
        }
    }
}
