//! The trace of an initialization, as a collector gets it and as OpenTelemetry's own Python reads it;
//! and that none is sent where no collector is named, and that nobody waits for one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use common::{RESOURCE, Sealed, model_tree, refuse, sealift, succeed, text, tree};
use sealift::code::Code;
use serde_json::Value;
use testkit::web::{Asked, Web, file, reply};

/// Keeps what it is sent, and answers as it is told.
struct Collector {
    web: Web,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Collector {
    fn start(status: u16) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        let web = Web::start(move |asked| {
            kept.lock().unwrap().push(asked.clone());
            reply(status, b"")
        });
        Self { web: web.unwrap(), asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The spans that came, or nothing where there is no Python to read them.
    fn spans(&self, dir: &Path) -> Option<Vec<Value>> {
        let Some(python) = std::env::var_os("SEALIFT_PYTHON") else {
            testkit::skip("no SEALIFT_PYTHON");
            return None;
        };
        let files = self.asked().into_iter().enumerate().map(|(index, asked)| {
            let path = dir.join(format!("trace-{index}"));
            std::fs::write(&path, asked.body).unwrap();
            path
        });
        let files: Vec<PathBuf> = files.collect();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trace/read_otlp.py");
        let read = Command::new(python).arg(script).args(files).output().unwrap();
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        let lines = String::from_utf8(read.stdout).unwrap();
        Some(lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }
}

fn init(sealed: &Sealed, source: &str, dest: &Path) -> Command {
    let mut command = sealift();
    command.args(["init", source, text(dest), "--resource-id", RESOURCE]);
    command.args(["--key-file", text(&sealed.key), "--retries", "0"]);
    command.args(["--termination-log", text(&sealed.dir.path().join("termination"))]);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn named<'a>(spans: &'a [Value], name: &str) -> Vec<&'a Value> {
    spans.iter().filter(|span| span["name"] == name).collect()
}

#[test]
fn a_trace_tells_of_each_step_and_of_no_secret() {
    let sealed = Sealed::small();
    let dest = sealed.dest("dest");
    let objects = tree(&sealed.bundle);
    let store = Web::start(move |asked| match objects.get(&asked.path["/m/".len()..]) {
        Some(content) => file(asked, "ETag: \"1\"\r\n", content),
        None => reply(404, b""),
    })
    .unwrap();
    let collector = Collector::start(200);
    let source = format!("{}/m?X-Amz-Signature=PRESIGNED#name=model", store.url());
    let parent = "0af7651916cd43dd8448eb211c80319c";
    let done = succeed(
        init(&sealed, &source, &dest)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.web.url())
            .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20HEADER")
            .env("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=llama-0")
            .env("TRACEPARENT", format!("00-{parent}-b7ad6b7169203331-01")),
    );
    assert!(!said(&done).contains("collector"), "{}", said(&done));
    assert!(model_tree(&dest) == tree(&sealed.model));

    let asked = collector.asked();
    assert!(!asked.is_empty());
    let key: Value = serde_json::from_slice(&std::fs::read(&sealed.key).unwrap()).unwrap();
    for one in &asked {
        assert_eq!((one.method.as_str(), one.path.as_str()), ("POST", "/v1/traces"));
        assert_eq!(one.header("content-type"), "application/x-protobuf");
        assert_eq!(one.header("authorization"), "Bearer HEADER");
        let body = String::from_utf8_lossy(&one.body);
        for secret in ["PRESIGNED", "HEADER", key["k"].as_str().unwrap(), "kbs:"] {
            assert!(!body.contains(secret), "{secret}");
        }
    }
    let Some(spans) = collector.spans(sealed.dir.path()) else { return };
    let root = named(&spans, "init")[0];
    assert_eq!(root["parent"], "b7ad6b7169203331");
    assert_eq!(root["attributes"]["sealift.models"], 1);
    for name in ["init", "plan", "key", "fetch", "record", "publish"] {
        let [span] = named(&spans, name)[..] else { panic!("{name}: {spans:?}") };
        assert_eq!(span["status"][0], 1, "{span}");
        assert_eq!(span["resource"]["service.name"], "sealift-init");
        assert_eq!(span["resource"]["k8s.pod.name"], "llama-0");
        assert!(name == "init" || span["parent"] == root["id"], "{span}");
    }
    let fetch = named(&spans, "fetch")[0];
    assert_eq!(fetch["attributes"]["sealift.files"], 3);
    let objects = named(&spans, "object");
    assert_eq!(objects.len(), 3);
    assert!(objects.iter().all(|span| span["parent"] == fetch["id"]), "{spans:?}");
    assert!(spans.iter().all(|span| span["trace"] == parent && span["ordered"] == true));
}

#[test]
fn of_many_files_the_slowest_have_spans() {
    let names: Vec<String> = (0..200).map(|index| format!("f{index}")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &b"x"[..])).collect();
    let sealed = Sealed::new(&files);
    let collector = Collector::start(200);
    let dest = sealed.dest("dest");
    let traces = format!("{}/some/where", collector.web.url());
    succeed(
        init(&sealed, text(&sealed.bundle), &dest)
            .env("OTEL_SERVICE_NAME", "llama")
            .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", traces),
    );
    assert!(collector.asked().iter().all(|asked| asked.path == "/some/where"));
    let Some(spans) = collector.spans(sealed.dir.path()) else { return };
    assert_eq!(named(&spans, "object").len(), 64);
    assert_eq!(named(&spans, "fetch")[0]["attributes"]["sealift.files"], 200);
    assert!(spans.iter().all(|span| span["resource"]["service.name"] == "llama"));
}

