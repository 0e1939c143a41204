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
use zeroize::Zeroizing;

use crate::code::Code;
use crate::failure::Failure;
use crate::objects::Objects;
use crate::progress::Progress;
use crate::transfer::plain_segments;

/// Longest token: what a pod can be expected to hold twice.
pub(crate) const TOKEN_BYTES_MAX: u64 = 1 << 30;

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
        let name = strip_jwe(&object).ok_or_else(|| {
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
        let opened = open_token(sealed, kek).map_err(|failure| failure.at(&token.object))?;
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

/// A token's plaintext. Takes the token, so that it is gone before there is a second copy.
pub(crate) fn open_token(token: Vec<u8>, kek: &Kek) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let jwe = Jwe::parse_up_to(&token, token.len())?;
    drop(token);
    let opened = jwe.decrypt(kek.expose(), None).map_err(|error| {
        let unsupported = matches!(error, seal::Error::Unsupported { .. });
        let failure = Failure::from(error);
        match unsupported {
            true => failure.hint(
                "Keys of dir, A…KW and A…GCMKW with A…GCM are read: encrypt it anew with one of \
                 these, or seal the plaintext with `sealift seal`",
            ),
            false => failure,
        }
    })?;
    Ok(Zeroizing::new(opened))
}

/// The name that upstream gives to the plaintext of a `*.jwe` file.
pub(crate) fn strip_jwe(object: &str) -> Option<&str> {
    let at = object.len().checked_sub(".jwe".len())?;
    let (name, suffix) = object.split_at_checked(at)?;
    (suffix.eq_ignore_ascii_case(".jwe") && !name.is_empty()).then_some(name)
}

/// A token's plaintext is as long as its ciphertext part decodes to: enough to make room for it
/// before it is fetched. Decryption proves the length.
async fn plaintext_bytes(store: &Store, object: &str, bytes: u64) -> Result<u64, Failure> {
    let refused = |why: &str| Failure::new(Code::NotSealed, why.to_owned()).at(object);
    if bytes > TOKEN_BYTES_MAX {
        return Err(too_large(object, bytes));
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

/// What cannot be opened in one piece.
pub(crate) fn too_large(object: &str, bytes: u64) -> Failure {
    let what = format!("a JWE of {bytes} bytes must be held in memory whole; the limit is 1 GiB");
    Failure::new(Code::TooSmall, what)
        .at(object)
        .hint("Seal the plain model with `sealift seal`: a bundle is opened in constant memory")
}

async fn collect(mut stream: store::ObjectStream) -> Result<Vec<u8>, store::Error> {
    use futures::StreamExt;
    let mut bytes = Vec::new();
    while let Some(frame) = stream.next().await {
        bytes.extend_from_slice(&frame?);
    }
    Ok(bytes)
}
