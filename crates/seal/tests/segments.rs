//! Layout arithmetic, and files of segments under attack.
#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use seal::Error;
use seal::key::Dek;
use seal::name::{BundleId, BundlePath};
use seal::segment::{
    FileKey, HEADER_BYTES, Header, Layout, SEGMENT_BYTES, TAG_BYTES, associated_data,
};

const FIRST: u64 = (SEGMENT_BYTES - HEADER_BYTES - TAG_BYTES) as u64;
const LATER: u64 = (SEGMENT_BYTES - TAG_BYTES) as u64;

/// Lengths on both sides of every edge: of the first segment, of later ones, of many.
fn edges() -> Vec<u64> {
    let mut lengths = vec![0, 1, 2, 15, 16, 17];
    for full in [0, 1, 2, 3, 1000, 1 << 20] {
        let edge = FIRST + full * LATER;
        lengths.extend(edge.saturating_sub(17)..=edge + 17);
    }
    lengths.extend(Layout::PLAINTEXT_BYTES_MAX - 1..=Layout::PLAINTEXT_BYTES_MAX);
    lengths
}

#[test]
fn spans_cover_object_and_file_without_gap_or_overlap() {
    for bytes in edges().into_iter().filter(|&bytes| bytes < 1 << 32) {
        let layout = Layout::of_plaintext(bytes).unwrap();
        let (mut object, mut file) = (HEADER_BYTES as u64, 0);
        for index in 0..layout.segments() {
            let span = layout.span(index);
            assert_eq!((span.ciphertext.start, span.plaintext.start), (object, file), "{bytes}");
            let plain = span.plaintext.end - span.plaintext.start;
            assert_eq!(span.ciphertext.end - span.ciphertext.start, plain + TAG_BYTES as u64);
            assert_eq!(span.last, index + 1 == layout.segments());
            // Full but for the last, aligned but for the header, and never an empty extra one.
            assert!(span.last || span.ciphertext.end.is_multiple_of(SEGMENT_BYTES as u64));
            assert!(plain > 0 || bytes == 0, "{bytes}");
            (object, file) = (span.ciphertext.end, span.plaintext.end);
        }
        assert_eq!((object, file), (layout.ciphertext_bytes(), bytes));
        let per_segment = SEGMENT_BYTES as u64;
        assert_eq!(u64::from(layout.segments()), object.div_ceil(per_segment), "{bytes}");
    }
}

#[test]
fn the_two_lengths_determine_each_other() {
    for bytes in edges() {
        let layout = Layout::of_plaintext(bytes).unwrap();
        assert_eq!(Layout::of_ciphertext(layout.ciphertext_bytes()).unwrap(), layout, "{bytes}");
    }
}

#[test]
fn segment_counts_change_exactly_at_the_edges() {
    let segments = |bytes| Layout::of_plaintext(bytes).unwrap().segments();
    assert_eq!([segments(0), segments(FIRST - 1), segments(FIRST)], [1, 1, 1]);
    assert_eq!([segments(FIRST + 1), segments(FIRST + LATER)], [2, 2]);
    assert_eq!(segments(FIRST + LATER + 1), 3);
    assert_eq!(segments(Layout::PLAINTEXT_BYTES_MAX), Layout::SEGMENTS_MAX);
    // As docs/format.md says.
    assert_eq!(Layout::PLAINTEXT_BYTES_MAX, 4_503_530_906_845_160);
    let last = Layout::of_plaintext(Layout::PLAINTEXT_BYTES_MAX).unwrap();
    assert!(last.span(Layout::SEGMENTS_MAX - 1).last);
    for beyond in [Layout::PLAINTEXT_BYTES_MAX + 1, u64::MAX] {
        assert!(matches!(Layout::of_plaintext(beyond), Err(Error::Limit { .. })));
    }
}

