//! The filters, run by hand: every call, whatever this kernel has.

use super::*;
use testkit::filter::passes;

/// Numbers of calls that are looked at; those of 2026 are below 480.
const NUMBERS: std::ops::Range<c_long> = 0..1_024;

fn filter(rules: Result<Rules, BackendError>) -> BpfProgram {
    allow_only(rules.unwrap()).unwrap()
}

fn allowed(program: &BpfProgram, arguments: [u64; 6]) -> Vec<c_long> {
    NUMBERS.filter(|call| passes(program, *call, arguments)).collect()
}

fn sorted(lists: &[&[c_long]]) -> Vec<c_long> {
    let mut all = lists.concat();
    all.sort_unstable();
    all
}

#[test]
fn what_is_listed_passes_and_nothing_else() {
    let receiver = filter(receiver_rules(false));
    let with_zeroes = [libc::SYS_mmap, libc::SYS_mprotect];
    assert_eq!(allowed(&receiver, [0; 6]), sorted(&[BOTH, RECEIVER, &with_zeroes]));
    let mounter = filter(mounter_rules(false));
    assert_eq!(allowed(&mounter, [0; 6]), sorted(&[BOTH, MOUNTER, &with_zeroes]));
    // Whatever the arguments are, what must never happen does not.
    for program in [receiver, mounter] {
        for argument in [0, 1, 9, u64::from(u32::MAX), u64::MAX] {
            for call in [
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_ptrace,
                libc::SYS_process_vm_writev,
                libc::SYS_pidfd_open,
                libc::SYS_unshare,
                libc::SYS_setns,
                libc::SYS_bpf,
                libc::SYS_io_uring_setup,
                libc::SYS_keyctl,
                libc::SYS_init_module,
                libc::SYS_open_by_handle_at,
                libc::SYS_fchmodat,
                libc::SYS_fchownat,
                libc::SYS_bind,
                libc::SYS_capset,
            ] {
                assert!(!passes(&program, call, [argument; 6]), "{call} {argument}");
            }
        }
    }
}

#[test]
fn arguments_are_looked_at() {
    let (receiver, connecting) = (filter(receiver_rules(false)), filter(receiver_rules(true)));
    let mounter = filter(mounter_rules(false));
    let dialling = filter(mounter_rules(true));
    let own = u64::from(std::process::id());
    let at = |position: usize, value: u64| {
        let mut arguments = [0; 6];
        arguments[position] = value;
        arguments
    };
    let thread = u64::from(libc::CLONE_THREAD.cast_unsigned()) | 0x3d_0f00;
    let unix = u64::from(libc::AF_UNIX.cast_unsigned());
    let cases = [
        // A thread; a process; the same with a bit that only looks like it.
        (&receiver, libc::SYS_clone, at(0, thread), true),
        (&receiver, libc::SYS_clone, at(0, 17), false),
        (&receiver, libc::SYS_clone, at(0, 0x1_0000_0000_0000), false),
        (&mounter, libc::SYS_clone, at(0, thread), false),
        (&receiver, libc::SYS_mmap, at(2, 3), true),
        (&receiver, libc::SYS_mmap, at(2, 5), false),
        (&receiver, libc::SYS_mprotect, at(2, 7), false),
        (&receiver, libc::SYS_prctl, at(0, 15), true),
        (&receiver, libc::SYS_prctl, at(0, 23), false),
        (&receiver, libc::SYS_ioctl, at(1, 0x5421), true),
        (&receiver, libc::SYS_ioctl, at(1, 0x5412), false),
        (&receiver, libc::SYS_tgkill, at(0, own), true),
        (&receiver, libc::SYS_tgkill, at(0, 1), false),
        (&receiver, libc::SYS_socket, at(0, unix), false),
        (&receiver, libc::SYS_connect, at(0, 0), false),
        (&connecting, libc::SYS_socket, at(0, unix), true),
        (&connecting, libc::SYS_socket, at(0, 2), false),
        (&connecting, libc::SYS_connect, at(0, 0), true),
        (&receiver, libc::SYS_mount, at(3, 32), false),
        (&mounter, libc::SYS_mount, at(3, 32 | 2), true),
        (&mounter, libc::SYS_mount, at(3, 4_096), false),
        (&mounter, libc::SYS_kill, at(1, 9), true),
        (&mounter, libc::SYS_kill, at(1, 15), false),
        (&mounter, libc::SYS_socket, at(0, unix), false),
        (&mounter, libc::SYS_connect, at(0, 0), false),
        (&mounter, libc::SYS_sendmsg, at(0, 0), false),
        (&dialling, libc::SYS_socket, at(0, unix), true),
        (&dialling, libc::SYS_socket, at(0, 2), false),
        (&dialling, libc::SYS_connect, at(0, 0), true),
        (&dialling, libc::SYS_sendmsg, at(0, 0), true),
    ];
    for (program, call, arguments, expected) in cases {
        assert_eq!(passes(program, call, arguments), expected, "{call} {arguments:x?}");
    }
}
