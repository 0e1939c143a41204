//! Reading what a TPM marshalled: big-endian, each length checked before it is believed.

/// The rest of a structure.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

/// Why a structure cannot be read.
pub(super) type Why = &'static str;

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8], Why> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or("it ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Why> {
        self.take(N)?.try_into().map_err(|_| "it ends too early")
    }

    pub(super) fn u16(&mut self) -> Result<u16, Why> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Why> {
        self.array().map(u32::from_be_bytes)
    }

    /// A TPM2B of at most `bytes_max` bytes.
    pub(super) fn sized(&mut self, bytes_max: usize) -> Result<&'a [u8], Why> {
        match usize::from(self.u16()?) {
            bytes if bytes <= bytes_max => self.take(bytes),
            _ => Err("a field is longer than it may be"),
        }
    }

    pub(super) fn end(self) -> Result<(), Why> {
        if self.0.is_empty() { Ok(()) } else { Err("something follows it") }
    }
}
