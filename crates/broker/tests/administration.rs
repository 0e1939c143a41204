//! The administrator's side, the policy, the audit log and the metrics.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use audit::Log;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::guest::Key;
use common::{Broker, Dirs, NOW, Setup, http, jwt_message, sign_ed25519};
use serde_json::{Value, json};

const ALLOW_ALL: &str = "package policy\nallow := true";
const DENY_ALL: &str = "package policy\nallow := false";

#[test]
fn a_resource_is_stored_replaced_listed_and_deleted() {
    let broker = Broker::start();
    let path = "/kbs/v0/resource/default/key/one";
    let reply = broker.admin("POST", path, b"first");
    assert_eq!(reply.json(), json!({ "version": 1, "created": NOW, "updated": NOW }));
    broker.pass(7);
    let reply = broker.admin("POST", path, b"second");
    assert_eq!(reply.json(), json!({ "version": 2, "created": NOW, "updated": NOW + 7 }));
    assert_eq!(
        broker.admin("GET", "/kbs/v0/resource", b"").json(),
        json!({ "resources": [
            { "resource": "default/key/one", "version": 2, "created": NOW, "updated": NOW + 7 },
        ] })
    );
    let key = Key::p256();
    let (cookie, _) = broker.attested(&key);
    assert_eq!(key.open(&broker.get_with_cookie(&cookie, "default/key/one").json()), b"second");
    assert_eq!(broker.admin("DELETE", path, b"").status, 200);
    let absent = (404, "InvalidRequestPath".to_owned());
    assert_eq!(broker.admin("DELETE", path, b"").refusal(), absent);
    assert_eq!(broker.get_with_cookie(&cookie, "default/key/one").refusal(), absent);
}

#[test]
fn if_none_match_leaves_what_exists_alone() {
    let broker = Broker::start();
    let token = format!("Bearer {}", broker.admin_token(json!({})));
    let put = |value: &[u8], condition| {
        let headers = [("Authorization", token.as_str()), ("If-None-Match", condition)];
        broker.wire.send("POST", "/kbs/v0/resource/default/key/one", &headers, value)
    };
    assert_eq!(put(b"first", "*").status, 200);
    let events = broker.events().len();
    assert_eq!(put(b"second", "*").refusal(), (412, "ResourceExists".to_owned()));
    assert_eq!(put(b"second", "\"1\"").refusal(), (400, "ResourceRefused".to_owned()));
    assert_eq!(broker.events().len(), events, "what was not done is not recorded");
    let key = Key::p256();
    let (cookie, _) = broker.attested(&key);
    assert_eq!(key.open(&broker.get_with_cookie(&cookie, "default/key/one").json()), b"first");
}

