//! Which system calls, by seccomp: the parts that lists are made of, and the list of [`crate::program`].

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

/// System calls, each with what must hold of its arguments; one of several rules is enough.
pub type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// What an asynchronous program with files and sockets calls, whatever the arguments.
const PROGRAM: &[c_long] = &[
    // Memory, threads, time, signals to itself.
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_mremap,
    libc::SYS_munlock,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    // Files.
    libc::SYS_close,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_sendfile,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
    // Sockets, and waiting for them.
    // A client of the kernel's own (netlink) binds as well.
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
];

/// The older forms of some, which libraries still call where they exist.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// What none of our programs does and an intruder would: other programs and processes, mounts, the
/// kernel, other users' rights.
const INTRUDER: &[c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_capset,
    libc::SYS_chroot,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_finit_module,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_init_module,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mknodat,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setgid,
    libc::SYS_setns,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setuid,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// Which sockets a program may have beside those that connect to others on the network.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sockets {
    /// Those of this machine.
    pub(crate) unix: bool,
    /// Those that wait for others.
    pub(crate) listen: bool,
}

/// Filters the calling thread as [`crate::program`] says.
pub(crate) fn program(sockets: Sockets) -> Result<(), Error> {
    apply_filter(&intruder()?)?;
    apply_filter(&listed(sockets)?)
}

/// Kills who makes one of [`INTRUDER`].
fn intruder() -> Result<BpfProgram, BackendError> {
    let rules = INTRUDER.iter().map(|call| (*call, vec![])).collect();
    compile(rules, SeccompAction::Allow, SeccompAction::KillProcess)
}

/// Lets pass what is listed.
fn listed(sockets: Sockets) -> Result<BpfProgram, BackendError> {
    let mut rules: Rules = PROGRAM.iter().chain(OLDER).map(|call| (*call, vec![])).collect();
    if sockets.listen {
        rules.extend([libc::SYS_listen, libc::SYS_accept4].map(|call| (call, vec![])));
    }
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![masked(2, libc::PROT_EXEC, 0)?]);
    }
    // Threads, no processes. `clone3` is not listed, since its flags are out of a filter's sight:
    // the C library then takes this one.
    rules.insert(libc::SYS_clone, vec![masked(0, libc::CLONE_THREAD, libc::CLONE_THREAD)?]);
    // The name of a thread; whether it may be dumped.
    rules.insert(libc::SYS_prctl, any_of(0, &[libc::PR_SET_NAME, libc::PR_GET_DUMPABLE])?);
    // Limits of its own are read, not changed.
    rules.insert(libc::SYS_prlimit64, vec![all_of(vec![long_equal(2, 0)?])?]);
    let mut families = vec![libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    if sockets.unix {
        families.push(libc::AF_UNIX);
    }
    rules.insert(libc::SYS_socket, any_of(0, &families)?);
    // Without waiting; how much is there; whether it is a terminal, and how wide.
    rules.insert(libc::SYS_ioctl, any_of(1, &[FIONBIO, FIONREAD, TCGETS, TIOCGWINSZ])?);
    // How a process aborts: a signal to itself.
    let own = rustix::process::getpid().as_raw_nonzero().get();
    for call in [libc::SYS_tgkill, libc::SYS_kill] {
        rules.insert(call, vec![equal(0, own)?]);
    }
    compile(rules, SeccompAction::Errno(libc::ENOSYS.unsigned_abs()), SeccompAction::Allow)
}

// As ints, like the other constants here.
#[allow(clippy::cast_possible_truncation, reason = "a number below 2^31")]
const FIONBIO: i32 = libc::FIONBIO as i32;
#[allow(clippy::cast_possible_truncation, reason = "a number below 2^31")]
const FIONREAD: i32 = libc::FIONREAD as i32;
#[allow(clippy::cast_possible_truncation, reason = "a number below 2^31")]
const TCGETS: i32 = libc::TCGETS as i32;
#[allow(clippy::cast_possible_truncation, reason = "a number below 2^31")]
const TIOCGWINSZ: i32 = libc::TIOCGWINSZ as i32;

/// An argument, taken as an int, is `value`.
pub fn equal(argument: u8, value: i32) -> Result<SeccompRule, BackendError> {
    rule(argument, SeccompCmpOp::Eq, value)
}

/// The bits of `mask` are as in `value`, in an argument taken as an int.
pub fn masked(argument: u8, mask: i32, value: i32) -> Result<SeccompRule, BackendError> {
    rule(argument, SeccompCmpOp::MaskedEq(u64::from(mask.cast_unsigned())), value)
}

/// An argument, taken as an int, is one of `values`.
fn any_of(argument: u8, values: &[i32]) -> Result<Vec<SeccompRule>, BackendError> {
    values.iter().map(|value| equal(argument, *value)).collect()
}

fn all_of(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions)
}

fn long_equal(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
}

fn rule(argument: u8, operator: SeccompCmpOp, value: i32) -> Result<SeccompRule, BackendError> {
    let value = u64::from(value.cast_unsigned());
    let width = SeccompCmpArgLen::Dword;
    SeccompRule::new(vec![SeccompCondition::new(argument, width, operator, value)?])
}

/// `matched` for calls that a rule is about, `other` for all others.
pub fn compile(
    rules: Rules,
    other: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let machine = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, other, matched, machine)?.try_into()
}

#[cfg(test)]
mod tests;
