//! [`Datagrams`]: records to journald and syslog daemons, one datagram each.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

/// The name under which records are found.
const IDENTIFIER: &str = "sealift-audit";
/// How long a daemon may be busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes a datagram of a record's line.
type Form = fn(&str) -> String;

/// Lines in, datagrams out, when they are flushed.
#[derive(Debug)]
pub(crate) struct Datagrams {
    socket: UnixDatagram,
    form: Form,
    lines: Vec<u8>,
}

impl Datagrams {
    pub(crate) fn connect(path: &Path, form: Form) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, form, lines: Vec::new() })
    }
}

impl Write for Datagrams {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lines.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let lines = std::mem::take(&mut self.lines);
        for line in String::from_utf8_lossy(&lines).lines() {
            let datagram = (self.form)(line);
            if self.socket.send(datagram.as_bytes())? != datagram.len() {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

/// systemd's native journal protocol: a field a line. A record has no line break, so none needs the
/// form with a length. Priority 5 is `notice`.
pub(crate) fn journal(line: &str) -> String {
    format!("PRIORITY=5\nSYSLOG_IDENTIFIER={IDENTIFIER}\nMESSAGE={line}\n")
}

/// What glibc's `syslog(3)` sends: RFC 3164's form without a host name. Facility 10 (authpriv),
/// severity 5 (notice).
pub(crate) fn syslog(line: &str) -> String {
    const PRIORITY: u8 = 10 * 8 + 5;
    let time = Timestamp::now().strftime("%b %e %H:%M:%S");
    format!("<{PRIORITY}>{time} {IDENTIFIER}[{}]: {line}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>
    #[test]
    fn a_journal_entry_is_fields_on_lines() {
        let expected = "PRIORITY=5\nSYSLOG_IDENTIFIER=sealift-audit\nMESSAGE={\"seq\":1}\n";
        assert_eq!(journal("{\"seq\":1}"), expected);
    }
}