#[test]
fn a_keys_minimum_is_raised_and_never_lowered() {
    const PATH: &str = "/kbs/v0/resource/default/key/one";
    let broker = Broker::start();
    let jwk = |minimum: u64, digests: &[String]| {
        let mut pin = json!({ "min_generation": minimum });
        if !digests.is_empty() {
            pin["digests"] = json!(digests);
        }
        json!({
            "kty": "oct", "k": URL_SAFE_NO_PAD.encode([7; 32]), "sealift": { "m": pin, "other": {} },
        })
    };
    let key = Key::p256();
    let held = |expected: &Value| {
        let (cookie, _) = broker.attested(&key);
        let value = key.open(&broker.get_with_cookie(&cookie, "default/key/one").json());
        assert_eq!(&serde_json::from_slice::<Value>(&value).unwrap(), expected);
    };
    let raise = |body: Value| broker.admin("PATCH", PATH, body.to_string().as_bytes());
    let to =
        |model: &str, minimum: u64| raise(json!({ "model": model, "min_generation": minimum }));

    assert_eq!(to("m", 2).refusal(), (404, "InvalidRequestPath".to_owned()));
    broker.put("default/key/one", jwk(2, &[]).to_string().as_bytes());
    broker.pass(5);
    let events = broker.events().len();
    let refused = |reply: http::Reply, code: u16, kind: &str| {
        assert_eq!(reply.refusal(), (code, kind.to_owned()));
        held(&jwk(2, &[]));
    };
    refused(to("m", 1), 400, "ResourceRefused");
    refused(to("unknown", 3), 400, "ResourceRefused");
    refused(to("m", u64::MAX), 400, "ResourceRefused");
    refused(to("", 3), 400, "ResourceRefused");
    refused(raise(json!({ "model": "m" })), 400, "SerdeError");
    refused(raise(json!({ "model": "m", "min_generation": 3, "k": "x" })), 400, "SerdeError");
    let strange = json!({ "model": "m", "min_generation": 3, "digests": ["md5:0"] });
    refused(raise(strange), 400, "ResourceRefused");
    let anonymous = broker.wire.send("PATCH", PATH, &[], b"{}");
    refused(anonymous, 401, "AdminAuthAccess");

    let reply = to("m", 7);
    assert_eq!(reply.json(), json!({ "version": 2, "created": NOW, "updated": NOW + 5 }));
    held(&jwk(7, &[]));
    let digest = format!("sha256:{}", "ab".repeat(32));
    let named = json!({ "model": "m", "min_generation": 7, "digests": [digest] });
    assert_eq!(raise(named).status, 200);
    held(&jwk(7, std::slice::from_ref(&digest)));
    // Another manifest goes with a higher generation only.
    let other = format!("sha256:{}", "cd".repeat(32));
    let exchanged = raise(json!({ "model": "m", "min_generation": 7, "digests": [other] }));
    assert_eq!(exchanged.refusal(), (400, "ResourceRefused".to_owned()));
    held(&jwk(7, std::slice::from_ref(&digest)));
    // Else the manifests that it names would be older than what it demands.
    assert_eq!(to("m", 8).refusal(), (400, "ResourceRefused".to_owned()));
    let raised: Vec<_> = broker.events().split_off(events);
    let raised: Vec<_> = raised.iter().filter(|event| event["event"] == "pin-raised").collect();
    assert_eq!(raised.len(), 2);
    assert_eq!(
        raised[0],
        &json!({
            "event": "pin-raised", "resource": "kbs:///default/key/one", "model": "m",
            "min_generation": 7, "admin": "alice",
        })
    );
    // A resource that is no key of ours stays as it is.
    broker.put("default/key/one", b"a password");
    assert_eq!(to("m", 9).refusal(), (400, "ResourceRefused".to_owned()));
    let (cookie, _) = broker.attested(&key);
    assert_eq!(key.open(&broker.get_with_cookie(&cookie, "default/key/one").json()), b"a password");
}

#[test]
fn values_that_no_key_has_are_refused() {
    let broker = Broker::start();
    let path = "/kbs/v0/resource/default/key/one";
    let put = |value: &[u8]| broker.admin("POST", path, value);
    assert_eq!(put(b"").refusal(), (400, "ResourceRefused".to_owned()));
    assert_eq!(put(&[1; 64 * 1024 + 1]).refusal(), (413, "PayloadTooLarge".to_owned()));
    assert_eq!(put(&[1; 64 * 1024]).status, 200);
    for path in ["a/b", "a/b/c/d", "a/b/.c", "a/b/c%2F", "../b/c"] {
        let reply = broker.admin("POST", &format!("/kbs/v0/resource/{path}"), b"x");
        assert_eq!(reply.refusal(), (404, "InvalidRequestPath".to_owned()), "{path}");
    }
}

#[test]
fn the_largest_resource_reaches_a_guest() {
    let broker = Broker::start();
    let value: Vec<u8> = (0..64 * 1024_u32).map(|n| n.to_le_bytes()[0]).collect();
    broker.put("default/key/large", &value);
    let key = Key::p521();
    let (cookie, _) = broker.attested(&key);
    assert_eq!(key.open(&broker.get_with_cookie(&cookie, "default/key/large").json()), value);
}

