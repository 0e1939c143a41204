use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;

use super::*;

/// What a file of an archive looks like to a visitor, content included.
#[derive(Default)]
struct Seen(Vec<(String, u64, bool, Vec<u8>)>);

impl Visit for Seen {
    fn file(
        &mut self,
        name: &str,
        bytes: u64,
        executable: bool,
        content: &mut dyn Read,
    ) -> Result<(), Failure> {
        let mut found = Vec::new();
        content.read_to_end(&mut found).map_err(unreadable)?;
        self.0.push((name.to_owned(), bytes, executable, found));
        Ok(())
    }
}

fn tar(entries: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content, mode) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        // `set_path` would refuse the names that matter here.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

fn zip(entries: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content, mode) in entries {
        let options = SimpleFileOptions::default().unix_permissions(*mode);
        archive.start_file(*name, options).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn index_tar(archive: &[u8]) -> Result<Vec<PlannedFile>, Failure> {
    let mut index = Index::default();
    walk_tar(archive, &mut index).map(|()| index.files)
}

fn index_zip(archive: &[u8]) -> Result<Vec<PlannedFile>, Failure> {
    let mut index = Index::default();
    walk_zip(Cursor::new(archive), &mut index).map(|()| index.files)
}

#[test]
fn both_formats_give_names_modes_and_contents() {
    let entries: [(&str, &[u8], u32); 3] =
        [("./a.bin", b"content", 0o644), ("sub/run.sh", b"#!/bin/sh", 0o700), ("e", b"", 0o600)];
    for (mut seen, result) in [
        {
            let mut seen = Seen::default();
            let result = walk_tar(&tar(&entries)[..], &mut seen);
            (seen, result)
        },
        {
            let mut seen = Seen::default();
            let result = walk_zip(Cursor::new(zip(&entries)), &mut seen);
            (seen, result)
        },
    ] {
        result.unwrap();
        for (found, (name, content, mode)) in seen.0.drain(..).zip(entries) {
            let expected = (name.to_owned(), content.len() as u64, mode & 0o100 != 0);
            assert_eq!((found.0, found.1, found.2), expected);
            assert_eq!(found.3, content);
        }
    }
    let planned = index_tar(&tar(&entries)).unwrap();
    let named: Vec<_> = planned.iter().map(|file| (file.path.as_str(), file.mode)).collect();
    assert_eq!(named, [("a.bin", 0o644), ("sub/run.sh", 0o755), ("e", 0o644)]);
}

#[test]
fn names_that_lead_elsewhere_or_collide_are_refused() {
    for name in ["../x", "/etc/passwd", "a/../../x", "a//b", "a\\b", "C:\\x", "a/./b", "x\u{7}"] {
        assert!(index_tar(&tar(&[(name, b"x", 0o644)])).is_err(), "{name:?}");
        assert!(index_zip(&zip(&[(name, b"x", 0o644)])).is_err(), "{name:?}");
    }
    assert!(index_tar(&tar(&[("a", b"1", 0o644), ("./a", b"2", 0o644)])).is_err());
}

#[test]
fn only_files_and_directories_are_unpacked() {
    for kind in [b'1', b'2', b'3', b'4', b'6', b'S'] {
        let mut header = tar::Header::new_gnu();
        header.set_path("link").unwrap();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(0);
        header.set_mode(0o644);
        header.set_cksum();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append(&header, &b""[..]).unwrap();
        assert!(index_tar(&archive.into_inner().unwrap()).is_err(), "{}", kind as char);
    }
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    archive.add_symlink("link", "/etc/passwd", SimpleFileOptions::default()).unwrap();
    assert!(index_zip(&archive.finish().unwrap().into_inner()).is_err());
}

#[test]
fn a_directory_that_would_fill_memory_is_refused_before_it_is_read() {
    let mut large = zip(&[("a", b"x", 0o644)]);
    let end = large.len() - 22;
    large[end + 12..end + 16].copy_from_slice(&(64_u32 << 20).to_le_bytes());
    assert_eq!(index_zip(&large).unwrap_err().code(), Code::TooSmall);
}

/// The larger end record of archives above 4 GiB, wherever it lies.
#[test]
fn zip64_is_read_and_its_claims_are_bounded() {
    let archive = |record_bytes: u64, entries: u64, gap: usize| {
        let plain = zip(&[("a", b"x", 0o644)]);
        let (mut archive, end) = (plain[..plain.len() - 22].to_vec(), &plain[plain.len() - 22..]);
        let start = u64::from(u32::from_le_bytes(end[16..20].try_into().unwrap()));
        let at = archive.len() as u64;
        archive.extend_from_slice(b"PK\x06\x06");
        archive.extend_from_slice(&record_bytes.to_le_bytes());
        archive.extend_from_slice(&[45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let bytes = at - start;
        for number in [entries, entries, bytes, start] {
            archive.extend_from_slice(&number.to_le_bytes());
        }
        archive.resize(archive.len() + gap, 0);
        archive.extend_from_slice(b"PK\x06\x07\0\0\0\0");
        archive.extend_from_slice(&at.to_le_bytes());
        archive.extend_from_slice(&1_u32.to_le_bytes());
        archive.extend_from_slice(b"PK\x05\x06\0\0\0\0");
        archive.extend_from_slice(&[0xff; 12]);
        archive.extend_from_slice(&[0, 0]);
        archive
    };
    assert_eq!(index_zip(&archive(44, 1, 0)).unwrap().len(), 1);
    assert_eq!(index_zip(&archive(44, 1 << 40, 0)).unwrap_err().code(), Code::TooSmall);
    // A record of half a GiB, out of sight of the archive's end.
    assert_eq!(index_zip(&archive(1 << 29, 1, 200_000)).unwrap_err().code(), Code::Tampered);
}

/// Cut anywhere, or changed in any byte, an archive is refused or is what it was, and nothing panics.
#[test]
fn damage_is_noticed_or_harmless() {
    let whole = zip(&[("a", b"some content, some content", 0o644)]);
    let read = |archive: &[u8]| {
        let mut seen = Seen::default();
        walk_zip(Cursor::new(archive), &mut seen).map(|()| seen.0)
    };
    let good = read(&whole).unwrap();
    for cut in 0..whole.len() {
        assert!(read(&whole[..cut]).is_err(), "{cut}");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x41;
        if let Ok(found) = read(&changed) {
            assert!(found.iter().all(|file| good.iter().any(|good| good.3 == file.3)), "{at}");
        }
    }
    let whole = tar(&[("a", b"content", 0o644)]);
    for cut in 1..512 + 7 {
        assert!(index_tar(&whole[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn gzips_checksum_is_compared() {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(&tar(&[("a", b"content", 0o644)])).unwrap();
    let mut packed = packer.finish().unwrap();
    let index = |packed: &[u8]| {
        let mut index = Index::default();
        walk_tar(MultiGzDecoder::new(packed), &mut index)
    };
    index(&packed).unwrap();
    let at = packed.len() - 8;
    packed[at] ^= 1;
    assert_eq!(index(&packed).unwrap_err().code(), Code::Tampered);
}

/// A long name (GNU) and an attribute (pax) whose lengths are those of bombs: nothing of that size is
/// held.
#[test]
fn what_stands_in_front_of_an_entry_is_bounded() {
    struct Endless(u64);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += buffer.len() as u64;
            buffer.fill(b'a');
            Ok(buffer.len())
        }
    }
    for kind in [tar::EntryType::GNULongName, tar::EntryType::XHeader] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(1 << 40);
        header.set_cksum();
        let mut bomb = header.as_bytes().chain(Endless(0));
        let refused = walk_tar_entries(&mut bomb, &mut Index::default()).unwrap_err();
        assert!(refused.what().contains("too long"), "{refused}");
        assert!(bomb.into_inner().1.0 <= 2 << 20);
    }
}
