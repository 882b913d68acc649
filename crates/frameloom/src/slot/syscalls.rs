//! What a slot may not ask of the kernel: sockets, other programs, other processes, owners and modes of files.
//! Landlock guards what is opened; this guards the rest, by a seccomp filter that answers "not permitted".
//!
//! It names what is refused and lets all else through: FFmpeg, OpenCV, ONNX Runtime and the drivers of graphics
//! cards ask for more than anybody has listed, and change with each version.

use std::collections::BTreeMap;

use frameloom_core::{Error, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Refused whatever is asked: each reaches beyond what a slot holds.
const REFUSED: &[i64] = &[
    // The network, and other processes by their sockets: one of a pair reaches others, too.
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    // Asks for what the others do without their names.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Other programs, and a look into other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    // Owners, modes, attributes and, in kernels before 6.2, lengths of files by their paths, over which Landlock does not
    // watch; and what is told of others' files.
    libc::SYS_truncate,
    libc::SYS_inotify_init1,
    libc::SYS_fanotify_init,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_utimensat,
    libc::SYS_open_by_handle_at,
    // Another view of the system.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    // Memory and messages shared by name.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    // Parts of the kernel that have been ways in.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// Those that only older architectures have.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_inotify_init,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

/// Commands of `fcntl` and `ioctl` that have the kernel send a signal of one's choice to a process of one's choice.
const OWNERS: [u64; 3] = [8, 10, 15];
const SOCKET_OWNERS: [u64; 2] = [0x8901, 0x8902];

/// Refuses all calls of x86's third set (x32), which some kernels have: the same calls by other numbers, from this one on.
#[cfg(target_arch = "x86_64")]
fn without_others(program: BpfProgram) -> BpfProgram {
    const FIRST: u32 = 0x4000_0000;
    // BPF's codes: load a word, go on there or here by whether it is at least so much, answer.
    let [load, jump, answer] = [0x20, 0x35, 0x06];
    let step = |code: u16, jf: u8, k: u32| seccompiler::sock_filter { code, jt: 0, jf, k };
    let number = step(load, 0, 0);
    let others = step(jump, 1, FIRST);
    let refuse = step(answer, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs());
    [number, others, refuse].into_iter().chain(program).collect()
}
#[cfg(not(target_arch = "x86_64"))]
fn without_others(program: BpfProgram) -> BpfProgram {
    program
}

/// Has the kernel refuse them to this thread and those that it starts. Answers whether it does.
///
/// # Errors
/// Internal where the filter is wrong.
pub(crate) fn refuse() -> Result<bool> {
    let first = rules().map_err(wrong)?;
    // Its flags lie in memory, where a filter cannot look. The C library then asks by `clone`.
    let second = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let programs = [program(first, libc::EPERM)?, program(second, libc::ENOSYS)?];
    for program in &programs {
        match seccompiler::apply_filter(program) {
            Ok(()) => {}
            Err(seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error)) => {
                tracing::warn!(%error, "this kernel filters no system calls: a slot that is taken over could use the network");
                return Ok(false);
            }
            Err(error) => return Err(wrong(error)),
        }
    }
    Ok(true)
}

fn wrong(error: impl std::fmt::Display) -> Error {
    Error::internal(format!("cannot filter a slot's system calls: {error}"))
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules() -> std::result::Result<Rules, seccompiler::BackendError> {
    let me = u64::from(std::process::id());
    let compare = |argument, operator, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
    };
    let refused = REFUSED.iter().chain(REFUSED_HERE).copied();
    let mut rules: Rules = refused.map(|number| (number, Vec::new())).collect();
    for (number, commands) in [(libc::SYS_fcntl, &OWNERS[..]), (libc::SYS_ioctl, &SOCKET_OWNERS)] {
        let rule = |command: &u64| SeccompRule::new(vec![compare(1, SeccompCmpOp::Eq, *command)?]);
        rules.insert(number, commands.iter().map(rule).collect::<std::result::Result<_, _>>()?);
    }
    let threads = u64::from(libc::CLONE_THREAD.unsigned_abs());
    rules.insert(
        libc::SYS_clone,
        vec![SeccompRule::new(vec![compare(0, SeccompCmpOp::MaskedEq(threads), 0)?])?],
    );
    // A slot ends itself, and nobody else.
    for number in [libc::SYS_kill, libc::SYS_tgkill] {
        let other = compare(0, SeccompCmpOp::Ne, me)?;
        rules.insert(number, vec![SeccompRule::new(vec![other])?]);
    }
    let others = vec![compare(0, SeccompCmpOp::Ne, 0)?, compare(0, SeccompCmpOp::Ne, me)?];
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(others)?]);
    Ok(rules)
}

fn program(rules: Rules, answer: i32) -> Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().map_err(wrong)?;
    let answer = SeccompAction::Errno(answer.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, arch).map_err(wrong)?;
    filter.try_into().map(without_others).map_err(wrong)
}