#[test]
fn only_a_short_lived_token_of_a_known_key_with_the_right_claims_administrates() {
    let setup = Setup { issuers: vec!["tests".to_owned(), "ci".to_owned()], ..Setup::default() };
    let broker = setup.start();
    let key = &broker.dirs.keys.admin_key;
    let stranger = Dirs::new();
    let good = json!({ "alg": "EdDSA", "typ": "JWT" });
    let claims: Value = {
        let token = broker.admin_token(json!({}));
        let payload = token.split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
    };
    let none = jwt_message(&json!({ "alg": "none" }), &claims);
    let public = std::fs::read_to_string(&broker.dirs.keys.admin_public_key).unwrap();
    let now = broker.now();
    let denied: [(&str, String); 18] = [
        ("no signature", format!("{none}.")),
        ("another key", sign_ed25519(&stranger.keys.admin_key, &good, &claims)),
        ("alg none, signed", sign_ed25519(key, &json!({ "alg": "none" }), &claims)),
        ("alg HS256, signed", sign_ed25519(key, &json!({ "alg": "HS256" }), &claims)),
        ("alg HS256 under the public key", hs256(&public, &claims)),
        ("crit", sign_ed25519(key, &json!({ "alg": "EdDSA", "crit": ["x"] }), &claims)),
        ("no alg", sign_ed25519(key, &json!({}), &claims)),
        ("expired", broker.admin_token(json!({ "exp": now }))),
        ("no exp", broker.admin_token(json!({ "exp": null }))),
        ("exp as text", broker.admin_token(json!({ "exp": "2100-01-01" }))),
        ("good for two hours", broker.admin_token(json!({ "exp": now + 7200 }))),
        ("not yet good", broker.admin_token(json!({ "nbf": now + 120 }))),
        ("from the future", broker.admin_token(json!({ "iat": now + 120 }))),
        ("another audience", broker.admin_token(json!({ "aud": "sts" }))),
        ("no audience", broker.admin_token(json!({ "aud": null }))),
        ("another issuer", broker.admin_token(json!({ "iss": "other" }))),
        ("no role", broker.admin_token(json!({ "role": null }))),
        ("garbage", "garbage".to_owned()),
    ];
    let requests: [(&str, &str, &[u8]); 5] = [
        ("POST", "/kbs/v0/resource/a/b/c", b"x"),
        ("DELETE", "/kbs/v0/resource/a/b/c", b""),
        ("GET", "/kbs/v0/resource", b""),
        ("GET", "/kbs/v0/resource-policy", b""),
        ("POST", "/kbs/v0/resource-policy", b"{}"),
    ];
    let refused = (401, "AdminAuthAccess".to_owned());
    for (what, token) in &denied {
        for (method, path, body) in requests {
            let bearer = format!("Bearer {token}");
            let reply = broker.wire.send(method, path, &[("Authorization", &bearer)], body);
            assert_eq!(reply.refusal(), refused, "{what}: {method} {path}");
        }
    }
    let with = |changes: Value| {
        let bearer = format!("Bearer {}", broker.admin_token(changes));
        broker.wire.send("GET", "/kbs/v0/resource", &[("Authorization", &bearer)], b"")
    };
    let guest = with(json!({ "role": "guest" }));
    assert_eq!(guest.refusal(), (403, "AdminRole".to_owned()));
    assert_eq!(broker.wire.get("/kbs/v0/resource").refusal(), refused);
    for changes in [json!({ "iss": "ci" }), json!({ "aud": "KBS" }), json!({ "exp": now + 3600 })] {
        assert_eq!(with(changes.clone()).status, 200, "{changes}");
    }
}

/// The classic confusion: the public key's text as an HMAC key.
fn hs256(key: &str, claims: &Value) -> String {
    let message = jwt_message(&json!({ "alg": "HS256", "typ": "JWT" }), claims);
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key.as_bytes());
    let tag = aws_lc_rs::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

#[test]
fn a_guests_token_is_no_administrators_and_the_other_way_round() {
    let broker = Broker::start();
    broker.put("default/key/one", b"value");
    let (_, token) = broker.attested(&Key::p256());
    let bearer = format!("Bearer {token}");
    let reply = broker.wire.send("GET", "/kbs/v0/resource", &[("Authorization", &bearer)], b"");
    assert_eq!(reply.refusal(), (401, "AdminAuthAccess".to_owned()));
    let reply = broker.get_with_token(&broker.admin_token(json!({})), "default/key/one");
    assert_eq!(reply.refusal(), (401, "TokenVerifierError".to_owned()));
}