#[test]
fn refuses_object_lengths_that_no_file_has() {
    let segment = SEGMENT_BYTES as u64;
    for bytes in (0..56).chain(segment + 1..=segment + 16).chain(7 * segment + 1..=7 * segment + 16)
    {
        assert!(Layout::of_ciphertext(bytes).is_err(), "{bytes}");
    }
    for bytes in [u64::MAX, u64::MAX - segment, 1 << 60] {
        assert!(Layout::of_ciphertext(bytes).is_err(), "{bytes}");
    }
    for bytes in [56, segment, segment + 17, 7 * segment + 17] {
        assert!(Layout::of_ciphertext(bytes).is_ok(), "{bytes}");
    }
}

#[test]
fn headers_begin_with_their_length() {
    let header = Header::random();
    assert_eq!(Header::parse(header.as_bytes()).unwrap(), header);
    assert_ne!(header, Header::random());
    let mut wrong = *header.as_bytes();
    wrong[0] = 24;
    for bytes in [&wrong[..], &header.as_bytes()[..39], &[40; 41], &[]] {
        assert!(Header::parse(bytes).is_err());
    }
}

fn key(dek: &Dek, header: &Header, path: &str) -> FileKey {
    let id = BundleId::parse("0123456789abcdef0123456789abcdef").unwrap();
    FileKey::derive(dek, header, &associated_data(&id, &BundlePath::parse(path).unwrap()))
}

/// Segments of a file as they lie behind the header.
fn seal(key: &FileKey, plaintext: &[u8]) -> Vec<Vec<u8>> {
    let layout = Layout::of_plaintext(plaintext.len() as u64).unwrap();
    (0..layout.segments())
        .map(|index| {
            let span = layout.span(index);
            let range = usize::try_from(span.plaintext.start).unwrap()
                ..usize::try_from(span.plaintext.end).unwrap();
            let mut segment = [&plaintext[range], &[0; TAG_BYTES]].concat();
            key.seal(index, span.last, &mut segment).unwrap();
            segment
        })
        .collect()
}

/// What a reader without a manifest makes of `segments`.
fn open(key: &FileKey, segments: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
    let mut file = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let (index, last) = (u32::try_from(index).unwrap(), index + 1 == segments.len());
        let mut in_place = segment.clone();
        let opened = key.open(index, last, &mut in_place).map(|plaintext| plaintext.to_vec());
        let mut apart = vec![0xee; segment.len().saturating_sub(TAG_BYTES)];
        let opened_into = key.open_into(index, last, segment, &mut apart);
        assert_eq!(opened.is_ok(), opened_into.is_ok());
        file.extend(opened?);
    }
    Ok(file)
}

/// The planted bug: a reader that takes either kind of segment anywhere.
fn open_ignoring_the_last_flag(key: &FileKey, segments: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
    let mut file = Vec::new();
    for (index, segment) in (0..).zip(segments) {
        let mut copy = segment.clone();
        let opened = match key.open(index, false, &mut copy) {
            Ok(plaintext) => plaintext.to_vec(),
            Err(_) => key.open(index, true, &mut segment.clone())?.to_vec(),
        };
        file.extend(opened);
    }
    Ok(file)
}

/// A file of three segments, the last of 5 bytes.
fn three() -> (Dek, Header, Vec<u8>, Vec<Vec<u8>>) {
    let (dek, header) = (Dek::random(), Header::random());
    let plaintext: Vec<u8> =
        (0..FIRST + LATER + 5).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let segments = seal(&key(&dek, &header, "w"), &plaintext);
    assert_eq!(segments.len(), 3);
    (dek, header, plaintext, segments)
}

#[test]
fn refuses_every_rearrangement_of_whole_segments() {
    let (dek, header, plaintext, good) = three();
    let key = key(&dek, &header, "w");
    assert_eq!(open(&key, &good).unwrap(), plaintext);
    let pick = |indices: &[usize]| indices.iter().map(|&i| good[i].clone()).collect::<Vec<_>>();
    // Truncated at each boundary, extended, repeated, swapped.
    for order in [
        &[0][..],
        &[0, 1],
        &[1, 2],
        &[2],
        &[0, 2],
        &[0, 1, 2, 2],
        &[0, 1, 1, 2],
        &[0, 0, 1, 2],
        &[1, 0, 2],
        &[0, 2, 1],
        &[2, 1, 0],
    ] {
        assert!(open(&key, &pick(order)).is_err(), "{order:?}");
    }
    let mut extended = good.clone();
    extended.push(seal(&key, b"more").remove(0));
    assert!(open(&key, &extended).is_err());
}

