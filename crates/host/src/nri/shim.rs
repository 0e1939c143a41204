//! Where the agent of a Kata sandbox listens, as its shim says: `GET /agent-url` on the shim's
//! management socket.
//!
//! Source: kata-containers, `src/runtime/pkg/containerd-shim-v2/shim_management.go` and
//! `src/libs/shim-interface/src/lib.rs`.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use link::dial::Address;

/// Where shims keep their sandboxes: Kata's Go runtime, and runtime-rs.
pub const DIRS: [&str; 2] = ["/run/vc/sbs", "/run/kata"];
/// Name of the management socket.
const SOCKET: &str = "shim-monitor.sock";
/// Longest answer: a status line, a few headers, an address.
const ANSWER_BYTES_MAX: u64 = 4096;

/// The management socket of a sandbox, if one of `dirs` has it.
pub fn socket(dirs: &[PathBuf], sandbox: &str) -> Option<PathBuf> {
    if !is_sandbox_id(sandbox) {
        return None;
    }
    let mut sockets = dirs.iter().map(|dir| dir.join(sandbox).join(SOCKET));
    sockets.find(|socket| socket.exists())
}

/// A name that is one component of a path: the runtime chose it, and it becomes one.
fn is_sandbox_id(id: &str) -> bool {
    const BYTES_MAX: usize = 128;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    id.len() <= BYTES_MAX
        && id.bytes().all(plain)
        && id.bytes().next().is_some_and(|first| first != b'.')
}

/// Asks the shim behind `socket`, before `until`.
pub fn agent_address(socket: &Path, until: Instant) -> io::Result<Address> {
    // HTTP/1.0: the answer ends where the connection ends, and is not in chunks.
    const REQUEST: &[u8] = b"GET /agent-url HTTP/1.0\r\nHost: shim\r\nAccept: */*\r\n\r\n";
    let mut stream = Address::Unix(socket.to_path_buf()).connect(None, until)?;
    stream.set_deadline(Some(until));
    stream.write_all(REQUEST)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut answer)?;
    if answer.len() as u64 > ANSWER_BYTES_MAX {
        return Err(refuse("it answers at length"));
    }
    parse(&answer)
}

fn parse(answer: &[u8]) -> io::Result<Address> {
    let answer = str::from_utf8(answer).map_err(|_| refuse("its answer is not text"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| refuse("it speaks no HTTP"))?;
    let (status, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let mut words = status.split(' ');
    let version = words.next().unwrap_or("");
    if !version.starts_with("HTTP/1.") {
        return Err(refuse("it speaks no HTTP"));
    }
    if words.next() != Some("200") {
        let shown: String = status.chars().filter(|char| !char.is_control()).take(64).collect();
        return Err(refuse(&format!("it answers {shown:?}")));
    }
    let field = |name: &str| {
        let mut lines = headers.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let whole = match (field("transfer-encoding"), field("content-length")) {
        (Some(_), _) => return Err(refuse("it answers in chunks")),
        (None, Some(length)) => length.parse() == Ok(body.len()),
        (None, None) => true,
    };
    if !whole {
        return Err(refuse("its answer is cut off"));
    }
    let url = body.trim();
    url.parse().map_err(|forms| {
        let shown: String = url.chars().filter(|char| !char.is_control()).take(64).collect();
        refuse(&format!("an agent at {shown:?} cannot be reached, only {forms}"))
    })
}

fn refuse(what: &str) -> io::Error {
    io::Error::other(format!("Kata's shim: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_both_runtimes_are_read_and_others_refused() {
        let go = "HTTP/1.0 200 OK\r\nDate: Mon\r\nContent-Length: 16\r\n\r\nvsock://123:1024";
        let address = Address::Vsock { cid: 123, port: 1024 };
        assert_eq!(parse(go.as_bytes()).expect("Go"), address);
        let rs = "HTTP/1.1 200 OK\r\ncontent-length: 31\r\n\r\nhvsock:///run/kata/s/ch.sock:1024";
        assert!(parse(rs.as_bytes()).is_err(), "of 33 bytes, not 31");
        let address = Address::Hybrid { path: "/run/kata/s/ch.sock".into(), port: 1024 };
        assert_eq!(parse(rs.replace("31", "33").as_bytes()).expect("runtime-rs"), address);
        for end in 0..go.len() {
            assert!(parse(&go.as_bytes()[..end]).is_err(), "{end}");
        }
        for position in 0..go.len() {
            for value in 0..=u8::MAX {
                let mut bytes = go.as_bytes().to_vec();
                bytes[position] = value;
                let _ = parse(&bytes);
            }
        }
        for bad in [
            "HTTP/1.0 404 Not Found\r\n\r\nvsock://1:1",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\nremote:///run/peerpod/hypervisor.sock",
            "HTTP/1.0 200 OK\r\n\r\n",
            "",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn sandboxes_have_names_that_stay_where_they_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().join("sbs");
        std::fs::create_dir_all(at.join("abc-1")).expect("a sandbox");
        std::fs::write(at.join("abc-1").join(SOCKET), "").expect("a file");
        std::fs::write(dir.path().join(SOCKET), "").expect("a file");
        let dirs = [dir.path().join("nothing"), at.clone()];
        assert_eq!(socket(&dirs, "abc-1"), Some(at.join("abc-1").join(SOCKET)));
        for bad in ["", ".", "..", "../sbs/abc-1", "abc-1/", "abc-2", &"a".repeat(129)] {
            assert_eq!(socket(&dirs, bad), None, "{bad}");
        }
    }
}