#[test]
fn a_policy_may_name_the_rules_that_refused_within_bounds() {
    let broker = Broker::start();
    broker.put("default/key/one", b"value");
    let (cookie, _) = broker.attested(&Key::p256());
    let detail = |reasons: &str| {
        let text = format!("package policy\nimport rego.v1\ndefault allow := false\n{reasons}");
        assert_eq!(broker.set_policy(&text).status, 200, "{reasons}");
        let reply = broker.get_with_cookie(&cookie, "default/key/one");
        assert_eq!(reply.refusal(), (403, "PolicyDeny".to_owned()));
        reply.json()["detail"].as_str().unwrap().to_owned()
    };
    let denied = "Access denied by policy";
    // Upstream's have none.
    assert_eq!(detail(""), denied);
    let set = "reasons contains \"by night\" if input.submods\nreasons contains \"b\" if false";
    assert_eq!(detail(set), format!("{denied}: by night"));
    assert_eq!(broker.events().last().unwrap()["reason"], "policy: by night");
    assert_eq!(detail("reasons := [\"a\", 7, \"b\\nc\"]"), format!("{denied}: a; b c"));
    let many = "reasons := [r | some n in numbers.range(1, 50); r := sprintf(\"%d\", [n])]";
    assert_eq!(detail(many), format!("{denied}: 1; 2; 3; 4; 5; 6; 7; 8"));
    let long = "reasons := [concat(\"\", [\"x\" | some n in numbers.range(1, 5000)])]";
    assert_eq!(detail(long), format!("{denied}: {}", "x".repeat(120)));
    // What is no list of texts, or fails, refuses all the same.
    for other in ["reasons := \"a\"", "reasons := {\"a\": 1}", "reasons := 1 / input.none"] {
        assert_eq!(detail(other), denied, "{other}");
    }
    assert_eq!(broker.events().last().unwrap()["reason"], "policy");
    // Reasons do not refuse by themselves.
    let text = "package policy\nallow := true\nreasons := [\"a\"]";
    assert_eq!(broker.set_policy(text).status, 200);
    assert_eq!(broker.get_with_cookie(&cookie, "default/key/one").status, 200);
}

#[test]
fn a_posted_policy_decides_from_the_next_request_on() {
    let broker = Broker::start();
    broker.put("default/key/one", b"value");
    let (cookie, _) = broker.attested(&Key::p256());
    let get = || broker.get_with_cookie(&cookie, "default/key/one");
    assert_eq!(get().status, 200);
    assert_eq!(broker.set_policy(DENY_ALL).status, 200);
    assert_eq!(get().refusal(), (403, "PolicyDeny".to_owned()));
    // Denied before looking: a guest cannot ask which resources exist.
    let absent = broker.get_with_cookie(&cookie, "no/such/thing");
    assert_eq!(absent.refusal(), (403, "PolicyDeny".to_owned()));
    assert_eq!(broker.set_policy(ALLOW_ALL).status, 200);
    assert_eq!(get().status, 200);
    let shown = broker.admin("GET", "/kbs/v0/resource-policy", b"").json();
    assert_eq!(shown["policy"], URL_SAFE_NO_PAD.encode(ALLOW_ALL));

    let reply = broker.set_policy("package policy\nallow if {");
    assert_eq!(reply.refusal(), (400, "PolicyEngineError".to_owned()));
    assert!(reply.json()["detail"].as_str().unwrap().contains("policy.rego:2"), "{reply:?}");
    for body in [&b"{}"[..], b"{\"policy\":\"%\"}", b"{\"policy\":\"_w\"}", b"allow := true"] {
        let reply = broker.admin("POST", "/kbs/v0/resource-policy", body);
        assert_eq!(reply.refusal(), (400, "SerdeError".to_owned()));
    }
    assert_eq!(get().status, 200, "a policy that was refused changes nothing");
}

#[test]
fn a_policy_sees_path_query_and_claims() {
    let broker = Broker::start();
    broker.put("default/key/one", b"value");
    broker.set_policy(
        r#"package policy
           default allow := false
           allow if {
               data["resource-path"] == ["default", "key", "one"]
               data.query.purpose == "a b"
               input.submods.cpu0["ear.veraison.annotated-evidence"].sample.svn == "1"
           }"#,
    );
    let (cookie, _) = broker.attested(&Key::p256());
    let get = |resource| broker.get_with_cookie(&cookie, resource).status;
    assert_eq!(get("default/key/one?purpose=a%20b"), 200);
    assert_eq!(get("default/key/one"), 403);
    assert_eq!(get("default/key/one?purpose=%zz"), 400);
}

#[test]
fn the_operators_policy_file_cannot_be_changed_by_an_administrator() {
    let dirs = Arc::new(Dirs::new());
    let file = dirs.root().join("policy.rego");
    std::fs::write(&file, DENY_ALL).unwrap();
    let broker = Setup { dirs, policy_file: Some(file), ..Setup::default() }.start();
    broker.put("default/key/one", b"value");
    assert_eq!(broker.set_policy(ALLOW_ALL).refusal(), (409, "PolicyReadOnly".to_owned()));
    let (cookie, _) = broker.attested(&Key::p256());
    assert_eq!(broker.get_with_cookie(&cookie, "default/key/one").status, 403);
}

