//! KServe's own encrypted models: one compact JWE per file (`--accept-jwe`).
//!
//! The format's limits, which no reader can mend: each file is one AEAD message, so it is in memory
//! whole (token and plaintext, about 2.4 times the file) before a byte of it is authentic; and
//! nothing binds the files to each other, their names or a version, so files that were swapped,
//! left out or replaced by older ones go unnoticed.

use publish::{Plan, PlannedFile, Staging};
use seal::jwe::Jwe;
use seal::key::Kek;
use seal::name::{BundlePath, Digest};
use seal::segment::SEGMENT_BYTES;
use store::Store;

use crate::code::Code;
use crate::failure::Failure;
use crate::objects::Objects;
use crate::progress::Progress;
use crate::transfer::plain_segments;

/// Longest token: what a pod can be expected to hold twice.
const TOKEN_BYTES_MAX: u64 = 1 << 30;

/// Protected header, encrypted key and iv lie in front of the ciphertext; theirs is all of this.
const HEAD_BYTES_MAX: u64 = 8 * 1024;

/// A 16-byte tag in base64url.
const TAG_CHARS: u64 = 22;

/// One token.
pub(super) struct Token {
    object: String,
    bytes: u64,
}

/// Plans the opening of a prefix that holds nothing but tokens.
pub(super) async fn plan(objects: &Objects<'_>) -> Result<(Plan, Vec<Token>), Failure> {
    let found = objects.list().await?.unwrap_or_default();
    if found.is_empty() {
        return Err(Failure::new(Code::NotSealed, "there is no object below this prefix"));
    }
    let mut identity = String::from("jwe\n");
    let mut tokens = Vec::with_capacity(found.len());
    let mut files = Vec::with_capacity(found.len());
    for (object, store::ObjectMeta { bytes, .. }) in found {
        let name = strip_suffix(&object).ok_or_else(|| {
            Failure::new(Code::NotSealed, format!("{object} is not encrypted"))
                .hint("With --accept-jwe every file must be a *.jwe file")
        })?;
        let path = BundlePath::parse(name)?;
        let plaintext = plaintext_bytes(objects.store, &object, bytes).await?;
        identity.push_str(&format!("{bytes} {path}\n"));
        files.push(PlannedFile {
            path: path.as_str().to_owned(),
            mode: 0o644,
            bytes: plaintext,
            segments: plain_segments(plaintext),
        });
        tokens.push(Token { object, bytes });
    }
    Ok((Plan { digest: *Digest::of(identity.as_bytes()).as_bytes(), files }, tokens))
}

/// Opens the tokens one after another, each whole.
pub(super) async fn open(
    objects: &Objects<'_>,
    tokens: &[Token],
    kek: &Kek,
    staging: &Staging,
    progress: &Progress,
) -> Result<(), Failure> {
    for (index, token) in tokens.iter().enumerate() {
        let sealed = objects.retried(|| objects.store.read(&token.object, token.bytes)).await?;
        let opened = Jwe::parse_up_to(&sealed, sealed.len())
            .and_then(|jwe| jwe.decrypt(kek.expose(), None))
            .map_err(|error| Failure::from(error).at(&token.object))?;
        drop(sealed);
        let file = staging.open_file(index)?;
        let mut offset = 0;
        for (segment, bytes) in opened.chunks(SEGMENT_BYTES).enumerate() {
            let segment = u32::try_from(segment).expect("a token is below 1 GiB");
            file.write_segment(segment, offset, bytes)?;
            offset += bytes.len() as u64;
        }
        if opened.is_empty() {
            file.write_segment(0, 0, &[])?;
        }
        progress.add(offset);
        progress.piece_done(true);
    }
    Ok(())
}

fn strip_suffix(object: &str) -> Option<&str> {
    let at = object.len().checked_sub(".jwe".len())?;
    let (name, suffix) = object.split_at_checked(at)?;
    (suffix.eq_ignore_ascii_case(".jwe") && !name.is_empty()).then_some(name)
}

/// A token's plaintext is as long as its ciphertext part decodes to: enough to make room for it
/// before it is fetched. Decryption proves the length.
async fn plaintext_bytes(store: &Store, object: &str, bytes: u64) -> Result<u64, Failure> {
    let refused = |why: &str| Failure::new(Code::NotSealed, why.to_owned()).at(object);
    if bytes > TOKEN_BYTES_MAX {
        return Err(Failure::new(
            Code::TooSmall,
            format!("a JWE of {bytes} bytes must be held in memory whole; the limit is 1 GiB"),
        )
        .at(object)
        .hint("Seal the model with `sealift seal`: a bundle is opened in constant memory"));
    }
    let head = store.stream(object, 0..bytes.min(HEAD_BYTES_MAX), None).await?;
    let head = collect(head).await?;
    let dots: Vec<_> =
        head.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(at, _)| at).collect();
    let [_, _, third, ..] = dots[..] else {
        return Err(refused("is no compact JWE"));
    };
    let chars = bytes
        .checked_sub(third as u64 + 1 + 1 + TAG_CHARS)
        .ok_or_else(|| refused("is no compact JWE"))?;
    Ok(chars / 4 * 3 + (chars % 4).saturating_sub(1))
}

async fn collect(mut stream: store::ObjectStream) -> Result<Vec<u8>, store::Error> {
    use futures::StreamExt;
    let mut bytes = Vec::new();
    while let Some(frame) = stream.next().await {
        bytes.extend_from_slice(&frame?);
    }
    Ok(bytes)
}
