//! `sealift-pkcs11`: loads a token's library and wraps or unwraps one key with it.
//!
//! One line of JSON on stdin, one on stdout, then it ends: see `keys_ext::Pkcs11`, which runs it. It
//! has no arguments. It is linked dynamically, since it must load a library that is; everything
//! else of Sealift is spared that, and that library never shares a process with a data key.
//!
//! | key | wrapped as |
//! | --- | --- |
//! | AES | AES-GCM: 12-byte IV, ciphertext, 16-byte tag, over `associated_data` |
//! | AES that may only wrap | AES key wrap (RFC 3394) |

mod token;

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

// Wipes the PIN and the key in every buffer that they pass through, the parser's too.
#[global_allocator]
static ALLOCATOR: secret::WipeOnFree = secret::WipeOnFree;

/// Longest question: a wrapped key of 6144 bytes in base64, a path, labels.
const QUESTION_BYTES_MAX: usize = 32 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    operation: Operation,
    module: String,
    token: String,
    label: Option<String>,
    id: Option<String>,
    pin: String,
    input: String,
    associated_data: String,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Operation {
    Wrap,
    Unwrap,
}

/// Why not: `usage`, `pin`, `key`, `input` or `token`.
#[derive(Debug, Serialize)]
pub(crate) struct Refusal {
    refused: &'static str,
    detail: String,
}

impl Refusal {
    pub(crate) fn new(refused: &'static str, detail: impl Into<String>) -> Self {
        Self { refused, detail: detail.into() }
    }
}

#[derive(Serialize)]
struct Done {
    output: String,
}

fn main() -> ExitCode {
    let _ = confine::harden_process();
    let answer = match confine().and_then(|()| answer()) {
        Ok(output) => serde_json::to_string(&Done { output }),
        Err(refusal) => serde_json::to_string(&refusal),
    };
    let answer = Zeroizing::new(answer.unwrap_or_default());
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{}", &*answer).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Before the library is loaded: files and network are left to it, since nobody can say what a
/// token's library needs of them.
fn confine() -> Result<(), Refusal> {
    if std::env::var_os("SEALIFT_CONFINE").is_some_and(|value| value == "false") {
        return Ok(());
    }
    confine::stranger().map_err(|error| {
        let advice = "where the sandbox has no seccomp, start it with SEALIFT_CONFINE=false";
        Refusal::new("usage", format!("{error}; {advice}"))
    })
}

fn answer() -> Result<String, Refusal> {
    let usage = |why: &str| Refusal::new("usage", why);
    let mut line = Zeroizing::new(Vec::with_capacity(QUESTION_BYTES_MAX));
    let read = std::io::stdin().lock().take(QUESTION_BYTES_MAX as u64).read_to_end(&mut line);
    read.map_err(|_| usage("no question on stdin"))?;
    // Its error would quote the question, which holds the PIN.
    let question: Question =
        serde_json::from_slice(&line).map_err(|_| usage("the question does not parse"))?;
    let decode = |text: &str| STANDARD.decode(text).map_err(|_| usage("base64 does not parse"));
    let input = Zeroizing::new(decode(&question.input)?);
    let associated_data = decode(&question.associated_data)?;
    let object = match (&question.label, &question.id) {
        (Some(label), None) => token::Object::Label(label.clone().into_bytes()),
        (None, Some(id)) => token::Object::Id(decode(id)?),
        _ => return Err(usage("either a label or an id")),
    };
    let token = token::Token::open(&question.module, &question.token, &question.pin)?;
    let output = match question.operation {
        Operation::Wrap => token.wrap(&object, &input, &associated_data)?.into(),
        Operation::Unwrap => token.unwrap(&object, &input, &associated_data)?,
    };
    Ok(STANDARD.encode(&*output))
}
