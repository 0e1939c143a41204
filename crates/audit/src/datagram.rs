//! [`Datagrams`]: records to journald and syslog daemons, one datagram each.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use crate::error::NotAccepted;

/// The name under which records are found.
const IDENTIFIER: &str = "sealift-audit";
/// How long a daemon may be busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes a datagram of a record's line.
type Form = fn(&str) -> String;

/// Lines in, datagrams out, when they are flushed.
#[derive(Debug)]
pub(crate) struct Datagrams {
    path: PathBuf,
    /// `None`: nobody was there the last time.
    socket: Option<UnixDatagram>,
    form: Form,
    lines: Vec<u8>,
}

impl Datagrams {
    pub(crate) fn connect(path: &Path, form: Form) -> io::Result<Self> {
        let socket = Some(connect(path)?);
        Ok(Self { path: path.to_owned(), socket, form, lines: Vec::new() })
    }

    fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(&self.path)?,
        };
        match socket.send(datagram)? == datagram.len() {
            true => self.socket = Some(socket),
            false => return Err(io::ErrorKind::WriteZero.into()),
        }
        Ok(())
    }
}

impl Write for Datagrams {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lines.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let lines = std::mem::take(&mut self.lines);
        for (index, line) in String::from_utf8_lossy(&lines).lines().enumerate() {
            let datagram = (self.form)(line);
            // A datagram is taken whole or, with an error, not at all (unix(7)).
            self.send(datagram.as_bytes()).map_err(|error| match index {
                0 => NotAccepted::because(&error),
                _ => error,
            })?;
        }
        Ok(())
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
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
