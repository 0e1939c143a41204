//! [`WipeOnFree`]: freed heap blocks hold no key.

use std::alloc::{GlobalAlloc, Layout, System};

/// Blocks up to this size are wiped when freed. Keys, JSON documents, headers and the buffers that
/// small HTTP answers arrive in are below it; the pooled buffers of the data path, which only ever
/// hold ciphertext or a segment that is overwritten by the next, are above it and cost nothing.
const WIPED_BYTES_MAX: usize = 32 * 1024;

/// The system's allocator, wiping small blocks before they are freed.
#[derive(Debug)]
pub struct WipeOnFree;

// SAFETY: every call is passed to `System` with the caller's own arguments; the only addition is
// to overwrite a block that the caller has given up, before `System` gets it back.
unsafe impl GlobalAlloc for WipeOnFree {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds `GlobalAlloc::alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds `GlobalAlloc::alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout.size() <= WIPED_BYTES_MAX {
            // SAFETY: the caller owns `layout.size()` writable bytes at `block` until we return.
            let bytes = unsafe { std::slice::from_raw_parts_mut(block, layout.size()) };
            zeroize::Zeroize::zeroize(bytes);
        }
        // SAFETY: the caller upholds `GlobalAlloc::dealloc`'s contract.
        unsafe { System.dealloc(block, layout) }
    }

    // `realloc` keeps its default: allocate, copy, `dealloc`, so that the old block is wiped. For
    // large blocks the system's own is used, which can move pages instead of copying them.
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if layout.size() > WIPED_BYTES_MAX {
            // SAFETY: the caller upholds `GlobalAlloc::realloc`'s contract.
            return unsafe { System.realloc(block, layout, new_size) };
        }
        // SAFETY: `new_size` is non-zero and does not overflow when rounded up to the alignment,
        // by `realloc`'s contract.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: `new_layout` has a non-zero size, as above.
        let new_block = unsafe { self.alloc(new_layout) };
        if !new_block.is_null() {
            let kept = layout.size().min(new_size);
            // SAFETY: both blocks are live, at least `kept` bytes long, and distinct allocations.
            unsafe { std::ptr::copy_nonoverlapping(block, new_block, kept) };
            // SAFETY: `block` was allocated with `layout` by this allocator.
            unsafe { self.dealloc(block, layout) };
        }
        new_block
    }
}
