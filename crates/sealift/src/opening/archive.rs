//! Plain models that are one archive, unpacked as KServe's own storage initializer does: `.tar`,
//! `.tar.gz`, `.tgz`, `.zip`.
//!
//! An archive is read twice: first for the list of what is in it, against which names, room and
//! limits are checked; then for the contents. So nothing of it is held but one buffer, neither
//! packed nor unpacked, and a bomb is refused before a byte of it is written.

mod entries;
mod image;
mod layer;
mod object;
mod zstd;

use std::collections::BTreeSet;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use publish::{PlannedFile, Staging};
use seal::manifest::Manifest;
use seal::name::BundlePath;
use seal::segment::SEGMENT_BYTES;
use tokio::sync::watch;

use entries::Metered;

use crate::code::Code;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::transfer::{Limits, plain_segments};
pub(super) use image::Image;
pub(super) use object::Object;
use object::Reader;

/// Most entries, directories included.
const ENTRIES_MAX: usize = 2 * Manifest::FILES_MAX;
/// What may follow the last entry of a tar file: programs fill up to a record of their tapes.
const PADDING_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The largest directory of a zip file: it is held in memory.
const DIRECTORY_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Where a zip file's end record begins at the latest, counted from its end.
const END_BYTES: u64 = 22 + 65_535;

/// How files are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Tar,
    TarGz,
    Zip,
}

impl Format {
    /// By its name, as upstream tells.
    pub(super) fn of(name: &str) -> Option<Self> {
        if name.ends_with(".tar") {
            Some(Self::Tar)
        } else if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
            Some(Self::TarGz)
        } else {
            name.ends_with(".zip").then_some(Self::Zip)
        }
    }
}

/// An archive and what is in it.
#[derive(Debug)]
pub(super) struct Archive {
    format: Format,
    object: Object,
    pub(super) files: Vec<PlannedFile>,
}

impl Archive {
    /// Reads the list of what is in it.
    pub(super) async fn index(
        format: Format,
        object: Object,
        limits: &Limits,
    ) -> Result<Self, Failure> {
        let files = blocking(object.clone(), limits.clone(), move |reader| {
            let mut index = Index::default();
            walk(format, reader, &mut index)?;
            Ok(index.files)
        })
        .await?;
        if files.is_empty() {
            return Err(Failure::new(Code::NotFound, "there is no file in the archive"));
        }
        Ok(Self { format, object, files })
    }

    /// Writes the contents into staging, which was planned with [`Archive::files`].
    pub(super) async fn unpack(
        self,
        staging: Arc<Staging>,
        limits: &Limits,
        progress: Arc<Progress>,
    ) -> Result<(), Failure> {
        let Self { format, object, files } = self;
        blocking(object, limits.clone(), move |reader| {
            let mut unpack =
                Unpack { files, next: 0, staging, progress, buffer: vec![0; SEGMENT_BYTES] };
            walk(format, reader, &mut unpack)?;
            match unpack.next == unpack.files.len() {
                true => Ok(()),
                false => Err(changed()),
            }
        })
        .await
    }
}

/// Runs `work` on a thread that may block. When this future is dropped, the reader ends, and with
/// it the thread.
async fn blocking<T: Send + 'static>(
    object: Object,
    limits: Limits,
    work: impl FnOnce(Reader) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (stop, stopped) = watch::channel(());
    let reader = Reader::new(object, limits, stopped);
    let result = tokio::task::spawn_blocking(move || work(reader)).await;
    drop(stop);
    result.map_err(|error| Failure::new(Code::Bug, format!("unpacking ended: {error}")))?
}

/// What is done with each file of an archive, in its order.
trait Visit {
    fn file(
        &mut self,
        name: &str,
        bytes: u64,
        executable: bool,
        content: &mut dyn Read,
    ) -> Result<(), Failure>;
}

fn walk(format: Format, reader: Reader, visit: &mut impl Visit) -> Result<(), Failure> {
    let reader = BufReader::with_capacity(256 * 1024, reader);
    match format {
        Format::Tar => walk_tar(reader, visit),
        Format::TarGz => walk_tar(MultiGzDecoder::new(reader), visit),
        Format::Zip => walk_zip(reader, visit),
    }
}

