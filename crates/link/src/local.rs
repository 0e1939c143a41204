//! Socket files: root and this process's own user are heard, nobody else.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

/// Listens at `path`. A socket file that nobody listens to any more is replaced.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Err(error) = UnixStream::connect(path)
        && error.kind() == io::ErrorKind::ConnectionRefused
        && is_socket(path)
    {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

/// The next connection. `None`: it was somebody else's, and is closed.
pub fn accept(listener: &UnixListener) -> io::Result<Option<UnixStream>> {
    let (stream, _) = listener.accept()?;
    // Of a peer in another pid namespace there is nothing to know.
    let uid = socket_peercred(&stream).map(|peer| peer.uid);
    Ok(uid.is_ok_and(|uid| uid.is_root() || uid == geteuid()).then_some(stream))
}

/// Whether what is there is a socket, and not somebody's file.
fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_file_is_replaced_only_if_nobody_listens_and_a_file_never() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let first = bind(&path).expect("nothing is there yet");
        assert!(bind(&path).is_err(), "somebody listens");
        // Closed without being removed, as by a kill.
        drop(first);
        drop(bind(&path).expect("nobody listens any more"));
        let file = dir.path().join("file");
        std::fs::write(&file, "mine").expect("a file");
        assert!(bind(&file).is_err());
        assert_eq!(std::fs::read(&file).expect("it is still there"), b"mine");
    }

    /// Not a test, unless the one below has started it, as somebody else.
    #[test]
    fn child() {
        if let Some(path) = std::env::var_os("SEALIFT_TEST_SOCKET") {
            UnixStream::connect(path).expect("anybody may connect");
        }
    }

    #[test]
    fn only_root_and_the_own_user_are_heard() {
        use std::os::unix::fs::PermissionsExt as _;
        use std::os::unix::process::CommandExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let listener = bind(&path).expect("nothing is there yet");
        let own = UnixStream::connect(&path).expect("it listens");
        assert!(accept(&listener).expect("a connection").is_some());
        drop(own);
        for path in [dir.path(), &path] {
            let open = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(path, open).expect("it is ours");
        }
        let mut other = std::process::Command::new(std::env::current_exe().expect("this program"));
        other
            .args(["--exact", "local::tests::child"])
            .env("SEALIFT_TEST_SOCKET", &path)
            .uid(65_534);
        match other.output() {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(error) => return testkit::skip(format!("a process of another user: {error}")),
        }
        assert!(accept(&listener).expect("a connection").is_none());
    }
}
