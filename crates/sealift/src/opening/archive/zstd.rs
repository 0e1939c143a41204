//! Zstandard (RFC 8878) in bounded memory.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The largest window of a frame: that many bytes are held while it is read. RFC 8878 3.1.1.1.2 wants
/// 8 MiB of every reader; the tools that push images go up to 32 MiB unless they are told otherwise.
const WINDOW_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Reads what any number of frames hold, one after the other.
pub(super) struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_BYTES_MAX);
        Self { source, decoder, in_frame: false }
    }

    /// Goes on to the next frame with content; `false` at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let skipped =
                        io::copy(&mut self.source.by_ref().take(length), &mut io::sink())?;
                    if skipped < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame && !self.next_frame()? {
                return Ok(0);
            }
            self.in_frame = true;
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(io::Error::other)?;
            }
            match self.decoder.read(buffer)? {
                0 => self.in_frame = false,
                length => return Ok(length),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of one block that repeats a byte, with a window of `2^window_log` bytes.
    fn frame(window_log: u8, byte: u8, times: u32) -> Vec<u8> {
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (window_log - 10) << 3];
        // Last block, of the kind that repeats (RFC 8878 3.1.1.2).
        frame.extend_from_slice(&(1 | 1 << 1 | times << 3).to_le_bytes()[..3]);
        frame.push(byte);
        frame
    }

    fn unpacked(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut found = Vec::new();
        Frames::new(packed).read_to_end(&mut found).map(|_| found)
    }

    #[test]
    fn frames_follow_each_other_and_some_are_skipped() {
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
        let all =
            [&skipped[..], &frame(17, b'a', 3), &frame(17, b'-', 0), &skipped, &frame(17, b'b', 2)]
                .concat();
        assert_eq!(unpacked(&all).unwrap(), b"aaabb");
        assert_eq!(unpacked(&[]).unwrap(), b"");
    }

    /// What a cut leaves is either an error or, between frames, the frames before it: a digest tells.
    #[test]
    fn a_cut_or_changed_frame_never_panics_nor_passes() {
        let whole = frame(17, b'a', 100_000);
        for cut in 1..whole.len() {
            assert!(unpacked(&whole[..cut]).is_err(), "{cut}");
        }
        let good = unpacked(&whole).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x41;
            if let Ok(found) = unpacked(&changed) {
                // The window's size alone is not seen in the content.
                assert!(at == 5 || found != good, "{at}");
            }
        }
    }

    #[test]
    fn a_window_that_would_fill_memory_is_refused() {
        assert!(unpacked(&frame(25, b'a', 3)).is_ok());
        let refused = unpacked(&frame(26, b'a', 3)).unwrap_err();
        assert!(refused.to_string().contains("window"), "{refused}");
    }
}
