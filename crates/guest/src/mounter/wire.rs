//! What is said between receiver and mounter. One packet is one message, so there are no halves.
//!
//! | request | bytes | |
//! |---|---|---|
//! | operation | 1 | 1 create, 2 adjust, 3 publish, 4 tidy, 5 is it published, 6 remove |
//! | whether what is there may run | 1 | of 1 and 2: 0 or 1; else 0 |
//! | length of the name | 1 | |
//! | zeroes | 5 | |
//! | bytes, inodes | 2 × u64 | of 1 and 2; else 0 |
//! | name, then zeroes | 128 | [`VolumeId`] |
//!
//! | answer | bytes | |
//! |---|---|---|
//! | outcome | 1 | 0 done or no, 1 yes, 2 unknown, 3 full, 4 in the way, 5 failed, 6 refused |
//! | system call | 1 | of 5: its place in [`CALLS`] |
//! | errno | u16 | of 3 and 5 |
//! | path | ≤ 1024 | of 3, 4 and 5, for messages |
//!
//! Numbers are big-endian. There is no version: both ends are the same program.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use publish::volumes::{Error, Space};
use rustix::io::Errno;
use volumes::name::VolumeId;

/// Length of a request.
pub const REQUEST_BYTES: usize = 24 + VolumeId::BYTES_MAX;
/// Longest answer.
pub const ANSWER_BYTES_MAX: usize = 4 + PATH_BYTES_MAX;
const PATH_BYTES_MAX: usize = 1024;

/// The system calls that a mounter may report.
const CALLS: [&str; 18] = [
    "the mounter's call on",
    "fchmod",
    "fcntl",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fstat",
    "getdents64",
    "mkdirat",
    "mount",
    "move_mount",
    "newfstatat",
    "openat",
    "openat2",
    "renameat2",
    "statx",
    "umount2",
    "unlinkat",
];

/// What the receiver may ask for; see [`publish::volumes::Mounter`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// An empty hidden place.
    Create(VolumeId, bool, Space),
    /// Other room; whether something may run.
    Adjust(VolumeId, bool, Space),
    /// The hidden place is to be seen.
    Publish(VolumeId),
    /// What publishing left is to go.
    Tidy(VolumeId),
    /// Whether it is seen.
    IsPublished(VolumeId),
    /// Both places are to go.
    Remove(VolumeId),
}

impl Request {
    /// The volume that it is about.
    pub fn volume(&self) -> &VolumeId {
        match self {
            Self::Create(id, ..)
            | Self::Adjust(id, ..)
            | Self::Publish(id)
            | Self::Tidy(id)
            | Self::IsPublished(id)
            | Self::Remove(id) => id,
        }
    }

    /// The message.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut message = [0; REQUEST_BYTES];
        message[0] = match self {
            Self::Create(..) => 1,
            Self::Adjust(..) => 2,
            Self::Publish(_) => 3,
            Self::Tidy(_) => 4,
            Self::IsPublished(_) => 5,
            Self::Remove(_) => 6,
        };
        if let Self::Create(_, may_run, space) | Self::Adjust(_, may_run, space) = self {
            message[1] = u8::from(*may_run);
            message[8..16].copy_from_slice(&space.bytes.to_be_bytes());
            message[16..24].copy_from_slice(&space.inodes.to_be_bytes());
        }
        let name = self.volume().as_str().as_bytes();
        message[2] = u8::try_from(name.len()).unwrap_or(u8::MAX);
        message[24..24 + name.len()].copy_from_slice(name);
        message
    }

    /// Reads a message. `None`: it is none that [`encode`](Self::encode) makes.
    pub fn decode(message: &[u8]) -> Option<Self> {
        let message: &[u8; REQUEST_BYTES] = message.try_into().ok()?;
        let name = message[24..].get(..usize::from(message[2]))?;
        let id = VolumeId::parse(str::from_utf8(name).ok()?).ok()?;
        let number = |at: usize| message[at..at + 8].iter().fold(0, |n, b| n << 8 | u64::from(*b));
        let space = Space { bytes: number(8), inodes: number(16) };
        let may_run = message[1] == 1;
        let request = match message[0] {
            1 => Self::Create(id, may_run, space),
            2 => Self::Adjust(id, may_run, space),
            3 => Self::Publish(id),
            4 => Self::Tidy(id),
            5 => Self::IsPublished(id),
            6 => Self::Remove(id),
            _ => return None,
        };
        // What has no meaning has to be zero: there is one message for each request.
        (request.encode() == *message).then_some(request)
    }
}

/// What the mounter says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    Yes,
    Unknown,
    Full(PathBuf, Errno),
    InTheWay(PathBuf),
    Failed(&'static str, PathBuf, Errno),
    Refused,
}

impl Answer {
    /// Of a mounter's result.
    pub(super) fn of(result: Result<bool, Error>) -> Self {
        match result {
            Ok(false) => Self::Done,
            Ok(true) => Self::Yes,
            Err(Error::Unknown { .. }) => Self::Unknown,
            Err(Error::Full(error) | Error::System(error)) => match error {
                publish::Error::Full { path, source } => Self::Full(path, errno(&source)),
                publish::Error::InTheWay { path } => Self::InTheWay(path),
                publish::Error::Io { call, path, source } => {
                    Self::Failed(call, path, errno(&source))
                }
                _ => Self::Failed(CALLS[0], PathBuf::new(), Errno::IO),
            },
            Err(_) => Self::Failed(CALLS[0], PathBuf::new(), Errno::IO),
        }
    }

