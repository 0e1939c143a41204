//! [`Secret`]: bytes in pages of their own.

use std::ffi::c_void;
use std::fmt;

use rustix::mm::{Advice, madvise, mlock, munlock};
use zeroize::Zeroize;

/// The smallest page of every platform that we run on; a larger one only locks a neighbour too.
const PAGE: usize = 4096;

#[repr(C, align(4096))]
#[derive(Clone)]
struct Page([u8; PAGE]);

/// More bytes than a secret may have ([`Secret::BYTES_MAX`]).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a secret of {0} bytes is longer than the {max} allowed", max = Secret::BYTES_MAX)]
pub struct TooLong(pub usize);

/// Secret bytes: page-aligned, locked into memory where the limit on locked memory allows it, left
/// out of core dumps and of forked children, wiped when dropped, and printed as `[redacted]`.
pub struct Secret {
    pages: Box<[Page]>,
    len: usize,
    locked: bool,
}

impl Secret {
    /// Longest secret: a key with its freshness members for a few hundred models.
    pub const BYTES_MAX: usize = 64 * 1024;

    /// Moves `bytes` into locked pages and wipes the original, also when it is refused.
    pub fn take(bytes: &mut [u8]) -> Result<Self, TooLong> {
        let secret = Self::copy(bytes);
        bytes.zeroize();
        secret
    }

    /// Copies `bytes`; the caller keeps, and must wipe, the original.
    pub fn copy(bytes: &[u8]) -> Result<Self, TooLong> {
        Self::fill(bytes.len(), |page| page.copy_from_slice(bytes))
    }

    /// `len` bytes written by `fill` straight into the locked pages.
    pub fn fill(len: usize, fill: impl FnOnce(&mut [u8])) -> Result<Self, TooLong> {
        if len > Self::BYTES_MAX {
            return Err(TooLong(len));
        }
        let mut secret = Self::zeroed(len);
        fill(&mut secret.bytes_mut()[..len]);
        Ok(secret)
    }

    /// A key of 32 random bytes from the operating system's generator, by way of aws-lc.
    pub fn random_key() -> Self {
        let mut secret = Self::zeroed(32);
        aws_lc_rs::rand::fill(&mut secret.bytes_mut()[..32])
            .expect("aws-lc's generator aborts rather than fail after start");
        secret
    }

    /// The bytes. The name is long on purpose: each call is a place to review.
    pub fn expose(&self) -> &[u8] {
        let bytes = self.pages.as_ptr().cast::<u8>();
        // SAFETY: `pages` is one contiguous allocation of `pages.len() * PAGE` initialised bytes
        // (`Page` is `repr(C)` without padding), `len` is no more than that, and the borrow of
        // `self` keeps it alive and unchanged.
        unsafe { std::slice::from_raw_parts(bytes, self.len) }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the kernel agreed to keep the pages out of swap (`RLIMIT_MEMLOCK`).
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    fn zeroed(len: usize) -> Self {
        let count = len.div_ceil(PAGE).max(1);
        let pages = vec![Page([0; PAGE]); count].into_boxed_slice();
        let start = pages.as_ptr().cast_mut().cast::<c_void>();
        let size = count * PAGE;
        // SAFETY: the range is exactly the pages owned by this box; locking changes no content.
        let locked = unsafe { mlock(start, size) }.is_ok();
        // SAFETY: as above; the advice only excludes the pages from core dumps.
        let _ = unsafe { madvise(start, size, Advice::LinuxDontDump) };
        // SAFETY: as above; a forked child sees zeroes. We never fork without exec.
        let _ = unsafe { madvise(start, size, Advice::LinuxWipeOnFork) };
        Self { pages, len, locked }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let size = self.pages.len() * PAGE;
        let bytes = self.pages.as_mut_ptr().cast::<u8>();
        // SAFETY: one contiguous, initialised allocation of `size` bytes (see `expose`), borrowed
        // exclusively through `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(bytes, size) }
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        let start = self.pages.as_mut_ptr().cast::<c_void>();
        let size = self.pages.len() * PAGE;
        // The allocator may hand these pages out again for ordinary data: give the defaults back.
        // SAFETY: the range is exactly the pages owned by this box, already wiped.
        let _ = unsafe { madvise(start, size, Advice::LinuxDoDump) };
        // SAFETY: as above.
        let _ = unsafe { madvise(start, size, Advice::LinuxKeepOnFork) };
        if self.locked {
            // SAFETY: as above; unlocking changes no content.
            let _ = unsafe { munlock(start, size) };
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_wipes_the_original() {
        let mut bytes = *b"correct horse battery staple....";
        let secret = Secret::take(&mut bytes).unwrap();
        assert_eq!(secret.expose(), b"correct horse battery staple....");
        assert_eq!(bytes, [0; 32]);
    }

    #[test]
    fn a_refused_original_is_wiped_too() {
        let mut bytes = vec![7; Secret::BYTES_MAX + 1];
        assert_eq!(Secret::take(&mut bytes).unwrap_err(), TooLong(Secret::BYTES_MAX + 1));
        assert!(bytes.iter().all(|&b| b == 0));
    }

    #[test]
    fn debug_says_nothing() {
        assert_eq!(format!("{:?}", Secret::copy(b"k").unwrap()), "Secret([redacted])");
    }

    #[test]
    fn pages_are_locked_and_left_out_of_core_dumps() {
        let secret = Secret::random_key();
        let start = format!("{:x}-", secret.expose().as_ptr() as usize);
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let flags = smaps
            .lines()
            .skip_while(|line| !line.starts_with(&start))
            .find_map(|line| line.strip_prefix("VmFlags:"))
            .expect("the secret's pages are a mapping of their own once advised");
        assert!(flags.split(' ').any(|flag| flag == "dd"), "not excluded from dumps: {flags}");
        if secret.is_locked() {
            assert!(flags.split(' ').any(|flag| flag == "lo"), "not locked: {flags}");
        } else {
            testkit::skip("the lock flag, since RLIMIT_MEMLOCK allows no locked memory here");
        }
    }
}
