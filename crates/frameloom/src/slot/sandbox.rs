//! What a slot may still do, by the kernel's word. Open: libraries, fonts, what tells of the machine,
//! and the devices of hardware encoders. Sources and outputs come as open descriptors, for which
//! no rule is asked. Linux's Landlock does it, as far as the kernel has it (5.13 and later). What else could reach
//! beyond the slot, `syscalls.rs` refuses.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use frameloom_core::{Error, Result};
use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope, path_beneath_rules,
};
use rustix::process::{Resource, Rlimit};

use super::syscalls;

/// The newest version of Landlock whose rights are asked for; an older kernel gives those it has.
const VERSION: ABI = ABI::V6;

/// What may be read, and run as code: libraries and their data, fonts, facts of the machine. ONNX Runtime's
/// libraries come beside: detectors load them when they are wanted first.
const READABLE: [&str; 14] = [
    "/usr",
    "/lib",
    "/lib64",
    "/nix/store",
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/OpenCL",
    "/var/cache/fontconfig",
    "/proc/cpuinfo",
    "/sys/devices",
    "/sys/fs/cgroup",
];

/// Devices that may be used: none that stores.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/dri"];

/// Files that a slot may have open: two for each segment that it joins at a time, libraries, and more than enough.
const OPEN_FILES: u64 = 1024;

/// The largest file that a slot may write: far more than a video takes, far less than a file system.
const LARGEST_FILE: u64 = 4 << 40;

/// What the kernel does for a slot.
pub(crate) struct Shut {
    /// What it may open.
    pub(crate) landlock: LandlockStatus,
    /// Whether its system calls are filtered.
    pub(crate) filtered: bool,
}

/// Shuts this thread, and those that it starts from now on, off from everything else. It is to be
/// called before there is another thread.
///
/// # Errors
/// Internal where the kernel refuses rules that it knows.
pub(crate) fn enter() -> Result<Shut> {
    let landlock = shut_files()?;
    limit();
    Ok(Shut { landlock, filtered: syscalls::refuse()? })
}

/// Bounds what is counted for a process. Not its processor time: a slot lives as long as its node.
fn limit() {
    for (resource, most) in [
        (Resource::Nofile, OPEN_FILES),
        (Resource::Fsize, LARGEST_FILE),
        // It would hold frames of somebody's video.
        (Resource::Core, 0),
    ] {
        let now = rustix::process::getrlimit(resource);
        let most = now.maximum.map_or(most, |allowed| allowed.min(most));
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        if let Err(error) = rustix::process::setrlimit(resource, limit) {
            tracing::warn!(%error, ?resource, "a slot's limit cannot be set");
        }
    }
}

fn shut_files() -> Result<LandlockStatus> {
    let failed =
        |e: landlock::RulesetError| Error::internal(format!("cannot shut the slot off: {e}"));
    let readable = READABLE.iter().map(PathBuf::from).chain(libraries()).chain(onnx_runtime());
    let devices = DEVICES.iter().map(PathBuf::from).chain(nvidia());
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(VERSION)))
        .and_then(|rules| rules.scope(Scope::from_all(VERSION)))
        .and_then(Ruleset::create)
        .and_then(|rules| {
            rules.add_rules(path_beneath_rules(readable, AccessFs::from_read(VERSION)))
        })
        .and_then(|rules| rules.add_rules(path_beneath_rules(devices, AccessFs::from_all(VERSION))))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(failed)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        tracing::warn!(
            "this kernel has no Landlock: nothing but Frameloom's own care keeps slots from opening files"
        );
    }
    Ok(status.landlock)
}

/// ONNX Runtime's library, and those beside it that it may load; nothing else there.
fn onnx_runtime() -> Vec<PathBuf> {
    let directory = frameloom_media::runtime().and_then(|found| found.path.parent());
    let Some(entries) = directory.and_then(|directory| std::fs::read_dir(directory).ok()) else {
        return Vec::new();
    };
    let ours = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("libonnxruntime");
    entries.flatten().filter(|entry| ours(&entry.file_name())).map(|entry| entry.path()).collect()
}

/// The directories of the libraries that this process has loaded, wherever they are installed.
fn libraries() -> BTreeSet<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines()
        .filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])))
        .filter(|path| path.to_string_lossy().contains(".so"))
        .filter_map(Path::parent)
        .map(Path::to_owned)
        .collect()
}

/// NVIDIA's devices.
fn nvidia() -> Vec<PathBuf> {
    let Ok(devices) = std::fs::read_dir("/dev") else { return Vec::new() };
    devices
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("nvidia"))
        .map(|entry| entry.path())
        .collect()
}