#[test]
fn a_failure_is_in_the_trace_by_its_code() {
    let sealed = Sealed::tiny();
    let collector = Collector::start(200);
    let dest = sealed.dest("dest");
    for (name, mut bytes) in tree(&sealed.bundle) {
        if name.ends_with('/') || name == "sealift.json" {
            continue;
        }
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(sealed.bundle.join(name), bytes).unwrap();
    }
    let mut command = init(&sealed, text(&sealed.bundle), &dest);
    refuse(command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.web.url()), Code::Tampered);
    let Some(spans) = collector.spans(sealed.dir.path()) else { return };
    for name in ["init", "fetch"] {
        let [span] = named(&spans, name)[..] else { panic!("{name}: {spans:?}") };
        assert_eq!(span["status"][0], 2, "{span}");
        assert_eq!(span["status"][1], "E30 tampered");
        assert_eq!(span["attributes"]["error.type"], "E30");
    }
    assert!(named(&spans, "publish").is_empty());
}

/// Refused, closed, and for ever silent.
#[test]
fn a_collector_that_is_not_there_is_a_warning() {
    let sealed = Sealed::small();
    let refusing = Collector::start(503);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let cases = [refusing.web.url(), "http://127.0.0.1:1".into(), silent, "not a URL".into()];
    for (index, endpoint) in cases.into_iter().enumerate() {
        let dest = sealed.dest(&format!("dest-{index}"));
        let mut command = init(&sealed, text(&sealed.bundle), &dest);
        let done = succeed(command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint));
        assert!(said(&done).contains("trace"), "{endpoint}: {}", said(&done));
        assert!(model_tree(&dest) == tree(&sealed.model));
    }
}

#[test]
fn it_goes_through_the_proxy_like_everything_else() {
    let sealed = Sealed::tiny();
    let proxy = Collector::start(200);
    succeed(
        init(&sealed, text(&sealed.bundle), &sealed.dest("dest"))
            .env("HTTP_PROXY", proxy.web.url())
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.example:4318"),
    );
    let asked = proxy.asked();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|one| one.path == "http://collector.example:4318/v1/traces"));
}

#[test]
fn nothing_is_sent_where_no_collector_is_named() {
    let Some(strace) = std::env::var_os("SEALIFT_STRACE") else {
        return testkit::skip("no SEALIFT_STRACE");
    };
    let sealed = Sealed::tiny();
    let collector = Collector::start(200);
    for (index, (endpoint, off, connects)) in [
        ("", "false", false),
        (collector.web.url().as_str(), "true", false),
        (collector.web.url().as_str(), "false", true),
    ]
    .into_iter()
    .enumerate()
    {
        let command = init(&sealed, text(&sealed.bundle), &sealed.dest(&format!("d{index}")));
        let calls = sealed.dir.path().join(format!("calls-{index}"));
        let mut traced = Command::new(&strace);
        traced.args(["-f", "-e", "trace=connect,sendto,sendmsg", "-o"]).arg(&calls);
        traced.arg(command.get_program()).args(command.get_args()).env_clear();
        traced.envs([("OTEL_SERVICE_NAME", "llama"), ("OTEL_SDK_DISABLED", off)]);
        succeed(traced.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint));
        let calls = std::fs::read_to_string(calls).unwrap();
        assert_eq!(calls.contains("AF_INET"), connects, "{calls}");
    }
}
