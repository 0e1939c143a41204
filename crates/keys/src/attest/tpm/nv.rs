//! Reading an NV index, with the empty password of the owner.

use super::TpmError;
use super::commands::{Command, OWNER, malformed};
use super::device::Device;
use super::reader::{Reader, Why};

/// Largest index read. The specification has 16 bits for it.
const INDEX_BYTES_MAX: usize = 8192;
/// What is read at a time: a TPM may give less than it has room for, and every one gives this.
const READ_BYTES: usize = 512;

impl Device {
    /// All of an NV index, which has to have been written.
    pub(super) fn read_index(&mut self, index: u32) -> Result<Vec<u8>, TpmError> {
        const NAME: &str = "TPM2_NV_Read";
        let bytes = self.index_bytes(index)?;
        let command = Command {
            name: NAME,
            code: 0x14e,
            handles: &[OWNER, index],
            authorised: true,
            gives_handle: false,
        };
        let mut content = Vec::with_capacity(bytes);
        while content.len() < bytes {
            let count = READ_BYTES.min(bytes - content.len());
            let parameters: Vec<u8> = [count, content.len()]
                .into_iter()
                .flat_map(|number| u16::try_from(number).expect("indices are short").to_be_bytes())
                .collect();
            let response = self.call(&command, &parameters)?;
            let mut reader = Reader(&response.parameters);
            let read = reader.sized(count).and_then(|read| {
                reader.end()?;
                if read.is_empty() { Err("it has nothing of the index") } else { Ok(read) }
            });
            content.extend(read.map_err(|why| malformed(NAME, why))?);
        }
        Ok(content)
    }

    /// TPM2_NV_ReadPublic: the index's length.
    fn index_bytes(&mut self, index: u32) -> Result<usize, TpmError> {
        const NAME: &str = "TPM2_NV_ReadPublic";
        let command = Command {
            name: NAME,
            code: 0x169,
            handles: &[index],
            authorised: false,
            gives_handle: false,
        };
        let response = self.call(&command, &[]).map_err(|error| match error {
            TpmError::Refused { code, .. } if super::commands::names_no_handle(code) => {
                TpmError::NoIndex(index)
            }
            other => other,
        })?;
        let bytes = data_size(&response.parameters).map_err(|why| malformed(NAME, why))?;
        match usize::from(bytes) {
            bytes if bytes <= INDEX_BYTES_MAX => Ok(bytes),
            _ => Err(malformed(NAME, "the index is longer than it may be")),
        }
    }
}

/// Out of TPM2B_NV_PUBLIC.
fn data_size(parameters: &[u8]) -> Result<u16, Why> {
    let mut reader = Reader(parameters);
    let mut public = Reader(reader.sized(128)?);
    public.u32()?; // nvIndex
    public.u16()?; // nameAlg
    public.u32()?; // attributes
    public.sized(64)?; // authPolicy
    let bytes = public.u16()?;
    public.end()?;
    Ok(bytes)
}
