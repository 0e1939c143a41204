//! Who we are to a registry: Docker's configuration file, and the challenges of registries.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use serde_json::Value;

use super::reference::Reference;
use crate::{Error, Settings};

/// The largest configuration file that is read, in bytes; Kubernetes's secrets end there.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// The longest challenge that is read, in bytes.
const CHALLENGE_BYTES_MAX: usize = 8 * 1024;

/// Who we are.
pub(super) enum Credentials {
    /// `Basic …`, for the registry or its token server.
    Password(HeaderValue),
    /// A refresh token (RFC 6749 6), for the token server alone.
    Identity(String),
}

/// For this artifact's registry, out of the configuration file; `None` where it names none, or
/// nobody made such a file.
pub(super) fn configured(
    settings: &Settings,
    reference: &Reference,
) -> Result<Option<Credentials>, Error> {
    let ambient = |name: &str| settings.ambient.get(name).map(PathBuf::from);
    let (path, named) = match (&settings.oci_docker_config, ambient("DOCKER_CONFIG")) {
        _ if settings.anonymous => return Ok(None),
        (Some(path), _) => (path.clone(), true),
        (None, Some(directory)) => (directory.join("config.json"), false),
        (None, None) => match ambient("HOME") {
            Some(home) => (home.join(".docker/config.json"), false),
            None => return Ok(None),
        },
    };
    let unusable = |why: &str| Error::usage(format!("{}: {why}", path.display()));
    let config = match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => return Ok(None),
        Err(error) => return Err(unusable(&error.to_string())),
        Ok(meta) if meta.len() > CONFIG_BYTES_MAX => return Err(unusable("larger than 1 MiB")),
        Ok(_) => std::fs::read(&path).map_err(|error| unusable(&error.to_string()))?,
    };
    // The parser's own message could repeat a password.
    let config: Value = serde_json::from_slice(&config).map_err(|_| unusable("is not JSON"))?;
    // An empty entry is what `docker login` leaves with a helper for every registry, which by itself
    // says nothing of this one.
    let helper = || !config["credHelpers"][&reference.registry].is_null();
    let entry = match entry(&config, reference) {
        Some(entry) if entry.as_object().is_none_or(|entry| !entry.is_empty()) => entry,
        None if !helper() => return Ok(None),
        _ => {
            return Err(unusable(
                "a credential helper has this registry's credentials, and programs are not run: \
                 write `auth` into its entry",
            ));
        }
    };
    let text = |name: &str| entry[name].as_str().filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Credentials::Identity(token.to_owned())));
    }
    let auth = match (text("auth"), text("username"), text("password")) {
        (Some(auth), ..) => auth.to_owned(),
        (None, Some(user), Some(password)) => STANDARD.encode(format!("{user}:{password}")),
        _ => {
            return Err(unusable(
                "its entry for this registry has neither `auth`, nor `identitytoken`, nor `username` \
                 and `password`",
            ));
        }
    };
    let mut value = HeaderValue::try_from(format!("Basic {auth}"))
        .map_err(|_| unusable("its entry for this registry holds no credentials"))?;
    value.set_sensitive(true);
    Ok(Some(Credentials::Password(value)))
}

/// The most special entry: `registry/namespace` before `registry`.
fn entry<'a>(config: &'a Value, reference: &Reference) -> Option<&'a Value> {
    let wanted = format!("{}/{}", reference.registry, reference.repository);
    let entries = config["auths"].as_object()?;
    let fitting = entries.iter().filter_map(|(key, entry)| {
        let place = key.split_once("://").map_or(key.as_str(), |(_, place)| place);
        let place = place.trim_end_matches('/');
        let place = place.strip_suffix("/v1").or(place.strip_suffix("/v2")).unwrap_or(place);
        let place = if place == "index.docker.io" { "docker.io" } else { place };
        let rest = wanted.strip_prefix(place)?;
        (rest.is_empty() || rest.starts_with('/')).then_some((place.len(), entry))
    });
    fitting.max_by_key(|(length, _)| *length).map(|(_, entry)| entry)
}

/// How a registry wants to be told who asks (RFC 9110 11.6.1, RFC 6750).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    /// With a token from this server.
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

impl Challenge {
    /// The first challenge that we can answer.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let header = header.get(..header.len().min(CHALLENGE_BYTES_MAX))?;
        let (scheme, parameters) = header.trim().split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        let mut rest = parameters;
        while let Some((name, tail)) = rest.split_once('=') {
            let (value, tail) = match tail.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => tail
                    .split_once(',')
                    .map_or((tail, ""), |(value, _)| (value, &tail[value.len()..])),
            };
            let slot = match name.trim_matches([' ', ',']).to_ascii_lowercase().as_str() {
                "realm" => &mut realm,
                "service" => &mut service,
                _ => &mut None,
            };
            *slot = Some(value.to_owned());
            rest = tail;
        }
        Some(Self::Bearer { realm: realm?, service })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>| {
            let (realm, service) = (realm.to_owned(), service.map(str::to_owned));
            Some(Challenge::Bearer { realm, service })
        };
        for (header, expected) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            (
                r#"Bearer realm="https://a/t",service="r",scope="repository:x:pull,push""#,
                bearer("https://a/t", Some("r")),
            ),
            (r#"bearer service=r, realm="https://a/t""#, bearer("https://a/t", Some("r"))),
            (r#"Bearer realm="https://a/t?x=1""#, bearer("https://a/t?x=1", None)),
            ("Bearer", None),
            ("Bearer service=x", None),
            ("Bearer realm=\"x", None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }

    #[test]
    fn the_most_special_entry_is_taken() {
        let config = serde_json::json!({ "auths": {
            "r.example": 1, "r.example/team": 2, "r.example/te": 3, "r.example:5000": 4,
            "https://index.docker.io/v1/": 5,
        }});
        let found = |uri: &str| {
            entry(&config, &Reference::parse(uri).unwrap()).map(|entry| entry.as_u64().unwrap())
        };
        assert_eq!(found("r.example/x"), Some(1));
        assert_eq!(found("r.example/team"), Some(2));
        assert_eq!(found("r.example/team/x"), Some(2));
        assert_eq!(found("r.example/teams/x"), Some(1));
        assert_eq!(found("r.example:5000/x"), Some(4));
        assert_eq!(found("docker.io/x"), Some(5));
        assert_eq!(found("evil.r.example/x"), None);
        assert_eq!(found("r.example.evil/x"), None);
    }
}
