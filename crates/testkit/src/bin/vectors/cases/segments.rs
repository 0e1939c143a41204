//! Objects: header and segments (format §3).

use anyhow::Result;

use crate::Set;
use crate::cases::envelope::swap_files;
use crate::crypto::{gcm, hkdf, sha256};
use crate::forge::{Bundle, Case, FileKey, HEADER, Object, SEGMENT, TAG};

/// The object of three segments, and pieces of others that fit into it.
pub(crate) const SHARED: &str = "three-segments.sealed";

const FIRST: usize = SEGMENT - HEADER - TAG;
const LATER: usize = SEGMENT - TAG;
/// Bytes of the last segment of three.
const REST: usize = 100;
const THREE: usize = FIRST + LATER + REST;

pub(crate) fn add(set: &mut Set) -> Result<()> {
    flipped(set)?;
    other_objects(set)?;
    other_cryptography(set)?;
    lengths(set)?;
    large(set)
}

/// The bytes of the first file's object.
fn sealed(case: &mut Case) -> &mut Vec<u8> {
    match &mut case.bundle.files[0].sealed {
        Object::Bytes(bytes) => bytes,
        Object::Slices { .. } => panic!("a small file"),
    }
}

/// Seals the first file in another way, with a manifest that agrees.
fn reseal(case: &mut Case, seal: impl FnOnce(&Bundle, &[u8]) -> Vec<u8>) {
    let object = seal(&case.bundle, &case.bundle.files[0].plain);
    let file = &mut case.bundle.files[0];
    file.header.copy_from_slice(&object[..HEADER]);
    file.sha256 = sha256(&object);
    file.sealed = Object::Bytes(object);
}

fn flipped(set: &mut Set) -> Result<()> {
    for (reason, name, at, comment) in [
        ("header", "header_length_byte_flipped", 0, "A bit of the length byte."),
        ("header", "header_salt_flipped", 1, "A bit of the salt."),
        ("header", "header_nonce_prefix_flipped", 39, "A bit of the nonce prefix."),
        ("segment", "segment_first_byte_flipped", 40, "A bit of the first byte of ciphertext."),
        ("segment", "segment_last_byte_flipped", 48, "A bit of the last byte of ciphertext."),
        ("segment", "tag_first_byte_flipped", 49, "A bit of the first byte of the tag."),
        ("segment", "tag_last_byte_flipped", 64, "A bit of the last byte of the tag."),
    ] {
        set.refused(reason, name, comment, |case| sealed(case)[at] ^= 1)?;
    }
    set.refused("segment", "tag_zero", "A tag of zeros.", |case| sealed(case)[49..].fill(0))?;
    set.refused(
        "segment",
        "plaintext_in_the_place_of_an_object",
        "Not encrypted at all.",
        |case| {
            let plain = case.bundle.files[0].plain.clone();
            sealed(case)[HEADER..HEADER + plain.len()].copy_from_slice(&plain);
        },
    )?;
    set.refused("segment", "empty_file_with_another_tag", "A bit of its only tag.", |case| {
        case.set_paths(&[]);
        case.bundle.add("a-file-of-nothing", b"");
        sealed(case)[HEADER] ^= 1;
    })
}

