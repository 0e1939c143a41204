//! [`Relay`]: the way between the agents, which can be cut and restored.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

/// Hands connections on, unchanged, from one socket file to another.
pub(crate) struct Relay(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    is_cut: bool,
    /// Both ends of each connection.
    open: Vec<[UnixStream; 2]>,
}

impl Relay {
    /// Listens at `path` for what is served at `target`. Its threads end with the recipe.
    pub(crate) fn start(path: &Path, target: PathBuf) -> Result<Self> {
        let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // A connection that cannot be handed on is closed, as by a guest that is not there.
                let _ = accept(&shared, near, &target);
            }
        });
        Ok(Self(state))
    }

    /// Breaks all connections, and every new one.
    pub(crate) fn cut(&self) {
        let mut state = lock(&self.0);
        state.is_cut = true;
        for stream in state.open.drain(..).flatten() {
            // Failing means that it is broken already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// From now on new connections are handed on again.
    pub(crate) fn restore(&self) {
        lock(&self.0).is_cut = false;
    }
}

fn accept(state: &Mutex<State>, near: UnixStream, target: &Path) -> io::Result<()> {
    // Locked until the connection is in the list: none may slip past a cut.
    let mut state = lock(state);
    if state.is_cut {
        return Ok(());
    }
    let far = UnixStream::connect(target)?;
    let ways = [(near.try_clone()?, far.try_clone()?), (far.try_clone()?, near.try_clone()?)];
    state.open.push([near, far]);
    for (from, to) in ways {
        std::thread::spawn(move || copy(from, to));
    }
    Ok(())
}

/// Until either side ends; then for both.
fn copy(mut from: UnixStream, mut to: UnixStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_stays_cut_until_it_is_restored() {
        let dir = std::env::temp_dir().join(format!("sealift-relay-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let (near, far) = (dir.join("near"), dir.join("far"));
        let server = UnixListener::bind(&far).unwrap();
        let relay = Relay::start(&near, far).unwrap();
        let greet = |text: &[u8; 2]| {
            let mut client = UnixStream::connect(&near).unwrap();
            client.write_all(text).unwrap();
            let (mut served, _) = server.accept().unwrap();
            let mut read = [0; 2];
            served.read_exact(&mut read).unwrap();
            assert_eq!(&read, text);
            (client, served)
        };
        let (mut client, mut served) = greet(b"hi");
        relay.cut();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert_eq!(served.read(&mut [0]).unwrap(), 0);
        assert_eq!(UnixStream::connect(&near).unwrap().read(&mut [0]).unwrap(), 0);
        relay.restore();
        greet(b"ho");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
