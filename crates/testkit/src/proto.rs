//! Protobuf once more, written from its specification and not from ours: for peers in tests, which
//! must not understand us only because they make the same mistakes.

use anyhow::{Context, bail, ensure};

/// A field's value: a number, or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    /// Wire type 0.
    Number(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
}

/// All fields of a message, in order. Fixed-width numbers are refused: no message here has any.
pub fn fields(mut bytes: &[u8]) -> anyhow::Result<Vec<(u64, Field<'_>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let field = match key % 8 {
            0 => Field::Number(varint(&mut bytes)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?)?;
                ensure!(length <= bytes.len(), "a field of {length} bytes is cut off");
                let (taken, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(taken)
            }
            other => bail!("wire type {other}"),
        };
        found.push((key / 8, field));
    }
    Ok(found)
}

/// The bytes of each field with this number.
pub fn bytes_of(message: &[u8], number: u64) -> anyhow::Result<Vec<&[u8]>> {
    let of = |(found, field)| match field {
        Field::Bytes(bytes) if found == number => Some(bytes),
        _ => None,
    };
    Ok(fields(message)?.into_iter().filter_map(of).collect())
}

/// The text of the last field with this number; empty, if there is none.
pub fn text_of(message: &[u8], number: u64) -> anyhow::Result<String> {
    let last = bytes_of(message, number)?.pop().unwrap_or_default();
    Ok(std::str::from_utf8(last).context("a string that is not UTF-8")?.to_owned())
}

/// The last number with this field's; 0, if there is none.
pub fn number_of(message: &[u8], number: u64) -> anyhow::Result<u64> {
    let of = |(found, field)| match field {
        Field::Number(value) if found == number => Some(value),
        _ => None,
    };
    Ok(fields(message)?.into_iter().filter_map(of).next_back().unwrap_or(0))
}

fn varint(bytes: &mut &[u8]) -> anyhow::Result<u64> {
    let mut value: u128 = 0;
    for index in 0..10 {
        let (first, rest) = bytes.split_first().context("a number is cut off")?;
        *bytes = rest;
        value += u128::from(first % 128) << (7 * index);
        if *first < 128 {
            return u64::try_from(value).context("a number of more than 64 bits");
        }
    }
    bail!("a number without end")
}

/// A field with bytes: a string, a message.
pub fn put(message: &mut Vec<u8>, number: u64, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    put_varint(message, number * 8 + 2);
    put_varint(message, bytes.len() as u64);
    message.extend(bytes);
}

/// A field with a number.
pub fn put_number(message: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(message, number * 8);
    put_varint(message, value);
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = u8::try_from(value % 128).expect("below 128");
        value /= 128;
        if value == 0 {
            return message.push(low);
        }
        message.push(low + 128);
    }
}
