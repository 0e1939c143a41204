//! An S3 server that holds one sealed model of any size in no memory: it seals zeros as they are
//! asked for. Answers path-style `GET`, with and without a range, and `HEAD`; checks no signature.
//!
//! `synth RESOURCE_ID KEY_FILE NAME FILES FILE_BYTES` listens on an ephemeral loopback port, prints
//! it, and serves the bundle under every prefix until it is killed.
//!
//! The manifest's object digests are not those of the objects: only `sealift verify` without a key
//! would look at them, and hashing would take ten times as long as serving.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use seal::bundle::{MANIFEST_OBJECT, Recipient, Sealing};
use seal::key::Kek;
use seal::manifest::{FileEntry, Mode};
use seal::name::{BundlePath, Digest, KeyUri, ModelName};
use seal::segment::{FileKey, Header, Layout, SEGMENT_BYTES, TAG_BYTES};
use secret::Secret;

struct Model {
    manifest: Vec<u8>,
    objects: HashMap<String, Object>,
}

struct Object {
    key: FileKey,
    header: Header,
    layout: Layout,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [resource, key_file, name, files, file_bytes] = arguments.as_slice() else {
        bail!("usage: synth RESOURCE_ID KEY_FILE NAME FILES FILE_BYTES");
    };
    let kek = Kek::parse(&Secret::copy(&fs::read(key_file)?)?)?;
    let key = KeyUri::parse(resource)?;
    let recipient = Recipient::released(&key, &kek);
    let name = ModelName::parse(name)?;
    let model = Arc::new(Model::new(recipient, name, files.parse()?, file_bytes.parse()?)?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    for connection in listener.incoming() {
        let (connection, model) = (connection?, Arc::clone(&model));
        // A client that hangs up is no news.
        std::thread::spawn(move || serve(&connection, &model));
    }
    Ok(())
}

impl Model {
    fn new(recipient: Recipient<'_>, name: ModelName, files: u32, file_bytes: u64) -> Result<Self> {
        let sealing = Sealing::new(name, 1, "2026-01-01T00:00:00Z".into())?;
        let layout = Layout::of_plaintext(file_bytes)?;
        let mut entries = Vec::new();
        let mut objects = HashMap::new();
        for number in 0..files {
            let path = BundlePath::parse(&format!("model-{number:05}.safetensors"))?;
            let (header, key) = sealing.file(&path);
            objects.insert(path.object(), Object { key, header, layout });
            let sha256 = Digest::of(path.as_str().as_bytes());
            entries.push(FileEntry { path, mode: Mode::Plain, layout, header, sha256 });
        }
        let (manifest, _) = sealing.finish(entries, &[recipient])?;
        Ok(Self { manifest, objects })
    }

    /// Writes `range` of the object `name`.
    fn write(&self, name: &str, range: Range<u64>, to: &mut impl Write) -> Result<()> {
        let Some(object) = self.objects.get(name) else {
            let range = usize::try_from(range.start)?..usize::try_from(range.end)?;
            return Ok(to.write_all(&self.manifest[range])?);
        };
        let mut buffer = Vec::with_capacity(SEGMENT_BYTES);
        let first = range.start / SEGMENT_BYTES as u64;
        for index in u32::try_from(first)?..object.layout.segments() {
            let start = u64::from(index) * SEGMENT_BYTES as u64;
            if start >= range.end {
                break;
            }
            object.segment(index, &mut buffer)?;
            let end = start + buffer.len() as u64;
            let wanted = range.start.max(start)..range.end.min(end);
            to.write_all(
                &buffer
                    [usize::try_from(wanted.start - start)?..usize::try_from(wanted.end - start)?],
            )?;
        }
        Ok(())
    }

    fn length(&self, name: &str) -> Option<u64> {
        if name == MANIFEST_OBJECT {
            return Some(self.manifest.len() as u64);
        }
        self.objects.get(name).map(|object| object.layout.ciphertext_bytes())
    }
}

impl Object {
    /// The object's bytes of one segment, the header before the first.
    fn segment(&self, index: u32, buffer: &mut Vec<u8>) -> Result<()> {
        let span = self.layout.span(index);
        buffer.clear();
        if index == 0 {
            buffer.extend_from_slice(self.header.as_bytes());
        }
        let start = buffer.len();
        let plaintext = usize::try_from(span.plaintext.end - span.plaintext.start)?;
        buffer.resize(start + plaintext + TAG_BYTES, 0);
        Ok(self.key.seal(index, span.last, &mut buffer[start..])?)
    }
}

/// Answers one connection's requests until it closes.
fn serve(connection: &TcpStream, model: &Model) -> Result<()> {
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection);
    let mut writer = connection;
    while let Some(request) = Request::read(&mut reader)? {
        let Some(length) = model.length(&request.object) else {
            // As S3 answers whoever may not list: for listings, and for what is not there.
            let body = "<Error><Code>AccessDenied</Code></Error>";
            write!(
                writer,
                "HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )?;
            continue;
        };
        let range = request.range.start..request.range.end.min(length);
        let whole = request.range.end == u64::MAX;
        let status = if whole { "200 OK" } else { "206 Partial Content" };
        write!(
            writer,
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-range: bytes {}-{}/{length}\r\n\
             accept-ranges: bytes\r\netag: \"1\"\r\n\
             last-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n",
            range.end - range.start,
            range.start,
            range.end.saturating_sub(1),
        )?;
        if !request.head_only {
            model.write(&request.object, range, &mut writer)?;
        }
    }
    Ok(())
}

struct Request {
    head_only: bool,
    /// The last component of the path.
    object: String,
    range: Range<u64>,
}

impl Request {
    /// The next request, or `None` at the connection's end.
    fn read(reader: &mut impl BufRead) -> Result<Option<Self>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split(' ');
        let head_only = words.next() == Some("HEAD");
        let path = words.next().context("a request without a path")?;
        let path = path.split('?').next().unwrap_or_default();
        let object = path.rsplit('/').next().unwrap_or_default().to_owned();
        let mut range = 0..u64::MAX;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                return Ok(Some(Self { head_only, object, range }));
            }
            if let Some(bytes) = line.strip_prefix("range: bytes=") {
                let (first, last) = bytes.split_once('-').context("a range without an end")?;
                range.start = first.parse()?;
                range.end = last.parse::<u64>().map_or(u64::MAX, |last| last + 1);
            }
        }
    }
}
