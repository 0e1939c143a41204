//! The commands that attesting and provisioning take (TPM 2.0 Library, part 3), marshalled by hand:
//! there are six, and two more in [`super::nv`].

use super::TpmError;
use super::device::{Device, HEADER_BYTES};
use super::key::AttestationKey;
use super::pcrs::Pcrs;
use super::reader::{Reader, Why};

// TPM_ST.
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
// TPM_RH.
pub(super) const OWNER: u32 = 0x4000_0001;
/// TPM_RS_PW with an empty password: handle, no nonce, no attributes, no password.
const EMPTY_PASSWORD: &[u8] = &[0x40, 0, 0, 9, 0, 0, 0, 0, 0];
// TPM_ALG.
pub(super) const ALG_NULL: u16 = 0x0010;
pub(super) const ALG_SHA256: u16 = 0x000b;
/// TPM_RC_HANDLE, without the number of the handle.
const RC_HANDLE: u32 = 0x08b;

const PCR_BYTES: usize = 32;
/// Longest TPMS_ATTEST: TPM2B_ATTEST's limit is about 130 with names and digests of 64 bytes more.
const ATTEST_BYTES_MAX: usize = 512;

/// What TPM2_Quote gives.
pub(super) struct Quote {
    /// TPMS_ATTEST.
    pub(super) message: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub(super) signature: Vec<u8>,
}

/// A command before its parameters.
pub(super) struct Command<'a> {
    pub(super) name: &'static str,
    /// TPM_CC.
    pub(super) code: u32,
    pub(super) handles: &'a [u32],
    /// Whether the first handle is authorised, with the empty password.
    pub(super) authorised: bool,
    /// Whether the response begins with a handle.
    pub(super) gives_handle: bool,
}

