//! The subcommands, one file each.

pub(crate) mod broker;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod filters;
pub(crate) mod health;
pub(crate) mod jobs;
pub(crate) mod listen;
pub(crate) mod man;
pub(crate) mod plan;
pub(crate) mod probe;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod slot;
pub(crate) mod submit;
pub(crate) mod units;
pub(crate) mod verify;
pub(crate) mod worker;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use frameloom_core::slot::SlotCommand;
use frameloom_core::spec::{Container, DetectionsFormat, JobSpec, SpecFile};
use frameloom_core::{Error, ErrorKind, Result};
use frameloom_server::engine::Fault;
use frameloom_server::store::JobDir;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{FilesLie, JobArgs};
use crate::slot::parent::{Job, Slot, SlotConfig, Trouble};

/// Prints to standard output; a reader that has gone is no error.
///
/// # Errors
/// Exhausted where standard output is a full disk.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("cannot write to standard output", &e))
        }
        _ => Ok(()),
    }
}

/// Segments done at a time: as asked for, or one a core.
pub(crate) fn slots(asked: Option<u16>) -> usize {
    asked.map_or_else(
        || std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        usize::from,
    )
}

/// Segments that need a GPU done at a time: as asked for, or two where the machine has an NVIDIA GPU, and none where
/// it has not.
pub(crate) fn gpu_slots(asked: Option<u16>) -> usize {
    let has_gpu = || Path::new("/dev/nvidiactl").exists();
    asked.map_or_else(|| if has_gpu() { GPU_SLOTS } else { 0 }, usize::from)
}

/// Segments that need a GPU done at a time, where nothing else is said: few, for each has a session on the card.
pub(crate) const GPU_SLOTS: usize = 2;

/// Lets the store's group write what this process makes there, and others read nothing of it.
pub(crate) fn share_with_group() {
    rustix::process::umask(rustix::fs::Mode::RWXO);
}

/// This machine's name.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A file's name for a person: control characters are escaped.
pub(crate) fn shown(path: &Path) -> String {
    path.to_string_lossy()
        .chars()
        .flat_map(|c| {
            let escaped: Vec<char> =
                if c.is_control() { c.escape_default().collect() } else { vec![c] };
            escaped
        })
        .collect()
}

/// The job that is asked for, with its output and the file of its detections; without an output the
/// detections are all that is wanted.
///
/// # Errors
/// Invalid with what is wrong.
pub(crate) fn spec(
    job: &JobArgs,
    output: Option<&Path>,
    detections: Option<&Path>,
    lie: FilesLie,
) -> Result<JobSpec> {
    let name = detections.map(Path::to_string_lossy);
    let format = name.map(|name| DetectionsFormat::of_file_name(&name)).transpose()?;
    let only = format.filter(|_| job.detections_only);
    let container = match output {
        Some(output) => Container::of_file_name(&output.to_string_lossy())?,
        None => Container::Mp4,
    };
    let spec = job.spec(container, only, lie)?;
    if let (Some(format), None) = (format, only) {
        if !spec.filters.iter().any(frameloom_media::tells_of_things) {
            return Err(Error::invalid(
                "--detections needs a filter that tells of something: faces, objects, motion or regions",
            ));
        }
        if format != DetectionsFormat::Jsonl {
            return Err(Error::invalid(format!(
                "--detections '{}': beside a video they are written as .jsonl; --detections-only writes .csv and .json",
                shown(detections.unwrap_or(Path::new("")))
            )));
        }
    }
    Ok(spec)
}

/// Refuses a job that looks for things by a model where ONNX Runtime is not there: before any work, and once.
///
/// # Errors
/// Unavailable with what to do.
pub(crate) fn check_runtime(spec: &JobSpec) -> Result<()> {
    spec.filters.iter().filter(|filter| frameloom_media::is_detector(filter)).try_for_each(
        |filter| {
            frameloom_media::runtime_or_advice()
                .map(drop)
                .map_err(|e| e.at(format!("filter '{filter}'")))
        },
    )
}

/// Copies the files that a job's filters take into its directory.
///
/// # Errors
/// Conflict where one has changed since it was looked at; of the file system.
pub(crate) fn attach(dir: &JobDir<'_>, spec: &JobSpec) -> Result<()> {
    for SpecFile { name, sha256, .. } in &spec.files {
        dir.attach(name, &open_file(Path::new(name))?, sha256)?;
    }
    Ok(())
}

/// Opens a source that the user named.
///
/// # Errors
/// NotFound, Invalid for a directory or a device, and what the system says otherwise.
pub(crate) fn open_source(path: &Path) -> Result<File> {
    open_regular(path, "a pipe is taken as '-'")
}

