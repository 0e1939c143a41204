//! Access tokens, as Google's and Microsoft's services take them: by a form of OAuth 2.0, or from
//! the metadata service of the machine.

use std::collections::HashMap;
use std::time::Duration;

use keys::http::Endpoint;
use keys::{Error, HttpSettings, printable};
use reqwest::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use reqwest::{RequestBuilder, Response};
use serde::Deserialize;
use zeroize::Zeroizing;

/// Longest answer with a token: they have one to several KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// One request to the metadata service: where it is absent, packets to it vanish.
const METADATA_TIME_MAX: Duration = Duration::from_secs(2);
/// The metadata service's address in both clouds. It has no name here, so that nobody's resolver is
/// asked for it.
const METADATA_HOST: &str = "169.254.169.254";

/// The value of a variable that was captured, unless it is empty.
pub(crate) fn variable<'a>(variables: &'a HashMap<String, String>, name: &str) -> Option<&'a str> {
    variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// `application/x-www-form-urlencoded`, with everything escaped that may be.
pub(crate) fn form(members: &[(&str, &str)]) -> Zeroizing<String> {
    let longest: usize =
        members.iter().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
    // At once, since growing would leave copies behind.
    let mut form = Zeroizing::new(String::with_capacity(longest));
    for (name, value) in members {
        if !form.is_empty() {
            form.push('&');
        }
        escape(name, &mut form);
        form.push('=');
        escape(value, &mut form);
    }
    form
}

fn escape(text: &str, escaped: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(byte.into());
        } else {
            let digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
            escaped.extend(['%', digits[0].into(), digits[1].into()]);
        }
    }
}

/// Asks an authorisation server, whose certificate is one of the system's authorities', at `path`.
pub(crate) async fn by_form(
    server: &str,
    path: &str,
    form: &str,
    http: &HttpSettings,
) -> Result<HeaderValue, Error> {
    let endpoint = Endpoint::new(server, &HttpSettings { ca_bundle: None, ..http.clone() })?;
    let request = endpoint.post(path);
    let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    let response = send(&endpoint, request.body(form.to_owned())).await?;
    token(&endpoint, response).await
}

/// Asks the metadata service, in the clear: what it says is the word of the machine's host anyway,
/// and tells who we are, never which key is meant.
pub(crate) async fn of_machine(
    host: Option<&str>,
    path: &str,
    header: (&'static str, &'static str),
    otherwise: &str,
) -> Result<HeaderValue, Error> {
    let host = host.unwrap_or(METADATA_HOST);
    let http = HttpSettings { timeout: METADATA_TIME_MAX, ca_bundle: None, insecure_dev: true };
    let endpoint = Endpoint::new(&format!("http://{host}"), &http)?;
    let url = endpoint.url("/");
    if !keys::http::is_loopback(&url) && url.host_str() != Some(METADATA_HOST) {
        let why =
            format!("{host} is no metadata service: it is on this machine or {METADATA_HOST}");
        return Err(Error::Usage(why));
    }
    let request = endpoint.get(path).header(header.0, header.1);
    match send(&endpoint, request).await {
        Ok(response) => token(&endpoint, response).await,
        // No machine of this cloud, or one without an identity.
        Err(Error::Unreachable { .. }) => {
            let detail = format!("there are no credentials: {otherwise}");
            Err(Error::Login { endpoint: endpoint.name().to_owned(), detail })
        }
        Err(other) => Err(other),
    }
}

async fn send(endpoint: &Endpoint, request: RequestBuilder) -> Result<Response, Error> {
    endpoint.send(request.header(CONNECTION, "close")).await
}

/// `Bearer <access_token>`, which no log shows.
async fn token(endpoint: &Endpoint, response: Response) -> Result<HeaderValue, Error> {
    #[derive(Deserialize)]
    struct Granted {
        access_token: String,
    }
    let status = response.status();
    if status != reqwest::StatusCode::OK {
        let body = endpoint.refusal(response).await;
        return Err(refused(status.as_u16(), &body, endpoint.name()));
    }
    let body = endpoint.body(response, ANSWER_BYTES_MAX).await?;
    let unusable = || Error::protocol(endpoint.name(), "it holds no access token");
    let granted: Granted = serde_json::from_slice(&body).map_err(|_| unusable())?;
    let granted = Zeroizing::new(granted.access_token);
    if granted.is_empty() || !granted.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(unusable());
    }
    let bearer = Zeroizing::new(format!("Bearer {}", *granted));
    let mut value = HeaderValue::from_str(&bearer).map_err(|_| unusable())?;
    value.set_sensitive(true);
    Ok(value)
}

/// RFC 6749 §5.2; the metadata services say nothing of use in another form.
fn refused(status: u16, body: &[u8], endpoint: &str) -> Error {
    #[derive(Deserialize, Default)]
    struct Wire {
        #[serde(default)]
        error: String,
        #[serde(default)]
        error_description: String,
    }
    let wire: Wire = serde_json::from_slice(body).unwrap_or_default();
    let detail = printable(&format!("{status} {} {}", wire.error, wire.error_description));
    let endpoint = endpoint.to_owned();
    match status {
        408 | 429 | 500.. => Error::Unreachable { endpoint, why: detail, source: None },
        400 | 401 | 403 | 404 => Error::Login { endpoint, detail },
        _ => Error::Protocol { endpoint, why: detail },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_escapes_what_means_something_in_one() {
        let escaped = form(&[("a b", "x&y=z+~"), ("ü", "")]);
        assert_eq!(&*escaped, "a%20b=x%26y%3Dz%2B~&%C3%BC=");
        assert!(escaped.capacity() >= escaped.len());
    }

    #[test]
    fn a_refusal_is_a_login_and_a_failure_is_transient() {
        let body = br#"{"error":"invalid_grant","error_description":"Invalid JWT\nSignature."}"#;
        let error = refused(400, body, "https://oauth2");
        assert!(matches!(error, Error::Login { .. }));
        assert!(error.to_string().ends_with("400 invalid_grant Invalid JWT Signature."), "{error}");
        for status in [408, 429, 500, 503] {
            assert!(refused(status, b"<html>", "x").is_transient(), "{status}");
        }
        assert!(matches!(refused(418, b"", "x"), Error::Protocol { .. }));
    }
}