#[test]
fn a_reader_that_ignores_the_last_flag_would_accept_a_truncation() {
    let (dek, header, plaintext, mut segments) = three();
    let key = key(&dek, &header, "w");
    segments.pop();
    let accepted = open_ignoring_the_last_flag(&key, &segments).unwrap();
    assert!(accepted.len() < plaintext.len(), "so this vector tells such a reader from ours");
    assert!(matches!(open(&key, &segments), Err(Error::Segment { segment: 1 })));
}

#[test]
fn refuses_segments_of_other_files_bundles_headers_and_keys() {
    let (dek, header, _, segments) = three();
    let other_id = BundleId::parse("fedcba9876543210fedcba9876543210").unwrap();
    let path = BundlePath::parse("w").unwrap();
    for other in [
        key(&dek, &header, "v"),
        key(&dek, &Header::random(), "w"),
        key(&Dek::random(), &header, "w"),
        FileKey::derive(&dek, &header, &associated_data(&other_id, &path)),
    ] {
        for (index, segment) in (0..).zip(&segments) {
            let last = index == 2;
            assert!(other.open(index, last, &mut segment.clone()).is_err());
        }
    }
}

#[test]
fn refuses_every_changed_bit_and_every_length_of_a_small_segment() {
    let key = key(&Dek::random(), &Header::random(), "f");
    let segment = seal(&key, b"hello").remove(0);
    for bit in 0..segment.len() * 8 {
        let mut changed = segment.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&key, &[changed]).is_err(), "{bit}");
    }
    for length in 0..segment.len() {
        assert!(open(&key, &[segment[..length].to_vec()]).is_err(), "{length}");
    }
    assert!(open(&key, &[[&segment[..], &[0]].concat()]).is_err());
}

#[test]
fn leaves_no_plaintext_of_a_segment_that_does_not_authenticate() {
    let key = key(&Dek::random(), &Header::random(), "f");
    let plaintext = [0x5a; 4096];
    let mut segment = seal(&key, &plaintext).remove(0);
    *segment.last_mut().unwrap() ^= 1;
    let mut apart = [0xee; 4096];
    assert!(key.open_into(0, true, &segment, &mut apart).is_err());
    assert!(key.open(0, true, &mut segment).is_err());
    for left in [&segment[..4096], &apart] {
        assert!(!left.windows(8).any(|bytes| bytes == &plaintext[..8]));
    }
}

#[test]
fn refuses_segments_longer_than_the_format_allows() {
    let key = key(&Dek::random(), &Header::random(), "f");
    let mut segment = vec![0; SEGMENT_BYTES + 1];
    assert!(key.seal(0, true, &mut segment).is_err());
    assert!(key.open(0, true, &mut segment).is_err());
}

#[test]
fn keys_print_nothing() {
    let key = key(&Dek::random(), &Header::random(), "f");
    assert_eq!(format!("{key:?}"), "FileKey([redacted])");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sealed_opens(bytes in 0..3 * SEGMENT_BYTES, fill: u8) {
        let key = key(&Dek::random(), &Header::random(), "f");
        let plaintext = vec![fill; bytes];
        prop_assert_eq!(open(&key, &seal(&key, &plaintext)).unwrap(), plaintext);
    }

    #[test]
    fn no_object_length_is_ambiguous(bytes: u64) {
        if let Ok(layout) = Layout::of_ciphertext(bytes) {
            prop_assert_eq!(layout.ciphertext_bytes(), bytes);
        }
    }
}
