//! [`Pkcs11`]: keys in hardware and other tokens that speak PKCS#11.
//!
//! A token's library must be loaded into a process, which a static program cannot do, and which
//! nobody should do to a process that holds more than it needs. So a program of its own does it,
//! `sealift-pkcs11`, once for each question:
//!
//! ```text
//! stdin   {"operation":"wrap","module":"…","token":"…","label":"…","pin":"…","input":"…","associated_data":"…"}
//! stdout  {"output":"…"}   or   {"refused":"pin","detail":"…"}
//! ```
//!
//! One line each, bytes in base64. The PIN is in neither arguments nor variables of that program.

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keys::{Error, printable, read_key};
use seal::bundle::{WRAPPED_KEY_BYTES_MAX, recipient_aad};
use seal::key::Kek;
use seal::name::{BundleId, KeyUri, Pkcs11Key, Pkcs11Object};
use secret::Secret;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::{RemoteKey, decoded_key};

/// Longest answer: the longest wrapped key in base64, or a library's message.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Where the library is and who we are to the token.
#[derive(Debug, Clone)]
pub struct Pkcs11Settings {
    /// The program `sealift-pkcs11`.
    pub helper: PathBuf,
    /// The library of the token's maker.
    pub module: PathBuf,
    /// The user's PIN.
    pub pin: Pin,
    /// Limit on one question. Then the program is killed.
    pub timeout: Duration,
}

/// A token's PIN.
#[derive(Debug, Clone)]
pub enum Pin {
    /// In a file, one line, read for each question.
    File(PathBuf),
    /// This.
    Given(Arc<Secret>),
}

/// Tokens that one library reaches.
#[derive(Debug)]
pub struct Pkcs11 {
    settings: Pkcs11Settings,
}

#[derive(Serialize)]
struct Question<'a> {
    operation: &'static str,
    module: &'a str,
    token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    pin: &'a str,
    input: &'a str,
    associated_data: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, untagged)]
enum Answer {
    Done { output: String },
    Refused { refused: String, detail: String },
}

/// Variables that hold secrets of this program's.
const OTHERS_SECRETS: [&str; 5] = [
    "SEALIFT_PKCS11_PIN",
    "VAULT_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
];

impl Pkcs11 {
    /// Asks nothing yet.
    pub fn new(settings: Pkcs11Settings) -> Self {
        Self { settings }
    }

    /// What the program answers, in base64.
    async fn ask(
        &self,
        operation: &'static str,
        key: &Pkcs11Key,
        input: &[u8],
        bundle: &BundleId,
    ) -> Result<Zeroizing<String>, Error> {
        let Pkcs11Settings { module, helper, timeout, .. } = &self.settings;
        let pin = self.pin()?;
        let input = Zeroizing::new(STANDARD.encode(input));
        let (label, id) = match key.object() {
            Pkcs11Object::Label(label) => (Some(label.as_str()), None),
            Pkcs11Object::Id(id) => (None, Some(STANDARD.encode(id))),
        };
        let question = Question {
            operation,
            module: module
                .to_str()
                .ok_or_else(|| Error::Usage(format!("{} is not UTF-8", module.display())))?,
            token: key.token(),
            label,
            id,
            pin: &pin,
            input: &input,
            associated_data: STANDARD.encode(recipient_aad(bundle)),
        };
        let question = serde_json::to_string(&question).map(Zeroizing::new);
        let question = question.map_err(|error| Error::Usage(error.to_string()))?;
        let answer =
            tokio::time::timeout(*timeout, self.run(&question)).await.map_err(|_| {
                self.unreachable(format!("no answer within {} s", timeout.as_secs()), None)
            })??;
        let answer: Answer = serde_json::from_slice(&answer)
            .map_err(|_| Error::protocol(&helper.display().to_string(), "not one line of JSON"))?;
        match answer {
            Answer::Done { output } => Ok(Zeroizing::new(output)),
            Answer::Refused { refused, detail } => {
                Err(self.refusal(&refused, printable(&detail), key, operation))
            }
        }
    }

