//! The guest's side of the protocol: what is released to whom, and every way to be refused.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;

use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::guest::{Key, attestation, report_data};
use common::{Broker, Dirs, Setup, jwt_message};
use serde_json::{Value, json};

const VALUE: &[u8] = b"thirty-two bytes of a secret key";

fn broker_with_key() -> Broker {
    let broker = Broker::start();
    broker.put("default/key/one", VALUE);
    broker
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[test]
fn a_resource_is_released_to_every_kind_of_key_by_cookie_and_by_token() {
    let broker = broker_with_key();
    let keys = [Key::p256(), Key::p521(), Key::rsa(KeySize::Rsa2048), Key::rsa(KeySize::Rsa4096)];
    for key in keys {
        let (cookie, token) = broker.attested(&key);
        assert!(cookie.len() < 4096, "{} characters for {}", cookie.len(), key.jwk());
        for reply in [
            broker.get_with_cookie(&cookie, "default/key/one"),
            broker.get_with_token(&token, "default/key/one"),
        ] {
            assert_eq!(reply.status, 200, "{reply:?}");
            assert_eq!(reply.header("content-type"), Some("application/json"));
            assert_eq!(key.open(&reply.json()), VALUE);
        }
    }
}

#[test]
fn only_the_members_that_the_protocol_names_are_hashed() {
    let broker = broker_with_key();
    let key = Key::p256();
    let (cookie, nonce) = broker.challenge();
    let mut body = attestation(&nonce, &key.jwk());
    body["runtime-data"]["tee-pubkey"]["use"] = json!("enc");
    body["runtime-data"]["tee-pubkey"]["kid"] = json!("me");
    body["runtime-data"]["more"] = json!(1);
    body["init-data"] = json!({ "format": "toml", "body": "version = \"0.1.0\"" });
    let reply = broker.attest(&cookie, &body);
    assert_eq!(reply.status, 200, "{reply:?}");
    let reply = broker.get_with_cookie(&reply.cookie(), "default/key/one");
    assert_eq!(key.open(&reply.json()), VALUE);
}

#[test]
fn the_challenge_is_fresh_and_has_upstreams_form() {
    let broker = Broker::start();
    let reply = broker.auth("sample");
    let cookie = reply.header("set-cookie").unwrap();
    assert!(cookie.starts_with("kbs-session-id="), "{cookie}");
    assert!(cookie.ends_with("; Max-Age=300; HttpOnly"), "{cookie}");
    assert_eq!(reply.json()["extra-params"], "");
    assert_eq!(reply.json().as_object().unwrap().len(), 2);
    let nonce = reply.json()["nonce"].as_str().unwrap().to_owned();
    let bytes = base64::engine::general_purpose::STANDARD.decode(&nonce).unwrap();
    assert_eq!(bytes.len(), 32);
    assert_ne!(nonce, broker.challenge().1);
}

#[test]
fn another_version_of_the_protocol_is_refused_and_told_ours() {
    let broker = Broker::start();
    for (version, status) in [("0.4.0", 200), ("0.4.9", 200), ("0.3.0", 401), ("1.0.0", 401)] {
        let body = json!({ "version": version, "tee": "sample", "extra-params": "" });
        let reply = broker.wire.send("POST", "/kbs/v0/auth", &[], body.to_string().as_bytes());
        assert_eq!(reply.status, status, "{version}");
        if status != 200 {
            assert_eq!(reply.refusal().1, "AttestationError");
            assert!(reply.json()["detail"].as_str().unwrap().contains("0.4.0"), "{reply:?}");
        }
    }
}

#[test]
fn a_tee_without_a_verifier_is_refused_at_once_and_by_name() {
    let broker = Broker::start();
    for tee in ["se", "cca", "sampledevice"] {
        let reply = broker.auth(tee);
        assert_eq!(reply.refusal(), (401, "AttestationError".to_owned()));
        assert_eq!(reply.json()["detail"], format!("no verifier for {tee} in this build"));
    }
    assert_eq!(broker.auth("toaster").refusal(), (401, "AttestationError".to_owned()));
}

#[test]
fn sample_evidence_is_refused_without_insecure_dev_even_in_an_older_session() {
    let dirs = Arc::new(Dirs::new());
    let dev = Setup { dirs: dirs.clone(), ..Setup::default() }.start();
    let (cookie, nonce) = dev.challenge();
    let strict = Setup { dirs, insecure_dev: false, ..Setup::default() }.start();
    for reply in
        [strict.auth("sample"), strict.attest(&cookie, &attestation(&nonce, &Key::p256().jwk()))]
    {
        assert_eq!(reply.refusal(), (401, "AttestationError".to_owned()));
        assert_eq!(reply.json()["detail"], "no verifier for sample in this build");
    }
}

#[test]
fn a_token_from_a_development_broker_opens_nothing_on_a_strict_one() {
    let dirs = Arc::new(Dirs::new());
    let dev = Setup { dirs: dirs.clone(), ..Setup::default() }.start();
    dev.put("default/key/one", VALUE);
    let (cookie, token) = dev.attested(&Key::p256());
    let strict = Setup { dirs, insecure_dev: false, ..Setup::default() }.start();
    let refused = (403, "PolicyDeny".to_owned());
    assert_eq!(strict.get_with_cookie(&cookie, "default/key/one").refusal(), refused);
    assert_eq!(strict.get_with_token(&token, "default/key/one").refusal(), refused);
}

#[test]
fn evidence_must_be_bound_to_this_nonce_this_key_and_nothing_else() {
    let broker = broker_with_key();
    let key = Key::p256().jwk();
    let other_nonce = broker.challenge().1;
    let evidence = |data: String| json!({ "svn": "1", "report_data": data });
    type Change<'a> = (&'a str, &'a dyn Fn(&mut Value, &str));
    let changes: [Change<'_>; 12] = [
        ("the nonce of another session", &|body, _| {
            *body = attestation(&other_nonce, &key);
        }),
        ("another nonce beside evidence for ours", &|body, _| {
            body["runtime-data"]["nonce"] = json!(other_nonce);
        }),
        ("additional evidence that is not bound", &|body, _| {
            body["tee-evidence"]["additional_evidence"] = json!("{}");
        }),
        ("evidence for another nonce", &|body, _| {
            body["tee-evidence"]["primary_evidence"] =
                evidence(report_data(&other_nonce, &key, ""));
        }),
        ("a swapped key", &|body, _| {
            body["runtime-data"]["tee-pubkey"] = Key::p256().jwk();
        }),
        ("evidence for additional evidence that is not there", &|body, nonce| {
            body["tee-evidence"]["primary_evidence"] = evidence(report_data(nonce, &key, "x"));
        }),
        ("additional evidence that is bound but unknown", &|body, nonce| {
            body["tee-evidence"]["additional_evidence"] = json!("{}");
            body["tee-evidence"]["primary_evidence"] = evidence(report_data(nonce, &key, "{}"));
        }),
        ("zeroes as report data", &|body, _| {
            body["tee-evidence"]["primary_evidence"] = evidence("A".repeat(64));
        }),
        ("report data with a zero byte more", &|body, nonce| {
            let data = report_data(nonce, &key, "") + "AA==";
            body["tee-evidence"]["primary_evidence"] = evidence(data);
        }),
        ("empty report data", &|body, _| {
            body["tee-evidence"]["primary_evidence"] = evidence(String::new());
        }),
        ("evidence of another shape", &|body, _| {
            body["tee-evidence"]["primary_evidence"] = json!([1, 2, 3]);
        }),
        ("no evidence", &|body, _| {
            body["tee-evidence"]["primary_evidence"] = Value::Null;
        }),
    ];
    for (what, change) in changes {
        let (cookie, nonce) = broker.challenge();
        let mut body = attestation(&nonce, &key);
        change(&mut body, &nonce);
        let reply = broker.attest(&cookie, &body);
        assert_eq!(reply.refusal(), (401, "AttestationError".to_owned()), "{what}");
        assert_eq!(reply.header("set-cookie"), None, "{what}");
        // The challenge survives a failure, as with upstream: the same guest may try again.
        assert_eq!(broker.attest(&cookie, &attestation(&nonce, &key)).status, 200, "{what}");
    }
}

#[test]
fn a_key_that_could_not_receive_the_resource_is_refused_at_attestation() {
    let broker = Broker::start();
    let good = Key::p256().jwk();
    let rsa = Key::rsa(KeySize::Rsa2048).jwk();
    let with = |jwk: &Value, name: &str, value: Value| {
        let mut jwk = jwk.clone();
        jwk[name] = value;
        jwk
    };
    for jwk in [
        with(&good, "crv", json!("P-384")),
        with(&good, "crv", json!("P-521")),
        with(&good, "alg", json!("ECDH-ES")),
        with(&good, "x", json!("AAAA")),
        with(&good, "y", good["x"].clone()),
        with(&good, "x", Value::Null),
        with(&good, "kty", json!("OKP")),
        with(&rsa, "alg", json!("RSA1_5")),
        with(&rsa, "n", json!("AQAB")),
        with(&rsa, "n", json!("A".repeat(100_000))),
        json!({}),
    ] {
        let (cookie, nonce) = broker.challenge();
        let reply = broker.attest(&cookie, &attestation(&nonce, &jwk));
        assert_eq!(reply.refusal(), (401, "AttestationError".to_owned()), "{jwk}");
    }
}

#[test]
fn an_attested_session_is_appraised_anew_and_never_shown_an_old_token() {
    let broker = broker_with_key();
    let key = Key::p256();
    let (cookie, nonce) = broker.challenge();
    let first = broker.attest(&cookie, &attestation(&nonce, &key.jwk()));
    let attested = first.cookie();

    // Upstream answers both with the first token.
    let mut garbage = attestation(&nonce, &key.jwk());
    garbage["tee-evidence"]["primary_evidence"] = json!("garbage");
    assert_eq!(broker.attest(&attested, &garbage).status, 401);
    let mut swapped = attestation(&nonce, &key.jwk());
    swapped["runtime-data"]["tee-pubkey"] = Key::p256().jwk();
    assert_eq!(broker.attest(&attested, &swapped).status, 401);

    // Another key with good evidence gets its own token.
    let other = Key::p521();
    let second = broker.attest(&attested, &attestation(&nonce, &other.jwk()));
    assert_eq!(second.status, 200);
    let reply = broker.get_with_cookie(&second.cookie(), "default/key/one");
    assert_eq!(other.open(&reply.json()), VALUE);
}

#[test]
fn nothing_is_released_without_attestation() {
    let broker = broker_with_key();
    let (unattested, _) = broker.challenge();
    let not_found = (401, "TokenNotFound".to_owned());
    assert_eq!(broker.wire.get("/kbs/v0/resource/default/key/one").refusal(), not_found);
    assert_eq!(broker.get_with_cookie(&unattested, "default/key/one").refusal(), not_found);
    assert_eq!(broker.get_with_cookie("kbs-session-id=", "default/key/one").refusal(), not_found);
    // A resource that does not exist looks the same from here.
    assert_eq!(broker.get_with_cookie(&unattested, "no/such/thing").refusal(), not_found);
}

#[test]
fn a_session_ends_five_minutes_after_it_began_and_a_token_five_after_it_was_made() {
    let broker = broker_with_key();
    let key = Key::p256();
    let (cookie, nonce) = broker.challenge();
    broker.pass(299);
    let reply = broker.attest(&cookie, &attestation(&nonce, &key.jwk()));
    let (attested, token) = (reply.cookie(), reply.json()["token"].clone());
    let token = token.as_str().unwrap();
    assert_eq!(broker.get_with_cookie(&attested, "default/key/one").status, 200);
    broker.pass(1);
    let reply = broker.attest(&cookie, &attestation(&nonce, &key.jwk()));
    assert_eq!(reply.refusal(), (401, "AttestationError".to_owned()));
    let reply = broker.get_with_cookie(&attested, "default/key/one");
    assert_eq!(reply.refusal(), (401, "TokenNotFound".to_owned()));
    assert_eq!(broker.get_with_token(token, "default/key/one").status, 200);
    broker.pass(299);
    let reply = broker.get_with_token(token, "default/key/one");
    assert_eq!(reply.refusal(), (401, "TokenVerifierError".to_owned()));
}

#[test]
fn a_changed_cookie_is_worthless() {
    let broker = broker_with_key();
    let (cookie, _) = broker.attested(&Key::p256());
    let (name, value) = cookie.split_once('=').unwrap();
    let sealed = URL_SAFE_NO_PAD.decode(value).unwrap();
    // Every 37th byte, so that nonce, text and tag are all hit.
    for at in (0..sealed.len()).step_by(37).chain([sealed.len() - 1]) {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        let cookie = format!("{name}={}", URL_SAFE_NO_PAD.encode(changed));
        assert_eq!(broker.get_with_cookie(&cookie, "default/key/one").status, 401, "byte {at}");
    }
}

#[test]
fn replicas_with_the_same_keys_share_sessions_and_tokens_and_strangers_do_not() {
    let dirs = Arc::new(Dirs::new());
    let one = Setup { dirs: dirs.clone(), ..Setup::default() }.start();
    let two = Setup { dirs, ..Setup::default() }.start();
    let stranger = broker_with_key();
    one.put("default/key/one", VALUE);
    let key = Key::p256();
    let (cookie, nonce) = one.challenge();
    let body = attestation(&nonce, &key.jwk());
    let reply = two.attest(&cookie, &body);
    let (attested, token) = (reply.cookie(), reply.json()["token"].as_str().unwrap().to_owned());
    let reply = one.get_with_cookie(&attested, "default/key/one");
    assert_eq!(key.open(&reply.json()), VALUE);
    assert_eq!(one.get_with_token(&token, "default/key/one").status, 200);

    assert_eq!(stranger.attest(&cookie, &body).status, 401);
    assert_eq!(stranger.get_with_cookie(&attested, "default/key/one").status, 401);
    assert_eq!(stranger.get_with_token(&token, "default/key/one").status, 401);
}

#[test]
fn the_token_is_an_ear_that_the_published_key_verifies() {
    let broker = Broker::start();
    let key = Key::p256();
    let (_, token) = broker.attested(&key);
    let jwks = broker.wire.get("/.well-known/jwks.json").json();
    let decode =
        |name: &str| URL_SAFE_NO_PAD.decode(jwks["keys"][0][name].as_str().unwrap()).unwrap();
    let (message, signature) = token.rsplit_once('.').unwrap();
    let point = [vec![4], decode("x"), decode("y")].concat();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
        .verify(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap())
        .unwrap();

    let (header, claims) = (part(&token, 0), part(&token, 1));
    assert_eq!(header["alg"], "ES256");
    assert_eq!(header["kid"], jwks["keys"][0]["kid"]);
    assert_eq!(claims["iat"], common::NOW);
    assert_eq!(claims["exp"], common::NOW + 300);
    let cpu = &claims["submods"]["cpu0"];
    // Development evidence must not pass for more, here or at a relying party.
    assert_eq!(cpu["ear.status"], "contraindicated");
    let evidence = &cpu["ear.veraison.annotated-evidence"];
    assert_eq!(evidence["sample"]["svn"], "1");
    assert_eq!(evidence["runtime_data_claims"]["tee-pubkey"], key.jwk());
}

#[test]
fn tokens_of_others_are_refused_whatever_their_header_says() {
    let broker = broker_with_key();
    let (_, token) = broker.attested(&Key::p256());
    let (_, foreign) = Broker::start().attested(&Key::p256());
    let claims = part(&token, 1);
    let [header, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let none = jwt_message(&json!({ "alg": "none" }), &claims);
    let mut longer = claims.clone();
    longer["exp"] = json!(u64::MAX);
    let longer = jwt_message(&part(&token, 0), &longer);
    let critical = jwt_message(&json!({ "alg": "ES256", "crit": ["exp"] }), &claims);
    for bad in [
        foreign.as_str(),
        &format!("{none}."),
        &format!("{none}.{signature}"),
        &format!("{longer}.{signature}"),
        &format!("{critical}.{signature}"),
        &format!("{header}.{payload}."),
        &format!("{header}.{payload}"),
        "..",
        "a.b.c",
        &"a".repeat(20_000),
    ] {
        let reply = broker.get_with_token(bad, "default/key/one");
        assert_eq!(reply.refusal(), (401, "TokenVerifierError".to_owned()), "{bad:.60}");
    }
    assert_eq!(broker.get_with_token(&token, "default/key/one").status, 200);
}

#[test]
fn garbage_is_refused_at_every_step_and_the_broker_lives_on() {
    let broker = broker_with_key();
    let (cookie, _) = broker.challenge();
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let doubled = r#"{"version":"0.4.0","tee":"sample","tee":"snp","extra-params":""}"#.to_owned();
    let bodies = ["", "{", "null", "[]", "\u{0}", "{\"version\":1}", &deep, &doubled];
    for body in bodies {
        for path in ["/kbs/v0/auth", "/kbs/v0/attest"] {
            let reply = broker.wire.send("POST", path, &[("Cookie", &cookie)], body.as_bytes());
            assert_eq!(reply.refusal(), (400, "SerdeError".to_owned()), "{path} {body:.40}");
        }
    }
    let (_, token) = broker.attested(&Key::p256());
    let not_a_name =
        ["default/key", "a/b/c/d", "a/b/..", "a//c", "%2e/b/c", "a/b/.c", "", "a/b/c%00"];
    for path in not_a_name {
        let reply = broker.get_with_token(&token, path);
        let expected = if path.is_empty() { 401 } else { 404 };
        assert_eq!(reply.status, expected, "{path}");
    }
    for (method, path, status) in [
        ("GET", "/kbs/v0/auth", 405),
        ("PUT", "/kbs/v0/resource/a/b/c", 405),
        ("HEAD", "/kbs/v0/resource/a/b/c", 405),
        ("POST", "/healthz", 405),
        ("GET", "/kbs/v0/nebula-ca/x", 404),
        ("GET", "/kbs/v1/auth", 404),
        ("GET", "/", 404),
    ] {
        assert_eq!(broker.wire.send(method, path, &[], b"").status, status, "{method} {path}");
    }
    assert_eq!(broker.wire.get("/healthz").status, 200);
}

/// Sessions and tokens of a clock that was set back since are none, however far.
#[test]
fn a_clock_set_back_brings_no_session_and_no_token_back() {
    let broker = Broker::start();
    broker.put("default/key/one", b"value");
    let key = Key::p256();
    let (cookie, token) = broker.attested(&key);
    let get = |cookie: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        let path = "/kbs/v0/resource/default/key/one";
        let by_cookie = broker.wire.send("GET", path, &[("Cookie", cookie)], b"").status;
        (by_cookie, broker.wire.send("GET", path, &[("Authorization", &bearer)], b"").status)
    };
    assert_eq!(get(&cookie, &token), (200, 200));
    for years in [1, 10] {
        let now = broker.now();
        broker.clock.store(now - years * 365 * 86_400, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(get(&cookie, &token), (401, 401));
        broker.clock.store(now, std::sync::atomic::Ordering::SeqCst);
    }
    assert_eq!(get(&cookie, &token), (200, 200));
}