impl Device {
    /// Whether anything is at a persistent handle.
    pub(super) fn is_occupied(&mut self, handle: u32) -> Result<bool, TpmError> {
        match self.read_public(handle) {
            Ok(_) => Ok(true),
            Err(TpmError::NoKey(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The public half of the AK at a handle.
    pub(super) fn attestation_key(&mut self, handle: u32) -> Result<AttestationKey, TpmError> {
        let public = self.read_public(handle)?;
        AttestationKey::from_public(&public)
            .map_err(|why| malformed("TPM2_ReadPublic", why))?
            .map_err(|why| TpmError::NotAttestationKey { handle, why })
    }

    /// TPM2_ReadPublic: a TPMT_PUBLIC.
    fn read_public(&mut self, handle: u32) -> Result<Vec<u8>, TpmError> {
        const NAME: &str = "TPM2_ReadPublic";
        let command = Command {
            name: NAME,
            code: 0x173,
            handles: &[handle],
            authorised: false,
            gives_handle: false,
        };
        let response = self.call(&command, &[]).map_err(|error| match error {
            TpmError::Refused { code, .. } if names_no_handle(code) => TpmError::NoKey(handle),
            other => other,
        })?;
        let mut reader = Reader(&response.parameters);
        let public = reader.sized(1024).map_err(|why| malformed(NAME, why))?;
        Ok(public.to_vec())
    }

    /// TPM2_Quote, with the key's own scheme.
    pub(super) fn quote(&mut self, key: u32, nonce: &[u8], pcrs: Pcrs) -> Result<Quote, TpmError> {
        const NAME: &str = "TPM2_Quote";
        let mut parameters = sized(nonce);
        parameters.extend(ALG_NULL.to_be_bytes());
        parameters.extend(selection(pcrs));
        let command = Command {
            name: NAME,
            code: 0x158,
            handles: &[key],
            authorised: true,
            gives_handle: false,
        };
        let response = self.call(&command, &parameters)?;
        let mut reader = Reader(&response.parameters);
        let message = reader.sized(ATTEST_BYTES_MAX).map_err(|why| malformed(NAME, why))?;
        Ok(Quote { message: message.to_vec(), signature: reader.0.to_vec() })
    }

    /// TPM2_PCR_Read, as often as it takes: a TPM gives a few at a time.
    pub(super) fn read_pcrs(&mut self, pcrs: Pcrs) -> Result<Vec<[u8; PCR_BYTES]>, TpmError> {
        const NAME: &str = "TPM2_PCR_Read";
        let command = Command {
            name: NAME,
            code: 0x17e,
            handles: &[],
            authorised: false,
            gives_handle: false,
        };
        let mut values: Vec<Option<[u8; PCR_BYTES]>> = vec![None; 24];
        let mut left = pcrs;
        while !left.is_empty() {
            let response = self.call(&command, &selection(left))?;
            let read =
                parse_pcrs(&response.parameters, left).map_err(|why| malformed(NAME, why))?;
            left = read.left;
            for (pcr, value) in read.values {
                values[pcr as usize] = Some(value);
            }
        }
        Ok(values.into_iter().flatten().collect())
    }

    /// TPM2_CreatePrimary and TPM2_EvictControl: an AK at a persistent handle, and no trace of the
    /// transient one that it is copied from, whatever happens.
    pub(super) fn create_attestation_key(&mut self, handle: u32) -> Result<(), TpmError> {
        let mut parameters = sized(&[0; 4]); // TPM2B_SENSITIVE_CREATE: no password, no data
        parameters.extend(sized(&AttestationKey::template()));
        parameters.extend([0; 2]); // outsideInfo
        parameters.extend([0; 4]); // creationPCR
        let create = Command {
            name: "TPM2_CreatePrimary",
            code: 0x131,
            handles: &[OWNER],
            authorised: true,
            gives_handle: true,
        };
        let transient = self.call(&create, &parameters)?.handle;
        let keep = Command {
            name: "TPM2_EvictControl",
            code: 0x120,
            handles: &[OWNER, transient],
            authorised: true,
            gives_handle: false,
        };
        let kept = self.call(&keep, &handle.to_be_bytes());
        let flush = Command {
            name: "TPM2_FlushContext",
            code: 0x165,
            handles: &[],
            authorised: false,
            gives_handle: false,
        };
        let flushed = self.call(&flush, &transient.to_be_bytes());
        kept?;
        flushed.map(drop)
    }

    pub(super) fn call(
        &mut self,
        command: &Command<'_>,
        parameters: &[u8],
    ) -> Result<Response, TpmError> {
        let tag = if command.authorised { SESSIONS } else { NO_SESSIONS };
        let mut body = Vec::new();
        command.handles.iter().for_each(|handle| body.extend(handle.to_be_bytes()));
        if command.authorised {
            body.extend(length(EMPTY_PASSWORD));
            body.extend(EMPTY_PASSWORD);
        }
        body.extend(parameters);
        let mut bytes = tag.to_be_bytes().to_vec();
        let size = u32::try_from(HEADER_BYTES + body.len());
        bytes.extend(size.expect("commands are short").to_be_bytes());
        bytes.extend(command.code.to_be_bytes());
        bytes.extend(body);

        let response = self.exchange(command.name, &bytes)?;
        let mut reader = Reader(&response);
        Response::parse(&mut reader, tag, command)
            .map_err(|why| malformed(command.name, why))?
            .map_err(|code| TpmError::Refused { command: command.name, code })
    }
}

/// A response that says success.
pub(super) struct Response {
    /// 0 if the command gives none.
    handle: u32,
    pub(super) parameters: Vec<u8>,
}

impl Response {
    /// The inner error is a TPM_RC.
    fn parse(
        reader: &mut Reader<'_>,
        tag: u16,
        command: &Command<'_>,
    ) -> Result<Result<Self, u32>, Why> {
        let found = reader.u16()?;
        reader.u32()?;
        match reader.u32()? {
            0 if found == tag => {}
            0 => return Err("its tag is another than the command's"),
            code => return Ok(Err(code)),
        }
        let handle = if command.gives_handle { reader.u32()? } else { 0 };
        let parameters = if command.authorised {
            let bytes = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
            // What follows is the session's part, which a password has no use for.
            reader.take(bytes)?
        } else {
            reader.0
        };
        Ok(Ok(Self { handle, parameters: parameters.to_vec() }))
    }
}

struct ReadPcrs {
    values: Vec<(u32, [u8; PCR_BYTES])>,
    left: Pcrs,
}

fn parse_pcrs(parameters: &[u8], asked: Pcrs) -> Result<ReadPcrs, Why> {
    const NO_BANK: Why = "it has none of the PCRs asked for: the SHA-256 bank is off, or too small";
    let mut reader = Reader(parameters);
    reader.u32()?; // pcrUpdateCounter
    if reader.u32()? != 1 {
        return Err(NO_BANK);
    }
    if reader.u16()? != ALG_SHA256 {
        return Err("it is of another bank");
    }
    let [bytes] = reader.array()?;
    if bytes != 3 {
        return Err("its selection is not of 24 PCRs");
    }
    let given = Pcrs::from_bitmap(reader.array()?);
    let left = asked.without(given).ok_or("it has PCRs that were not asked for")?;
    if given.is_empty() {
        return Err(NO_BANK);
    }
    if reader.u32()? as usize != given.count() {
        return Err("it has more or fewer values than PCRs");
    }
    let mut values = Vec::with_capacity(given.count());
    for pcr in given.iter() {
        let value = reader.sized(PCR_BYTES)?;
        values.push((pcr, value.try_into().map_err(|_| "a PCR is not a SHA-256 digest")?));
    }
    reader.end()?;
    Ok(ReadPcrs { values, left })
}

/// TPML_PCR_SELECTION of one bank.
fn selection(pcrs: Pcrs) -> Vec<u8> {
    let mut bytes = 1_u32.to_be_bytes().to_vec();
    bytes.extend(ALG_SHA256.to_be_bytes());
    bytes.push(3);
    bytes.extend(pcrs.bitmap());
    bytes
}

/// A TPM2B.
pub(super) fn sized(bytes: &[u8]) -> Vec<u8> {
    let size = u16::try_from(bytes.len()).expect("fields are short");
    [&size.to_be_bytes(), bytes].concat()
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("fields are short").to_be_bytes()
}

pub(super) fn malformed(command: &'static str, why: Why) -> TpmError {
    TpmError::Malformed { command, why }
}

/// A response code without what it says of parameter, session or handle numbers.
fn kind(code: u32) -> u32 {
    if code & 0x80 == 0 { code } else { code & 0x0bf }
}

/// Whether nothing is at the handle that the command was for.
pub(super) fn names_no_handle(code: u32) -> bool {
    kind(code) == RC_HANDLE
}

/// What a response code means, for those that a user can do something about.
pub(super) fn meaning(code: u32) -> &'static str {
    match kind(code) {
        0x08e | 0x0a2 => " (TPM_RC_AUTH_FAIL: only empty passwords of owner and key are supported)",
        RC_HANDLE => " (TPM_RC_HANDLE: no such key)",
        0x08d | 0x084 => {
            " (TPM_RC_VALUE or RANGE: a handle of the owner is 0x81000000 to 0x817fffff)"
        }
        0x092 => " (TPM_RC_SCHEME: the key cannot sign quotes)",
        0x100 => " (TPM_RC_INITIALIZE: it was not started)",
        0x14b => " (TPM_RC_NV_SPACE: no room for another persistent key)",
        0x902 => " (TPM_RC_OBJECT_MEMORY: use the resource manager, /dev/tpmrm0)",
        0x921 => " (TPM_RC_LOCKOUT: too many wrong passwords, wait)",
        0x922 | 0x908 | 0x90a => " (busy)",
        _ => "",
    }
}
