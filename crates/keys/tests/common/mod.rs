//! A TPM that misbehaves on purpose.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use tempfile::TempDir;

/// What a TPM gone wrong answers to each command, in order; then it closes the connection.
pub struct Fake {
    dir: TempDir,
}

impl Fake {
    pub fn start(answers: Vec<Vec<u8>>) -> Self {
        let dir = TempDir::new().unwrap();
        let listener = UnixListener::bind(dir.path().join("tpm")).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut command = [0; 4096];
            for answer in answers {
                if !matches!(stream.read(&mut command), Ok(1..)) {
                    return;
                }
                if answer.is_empty() {
                    // Silence, until the other side gives up.
                    let _ = stream.read(&mut command);
                    return;
                }
                let _ = stream.write_all(&answer);
            }
        });
        Self { dir }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("tpm")
    }
}

pub fn answer(tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(10 + body.len()).unwrap();
    [&tag.to_be_bytes()[..], &size.to_be_bytes(), &code.to_be_bytes(), body].concat()
}

/// The answer to a command that was authorised by a password.
pub fn authorised(parameters: &[u8]) -> Vec<u8> {
    let mut body = u32::try_from(parameters.len()).unwrap().to_be_bytes().to_vec();
    body.extend(parameters);
    body.extend([0, 0, 1, 0, 0]);
    answer(0x8002, 0, &body)
}