/// The object is a good one, of something else.
fn other_objects(set: &mut Set) -> Result<()> {
    set.refused(
        "header",
        "header_of_an_older_sealing",
        "The object is an older one of the same file, path, bundle and data key. Every tag of it \
         holds; the manifest names another header.",
        |case| {
            let mut header = case.bundle.files[0].header;
            header[1..].reverse();
            let ad = case.bundle.associated_data("config.json");
            let key = FileKey::derive(&case.dek(), header, &ad);
            *sealed(case) = [&header[..], &key.segment(0, true, b"{\"a\": 0}\n")].concat();
        },
    )?;
    set.refused(
        "header",
        "objects_of_two_files_swapped",
        "Two files of the same length exchange their objects.",
        |case| {
            case.set_paths(&["one", "two"]);
            let [first, second] = &mut case.bundle.files[..] else { panic!("two files") };
            std::mem::swap(&mut first.sealed, &mut second.sealed);
        },
    )?;
    set.refused(
        "segment",
        "objects_of_two_files_swapped_with_their_headers",
        "Two files exchange objects, and a holder of the data key signed it: the path is in the key.",
        |case| {
            case.set_paths(&["one", "two"]);
            swap_files(case);
        },
    )?;
    set.refused(
        "header",
        "object_of_another_bundle",
        "The object of the same path in another bundle.",
        |case| {
            let mut other = Bundle::empty("other");
            other.add("config.json", b"{\"a\": 1}\n");
            case.bundle.files[0].sealed = other.files.remove(0).sealed;
        },
    )?;
    set.refused(
        "segment",
        "segments_of_an_older_sealing",
        "This sealing's header, and the segment of an older one.",
        |case| {
            let mut header = case.bundle.files[0].header;
            header[1..].reverse();
            let ad = case.bundle.associated_data("config.json");
            let segment =
                FileKey::derive(&case.dek(), header, &ad).segment(0, true, b"{\"a\": 0}\n");
            sealed(case)[HEADER..].copy_from_slice(&segment);
        },
    )
}

/// Sealed by mistake in another way; the manifest names what there is.
fn other_cryptography(set: &mut Set) -> Result<()> {
    type Seal = fn(&Bundle, &[u8]) -> Vec<u8>;
    /// The object, from its header, its key and its only segment.
    fn object(key: &FileKey, segment: &[u8]) -> Vec<u8> {
        [&key.header[..], segment].concat()
    }
    fn bound_to(bundle: &Bundle, associated_data: &str, plain: &[u8]) -> Vec<u8> {
        let header = bundle.files[0].header;
        let key = FileKey::derive(&bundle.dek, header, associated_data);
        object(&key, &key.segment(0, true, plain))
    }
    let mistakes: [(&str, Seal, &str); 15] = [
        (
            "segment_not_marked_as_last",
            |bundle, plain| {
                let key = bundle.file_key("config.json");
                object(&key, &key.segment(0, false, plain))
            },
            "The last segment with the nonce of one that is not: a longer file, cut.",
        ),
        (
            "segment_of_another_index",
            |bundle, plain| {
                let key = bundle.file_key("config.json");
                object(&key, &key.segment(1, true, plain))
            },
            "Segment 1 in the place of segment 0.",
        ),
        (
            "segment_of_index_beyond_the_first_byte",
            |bundle, plain| {
                let key = bundle.file_key("config.json");
                object(&key, &key.segment(1 << 24, true, plain))
            },
            "Segment 2^24 in the place of segment 0: all four bytes of the index count.",
        ),
        (
            "segment_of_another_path",
            |bundle, plain| bound_to(bundle, &bundle.associated_data("run.sh"), plain),
            "Sealed for another path.",
        ),
        (
            "segment_of_the_objects_name",
            |bundle, plain| bound_to(bundle, &bundle.associated_data("config.json.sealed"), plain),
            "Sealed for the object's name instead of the path.",
        ),
        (
            "segment_of_another_bundle_id",
            |bundle, plain| {
                bound_to(bundle, &Bundle::empty("other").associated_data("config.json"), plain)
            },
            "Sealed for another bundle.",
        ),
        (
            "segment_of_another_format",
            |bundle, plain| {
                let ad = bundle.associated_data("config.json").replace("v1", "v2");
                bound_to(bundle, &ad, plain)
            },
            "Sealed for another version of the format.",
        ),
        (
            "segment_without_associated_data",
            |bundle, plain| bound_to(bundle, "", plain),
            "Sealed by Tink without associated data.",
        ),
        (
            "segment_of_associated_data_with_a_newline",
            |bundle, plain| {
                bound_to(bundle, &(bundle.associated_data("config.json") + "\n"), plain)
            },
            "A newline behind the path in the associated data.",
        ),
        (
            "segment_with_associated_data_in_gcm",
            |bundle, plain| {
                let key = bundle.file_key("config.json");
                let ad = bundle.associated_data("config.json");
                object(&key, &gcm(&key.key, key.nonce(0, true), ad.as_bytes(), plain))
            },
            "The associated data is given to GCM as well; it belongs in the key.",
        ),
        (
            "segment_under_the_data_key",
            |bundle, plain| {
                let mut key = bundle.file_key("config.json");
                key.key = bundle.dek.to_vec();
                object(&key, &key.segment(0, true, plain))
            },
            "Sealed under the data key itself.",
        ),
        (
            "segment_under_a_key_without_salt",
            |bundle, plain| {
                let mut key = bundle.file_key("config.json");
                key.key = hkdf(&bundle.dek, b"", bundle.associated_data("config.json").as_bytes());
                object(&key, &key.segment(0, true, plain))
            },
            "The file key is derived without the header's salt.",
        ),
        (
            "segment_under_a_key_salted_with_the_header",
            |bundle, plain| {
                let mut key = bundle.file_key("config.json");
                let ad = bundle.associated_data("config.json");
                key.key = hkdf(&bundle.dek, &key.header, ad.as_bytes());
                object(&key, &key.segment(0, true, plain))
            },
            "The whole header as salt.",
        ),
        (
            "segment_by_aes_128",
            |bundle, plain| {
                let mut key = bundle.file_key("config.json");
                key.key.truncate(16);
                object(&key, &key.segment(0, true, plain))
            },
            "Half of the file key, for AES-128.",
        ),
        (
            "segment_of_another_content",
            |bundle, plain| {
                let key = bundle.file_key("config.json");
                let mut segment = key.segment(0, true, plain);
                let other = key.segment(0, true, b"{\"a\": 2}\n");
                let tag = segment.len() - TAG;
                segment[..tag].copy_from_slice(&other[..tag]);
                object(&key, &segment)
            },
            "The ciphertext of one content with the tag of another.",
        ),
    ];
    for (name, seal, comment) in mistakes {
        set.refused("segment", name, comment, |case| reseal(case, seal))?;
    }
    Ok(())
}