/// Opens a file that the user named and that is no source; errors as [`open_source`].
pub(crate) fn open_file(path: &Path) -> Result<File> {
    open_regular(path, "give a file")
}

fn open_regular(path: &Path, advice: &str) -> Result<File> {
    let name = shown(path);
    let circle = rustix::io::Errno::LOOP.raw_os_error();
    let meta = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(format!("'{name}' does not exist")),
        _ if e.raw_os_error() == Some(circle) => {
            Error::invalid(format!("'{name}' is a link that leads to no file, but to itself"))
        }
        _ => Error::io(format!("cannot read '{name}'"), &e),
    })?;
    if meta.is_dir() {
        return Err(Error::invalid(format!("'{name}' is a directory; give a file")));
    }
    if !meta.is_file() {
        return Err(Error::invalid(format!("'{name}' is not a regular file; {advice}")));
    }
    File::open(path).map_err(|e| Error::io(format!("cannot read '{name}'"), &e))
}

/// How slots of this program are run.
///
/// # Errors
/// Unavailable where the program cannot be found again.
pub(crate) fn slot_config(memory: u64, timeout: Duration) -> Result<SlotConfig> {
    let program = std::env::current_exe()
        .map_err(|e| Error::io("cannot find this program to start slots", &e))?;
    Ok(SlotConfig { program, memory, timeout, nice: 0 })
}

/// Has one slot do one short task on `source`, and reads the JSON that it makes.
///
/// # Errors
/// Of the task; Cancelled where Ctrl-C or SIGTERM stops it.
pub(crate) fn in_slot<T: DeserializeOwned>(
    source: &File,
    files: &[File],
    command: SlotCommand,
) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("cannot start", &e))?;
    let memory = rustix::fs::memfd_create("report", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|e| Error::io("cannot make a file in memory", &e.into()))?;
    let mut made = File::from(memory);
    let copy = |file: &File| {
        file.try_clone().map(OwnedFd::from).map_err(|e| Error::io("cannot hand on a file", &e))
    };
    let mut descriptors = vec![copy(source)?];
    for file in files {
        descriptors.push(copy(file)?);
    }
    descriptors.push(copy(&made)?);
    runtime.block_on(async {
        let config = slot_config(2 << 30, Duration::from_secs(60))?;
        let mut slot = Slot::new("control".into(), config);
        let job = Job {
            command,
            descriptors,
            segment: &|_| Err(Error::internal("nothing is joined here")),
            frames: None,
            progress: &|_| {},
            preview: &|_| {},
            cancelled: &|| false,
        };
        let failed = |e: std::io::Error| Error::io("cannot watch signals", &e);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let ended = tokio::select! {
            ended = slot.run(job) => ended,
            _ = interrupt.recv() => Err(Trouble::Cancelled),
            _ = terminate.recv() => Err(Trouble::Cancelled),
        };
        slot.kill().await;
        ended.map(drop).map_err(|trouble| match trouble {
            Trouble::Failed { error, .. } => error,
            Trouble::Cancelled => Error::new(ErrorKind::Cancelled, "stopped"),
        })
    })?;
    let mut text = Vec::new();
    made.rewind()
        .and_then(|()| made.read_to_end(&mut text))
        .map_err(|e| Error::io("cannot read a slot's report", &e))?;
    serde_json::from_slice(&text)
        .map_err(|e| Error::internal("a slot's report is malformed").with_source(e))
}

/// Aborts the process at the step that `--fault` names: `STEP`, or `STEP:N` when it comes the Nth time;
/// with `=full` behind, the step finds no room instead.
pub(crate) fn fault(wanted: Option<String>) -> Fault {
    let full = wanted.as_ref().is_some_and(|wanted| wanted.ends_with("=full"));
    let wanted = wanted.map(|wanted| wanted.trim_end_matches("=full").to_owned());
    let (step, nth) = match wanted.as_deref().and_then(|wanted| wanted.split_once(':')) {
        Some((step, nth)) => (Some(step.to_owned()), nth.parse().unwrap_or(1)),
        None => (wanted, 1),
    };
    let come = AtomicU32::new(0);
    Box::new(move |at| {
        if step.as_deref() == Some(at) && come.fetch_add(1, Ordering::Relaxed) + 1 == nth {
            if full {
                return Err(Error::exhausted(format!("{at}: no room, as --fault has it")));
            }
            std::process::abort();
        }
        Ok(())
    })
}

/// JSON for people and programs.
///
/// # Errors
/// Internal where it cannot be written.
pub(crate) fn pretty<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|e| Error::internal("cannot write JSON").with_source(e))
}