fn walk_tar(mut reader: impl Read, visit: &mut impl Visit) -> Result<(), Failure> {
    walk_tar_entries(&mut reader, visit)?;
    // To the end: that is where gzip's checksum is compared. Behind the last entry is padding.
    let padding = io::copy(&mut reader.take(PADDING_BYTES_MAX + 1), &mut io::sink());
    match padding.map_err(unreadable)? > PADDING_BYTES_MAX {
        true => Err(refused("the archive goes on after its end")),
        false => Ok(()),
    }
}

fn walk_tar_entries(reader: impl Read, visit: &mut impl Visit) -> Result<(), Failure> {
    entries::each(reader, ENTRIES_MAX, |entry| {
        let name = String::from_utf8(entry.path_bytes().into_owned())
            .map_err(|_| refused("an entry's name is not UTF-8"))?;
        let kind = entry.header().entry_type();
        if kind.is_dir() || kind.is_pax_global_extensions() {
            return Ok(());
        }
        if !kind.is_file() || kind.is_gnu_sparse() {
            return Err(refused("an entry is neither a file nor a directory").at(&name));
        }
        let executable = entry.header().mode().map_err(unreadable)? & 0o100 != 0;
        let bytes = entry.size();
        visit.file(&name, bytes, executable, entry).map_err(|failure| failure.at(&name))
    })
}

fn walk_zip(mut reader: impl Read + Seek, visit: &mut impl Visit) -> Result<(), Failure> {
    check_directory(&mut reader)?;
    // Whatever else an archive says of its directory, no more than this is read of it.
    let (reader, left) = Metered::new(reader, DIRECTORY_BYTES_MAX + END_BYTES);
    let mut archive = zip::ZipArchive::new(reader).map_err(|error| unreadable(error.into()))?;
    left.set(u64::MAX);
    if archive.has_duplicate_names() {
        return Err(refused("the archive holds a name twice"));
    }
    if archive.len() > ENTRIES_MAX {
        return Err(too_many());
    }
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|error| unreadable(error.into()))?;
        let name = entry.name().map_err(|error| unreadable(error.into()))?.into_owned();
        if entry.is_dir() {
            continue;
        }
        if !entry.is_file() {
            return Err(refused("an entry is neither a file nor a directory").at(&name));
        }
        let (bytes, mode) = (entry.size(), entry.unix_mode().unwrap_or(0o644));
        visit
            .file(&name, bytes, mode & 0o100 != 0, &mut entry)
            .map_err(|failure| failure.at(&name))?;
    }
    Ok(())
}

/// Refuses a directory that would not fit into memory, before the library reads it: by the sizes in
/// the end records (PKWARE's APPNOTE 4.3.14 and 4.3.16).
fn check_directory(reader: &mut (impl Read + Seek)) -> Result<(), Failure> {
    let bytes = reader.seek(SeekFrom::End(0)).map_err(unreadable)?;
    let start = reader.seek(SeekFrom::Start(bytes.saturating_sub(END_BYTES + 76)));
    start.map_err(unreadable)?;
    let mut tail = Vec::new();
    reader.by_ref().take(END_BYTES + 76).read_to_end(&mut tail).map_err(unreadable)?;
    let mut sizes = Vec::new();
    for at in 0..tail.len() {
        if tail.get(at..at + 4) != Some(b"PK\x05\x06") {
            continue;
        }
        // All ones: the larger record says it.
        let entries = number(&tail, at + 10, 2).filter(|entries| *entries != 0xffff);
        sizes.push((entries, number(&tail, at + 12, 4).filter(|size| *size != 0xffff_ffff)));
        let Some(locator) = at.checked_sub(20) else { continue };
        if tail.get(locator..locator + 4) != Some(b"PK\x06\x07") {
            continue;
        }
        let at = number(&tail, locator + 8, 8).unwrap_or(u64::MAX);
        let mut record = Vec::new();
        reader.seek(SeekFrom::Start(at)).map_err(unreadable)?;
        reader.by_ref().take(56).read_to_end(&mut record).map_err(unreadable)?;
        if record.get(..4) != Some(b"PK\x06\x06") || number(&record, 4, 8) != Some(44) {
            return Err(refused("the archive's end record is not one"));
        }
        sizes.push((number(&record, 32, 8), number(&record, 40, 8)));
    }
    let fits = |(entries, size): &(Option<u64>, Option<u64>)| {
        entries.is_none_or(|entries| entries <= ENTRIES_MAX as u64)
            && size.is_none_or(|size| size <= DIRECTORY_BYTES_MAX)
    };
    match sizes.iter().all(fits) {
        true => Ok(()),
        false => Err(too_many()),
    }
}

