//! [`Target`]: where a log goes, as users name it.

use std::io;
use std::path::{Path, PathBuf};

use crate::datagram::Datagrams;
use crate::error::Error;
use crate::http::Posts;
use crate::log::Log;

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `-`: standard output. Each process writes a chain of its own, here and in all that follow.
    Stdout,
    /// A path: a file that several processes may share. Flushed to the device before anything is done.
    File(PathBuf),
    /// `journald:`: systemd's journal, by its own protocol. Accepted is what its socket has taken.
    Journal,
    /// `syslog:` or `syslog:/PATH`: the datagram socket of a syslog daemon, `/dev/log`. Accepted is
    /// what the socket has taken. Lines have up to 16 KiB: many daemons cut at 8 KiB unless told.
    Syslog(PathBuf),
    /// `https://…`, or `http://` on this machine: a POST of JSON lines. Accepted is what was answered
    /// with 2xx; there is no second attempt at a record.
    Http(String),
}

impl Target {
    /// Reads what stands in an option. Everything that is not one of the words is a path.
    pub fn parse(text: &Path) -> Self {
        let Some(word) = text.to_str() else { return Self::File(text.to_owned()) };
        match word {
            "-" => Self::Stdout,
            "journald:" => Self::Journal,
            "syslog:" => Self::Syslog("/dev/log".into()),
            _ => match word.split_once(':') {
                Some(("syslog", path)) => Self::Syslog(path.into()),
                Some(("http" | "https", rest)) if rest.starts_with("//") => Self::Http(word.into()),
                _ => Self::File(text.to_owned()),
            },
        }
    }

    /// Opens the log; fails if it cannot take a record now, as far as that can be known. Only a file
    /// has parts.
    pub fn open(&self, part_bytes: u64) -> Result<Log, Error> {
        let failed = |sink: &str, source| Error::Sink { sink: sink.to_owned(), source };
        let datagrams = |path: &Path, form| {
            Datagrams::connect(path, form)
                .map_err(|source| failed(&path.display().to_string(), source))
        };
        Ok(match self {
            Self::Stdout => Log::stream(Box::new(io::stdout())),
            Self::File(path) => Log::file_in_parts(path, part_bytes)?,
            Self::Journal => Log::stream(Box::new(datagrams(
                Path::new("/run/systemd/journal/socket"),
                crate::datagram::journal,
            )?)),
            Self::Syslog(path) => Log::stream(Box::new(datagrams(path, crate::datagram::syslog)?)),
            Self::Http(url) => {
                Log::stream(Box::new(Posts::to(url).map_err(|source| failed(url, source))?))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_from_paths() {
        let parse = |text: &str| Target::parse(Path::new(text));
        assert_eq!(parse("-"), Target::Stdout);
        assert_eq!(parse("journald:"), Target::Journal);
        assert_eq!(parse("syslog:"), Target::Syslog("/dev/log".into()));
        assert_eq!(parse("syslog:/run/log"), Target::Syslog("/run/log".into()));
        assert_eq!(parse("https://siem/x"), Target::Http("https://siem/x".into()));
        for path in ["journald", "./-", "a:b", "/var/log/audit", "https:x", "http"] {
            assert_eq!(parse(path), Target::File(path.into()), "{path}");
        }
    }
}