#[test]
fn a_policy_that_became_unreadable_releases_nothing() {
    let broker = Broker::start();
    broker.put("default/key/one", b"value");
    broker.set_policy(ALLOW_ALL);
    let (cookie, _) = broker.attested(&Key::p256());
    std::fs::write(broker.dirs.data().join("policy.rego.sealed"), b"not ours").unwrap();
    let reply = broker.get_with_cookie(&cookie, "default/key/one");
    assert_eq!(reply.refusal(), (500, "PolicyEngineError".to_owned()));
    assert_eq!(broker.wire.get("/readyz").status, 500);
}

#[test]
fn a_tampered_resource_is_refused_and_not_explained_to_the_client() {
    let broker = Broker::start();
    broker.put("default/key/one", b"value");
    let (cookie, _) = broker.attested(&Key::p256());
    let path = broker.dirs.data().join("resources/default/key/one");
    let mut file = std::fs::read(&path).unwrap();
    *file.last_mut().unwrap() ^= 1;
    std::fs::write(&path, file).unwrap();
    let reply = broker.get_with_cookie(&cookie, "default/key/one");
    assert_eq!(reply.refusal(), (500, "PluginInternalError".to_owned()));
    assert_eq!(reply.json()["detail"], "Plugin internal error");
    assert!(!broker.events().iter().any(|event| event["event"] == "resource-released"));
}

