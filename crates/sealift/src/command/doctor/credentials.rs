//! Files of credentials that variables name: they can be read, and tokens among them have not expired.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::finding::Finding;
use super::place::Machine;

/// Where Kubernetes mounts a pod's token.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The variables that name a file, and whether it is a token (a JWT).
const FILES: [(&str, bool); 3] = [
    ("AWS_WEB_IDENTITY_TOKEN_FILE", true),
    ("AZURE_FEDERATED_TOKEN_FILE", true),
    ("GOOGLE_APPLICATION_CREDENTIALS", false),
];

pub(crate) fn look(machine: &Machine<'_>) -> Finding {
    const ID: &str = "credentials";
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let named =
        FILES.into_iter().filter_map(|(name, token)| Some((name, machine.set(name)?, token)));
    let account = machine.has(ACCOUNT).then(|| ("service account", ACCOUNT.to_owned(), true));
    let mut seen = Vec::new();
    let mut ill = false;
    for (name, path, token) in named.chain(account) {
        let found = match machine.text(&path).map(Zeroizing::new) {
            Err(error) => Err(format!("{path}: {error}")),
            Ok(text) if token => expiry(&text, now).map_err(|why| format!("{path}: {why}")),
            Ok(_) => Ok("readable".to_owned()),
        };
        ill |= found.is_err();
        seen.push(format!("{name}: {}", found.unwrap_or_else(|why| why)));
    }
    if ill {
        let fix = "Mount the file for this user (fsGroup), let kubelet renew it, or take the variable away";
        return Finding::warning(ID, seen.join("; "), fix);
    }
    if seen.is_empty() {
        return Finding::ok(ID, "no file of credentials is named");
    }
    Finding::ok(ID, seen.join("; "))
}

/// What a JWT says of its end (RFC 7519, section 4.1.4). Nothing of it is verified or shown.
fn expiry(token: &str, now: u64) -> Result<String, String> {
    #[derive(serde::Deserialize)]
    struct Claims {
        exp: u64,
    }
    let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let payload = payload.map(Zeroizing::new);
    let claims = payload.and_then(|json| serde_json::from_slice::<Claims>(&json).ok());
    match claims {
        None => Err("no token with an end".to_owned()),
        Some(Claims { exp }) if exp <= now => Err(format!("expired {} s ago", now - exp)),
        Some(Claims { exp }) => Ok(format!("valid for {} s", exp - now)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::super::finding::Level;
    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.c2lnbmF0dXJl", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_token_has_an_end_that_is_not_past() {
        let valid = token(r#"{"exp":100,"sub":"x"}"#);
        assert_eq!(expiry(&valid, 99).unwrap(), "valid for 1 s");
        assert_eq!(expiry(&valid, 100).unwrap_err(), "expired 0 s ago");
        // The signature is not looked at: only what stands before it must be whole.
        for end in 0..valid.rfind('.').unwrap() {
            assert!(expiry(&valid[..end], 99).is_err(), "{end}");
        }
        for ill in [r#"{"exp":-1}"#, r#"{"exp":"100"}"#, "{}", "[]"] {
            assert!(expiry(&token(ill), 0).is_err(), "{ill}");
        }
    }

    #[test]
    fn what_variables_name_is_there_or_not_and_never_shown() {
        assert_eq!(look(&Fake::new(&[]).machine()).level, Level::Ok);
        let never = token(r#"{"exp":99999999999}"#);
        let files =
            [(ACCOUNT, never.as_str()), ("/google", "hunter2"), ("/old", &token(r#"{"exp":1}"#))];
        let fake = Fake::new(&files).with("GOOGLE_APPLICATION_CREDENTIALS", "/google");
        let found = look(&fake.machine());
        assert_eq!(found.level, Level::Ok, "{found:?}");
        assert!(found.seen.contains("service account: valid for"), "{found:?}");
        assert!(!found.seen.contains("hunter2"));
        let fake = fake.with("AWS_WEB_IDENTITY_TOKEN_FILE", "/old");
        let found = look(&fake.machine());
        assert!(found.level == Level::Warning && found.seen.contains("/old: expired"), "{found:?}");
        let fake = fake.with("AWS_WEB_IDENTITY_TOKEN_FILE", "/none");
        assert_eq!(look(&fake.machine()).level, Level::Warning);
    }
}
