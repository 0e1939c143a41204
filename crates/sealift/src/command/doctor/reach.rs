//! Whether something listens where keys would come from. What it says is the chain's to find out.

use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::finding::Finding;
use super::place::Place;
use crate::cli::{KeyArgs, KeySourceKind};

const ID: &str = "network.keys";

/// Longest wait for a connection, name resolution included.
const LIMIT: Duration = Duration::from_secs(5);

/// A data hub is looked for where it was asked for, and in a pod, where it would be.
pub(crate) async fn look(key: &KeyArgs, place: Place) -> Finding {
    let url = match (&key.kbs_url, key.key_source) {
        (_, Some(KeySourceKind::File)) => None,
        (Some(url), None | Some(KeySourceKind::Kbs)) => Some(url),
        (_, Some(KeySourceKind::Cdh)) => Some(&key.cdh_addr),
        (None, None) if key.key_file.is_none() && place == Place::Pod => Some(&key.cdh_addr),
        _ => None,
    };
    let url = url.and_then(|url| Url::parse(url).ok());
    let Some((url, port)) = url.and_then(|url| url.port_or_known_default().map(|port| (url, port)))
    else {
        return Finding::skipped(ID, "no server of keys is named");
    };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let name = format!("{host}:{port}");
    let connected = timeout(LIMIT, TcpStream::connect((host, port))).await;
    judge(&name, connected.ok().map(|connected| connected.map(drop)))
}

/// `None` is a connection that has taken too long.
fn judge(name: &str, connected: Option<io::Result<()>>) -> Finding {
    match connected {
        Some(Ok(())) => Finding::ok(ID, format!("{name} accepts connections")),
        None => Finding::warning(
            ID,
            format!("{name} does not answer within 5 s"),
            "A NetworkPolicy or a firewall drops it, or the only way is a proxy: allow the address",
        ),
        Some(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Finding::warning(
            ID,
            format!("{name} refuses connections: nothing listens there"),
            "Data hub: start it in the guest with its REST server (api-server-rest) on. Key broker: \
             compare the port with its service's",
        ),
        Some(Err(error)) => Finding::warning(
            ID,
            format!("{name}: {error}"),
            "Check the name in --kbs-url or CDH_ADDR, and DNS",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn an_open_door_a_closed_one_and_silence_are_told_apart() {
        let ok = judge("a:1", Some(Ok(())));
        assert_eq!(ok.level, Level::Ok);
        let refused = judge("a:1", Some(Err(ErrorKind::ConnectionRefused.into())));
        assert!(refused.seen.contains("refuses"), "{refused:?}");
        let silent = judge("a:1", None);
        assert!(silent.seen.contains("within 5 s"), "{silent:?}");
        let unknown = judge("a:1", Some(Err(ErrorKind::NotFound.into())));
        for ill in [&refused, &silent, &unknown] {
            assert_eq!(ill.level, Level::Warning);
        }
        assert!(refused.fix != silent.fix && silent.fix != unknown.fix);
    }
}
