//! [`Console`]: a line to a shell in the guest. A line goes in, what came of it comes out, and a
//! line that begins with the byte 1 and holds the exit status ends it. In a virtual machine it is
//! a serial port: the guest's agent has no part in it, and neither has the channel under test.

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Begins the line with the exit status.
const END: u8 = 1;
/// Longest time that the guest may be silent. Emulated processors on a busy machine are slow.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// One shell's.
pub(crate) struct Console {
    name: &'static str,
    input: Box<dyn Write>,
    output: Receiver<Vec<u8>>,
}

impl Console {
    /// Over two directions of whatever there is between here and the guest. A thread reads.
    pub(crate) fn new(
        name: &'static str,
        input: impl Write + 'static,
        output: impl Read + Send + 'static,
    ) -> Self {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n') {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { name, input: Box::new(input), output: receiver }
    }

    /// What `line` printed. An exit status other than 0 is an error with what it said.
    pub(crate) fn run(&mut self, line: &str) -> Result<String> {
        let (status, said) = self.try_run(line)?;
        if status != 0 {
            bail!("{}: exit status {status} of {line:?}\n{said}", self.name);
        }
        Ok(said)
    }

    /// The exit status of `line`, and what it printed.
    pub(crate) fn try_run(&mut self, line: &str) -> Result<(i32, String)> {
        self.input.write_all(format!("{line}\n").as_bytes())?;
        self.input.flush()?;
        self.answer(SILENCE_MAX).with_context(|| format!("{}: {line:?}", self.name))
    }

    /// Whether the shell has said that it listens: its first answer, to nothing. Waits for it, but
    /// not long.
    pub(crate) fn greeting(&mut self) -> Option<()> {
        let (status, _) = self.answer(Duration::from_millis(100)).ok()?;
        (status == 0).then_some(())
    }

    fn answer(&mut self, patience: Duration) -> Result<(i32, String)> {
        let mut said = Vec::new();
        loop {
            let line = self.output.recv_timeout(patience).with_context(|| {
                format!("no answer after {patience:?}; {:?}", String::from_utf8_lossy(&said))
            })?;
            if let Some(end) = line.iter().position(|byte| *byte == END) {
                said.extend(&line[..end]);
                let status = String::from_utf8_lossy(&line[end + 1..]).trim().parse();
                let said = String::from_utf8_lossy(&said).trim_end().to_owned();
                return Ok((status.context("no exit status")?, said));
            }
            said.extend(line);
            said.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn an_answer_ends_with_its_exit_status() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut console = Console::new("test", ours.try_clone().unwrap(), ours);
        theirs.write_all(b"\x010\na\nb\x010\noh no\n\x017\n").unwrap();
        console.greeting().unwrap();
        assert_eq!(console.run("x").unwrap(), "a\nb");
        let error = console.run("y").unwrap_err().to_string();
        assert!(error.contains("exit status 7") && error.contains("oh no"), "{error}");
        let mut asked = [0; 4];
        theirs.read_exact(&mut asked).unwrap();
        assert_eq!(&asked, b"x\ny\n");
        drop(theirs);
        assert!(console.run("z").is_err());
    }
}
