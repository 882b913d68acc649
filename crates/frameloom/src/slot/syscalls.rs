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
    // The network, and other processes by their sockets. A connected pair reaches nobody.
    libc::SYS_socket,
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
    // Owners, modes and attributes of files, over which Landlock does not watch.
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
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

/// The same calls under the numbers of x86's third set (x32), where a kernel has it: a bit more, and those with
/// numbers of their own: execve, ptrace, the two that look into another process's memory, execveat.
#[cfg(target_arch = "x86_64")]
fn by_other_numbers() -> impl Iterator<Item = i64> {
    const BIT: i64 = 0x4000_0000;
    let same = REFUSED.iter().chain(REFUSED_HERE).copied();
    same.chain([520, 521, 539, 540, 545]).map(|number| number | BIT)
}
#[cfg(not(target_arch = "x86_64"))]
fn by_other_numbers() -> impl Iterator<Item = i64> {
    std::iter::empty()
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
    let refused = REFUSED.iter().chain(REFUSED_HERE).copied().chain(by_other_numbers());
    let mut rules: Rules = refused.map(|number| (number, Vec::new())).collect();
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
    filter.try_into().map_err(wrong)
}
