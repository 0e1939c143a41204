//! `sealift-broker init`: a data directory and the keys that go with it.

use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secret::Secret;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::files::{self, Existing};

/// What was made.
#[derive(Debug)]
pub struct Initialized {
    /// The master key: 32 raw bytes, mode 0600.
    pub master_key: PathBuf,
    /// The administrator's Ed25519 key: PKCS#8 PEM, mode 0600.
    pub admin_key: PathBuf,
    /// Its public half: SubjectPublicKeyInfo PEM.
    pub admin_public_key: PathBuf,
}

/// Creates `data_dir` and, in `keys_dir`, `master.key`, `admin.key` and `admin.pub`. Nothing that
/// exists is overwritten: a lost master key is the loss of everything under it.
pub fn init(data_dir: &Path, keys_dir: &Path) -> Result<Initialized, Error> {
    if keys_dir.starts_with(data_dir) {
        return Err(Error::Settings(
            "the keys must not lie in the data directory: whoever copies it would have both",
        ));
    }
    for dir in [data_dir, keys_dir] {
        files::create_dir(dir).map_err(|source| Error::file(dir, source))?;
    }
    let write = |name: &str, bytes: &[u8]| {
        let path = keys_dir.join(name);
        files::write(&path, bytes, Existing::Keep).map_err(|source| Error::file(&path, source))?;
        Ok(path)
    };
    let admin =
        Ed25519KeyPair::generate().expect("aws-lc's generator aborts rather than fail after start");
    let pkcs8 = admin.to_pkcs8v1().expect("a fresh Ed25519 key has a PKCS#8 form");
    let public = [crate::admin::ED25519_SPKI, admin.public_key().as_ref()].concat();
    Ok(Initialized {
        master_key: write("master.key", Secret::random_key().expose())?,
        admin_key: write("admin.key", pem("PRIVATE KEY", pkcs8.as_ref()).as_bytes())?,
        admin_public_key: write("admin.pub", pem("PUBLIC KEY", &public).as_bytes())?,
    })
}

/// RFC 7468, for what fits into a few lines.
fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(2 * encoded.len() + 128));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for (at, c) in encoded.char_indices() {
        text.push(c);
        if at % 64 == 63 {
            text.push('\n');
        }
    }
    if !encoded.len().is_multiple_of(64) {
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustls_pki_types::PrivatePkcs8KeyDer;
    use rustls_pki_types::pem::PemObject;

    use super::*;
    use crate::master::MasterKey;

    #[test]
    fn init_makes_private_keys_that_fit_together_and_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let (data, keys) = (dir.path().join("data"), dir.path().join("keys"));
        let made = init(&data, &keys).unwrap();
        for path in [&made.master_key, &made.admin_key] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        MasterKey::load(&made.master_key).unwrap();
        let admin = PrivatePkcs8KeyDer::from_pem_file(&made.admin_key).unwrap();
        let admin = Ed25519KeyPair::from_pkcs8(admin.secret_pkcs8_der()).unwrap();
        let public = crate::admin::load_key(&made.admin_public_key).unwrap();
        assert_eq!(admin.public_key().as_ref(), public);

        let master = std::fs::read(&made.master_key).unwrap();
        assert!(init(&data, &keys).is_err());
        assert_eq!(std::fs::read(&made.master_key).unwrap(), master);
    }

    #[test]
    fn keys_in_the_data_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(init(dir.path(), &dir.path().join("keys")).is_err());
    }
}
