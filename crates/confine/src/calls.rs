//! Which system calls, by seccomp: the parts that lists are made of, and the list of [`crate::program`].

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

/// System calls, each with what must hold of its arguments; one of several rules is enough.
pub type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// What an asynchronous program with files and sockets calls, whatever the arguments. Each is seen in
/// usual work by a test (`sealift::calls::every_listed_call_is_made_or_has_its_reason`), and taken off
/// the list when no program makes it any more.
pub const USUAL: &[c_long] = &[
    // Memory, threads, signals to itself.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_munmap,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // Files.
    libc::SYS_close,
    libc::SYS_fchmod,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
    // Sockets, and waiting for them.
    libc::SYS_connect,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_eventfd2,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
];

/// What the same programs call at other times than a test can see, and why.
pub const RARE: &[(c_long, &str)] = &[
    (libc::SYS_brk, "an allocator's other way to memory"),
    (libc::SYS_clock_getres, "clocks, where there is no vDSO"),
    (libc::SYS_clock_gettime, "clocks, where there is no vDSO"),
    (libc::SYS_gettimeofday, "clocks, where there is no vDSO"),
    (libc::SYS_clock_nanosleep, "a thread that waits before it tries again"),
    (libc::SYS_nanosleep, "a thread that waits before it tries again"),
    (libc::SYS_sched_yield, "a lock that is about to be free"),
    (libc::SYS_restart_syscall, "the kernel itself, after a stop"),
    (libc::SYS_rt_sigreturn, "the end of a signal's handler"),
    (libc::SYS_mremap, "a large block that grows"),
    (libc::SYS_mlock2, "mlock of other C libraries"),
    (libc::SYS_getgid, "who it runs as, for files it keeps"),
    (libc::SYS_getuid, "who it runs as, for files it keeps"),
    (libc::SYS_getpid, "names of temporary files, and aborting"),
    (libc::SYS_sysinfo, "how much memory there is, of sorting in the C library"),
    (libc::SYS_uname, "what a client says of its machine"),
    (libc::SYS_faccessat, "whether a file may be read, of libraries"),
    (libc::SYS_faccessat2, "whether a file may be read, of libraries"),
    (libc::SYS_fchmodat, "a socket's file is its user's alone"),
    (libc::SYS_getcwd, "where a relative path begins"),
    (libc::SYS_readlinkat, "which revision of a volume is there"),
    (libc::SYS_sendfile, "a file from a disk into memory"),
    (libc::SYS_readv, "TLS"),
    (libc::SYS_bind, "a client of the kernel's own (netlink)"),
    (libc::SYS_recvmsg, "network: names, and the kernel's own socket"),
    (libc::SYS_sendmsg, "network: names"),
    (libc::SYS_sendmmsg, "network: names, both kinds of address at once"),
    (libc::SYS_sendto, "network"),
    (libc::SYS_epoll_pwait, "waiting, where there is no epoll_wait"),
    (libc::SYS_ppoll, "waiting, where there is no poll"),
    (libc::SYS_pipe2, "a pipe of its own, for signals"),
];

/// The older forms of some, which libraries still call where they exist.
#[cfg(target_arch = "x86_64")]
pub const OLDER: &[c_long] = &[
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
/// Newer architectures never had them.
#[cfg(not(target_arch = "x86_64"))]
pub const OLDER: &[c_long] = &[];

/// How changes of directories are heard of.
const WATCHING: [c_long; 3] =
    [libc::SYS_inotify_init1, libc::SYS_inotify_add_watch, libc::SYS_inotify_rm_watch];

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

/// Flags of `clone` that make the kernel's harder to survey parts reachable.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// What a program reaches beside files that it opens, and what was open before.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reach {
    /// TCP and UDP, and the kernel's own socket that tells of addresses.
    pub(crate) internet: bool,
    /// Sockets of this machine.
    pub(crate) unix: bool,
    /// Virtual machines of this one.
    pub(crate) vsock: bool,
    /// Sockets that wait for others, of its own making.
    pub(crate) listen: bool,
    /// Those that come to a socket that listens.
    pub(crate) accept: bool,
    /// What changes in directories.
    pub(crate) watch: bool,
    /// Owners of files that are open.
    pub(crate) owners: bool,
}

/// Filters the calling thread as [`crate::program`] says.
pub(crate) fn program(reach: Reach) -> Result<(), Error> {
    apply_filter(&intruder()?)?;
    apply_filter(&listed(reach)?)
}

/// Filters the calling thread as [`crate::stranger`] says.
pub(crate) fn stranger() -> Result<(), Error> {
    // Its flags are out of a filter's sight. The C library then takes `clone`, whose flags are not.
    let clone3 = Rules::from([(libc::SYS_clone3, vec![])]);
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    apply_filter(&compile(clone3, SeccompAction::Allow, missing)?)?;
    apply_filter(&forbidden()?)
}

/// Refuses [`INTRUDER`], and namespaces: with an error, for which a library may have another way.
fn forbidden() -> Result<BpfProgram, BackendError> {
    let mut rules: Rules = INTRUDER.iter().map(|call| (*call, vec![])).collect();
    let namespaces = NAMESPACES.iter().map(|flag| masked(0, *flag, *flag));
    rules.insert(libc::SYS_clone, namespaces.collect::<Result<_, _>>()?);
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    compile(rules, SeccompAction::Allow, refused)
}

/// Kills who makes one of [`INTRUDER`].
fn intruder() -> Result<BpfProgram, BackendError> {
    let rules = INTRUDER.iter().map(|call| (*call, vec![])).collect();
    compile(rules, SeccompAction::Allow, SeccompAction::KillProcess)
}

/// What is listed whatever its arguments.
fn always() -> impl Iterator<Item = c_long> {
    USUAL.iter().chain(OLDER).copied().chain(RARE.iter().map(|(call, _)| *call))
}

/// Lets pass what is listed.
fn listed(reach: Reach) -> Result<BpfProgram, BackendError> {
    let mut rules: Rules = always().map(|call| (call, vec![])).collect();
    if reach.listen {
        rules.insert(libc::SYS_listen, vec![]);
    }
    if reach.listen || reach.accept {
        rules.insert(libc::SYS_accept4, vec![]);
    }
    if reach.owners {
        rules.insert(libc::SYS_fchown, vec![]);
    }
    if reach.watch {
        rules.extend(WATCHING.map(|call| (call, vec![])));
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
    let families = [
        (reach.internet, libc::AF_INET),
        (reach.internet, libc::AF_INET6),
        (reach.internet, libc::AF_NETLINK),
        (reach.unix, libc::AF_UNIX),
        (reach.vsock, libc::AF_VSOCK),
    ];
    let families: Vec<_> =
        families.into_iter().filter_map(|(granted, family)| granted.then_some(family)).collect();
    if !families.is_empty() {
        rules.insert(libc::SYS_socket, any_of(0, &families)?);
    }
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