#[test]
fn every_release_is_recorded_with_what_it_was_based_on() {
    let broker = Broker::start();
    broker.put("default/key/one", b"value");
    let (cookie, _) = broker.attested(&Key::p256());
    broker.get_with_cookie(&cookie, "default/key/one");
    broker.get_with_cookie(&cookie, "default/key/two");
    broker.set_policy(DENY_ALL);
    broker.get_with_cookie(&cookie, "default/key/one");
    broker.admin("DELETE", "/kbs/v0/resource/default/key/one", b"");
    let events = broker.events();
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "resource-stored",
            "attested",
            "resource-released",
            "resource-refused",
            "policy-changed",
            "resource-refused",
            "resource-deleted"
        ]
    );
    assert_eq!(events[0]["admin"], "alice");
    let released = &events[2];
    assert_eq!(released["resource"], "kbs:///default/key/one");
    assert_eq!(released["tee"], "sample");
    for digest in ["claims_digest", "policy_digest"] {
        assert_eq!(released[digest].as_str().unwrap().len(), 64);
    }
    assert_eq!(released["key_thumbprint"].as_str().unwrap().len(), 43);
    assert!(released["client"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(events[3]["reason"], "absent");
    assert_eq!(events[5]["reason"], "policy");
    let log = std::fs::read_to_string(broker.dirs.data().join("audit.log")).unwrap();
    assert!(!log.contains("value\"") && !log.contains("kbs-session-id"));
}

/// A sink that fails from a moment on.
struct Failing(Arc<AtomicBool>);

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.load(Ordering::SeqCst) {
            return Err(io::Error::other("the sink is gone"));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn without_an_audit_record_nothing_is_released_or_changed() {
    let failing = Arc::new(AtomicBool::new(false));
    let log = Some(Log::stream(Box::new(Failing(failing.clone()))));
    let broker = Setup { log, ..Setup::default() }.start();
    broker.put("default/key/one", b"value");
    let (cookie, nonce) = broker.challenge();
    let (attested, token) = broker.attested(&Key::p256());
    assert_eq!(broker.get_with_cookie(&attested, "default/key/one").status, 200);
    assert_eq!(broker.wire.get("/readyz").status, 200);

    failing.store(true, Ordering::SeqCst);
    let unavailable = (503, "AuditUnavailable".to_owned());
    let body = common::guest::attestation(&nonce, &Key::p256().jwk());
    for reply in [
        broker.get_with_cookie(&attested, "default/key/one"),
        broker.get_with_token(&token, "default/key/one"),
        broker.attest(&cookie, &body),
        broker.admin("POST", "/kbs/v0/resource/default/key/one", b"other"),
        broker.admin("POST", "/kbs/v0/resource/default/key/two", b"other"),
        broker.admin("DELETE", "/kbs/v0/resource/default/key/one", b""),
        broker.set_policy(DENY_ALL),
        broker.wire.get("/readyz"),
    ] {
        assert_eq!(reply.refusal(), unavailable);
        assert_eq!(reply.header("set-cookie"), None);
    }
    let listed = broker.admin("GET", "/kbs/v0/resource", b"").json();
    assert_eq!(listed["resources"].as_array().unwrap().len(), 1);
    assert_eq!(listed["resources"][0]["version"], 1);
    let metrics = String::from_utf8(broker.wire.get("/metrics").body).unwrap();
    assert!(metrics.contains("\nsealift_broker_audit_failures_total 7\n"), "{metrics}");

    // Whoever is not ready is asked for nothing, and so would never be ready again.
    broker.pass(30);
    assert_eq!(broker.wire.get("/readyz").status, 200);
    broker.set_policy(DENY_ALL);
    assert_eq!(broker.wire.get("/readyz").status, 503);
}

#[test]
fn a_release_comes_with_a_receipt_of_its_record() {
    let broker = Broker::start();
    broker.put("default/key/one", b"value");
    let (cookie, _) = broker.attested(&Key::p256());
    let reply = broker.get_with_cookie(&cookie, "default/key/one");
    let receipt = reply.header("sealift-receipt").unwrap();
    let keys = audit::BrokerKeys::parse(&broker.wire.get("/.well-known/jwks.json").body).unwrap();
    let signed = keys.verify(receipt).unwrap();
    assert_eq!((signed.resource.as_str(), signed.time), ("kbs:///default/key/one", NOW));
    // Its record is the last one so far.
    let log = std::fs::read(broker.dirs.data().join("audit.log")).unwrap();
    let summary = audit::verify(&log[..]).unwrap();
    assert_eq!((signed.seq, signed.hash), (summary.records, summary.head));
    // It opens nothing, and a token is no receipt.
    assert_eq!(broker.get_with_token(receipt, "default/key/one").status, 401);
    let (_, token) = broker.attested(&Key::p256());
    assert!(keys.verify(&token).is_err());
    // What is not released has none.
    for reply in
        [broker.get_with_cookie(&cookie, "default/key/two"), broker.get_with_cookie("", "a/b/c")]
    {
        assert!(reply.status >= 400 && reply.header("sealift-receipt").is_none(), "{reply:?}");
    }
}

#[test]
fn a_full_disk_under_the_audit_log_releases_nothing() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let dirs = Arc::new(Dirs::new());
    let prepared = Setup { dirs: dirs.clone(), ..Setup::default() }.start();
    prepared.put("default/key/one", b"value");
    let (cookie, _) = prepared.attested(&Key::p256());
    let log = Some(Log::stream(Box::new(full)));
    let broker = Setup { dirs, log, ..Setup::default() }.start();
    let reply = broker.get_with_cookie(&cookie, "default/key/one");
    assert_eq!(reply.refusal(), (503, "AuditUnavailable".to_owned()));
    assert_eq!(prepared.get_with_cookie(&cookie, "default/key/one").status, 200);
}

#[test]
fn metrics_name_no_resource_and_do_not_grow_with_what_clients_ask_for() {
    let broker = Broker::start();
    broker.put("default/key/hidden", b"value");
    let (cookie, _) = broker.attested(&Key::p256());
    broker.get_with_cookie(&cookie, "default/key/hidden");
    broker.wire.get("/kbs/v0/resource/x/y/z");
    broker.wire.get("/kbs/v0/plugin-x/y");
    broker.auth("toaster-x");
    let page = || String::from_utf8(broker.wire.get("/metrics").body).unwrap();
    let first = page();
    for n in 0..50 {
        broker.get_with_cookie(&cookie, &format!("absent/key/n{n}"));
        broker.wire.get(&format!("/kbs/v0/plugin-{n}/y"));
        broker.auth(&format!("toaster-{n}"));
        broker.wire.send(&format!("M{n}"), "/kbs/v0/auth", &[], b"");
    }
    let page = page();
    for name in ["hidden", "absent", "plugin-", "toaster", "M49", "127.0.0.1"] {
        assert!(!page.contains(name), "{name} in\n{page}");
    }
    // At most: a 404 and a 405 of known endpoints that were not asked for before.
    assert!(page.lines().count() <= first.lines().count() + 8, "{first}\n{page}");
    assert!(page.contains("\nsealift_broker_releases_total{tee=\"sample\"} 1\n"), "{page}");
    assert!(
        page.contains("sealift_broker_attestations_total{tee=\"sample\",outcome=\"accepted\"} 1")
    );
}

#[test]
fn a_wrong_master_key_opens_nothing() {
    let dirs = Dirs::new();
    let broker = Setup::default().start();
    let config = broker::Config::new(broker.dirs.data(), dirs.keys.master_key.clone());
    let log = Log::stream(Box::new(io::sink()));
    let refused = broker::service::Service::open(&config, log, broker::system_clock());
    assert!(matches!(refused, Err(broker::Error::Tampered { .. })));
}