    /// What the mounter's own result was, about the volume `id`.
    pub(super) fn into_result(self, id: &VolumeId) -> Result<bool, Error> {
        use publish::Error::{Full, InTheWay, Io};
        let error = match self {
            Self::Done => return Ok(false),
            Self::Yes => return Ok(true),
            Self::Unknown => return Err(Error::Unknown { id: id.clone() }),
            Self::Full(path, errno) => Full { path, source: errno.into() },
            Self::InTheWay(path) => InTheWay { path },
            Self::Failed(call, path, errno) => Io { call, path, source: errno.into() },
            Self::Refused => {
                let call = "have from the mounter";
                Io { call, path: id.as_str().into(), source: Errno::PERM.into() }
            }
        };
        Err(error.into())
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let (outcome, call, errno, path) = match self {
            Self::Done => (0, None, None, None),
            Self::Yes => (1, None, None, None),
            Self::Unknown => (2, None, None, None),
            Self::Full(path, errno) => (3, None, Some(errno), Some(path)),
            Self::InTheWay(path) => (4, None, None, Some(path)),
            Self::Failed(call, path, errno) => (5, Some(*call), Some(errno), Some(path)),
            Self::Refused => (6, None, None, None),
        };
        let call = CALLS.iter().position(|known| Some(*known) == call).unwrap_or_default();
        let errno = errno.map_or(0, |errno| errno.raw_os_error());
        let mut message = vec![outcome, u8::try_from(call).unwrap_or_default()];
        message.extend(u16::try_from(errno).unwrap_or_default().to_be_bytes());
        let path = path.map(|path| path.as_os_str().as_bytes()).unwrap_or_default();
        message.extend(&path[..path.len().min(PATH_BYTES_MAX)]);
        message
    }

    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let (&[outcome, call, high, low], path) = message.split_first_chunk()?;
        let errno = || Errno::from_raw_os_error(i32::from(u16::from_be_bytes([high, low])));
        let path = || Path::new(OsStr::from_bytes(path)).to_path_buf();
        Some(match outcome {
            0 => Self::Done,
            1 => Self::Yes,
            2 => Self::Unknown,
            3 => Self::Full(path(), errno()),
            4 => Self::InTheWay(path()),
            5 => Self::Failed(CALLS.get(usize::from(call))?, path(), errno()),
            6 => Self::Refused,
            _ => return None,
        })
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request> {
        let id = VolumeId::parse(&"v".repeat(VolumeId::BYTES_MAX)).unwrap();
        let space = Space { bytes: u64::MAX - 1, inodes: 1 << 40 };
        let mut requests: Vec<_> = [Request::Publish, Request::Tidy, Request::IsPublished]
            .iter()
            .map(|make| make(id.clone()))
            .collect();
        for may_run in [false, true] {
            requests.push(Request::Create(id.clone(), may_run, space));
            requests.push(Request::Adjust(id.clone(), may_run, space));
        }
        requests.push(Request::Remove(VolumeId::parse("v").unwrap()));
        requests
    }

    #[test]
    fn requests_are_read_as_they_were_said_and_no_other_way() {
        for request in requests() {
            let message = request.encode();
            assert_eq!(Request::decode(&message).as_ref(), Some(&request));
            for length in 0..REQUEST_BYTES {
                assert_eq!(Request::decode(&message[..length]), None);
            }
            assert_eq!(Request::decode(&[&message[..], &[0]].concat()), None);
            for position in 0..REQUEST_BYTES {
                for value in 0..=u8::MAX {
                    let mut other = message;
                    other[position] = value;
                    if let Some(read) = Request::decode(&other) {
                        assert_eq!(read.encode(), other);
                    }
                }
            }
        }
    }

    #[test]
    fn answers_are_as_the_mounters_own_errors() {
        let id = VolumeId::parse("v").unwrap();
        let path = PathBuf::from("/run/sealift/new/v");
        let source = || Errno::NOSPC.into();
        let errors: [Error; 5] = [
            Error::Unknown { id: id.clone() },
            publish::Error::Full { path: path.clone(), source: source() }.into(),
            publish::Error::InTheWay { path: path.clone() }.into(),
            publish::Error::Io { call: "fsopen", path: path.clone(), source: source() }.into(),
            publish::Error::Io { call: "move_mount", path, source: Errno::INVAL.into() }.into(),
        ];
        for error in errors {
            let expected = format!("{error:?}");
            let message = Answer::of(Err(error)).encode();
            let heard = Answer::decode(&message).unwrap().into_result(&id).unwrap_err();
            assert_eq!(format!("{heard:?}"), expected);
        }
        for value in [true, false] {
            let heard = Answer::decode(&Answer::of(Ok(value)).encode()).unwrap();
            assert_eq!(heard.into_result(&id).unwrap(), value);
        }
        for bad in [&b""[..], b"\0\0\0", b"\x07\0\0\0", b"\x05\xff\0\0"] {
            assert_eq!(Answer::decode(bad), None, "{bad:?}");
        }
        let long = Answer::InTheWay("p".repeat(5_000).into());
        assert_eq!(long.encode().len(), ANSWER_BYTES_MAX);
    }
}