    /// Runs the program. Whoever drops this future kills it.
    async fn run(&self, question: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
        let helper = &self.settings.helper;
        let mut child = Command::new(helper);
        // The library's vendor reads settings there, and has no business with these.
        for name in OTHERS_SECRETS {
            child.env_remove(name);
        }
        let mut child = child
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| Error::File { path: helper.clone(), source })?;
        let ended = |error: std::io::Error| self.unreachable("it ended early".into(), Some(error));
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(self.unreachable("it has no pipes".into(), None));
        };
        let mut answer = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES_MAX + 1));
        stdin.write_all(question.as_bytes()).await.map_err(ended)?;
        stdin.write_all(b"\n").await.map_err(ended)?;
        drop(stdin);
        stdout.take(ANSWER_BYTES_MAX as u64 + 1).read_to_end(&mut answer).await.map_err(ended)?;
        if answer.len() > ANSWER_BYTES_MAX {
            let what = format!("the answer of {}", helper.display());
            return Err(Error::TooLarge { what, limit: ANSWER_BYTES_MAX });
        }
        if answer.is_empty() {
            return Err(self.unreachable("it ended without an answer".into(), None));
        }
        Ok(answer)
    }

    fn pin(&self) -> Result<Zeroizing<String>, Error> {
        let secret = match &self.settings.pin {
            Pin::File(path) => {
                &read_key(path).map_err(|source| Error::File { path: path.clone(), source })?
            }
            Pin::Given(secret) => secret.as_ref(),
        };
        let bytes = secret.expose();
        let text = std::str::from_utf8(bytes.strip_suffix(b"\n").unwrap_or(bytes));
        let text = text.map_err(|_| Error::Usage("the token's PIN is not UTF-8".to_owned()))?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    fn refusal(&self, cause: &str, detail: String, key: &Pkcs11Key, operation: &str) -> Error {
        let resource = KeyUri::Pkcs11(key.clone());
        let endpoint = self.settings.module.display().to_string();
        match cause {
            "usage" => Error::Usage(format!("{endpoint}: {detail}")),
            "pin" => Error::Login { endpoint, detail },
            "key" => Error::NotFound { resource, detail },
            "input" if operation == "unwrap" => Error::Unwrap { resource, detail },
            "input" => Error::Protocol { endpoint, why: detail },
            // The library, the token or the way to it: it may be back.
            _ => Error::Unreachable { endpoint, why: detail, source: None },
        }
    }

    fn unreachable(&self, why: String, source: Option<std::io::Error>) -> Error {
        let endpoint = self.settings.helper.display().to_string();
        Error::Unreachable { endpoint, why, source: source.map(Into::into) }
    }
}

impl RemoteKey for Pkcs11 {
    type Name = Pkcs11Key;

    fn kind(&self) -> &'static str {
        "pkcs11"
    }

    async fn wrap(&self, key: &Pkcs11Key, kek: &Kek, bundle: &BundleId) -> Result<Vec<u8>, Error> {
        let output = self.ask("wrap", key, kek.expose(), bundle).await?;
        match STANDARD.decode(&*output) {
            Ok(bytes) if (1..=WRAPPED_KEY_BYTES_MAX).contains(&bytes.len()) => Ok(bytes),
            _ => {
                Err(Error::protocol(&self.settings.helper.display().to_string(), "no wrapped key"))
            }
        }
    }

    async fn unwrap(
        &self,
        key: &Pkcs11Key,
        wrapped: &[u8],
        bundle: &BundleId,
    ) -> Result<Secret, Error> {
        let output = self.ask("unwrap", key, wrapped, bundle).await?;
        decoded_key(&output, &self.settings.helper.display().to_string())
    }
}

impl fmt::Debug for Question<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("operation", &self.operation).finish_non_exhaustive()
    }
}