/// Small objects that are too long or too short.
fn lengths(set: &mut Set) -> Result<()> {
    for (name, bytes, comment) in [
        ("object_empty", 0, "The object is empty."),
        ("object_of_half_a_header", 20, "The object ends in its header."),
        ("object_of_a_header", 40, "The object ends behind its header."),
        ("object_of_half_a_tag", 48, "The object is shorter than header and tag."),
        ("object_without_its_last_byte", 64, "The last byte is missing."),
        ("object_without_its_tag", 49, "The tag is missing."),
    ] {
        set.refused("length", name, comment, |case| sealed(case).truncate(bytes))?;
    }
    set.refused("length", "object_with_a_byte_appended", "A byte behind the last tag.", |case| {
        sealed(case).push(0);
    })?;
    set.refused(
        "length",
        "object_with_an_empty_segment_appended",
        "An empty last segment behind the last: its tag holds, and it has no place.",
        |case| {
            let tag = case.bundle.file_key("config.json").segment(1, true, b"");
            sealed(case).extend(tag);
        },
    )?;
    set.refused(
        "segment",
        "object_truncated_and_its_size_too",
        "A holder of the data key signs a size that is one less, for an object cut to it.",
        |case| {
            let file = &mut case.bundle.files[0];
            file.plain.pop();
            sealed(case).pop();
        },
    )?;
    set.refused(
        "segment",
        "object_of_zeros",
        "As long as it should be and with its header; the rest is zeros.",
        |case| sealed(case)[HEADER..].fill(0),
    )?;
    set.opens("file_empty", "An empty file is one segment of a tag alone.", |case| {
        case.bundle.add("empty", b"");
    })
}

