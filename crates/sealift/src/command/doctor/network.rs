//! What stands between this process and servers: proxies, and the authorities that are trusted.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use url::Url;

use super::finding::Finding;
use super::place::Machine;
use crate::code::Code;

/// Longest bundle that the stores take.
const BUNDLE_BYTES_MAX: u64 = 8 << 20;

/// The variables that the HTTP client reads.
const PROXIES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// Whether the key broker is asked through a proxy. The data hub never is: it is on this machine. No
/// value is shown, since a proxy's address can have a password.
pub(crate) fn proxy(machine: &Machine<'_>, kbs: Option<&str>) -> Finding {
    const ID: &str = "network.proxy";
    let set: Vec<_> = PROXIES.into_iter().filter(|name| machine.set(name).is_some()).collect();
    if set.is_empty() {
        return Finding::ok(ID, "none");
    }
    let set = set.join(", ");
    let url = kbs.and_then(|kbs| Url::parse(kbs).ok()).filter(|url| url.scheme() == "https");
    let Some(host) = url.as_ref().and_then(Url::host_str) else {
        return Finding::ok(ID, format!("{set} for stores; keys come without a proxy"));
    };
    let direct = machine.set("NO_PROXY").or_else(|| machine.set("no_proxy")).unwrap_or_default();
    if is_loopback(host) || is_direct(host, &direct) {
        return Finding::ok(ID, format!("{set} for stores; NO_PROXY or this machine: {host}"));
    }
    Finding::warning(
        ID,
        format!("{set}: the key broker {host} may be asked through it"),
        "If the proxy does not reach it, add the host to NO_PROXY",
    )
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Names and their subdomains, addresses and `*`, as every client reads them. Networks (`10.0.0.0/8`)
/// are not.
fn is_direct(host: &str, list: &str) -> bool {
    list.split(',').map(|entry| entry.trim().trim_start_matches('.')).any(|entry| {
        let below = host.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'));
        entry == "*" || (!entry.is_empty() && (host.eq_ignore_ascii_case(entry) || below))
    })
}

/// Whether the bundles of authorities that were named can be used, as far as their form goes.
pub(crate) fn authorities(bundles: &[PathBuf]) -> Finding {
    const ID: &str = "network.ca";
    let mut seen = Vec::new();
    for bundle in bundles {
        match count(bundle) {
            Ok(certificates) => seen.push(format!("{}: {certificates}", bundle.display())),
            Err(why) => {
                return Finding::error(
                    ID,
                    Code::Usage,
                    format!("{}: {why}", bundle.display()),
                    "Name a readable file of PEM certificates: --kbs-ca for the key broker, \
                     AWS_CA_BUNDLE or CA_BUNDLE_CONFIGMAP_NAME for stores",
                );
            }
        }
    }
    if seen.is_empty() {
        return Finding::ok(ID, "those of the system");
    }
    Finding::ok(ID, format!("certificates in {}", seen.join(", ")))
}

fn count(bundle: &Path) -> Result<usize, String> {
    if !bundle.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("no regular file".to_owned());
    }
    let file = File::open(bundle).map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    let mut file = BufReader::new(file).take(BUNDLE_BYTES_MAX + 1);
    file.read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > BUNDLE_BYTES_MAX {
        return Err("larger than 8 MiB".to_owned());
    }
    let mut certificates = 0;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        certificate.map_err(|_| "not PEM".to_owned())?;
        certificates += 1;
    }
    if certificates == 0 { Err("no certificate in it".to_owned()) } else { Ok(certificates) }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_proxy_before_the_key_broker_is_said_and_never_shown() {
        let kbs = Some("https://kbs.example.org:8443");
        assert_eq!(proxy(&Fake::new(&[]).machine(), kbs).level, Level::Ok);
        let fake = Fake::new(&[]).with("HTTPS_PROXY", "http://user:hunter2@proxy");
        let found = proxy(&fake.machine(), kbs);
        assert_eq!(found.level, Level::Warning);
        assert!(found.seen.contains("HTTPS_PROXY") && !found.seen.contains("hunter2"));
        for direct in [None, Some("http://127.0.0.1:8080"), Some("https://[::1]:8080")] {
            assert_eq!(proxy(&fake.machine(), direct).level, Level::Ok, "{direct:?}");
        }
        let fake = fake.with("NO_PROXY", "a.example, .example.org");
        assert_eq!(proxy(&fake.machine(), kbs).level, Level::Ok);
        let fake = fake.with("NO_PROXY", "s.example.org,le.org,,10.0.0.0/8");
        assert_eq!(proxy(&fake.machine(), kbs).level, Level::Warning);
        let fake = fake.with("NO_PROXY", "*");
        assert_eq!(proxy(&fake.machine(), kbs).level, Level::Ok);
    }

    #[test]
    fn a_bundle_is_certificates_or_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let pem = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem();
        let well = file("well", &pem.repeat(2));
        assert_eq!(authorities(&[]).level, Level::Ok);
        let found = authorities(std::slice::from_ref(&well));
        assert!(found.level == Level::Ok && found.seen.ends_with("well: 2"), "{found:?}");
        let cut = file("cut", &pem[..pem.len() / 2]);
        for ill in [file("empty", ""), cut, dir.path().join("none"), dir.path().to_owned()] {
            assert_eq!(authorities(&[well.clone(), ill]).level, Level::Error(Code::Usage));
        }
    }
}
