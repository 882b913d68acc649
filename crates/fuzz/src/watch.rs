//! What a run takes, and runs that do not end.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long a run may take, whatever else the machine does.
const ENDLESS: Duration = Duration::from_secs(120);

/// Whether the process is the target's alone: what it takes is what the target takes.
pub(crate) fn is_alone() -> bool {
    ["NEXTEST", "FRAMELOOM_FUZZ_SECONDS", "FRAMELOOM_FUZZ_INPUT"]
        .iter()
        .any(|variable| std::env::var_os(variable).is_some())
}

/// Processor time: of the process where it is the target's alone, else of this thread.
pub(crate) fn cpu_time() -> Duration {
    let clock = if is_alone() { ClockId::ProcessCPUTime } else { ClockId::ThreadCPUTime };
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A seed that is another one each time.
pub(crate) fn any_seed() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec.unsigned_abs().wrapping_mul(1_000_000_007) ^ now.tv_nsec.unsigned_abs()
}

/// The most memory that the process had, in bytes; 0 where the system does not tell.
pub(crate) fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Ends the process where a run does not end.
pub(crate) struct Watchdog {
    _ended: SyncSender<()>,
}

impl Watchdog {
    /// Watches over a run until it is dropped.
    pub(crate) fn over(name: &str, input: &Path) -> Self {
        let (sender, ended) = mpsc::sync_channel::<()>(0);
        let said = format!("{name}: a run does not end; its input: {}", input.display());
        std::thread::spawn(move || {
            if ended.recv_timeout(ENDLESS) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{said}");
                std::process::abort();
            }
        });
        Self { _ended: sender }
    }
}