/// Objects of full segments, as slices of one shared file.
fn large(set: &mut Set) -> Result<()> {
    let mut base = Bundle::empty("large");
    let three: Vec<u8> = (0..THREE).map(|i| (7 * i + i / 256).to_le_bytes()[0]).collect();
    let key = base.file_key("three.bin");
    let mut pieces = Pieces { bytes: key.header.to_vec() };
    let header = [0, HEADER];
    let first = pieces.add(&key.segment(0, false, &three[..FIRST]));
    let second = pieces.add(&key.segment(1, false, &three[FIRST..FIRST + LATER]));
    let third = pieces.add(&key.segment(2, true, &three[FIRST + LATER..]));
    let whole = Object::Slices { of: SHARED, slices: vec![[0, third[1]]] };
    let digest = sha256(&pieces.bytes);

    // Pieces that are no part of that object.
    let mut piece = |index, last, plain: &[u8]| pieces.add(&key.segment(index, last, plain));
    let third_not_last = piece(2, false, &three[FIRST + LATER..]);
    let third_as_second = piece(1, true, &three[FIRST + LATER..]);
    let third_as_fourth = piece(3, true, &three[FIRST + LATER..]);
    let byte_as_second = piece(1, true, &three[FIRST..=FIRST]);
    let nothing_as_third = piece(2, true, b"");
    let nothing_as_fourth = piece(3, true, b"");
    let flipped = pieces.add(&[pieces.bytes[second[0]] ^ 1]);
    let (first_as_last, first_plain) = pieces.retag(&key, 0, first);
    let (second_as_last, second_plain) = pieces.retag(&key, 1, second);
    set.share(SHARED, &pieces.bytes)?;

    base.insert("three.bin", three, key.header, digest, whole);
    let small = std::mem::replace(&mut set.base, base);
    // The object put together from these slices; of this size, or as it was.
    let put = |case: &mut Case, size: Option<usize>, slices: &[[usize; 2]]| {
        let file = &mut case.bundle.files[0];
        file.sealed = Object::Slices { of: SHARED, slices: slices.to_vec() };
        if let Some(size) = size {
            file.plain.truncate(size);
            let object: Vec<u8> =
                slices.iter().flat_map(|&[from, to]| &pieces.bytes[from..to]).copied().collect();
            file.sha256 = sha256(&object);
        }
    };
    set.opens("segments_three", "A file of two full segments and a part of one.", |_| ())?;
    set.opens(
        "segments_one_full",
        "A file of exactly one full segment; no empty one follows.",
        |case| {
            case.bundle.files[0].plain.splice(..FIRST, first_plain);
            put(case, Some(FIRST), &[header, untagged(first), first_as_last]);
        },
    )?;
    set.opens(
        "segments_two_full",
        "A file of exactly two full segments; no empty one follows.",
        |case| {
            case.bundle.files[0].plain.splice(FIRST..FIRST + LATER, second_plain);
            put(case, Some(FIRST + LATER), &[header, first, untagged(second), second_as_last]);
        },
    )?;
    set.opens("segments_one_full_and_one_byte", "The shortest file of two segments.", |case| {
        put(case, Some(FIRST + 1), &[header, first, byte_as_second])
    })?;
    for (reason, name, size, slices, comment) in [
        (
            "segment",
            "segments_swapped",
            None,
            &[
                header,
                [second[0], second[1] - HEADER],
                [second[1] - HEADER, second[1]],
                first,
                third,
            ][..],
            "The first two segments exchanged.",
        ),
        ("length", "segment_dropped", None, &[header, first, third], "The second segment missing."),
        (
            "segment",
            "segment_dropped_and_its_size_too",
            Some(FIRST + REST),
            &[header, first, third],
            "The second segment missing, with a size that agrees, signed.",
        ),
        (
            "segment",
            "segment_repeated",
            None,
            &[header, first, [HEADER, HEADER + HEADER], first, third],
            "The first segment once more in the place of the second.",
        ),
        (
            "length",
            "last_segment_dropped",
            None,
            &[header, first, second],
            "Cut at the end of the second segment.",
        ),
        (
            "segment",
            "last_segment_dropped_and_its_size_too",
            Some(FIRST + LATER),
            &[header, first, second],
            "Cut at the end of the second segment, with a size that agrees, signed: that segment is \
             not marked as the last.",
        ),
        (
            "segment",
            "last_two_segments_dropped_and_their_size_too",
            Some(FIRST),
            &[header, first],
            "Cut at the end of the first segment, with a size that agrees, signed.",
        ),
        (
            "length",
            "cut_one_byte_before_a_boundary",
            None,
            &[header, first, [second[0], second[1] - 1]],
            "Cut one byte before the end of the second segment.",
        ),
        (
            "length",
            "cut_one_byte_behind_a_boundary",
            None,
            &[header, first, second, [third[0], third[0] + 1]],
            "Cut one byte behind the end of the second segment.",
        ),
        (
            "length",
            "cut_in_the_last_tag",
            None,
            &[header, first, second, [third[0], third[1] - 8]],
            "Half of the last tag is missing.",
        ),
        (
            "segment",
            "last_segment_not_marked_as_last",
            None,
            &[header, first, second, third_not_last],
            "The last of three segments with the nonce of one that is not.",
        ),
        (
            "segment",
            "last_segment_of_another_index",
            None,
            &[header, first, second, third_as_fourth],
            "The last segment with index 3 in the place of index 2.",
        ),
        (
            "segment",
            "last_segment_of_the_index_before",
            None,
            &[header, first, second, third_as_second],
            "The last segment with index 1 in the place of index 2.",
        ),
        (
            "length",
            "segment_appended",
            None,
            &[header, first, second, third_not_last, third_as_fourth],
            "A fourth segment, sealed as such, with the third as one that is not the last.",
        ),
        (
            "length",
            "empty_segment_appended",
            None,
            &[header, first, second, third_not_last, nothing_as_fourth],
            "An empty last segment behind the third.",
        ),
        (
            "length",
            "empty_segment_behind_a_full_one",
            Some(FIRST + LATER),
            &[header, first, second, nothing_as_third],
            "The last full segment is not marked as the last, and an empty one follows that is: as \
             writers do that learn too late that they are at the end.",
        ),
        (
            "segment",
            "second_segment_flipped",
            None,
            &[header, first, flipped, [second[0] + 1, second[1]], third],
            "A bit of the second segment's first byte.",
        ),
        (
            "segment",
            "second_segment_shifted",
            None,
            &[header, first, [second[0] + 1, second[1]], flipped, third],
            "The second segment without its first byte, and a byte more at its end.",
        ),
    ] {
        set.refused(reason, name, comment, |case| put(case, size, slices))?;
    }
    set.refused(
        "segment",
        "segments_of_another_file",
        "A file is given the header, size and object of another, signed as such: the path is in the \
         key.",
        |case| {
            let file = &mut case.bundle.files[0];
            file.path = "other.bin".into();
            file.object = "other.bin.sealed".into();
        },
    )?;
    set.base = small;
    Ok(())
}

/// A shared file in the making.
struct Pieces {
    bytes: Vec<u8>,
}

impl Pieces {
    /// Where it now stands.
    fn add(&mut self, piece: &[u8]) -> [usize; 2] {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(piece);
        [from, self.bytes.len()]
    }

    /// The tag that makes the last segment of one that is not, and what that segment then holds.
    /// GCM lets the same ciphertext be that of two nonces, and a full segment need be stored once.
    fn retag(&mut self, key: &FileKey, index: u32, segment: [usize; 2]) -> ([usize; 2], Vec<u8>) {
        let [from, to] = untagged(segment);
        let mut plain = key.segment(index, true, &self.bytes[from..to]);
        plain.truncate(to - from);
        let sealed = key.segment(index, true, &plain);
        assert_eq!(sealed[..to - from], self.bytes[from..to]);
        (self.add(&sealed[to - from..]), plain)
    }
}

fn untagged([from, to]: [usize; 2]) -> [usize; 2] {
    [from, to - TAG]
}
