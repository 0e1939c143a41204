//! [`passes`]: a seccomp filter, run by hand: every call, whatever this kernel has. [`confinement`]:
//! whether a process has one.

use seccompiler::BpfProgram;

/// Whether a filter lets a call pass: the few instructions that seccompiler makes.
pub fn passes(program: &BpfProgram, call: i64, arguments: [u64; 6]) -> bool {
    let machine: u32 = match std::env::consts::ARCH {
        "x86_64" => 62 | 0xc000_0000,
        _ => 183 | 0xc000_0000,
    };
    let mut data = Vec::new();
    data.extend(i32::try_from(call).expect("a number of a call").to_ne_bytes());
    data.extend(machine.to_ne_bytes());
    data.extend([0; 8]);
    arguments.iter().for_each(|argument| data.extend(argument.to_ne_bytes()));
    let (mut at, mut accumulator) = (0, 0_u32);
    loop {
        let step = &program[at];
        let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
        at += 1;
        match step.code {
            0x20 => {
                let from = step.k as usize;
                accumulator =
                    u32::from_ne_bytes(data[from..from + 4].try_into().expect("four bytes"));
            }
            0x54 => accumulator &= step.k,
            0x05 => at += step.k as usize,
            0x15 => at += jump(accumulator == step.k),
            0x25 => at += jump(accumulator > step.k),
            0x35 => at += jump(accumulator >= step.k),
            0x06 => return step.k == ALLOW,
            code => panic!("an instruction {code:#x}"),
        }
    }
}

/// `SECCOMP_RET_ALLOW` of linux/seccomp.h.
const ALLOW: u32 = 0x7fff_0000;

/// A process's `Seccomp` and `NoNewPrivs`: `["2", "1"]` if it is confined.
///
/// # Panics
///
/// If there is no such process.
#[must_use]
pub fn confinement(pid: u32) -> [String; 2] {
    of_status(pid, ["Seccomp:", "NoNewPrivs:"])
}

/// A process's capabilities that it uses and that it may yet have, in hexadecimal.
///
/// # Panics
///
/// If there is no such process.
#[must_use]
pub fn capabilities(pid: u32) -> [String; 2] {
    of_status(pid, ["CapEff:", "CapBnd:"])
}

fn of_status<const N: usize>(pid: u32, names: [&str; N]) -> [String; N] {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    names.map(|name| {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).expect("a kernel's line");
        line.trim().to_owned()
    })
}

/// Whether a process of another user than root leaves no core and cannot be traced by its user: then
/// the kernel gives what it shows of it to root. Of root's own, only the first is seen.
///
/// # Panics
///
/// If there is no such process.
#[must_use]
pub fn is_hidden(pid: u32) -> bool {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("a process");
    let core = limits.lines().find(|line| line.starts_with("Max core file size"));
    let shown = std::fs::metadata(format!("/proc/{pid}/environ")).expect("a process");
    core.and_then(|line| line.split_whitespace().nth(5)) == Some("0")
        && std::os::unix::fs::MetadataExt::uid(&shown) == 0
}
