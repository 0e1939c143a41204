//! Seals or opens one file with a given key and associated data, through `seal`'s segments and
//! nothing else: what the interoperability suite sets beside Tink.
//!
//! `tinkfile seal|open KEY_HEX ASSOCIATED_DATA_HEX FROM TO`; exit code 1 is a refusal.

use std::fs;

use anyhow::{Context, Result, bail};
use seal::key::Dek;
use seal::segment::{FileKey, HEADER_BYTES, Header, Layout, TAG_BYTES};
use secret::Secret;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [verb, key, associated_data, from, to] = arguments.as_slice() else {
        bail!("usage: tinkfile seal|open KEY_HEX ASSOCIATED_DATA_HEX FROM TO");
    };
    let dek = Dek::from_secret(Secret::copy(&hex::decode(key)?)?)?;
    let associated_data = hex::decode(associated_data)?;
    let input = fs::read(from).with_context(|| from.clone())?;
    let output = match verb.as_str() {
        "seal" => seal_file(&dek, &associated_data, &input)?,
        "open" => open_file(&dek, &associated_data, &input)?,
        _ => bail!("unknown verb {verb}"),
    };
    fs::write(to, output).with_context(|| to.clone())
}

fn seal_file(dek: &Dek, associated_data: &[u8], plaintext: &[u8]) -> Result<Vec<u8>> {
    let header = Header::random();
    let key = FileKey::derive(dek, &header, associated_data);
    let layout = Layout::of_plaintext(plaintext.len() as u64)?;
    let mut sealed = header.as_bytes().to_vec();
    for index in 0..layout.segments() {
        let span = layout.span(index);
        let mut segment = part(plaintext, &span.plaintext)?.to_vec();
        segment.resize(segment.len() + TAG_BYTES, 0);
        key.seal(index, span.last, &mut segment)?;
        sealed.append(&mut segment);
    }
    Ok(sealed)
}

fn open_file(dek: &Dek, associated_data: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
    let layout = Layout::of_ciphertext(sealed.len() as u64)?;
    let header = Header::parse(&sealed[..HEADER_BYTES])?;
    let key = FileKey::derive(dek, &header, associated_data);
    let mut plaintext = Vec::new();
    for index in 0..layout.segments() {
        let span = layout.span(index);
        let mut segment = part(sealed, &span.ciphertext)?.to_vec();
        plaintext.extend_from_slice(key.open(index, span.last, &mut segment)?);
    }
    Ok(plaintext)
}

fn part<'a>(bytes: &'a [u8], range: &std::ops::Range<u64>) -> Result<&'a [u8]> {
    let range = usize::try_from(range.start)?..usize::try_from(range.end)?;
    bytes.get(range).context("the layout reaches beyond the file")
}
