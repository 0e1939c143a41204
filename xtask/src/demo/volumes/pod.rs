//! The host's side: a pod with three volumes, kept as kubelet keeps them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::kubelet::{self, Payload, Projection};

/// Life of the pod's token: the shortest that Kubernetes issues.
pub(super) const TOKEN_SECONDS: u64 = 600;

/// Its volumes. Everything in them belongs to its `fsGroup`.
pub(super) struct Pod {
    pub(super) uid: String,
    /// A Secret with mode 0400: a user and a password, of one generation.
    pub(super) secret: Volume,
    /// A ConfigMap whose items have paths of several components.
    pub(super) config: Volume,
    /// A projected service-account token.
    pub(super) identity: Volume,
}

/// One of them.
pub(super) struct Volume {
    volume: kubelet::Volume,
    payload: Payload,
}

impl Pod {
    /// Below kubelet's root directory.
    pub(super) fn new(kubelet_root: &Path, fs_group: u32) -> Result<Self> {
        let uid = kubelet::pod_uid(0x5ea1);
        let volume = |plugin, name| -> Result<Volume> {
            let mut volume = kubelet::make_volume(kubelet_root, &uid, plugin, name)?;
            volume.writer = volume.writer.fs_group(fs_group);
            Ok(Volume { volume, payload: Payload::new() })
        };
        let mut secret = volume("secret", "db")?;
        credentials(&mut secret, 1)?;
        let mut config = volume("configmap", "settings")?;
        config.set("greeting", "hello\n", 0o644);
        config.set("conf/app/x.yaml", "level: 1\n", 0o644);
        config.set("conf/app/deeper/y.yaml", "removed: later\n", 0o644);
        config.write()?;
        let mut identity = volume("projected", "identity")?;
        token(&mut identity, 0)?;
        Ok(Self { uid, secret, config, identity })
    }

    pub(super) fn volumes(&self) -> [&Volume; 3] {
        [&self.secret, &self.config, &self.identity]
    }
}

/// A new user with a new password.
pub(super) fn credentials(secret: &mut Volume, generation: u32) -> Result<()> {
    secret.set("user", &format!("app-{generation}\n"), 0o400);
    secret.set("password", &format!("secret-{generation}\n"), 0o400);
    secret.write()
}

/// A token that is issued `later` seconds from now, and when it ends. Unsigned: nobody here checks
/// that, and kubelet does not either.
pub(super) fn token(identity: &mut Volume, later: u64) -> Result<u64> {
    let issued = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + later;
    let expires = issued + TOKEN_SECONDS;
    let claims = format!(r#"{{"iss":"kubernetes","iat":{issued},"exp":{expires}}}"#);
    let header = base64url(br#"{"alg":"none"}"#);
    // As in a pod with one `runAsUser`, whom the file belongs to: nobody else may read it.
    identity.set("token", &format!("{header}.{}.", base64url(claims.as_bytes())), 0o600);
    identity.write()?;
    Ok(expires)
}

impl Volume {
    /// Its name between host and guest.
    pub(super) fn id(&self) -> String {
        format!("{}.{}", self.volume.pod_uid, self.volume.name)
    }

    /// Where the container has it.
    pub(super) fn place(&self) -> String {
        format!("/volumes/{}", self.volume.name)
    }

    /// Adds or replaces a file, with the next [`write`](Self::write).
    pub(super) fn set(&mut self, path: &str, text: &str, mode: u32) {
        let file = Projection { bytes: text.into(), mode, uid: None };
        self.payload.insert(path.to_owned(), file);
    }

    /// Removes a file, with the next [`write`](Self::write).
    pub(super) fn remove(&mut self, path: &str) {
        self.payload.remove(path);
    }

    /// The first line of a file, as it was set.
    pub(super) fn line(&self, path: &str) -> Result<String> {
        let file = self.payload.get(path).with_context(|| format!("no file {path}"))?;
        let text = String::from_utf8_lossy(&file.bytes);
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    /// Makes what was set visible, as kubelet does: with one switch.
    pub(super) fn write(&self) -> Result<()> {
        self.volume.writer.write(&self.payload).map(drop)
    }

    /// The names at its top, without those of the writer's own.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(self.volume.writer.target())?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names: Result<Vec<_>> = names.collect();
        Ok(names?.into_iter().filter(|name| !name.starts_with("..")).collect())
    }

    /// What the volume shows on this machine, as the container says it: mode, owner, content, path.
    pub(super) fn look(&self) -> Result<Vec<String>> {
        let mut seen = Vec::new();
        let mut pending = self.names()?;
        while let Some(path) = pending.pop() {
            let at = self.volume.writer.target().join(&path);
            // Of what a link leads to.
            let found = fs::metadata(&at)?;
            let content = match found.is_dir() {
                true => "directory".to_owned(),
                false => hex(&fs::read(&at)?),
            };
            if found.is_dir() {
                for entry in fs::read_dir(at)? {
                    pending.push(format!("{path}/{}", entry?.file_name().to_string_lossy()));
                }
            }
            let (mode, uid, gid) = (found.mode() & 0o7777, found.uid(), found.gid());
            seen.push(format!("{mode:o} {uid}:{gid} {content} ./{path}"));
        }
        seen.sort();
        Ok(seen)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 4648 §5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0, |group, byte| group << 8 | usize::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[group >> (18 - 6 * digit) & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let texts = [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg")];
        for (bytes, text) in texts {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
    }
}
