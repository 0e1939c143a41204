//! The bench's floors: what the cipher, the hash and the file system reach by themselves, in the
//! same process shape as ours, and what our own layers make of it.
//!
//! `floor OPERATION BYTES THREADS DIRECTORY` prints the wall and CPU seconds of the loop alone.
//!
//! | operation | of each 1 MiB segment |
//! |---|---|
//! | `open` | aws-lc-rs opens it, one `pwrite` |
//! | `open-ours` | copied to a buffer as from a socket, opened by `seal`, written by `publish` |
//! | `seal` | aws-lc-rs seals it, SHA-256 of the ciphertext; nothing is written |
//! | `seal-write` | the same, and one `pwrite` |

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest;
use publish::{Destination, Plan, PlannedFile, Policy, Staging};
use seal::key::Dek;
use seal::segment::{FileKey, Header, Layout, SEGMENT_BYTES, TAG_BYTES};

const PLAINTEXT_BYTES: usize = SEGMENT_BYTES - TAG_BYTES;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [operation, bytes, threads, directory] = arguments.as_slice() else {
        bail!("usage: floor OPERATION BYTES THREADS DIRECTORY");
    };
    let threads: usize = threads.parse()?;
    // Each thread has a file of its own: writers of one file would wait for its lock.
    let segments = u32::try_from(bytes.parse::<u64>()? / SEGMENT_BYTES as u64)?
        .div_ceil(u32::try_from(threads)?);
    let directory = Path::new(directory);
    let seconds = match operation.as_str() {
        "open" => each_thread(threads, |thread| raw_opener(directory, thread, segments))?,
        "open-ours" => {
            let staging = stage(directory, threads, segments)?;
            let seconds = each_thread(threads, |file| our_opener(&staging, file, segments))?;
            staging.discard()?;
            seconds
        }
        "seal" => each_thread(threads, |_| raw_sealer(None, segments))?,
        "seal-write" => {
            each_thread(threads, |thread| raw_sealer(Some(create(directory, thread)?), segments))?
        }
        other => bail!("unknown operation {other}"),
    };
    println!("{:.6} {:.2}", seconds.wall, seconds.cpu);
    Ok(())
}

type Job = Box<dyn FnOnce() -> Result<()> + Send>;

/// Prepares every thread's job, then times all of them together.
fn each_thread(threads: usize, prepare: impl Fn(usize) -> Result<Job>) -> Result<Seconds> {
    let jobs = (0..threads).map(prepare).collect::<Result<Vec<_>>>()?;
    let (start, cpu_before) = (Instant::now(), cpu_seconds()?);
    std::thread::scope(|scope| {
        let running: Vec<_> = jobs.into_iter().map(|job| scope.spawn(job)).collect();
        for thread in running {
            thread.join().ok().context("a thread panicked")??;
        }
        let wall = start.elapsed().as_secs_f64();
        Ok(Seconds { wall, cpu: cpu_seconds()? - cpu_before })
    })
}

struct Seconds {
    wall: f64,
    cpu: f64,
}

/// User and system time of this process, to a hundredth.
fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The fields after the program's name, which may hold anything: utime and stime are 14 and 15.
    let (_, fields) = stat.rsplit_once(") ").context("/proc/self/stat")?;
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}

fn raw_opener(directory: &Path, thread: usize, segments: u32) -> Result<Job> {
    let key = raw_key()?;
    let mut sealed = vec![0x5a; PLAINTEXT_BYTES];
    key.seal_in_place_append_tag(raw_nonce(), Aad::empty(), &mut sealed)?;
    let mut opened = vec![0; PLAINTEXT_BYTES];
    let file = create(directory, thread)?;
    Ok(Box::new(move || {
        let (ciphertext, tag) = sealed.split_at(PLAINTEXT_BYTES);
        for segment in 0..u64::from(segments) {
            key.open_separate_gather(raw_nonce(), Aad::empty(), ciphertext, tag, &mut opened)?;
            file.write_all_at(&opened, segment * PLAINTEXT_BYTES as u64)?;
        }
        Ok(())
    }))
}

fn create(directory: &Path, thread: usize) -> Result<File> {
    Ok(File::create(directory.join(format!("floor-{thread}")))?)
}

fn raw_sealer(file: Option<File>, segments: u32) -> Result<Job> {
    let key = raw_key()?;
    let mut segment = vec![0x5a; PLAINTEXT_BYTES];
    Ok(Box::new(move || {
        let mut sha256 = digest::Context::new(&digest::SHA256);
        for index in 0..u64::from(segments) {
            let tag = key.seal_in_place_separate_tag(raw_nonce(), Aad::empty(), &mut segment)?;
            sha256.update(&segment);
            sha256.update(tag.as_ref());
            if let Some(file) = &file {
                file.write_all_at(&segment, index * PLAINTEXT_BYTES as u64)?;
            }
        }
        std::hint::black_box(sha256.finish());
        Ok(())
    }))
}

fn raw_key() -> Result<LessSafeKey> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32])?))
}

/// The same for every segment: nothing here is secret, and the cipher takes no less time for it.
fn raw_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn stage(directory: &Path, files: usize, segments: u32) -> Result<Staging> {
    let layout = our_layout(segments)?;
    let files = (0..files)
        .map(|file| PlannedFile {
            path: format!("floor-{file}"),
            mode: 0o644,
            bytes: layout.plaintext_bytes(),
            segments: layout.segments(),
        })
        .collect();
    let destination = Destination::open(directory, &Policy { allow_disk: false })?;
    Ok(destination.stage(&Plan { digest: [0; 32], files })?)
}

fn our_opener(staging: &Staging, index: usize, segments: u32) -> Result<Job> {
    let layout = our_layout(segments)?;
    let key = FileKey::derive(&Dek::random(), &Header::random(), b"floor");
    // Sealed as a segment in the middle, all with one index, so that one is enough to read from.
    let mut sealed = vec![0x5a; SEGMENT_BYTES];
    key.seal(1, false, &mut sealed)?;
    let mut buffer = Vec::with_capacity(SEGMENT_BYTES);
    let file = staging.open_file(index)?;
    Ok(Box::new(move || {
        for segment in 0..layout.segments() {
            buffer.clear();
            buffer.extend_from_slice(&sealed);
            let opened = key.open(1, false, &mut buffer)?;
            let place = layout.span(segment).plaintext;
            let length = usize::try_from(place.end - place.start)?;
            file.write_segment(segment, place.start, &opened[..length])?;
        }
        Ok(())
    }))
}

/// A file whose object is as many full segments.
fn our_layout(segments: u32) -> Result<Layout> {
    Ok(Layout::of_ciphertext(u64::from(segments) * SEGMENT_BYTES as u64)?)
}