/// A little-endian number of a record.
fn number(record: &[u8], at: usize, width: usize) -> Option<u64> {
    let mut number = [0; 8];
    number[..width].copy_from_slice(record.get(at..at + width)?);
    Some(u64::from_le_bytes(number))
}

/// Collects the list.
#[derive(Default)]
struct Index {
    files: Vec<PlannedFile>,
    names: BTreeSet<String>,
    bytes: u64,
}

impl Visit for Index {
    fn file(
        &mut self,
        name: &str,
        bytes: u64,
        executable: bool,
        _: &mut dyn Read,
    ) -> Result<(), Failure> {
        let path = BundlePath::parse(name.strip_prefix("./").unwrap_or(name))?;
        if !self.names.insert(path.as_str().to_owned()) {
            return Err(refused("the archive holds this name twice"));
        }
        if self.files.len() == Manifest::FILES_MAX {
            return Err(too_many());
        }
        self.bytes = self
            .bytes
            .checked_add(bytes)
            .ok_or_else(|| refused("the files' sizes add up to more than can be counted"))?;
        self.files.push(PlannedFile {
            path: path.as_str().to_owned(),
            mode: if executable { 0o755 } else { 0o644 },
            bytes,
            segments: plain_segments(bytes),
        });
        Ok(())
    }
}

/// Writes the contents, in the order of the list.
struct Unpack {
    files: Vec<PlannedFile>,
    next: usize,
    staging: Arc<Staging>,
    progress: Arc<Progress>,
    buffer: Vec<u8>,
}

impl Visit for Unpack {
    fn file(
        &mut self,
        name: &str,
        bytes: u64,
        _: bool,
        content: &mut dyn Read,
    ) -> Result<(), Failure> {
        let planned = self.files.get(self.next).ok_or_else(changed)?;
        if planned.path != name.strip_prefix("./").unwrap_or(name) || planned.bytes != bytes {
            return Err(changed());
        }
        let file = self.staging.open_file(self.next)?;
        let mut offset = 0;
        for segment in 0..planned.segments {
            let length = (bytes - offset).min(SEGMENT_BYTES as u64);
            let buffer = &mut self.buffer[..usize::try_from(length).expect("below 1 MiB")];
            content.read_exact(buffer).map_err(unreadable)?;
            file.write_segment(segment, offset, buffer)?;
            offset += length;
            self.progress.add(length);
        }
        // To the end: that is where zip's checksum is compared, and a longer content shows.
        if content.read(&mut [0]).map_err(unreadable)? != 0 {
            return Err(refused("the file is longer than the archive says"));
        }
        self.next += 1;
        self.progress.piece_done(true);
        Ok(())
    }
}

/// An error of the store travels inside of the libraries'; any other is the archive's fault.
fn unreadable(error: io::Error) -> Failure {
    let mut cause = error.get_ref().map(|cause| cause as &(dyn std::error::Error + 'static));
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<store::Error>() {
            return error.clone().into();
        }
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    Failure::new(Code::Tampered, format!("the archive cannot be read: {error}"))
}

fn refused(why: &str) -> Failure {
    Failure::new(Code::Tampered, why.to_owned())
}

fn too_many() -> Failure {
    let what = format!("the archive lists more than {} files", Manifest::FILES_MAX);
    Failure::new(Code::TooSmall, what)
}

fn changed() -> Failure {
    Failure::new(Code::Network, "the archive was replaced while it was read")
}

#[cfg(test)]
mod tests;
