//! A node's hold on one slot: starts it, hands it tasks, watches over it, and starts it anew.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use frameloom_core::metrics::SlotMetrics;
use frameloom_core::slot::{
    FrameNumber, NeededSegment, SlotCommand, SlotEvent, SlotFailed, SlotPreview, TaskOutput,
};
use frameloom_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::wire;
use crate::frames::{Frames, Lost};

/// How often memory and cancellation are looked at.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// Last lines of a slot's standard error that are kept.
const LAST_WORDS: usize = 12;

/// Most bytes of a line of it that are kept.
const LONGEST_LINE: usize = 500;

/// How slots are run.
#[derive(Debug, Clone)]
pub(crate) struct SlotConfig {
    /// The program that knows the `slot` command: this one.
    pub(crate) program: PathBuf,
    /// Most resident memory, in bytes.
    pub(crate) memory: u64,
    /// How long a slot at work may be silent.
    pub(crate) timeout: Duration,
    /// Added to the slot's niceness.
    pub(crate) nice: i32,
}

/// Why a task came to nothing.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The task failed; whether it is to blame.
    Failed {
        /// Why.
        error: Error,
        /// Whether the task is to blame.
        by_task: bool,
    },
    /// Somebody asked for it to stop.
    Cancelled,
}

/// A task for a slot.
pub(crate) struct Job<'a> {
    /// What to do.
    pub(crate) command: SlotCommand,
    /// The descriptors that it needs, in order.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Opens a segment that the joiner asks for.
    pub(crate) segment: &'a (dyn Fn(u32) -> Result<OwnedFd> + Send + Sync),
    /// Carries frames that are processed elsewhere, where the job has such.
    pub(crate) frames: Option<&'a Frames>,
    /// Hears of frames done.
    pub(crate) progress: &'a (dyn Fn(u64) + Send + Sync),
    /// Sees what a frame looks like.
    pub(crate) preview: &'a (dyn Fn(&SlotPreview) + Send + Sync),
    /// Whether the task is of no use any more.
    pub(crate) cancelled: &'a (dyn Fn() -> bool + Send + Sync),
}

struct Running {
    process: Child,
    socket: UnixStream,
    pid: u32,
    words: Arc<Mutex<VecDeque<String>>>,
    inbox: Vec<u8>,
}

/// One slot.
pub(crate) struct Slot {
    config: SlotConfig,
    running: Option<Running>,
    /// Whose work its process has done.
    owner: Option<String>,
    /// What is known of it, for the metrics.
    pub(crate) stats: SlotMetrics,
    busy: Duration,
}

impl Slot {
    /// A slot that is not started yet.
    pub(crate) fn new(name: String, config: SlotConfig) -> Self {
        let stats = SlotMetrics { name, ..SlotMetrics::default() };
        Self { config, running: None, owner: None, stats, busy: Duration::ZERO }
    }

    /// Starts the process if it does not run.
    ///
    /// # Errors
    /// Exhausted or Unavailable where the system can't.
    pub(crate) fn start(&mut self) -> Result<u32> {
        if let Some(running) = &self.running {
            return Ok(running.pid);
        }
        let failed = |e: std::io::Error| Error::io("cannot start a slot", &e);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let mut command = Command::new(&self.config.program);
        command
            .arg("slot")
            .arg("--nice")
            .arg(self.config.nice.to_string())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C at a terminal is for the node, which then ends its slots.
            .process_group(0)
            // Passwords and tokens of the node are none of its business.
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| is_for_slots(name)))
            // One arena: the encoder's and the filters' memory is given back to the same heap.
            .env("MALLOC_ARENA_MAX", "1")
            .kill_on_drop(true);
        let mut process = command.spawn().map_err(failed)?;
        let pid = process.id().unwrap_or(0);
        let words = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stderr) = process.stderr.take() {
            let words = Arc::clone(&words);
            tokio::spawn(async move {
                let mut stderr = BufReader::new(stderr);
                while let Ok(Some(line)) = next_line(&mut stderr).await {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    tracing::debug!(pid, "{line}");
                    let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
                    if words.len() == LAST_WORDS {
                        words.pop_front();
                    }
                    words.push_back(line);
                }
            });
        }
        let socket = UnixStream::from_std(ours).map_err(failed)?;
        self.running = Some(Running { process, socket, pid, words, inbox: Vec::new() });
        Ok(pid)
    }

    /// Readies it for the work of `owner`: a process that has worked for somebody else ends first. One that a video has taken over
    /// would keep what it was given, and could put the next one's picture into it.
    pub(crate) async fn work_for(&mut self, owner: &str) {
        if self.owner.as_deref().is_some_and(|known| known != owner) {
            self.kill().await;
        }
        if self.owner.as_deref() != Some(owner) {
            self.owner = Some(owner.to_owned());
        }
    }

    /// Whether its process runs.
    pub(crate) fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// Does a task and waits for its end.
    ///
    /// # Errors
    /// Of the task; Unavailable where the slot died; Timeout where it hung; Exhausted where it took
    /// too much memory.
    pub(crate) async fn run(&mut self, job: Job<'_>) -> Result<TaskOutput, Trouble> {
        let begun = Instant::now();
        let ended = self.work(job).await;
        self.busy += begun.elapsed();
        if ended.is_ok() {
            self.stats.tasks += 1;
        }
        ended
    }

    async fn work(&mut self, job: Job<'_>) -> Result<TaskOutput, Trouble> {
        let not_started = |error| Trouble::Failed { error, by_task: false };
        self.start().map_err(not_started)?;
        let descriptors: Vec<BorrowedFd<'_>> = job.descriptors.iter().map(AsFd::as_fd).collect();
        let mut heard = Instant::now();
        let mut watch = tokio::time::interval(WATCH_EVERY);
        // The frame that the slot waits for, and what brings it.
        let mut awaited: Option<(FrameNumber, Coming<'_>)> = None;
        let Some(running) = &mut self.running else {
            return Err(not_started(Error::internal("a slot that does not run")));
        };
        if send(&running.socket, &job.command, &descriptors).await.is_err() {
            return Err(self.died().await);
        }
        loop {
            let Some(running) = &mut self.running else {
                return Err(not_started(Error::internal("a slot that does not run")));
            };
            let event = match take_event(&mut running.inbox) {
                Ok(Some(event)) => Ok(event),
                Err(error) => Err(error),
                Ok(None) => tokio::select! {
                read = read_some(&running.socket, &mut running.inbox) => match read {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
                came = bring(&mut awaited) => {
                    heard = Instant::now();
                    let number = awaited.take().map(|(number, _)| number);
                    let Some(number) = number else { continue };
                    let came = match came {
                        Ok(file) => Ok(file),
                        Err(Lost::ByFunction(error)) => Err(error),
                        Err(Lost::Otherwise(error)) => {
                            self.kill().await;
                            return Err(of_frames(error));
                        }
                    };
                    if give(&running.socket, number, came).await.is_err() {
                        return Err(self.died().await);
                    }
                    continue;
                }
                _ = watch.tick() => {
                    if awaited.is_some() {
                        // It is not the slot that is silent.
                        heard = Instant::now();
                    }
                    self.stats.peak_rss = self.stats.peak_rss.max(resident(running.pid));
                    if (job.cancelled)() {
                        self.kill().await;
                        return Err(Trouble::Cancelled);
                    }
                    if let Some(error) = self.over_limits(heard) {
                        let error = self.end(error).await;
                        return Err(Trouble::Failed { error, by_task: true });
                    }
                    continue;
                }
                },
            };
            heard = Instant::now();
            match event {
                Ok(SlotEvent::Ready(ready)) => {
                    if ready.engine != frameloom_media::engine() {
                        // It was replaced while this process ran: other bytes would come of it.
                        self.kill().await;
                        return Err(Trouble::Failed {
                            error: Error::conflict(
                                "this program or its libraries were replaced; start it again",
                            ),
                            by_task: false,
                        });
                    }
                }
                Ok(SlotEvent::Progress(progress)) => (job.progress)(progress.frames),
                Ok(SlotEvent::Preview(pair)) => (job.preview)(&pair),
                Ok(SlotEvent::Need(NeededSegment { segment })) => {
                    let given = (job.segment)(segment);
                    let given = match given {
                        Ok(given) => given,
                        Err(error) => {
                            self.kill().await;
                            return Err(Trouble::Failed { error, by_task: false });
                        }
                    };
                    let answer = SlotCommand::Segments(NeededSegment { segment });
                    if send(&running.socket, &answer, &[given.as_fd()]).await.is_err() {
                        return Err(self.died().await);
                    }
                }
                Ok(SlotEvent::Away(number)) => {
                    let given = job.frames.ok_or_else(not_away).and_then(|f| f.away(number));
                    let given = match given {
                        Ok(given) => given,
                        Err(error) => {
                            self.kill().await;
                            return Err(of_frames(error));
                        }
                    };
                    if give(&running.socket, number, Ok(given)).await.is_err() {
                        return Err(self.died().await);
                    }
                }
                Ok(SlotEvent::Gone(number)) => {
                    let gone = match job.frames {
                        Some(frames) => frames.gone(number).await,
                        None => Err(not_away()),
                    };
                    if let Err(error) = gone {
                        self.kill().await;
                        return Err(of_frames(error));
                    }
                    // Redis may have taken its time.
                    heard = Instant::now();
                }
                Ok(SlotEvent::Back(number)) => match job.frames {
                    Some(frames) => awaited = Some((number, Box::pin(frames.back(number)))),
                    None => {
                        if give(&running.socket, number, Err(not_away())).await.is_err() {
                            return Err(self.died().await);
                        }
                    }
                },
                Ok(SlotEvent::Done(done)) => {
                    self.stats.peak_rss = self.stats.peak_rss.max(resident(running.pid));
                    return Ok(done.output);
                }
                Ok(SlotEvent::Failed(failed)) => {
                    return Err(Trouble::Failed { error: failed.error, by_task: true });
                }
                Err(_) => return Err(self.died().await),
            }
        }
    }

    /// The limit that the slot broke, if it did.
    fn over_limits(&self, heard: Instant) -> Option<Error> {
        let limit = self.config.memory;
        if self.stats.peak_rss > limit
            && self.running.as_ref().map(|r| resident(r.pid)) > Some(limit)
        {
            return Some(Error::unavailable(format!(
                "the slot took more than its {} MiB of memory and was stopped; \
                 --slot-memory gives it more",
                limit >> 20
            )));
        }
        (heard.elapsed() > self.config.timeout).then(|| {
            Error::timeout(format!(
                "the slot was silent for {} s and was stopped; --slot-timeout gives it more",
                self.config.timeout.as_secs()
            ))
        })
    }

    /// What a slot that died by itself leaves: how it ended, and its last words.
    async fn died(&mut self) -> Trouble {
        let error = self.end(Error::unavailable("the slot died")).await;
        Trouble::Failed { error, by_task: true }
    }

    /// Ends the process, and adds to `error` how it ended and its last words.
    async fn end(&mut self, error: Error) -> Error {
        // Kept until it has ended: whoever gives up waiting for this ends it again.
        let Some(running) = &mut self.running else { return error };
        self.stats.restarts += 1;
        // A slot that has hung up is about to be gone; one that has not is stopped.
        let grace = tokio::time::timeout(Duration::from_millis(200), running.process.wait()).await;
        if grace.is_err() {
            drop(running.process.start_kill());
        }
        let status = running.process.wait().await;
        let how = match status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit status {code}"),
                (_, Some(signal)) => format!("signal {signal}"),
                _ => "an unknown end".into(),
            },
            Err(e) => e.to_string(),
        };
        let words = running.words.lock().unwrap_or_else(PoisonError::into_inner);
        let said = if words.is_empty() {
            String::new()
        } else {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            format!("; its last words: {}", words.join(" | "))
        };
        let text = format!("{} (pid {}, {how}{said})", error.message(), running.pid);
        drop(words);
        self.running = None;
        Error::new(error.kind(), text)
    }

    /// Ends the process.
    pub(crate) async fn kill(&mut self) {
        if let Some(running) = &mut self.running {
            // It may have ended by itself.
            drop(running.process.kill().await);
        }
        self.running = None;
    }

    /// Ends the process without waiting for it.
    pub(crate) fn abandon(&mut self) {
        // The process is killed when its handle is dropped.
        self.running = None;
    }

    /// What is known of the slot after a run of `wall`.
    pub(crate) fn into_stats(mut self, wall: Duration) -> SlotMetrics {
        self.stats.busy = (self.busy.as_secs_f64() / wall.as_secs_f64().max(1e-9)).min(1.0);
        self.stats
    }
}

/// Beginnings of the names of variables that slots get: where libraries, fonts and devices are, and how
/// they are used.
const FOR_SLOTS: [&str; 20] = [
    "PATH",
    "LD_",
    "LANG",
    "LC_",
    "TZ",
    "RUST_",
    "FRAMELOOM_LOG",
    "FRAMELOOM_ONNXRUNTIME",
    "FRAMELOOM_TEST_FAULTS",
    "FONTCONFIG_",
    "CUDA_",
    "NVIDIA_",
    "LIBVA_",
    "VDPAU_",
    "OPENCV_",
    "OMP_",
    "GLIBC_TUNABLES",
    "MALLOC_",
    "LLVM_",
    "XDG_DATA_DIRS",
];

fn is_for_slots(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| FOR_SLOTS.iter().any(|known| name.starts_with(known)))
}

/// A frame that is waited for.
type Coming<'a> = Pin<Box<dyn Future<Output = Result<OwnedFd, Lost>> + Send + 'a>>;

/// Waits for the frame that a slot waits for; for ever where it waits for none.
async fn bring(awaited: &mut Option<(FrameNumber, Coming<'_>)>) -> Result<OwnedFd, Lost> {
    match awaited {
        Some((_, coming)) => coming.await,
        None => std::future::pending().await,
    }
}

/// What befell a segment's frames on their way ends no job: kinds that would are said otherwise. But for a program
/// that was replaced.
fn of_frames(error: Error) -> Trouble {
    let kind = error.kind();
    let error = if kind.is_retryable() || kind == ErrorKind::Conflict {
        error
    } else {
        Error::unavailable(error.message().to_owned())
    };
    Trouble::Failed { error, by_task: false }
}

fn not_away() -> Error {
    Error::internal("a frame of a job that sends none away")
}

/// Gives a slot the file of a frame, or says why there is none.
async fn give(socket: &UnixStream, number: FrameNumber, given: Result<OwnedFd>) -> Result<()> {
    match given {
        Ok(file) => send(socket, &SlotCommand::Frame(number), &[file.as_fd()]).await,
        Err(error) => send(socket, &SlotCommand::NoFrame(SlotFailed { error }), &[]).await,
    }
}

/// The next line, cut off at `LONGEST_LINE`: a slot that writes without a line's end takes no more
/// of the node's memory than any other.
async fn next_line(from: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut begun = false;
    loop {
        let read = from.fill_buf().await?;
        if read.is_empty() {
            return Ok(begun.then_some(line));
        }
        begun = true;
        let end = read.iter().position(|byte| *byte == b'\n');
        let text = &read[..end.unwrap_or(read.len())];
        line.extend_from_slice(&text[..text.len().min(LONGEST_LINE - line.len())]);
        let used = end.map_or(read.len(), |end| end + 1);
        from.consume(used);
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}

async fn send(
    socket: &UnixStream,
    command: &SlotCommand,
    descriptors: &[BorrowedFd<'_>],
) -> Result<()> {
    let broken = |e: std::io::Error| Error::io("the socket to a slot", &e);
    let (head, text) = wire::encode(command)?;
    socket
        .async_io(Interest::WRITABLE, || {
            wire::send_head(socket, &head, descriptors).map_err(Into::into)
        })
        .await
        .map_err(broken)?;
    let mut left = text.as_slice();
    while !left.is_empty() {
        socket.writable().await.map_err(broken)?;
        match socket.try_write(left) {
            Ok(count) => left = &left[count..],
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(broken(e)),
        }
    }
    Ok(())
}

/// Reads what the slot has sent so far. Nothing is lost where the wait is given up.
async fn read_some(socket: &UnixStream, inbox: &mut Vec<u8>) -> Result<()> {
    let broken = |e: std::io::Error| Error::io("the socket to a slot", &e);
    socket.readable().await.map_err(broken)?;
    let mut bytes = [0; 8192];
    match socket.try_read(&mut bytes) {
        Ok(0) => Err(Error::unavailable("the slot has hung up")),
        Ok(count) => {
            inbox.extend_from_slice(&bytes[..count]);
            Ok(())
        }
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
        Err(e) => Err(broken(e)),
    }
}

/// Takes a whole message out of what was read, if there is one.
pub(super) fn take_event(inbox: &mut Vec<u8>) -> Result<Option<SlotEvent>> {
    let Some((head, rest)) = inbox.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*head);
    if length > wire::MOST {
        return Err(Error::internal("a message from a slot is too long"));
    }
    let Some(text) = rest.get(..length as usize) else { return Ok(None) };
    let event = wire::decode(text)?;
    inbox.drain(..4 + length as usize);
    Ok(Some(event))
}

/// Resident memory of a process in bytes; 0 where it is gone.
fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_without_an_end_are_cut_off() {
        let text = [&b"first\n"[..], &vec![b'x'; 1 << 20], b"\n\nlast"].concat();
        let mut from = BufReader::new(text.as_slice());
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut from).await.unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, [b"first".to_vec(), vec![b'x'; LONGEST_LINE], vec![], b"last".to_vec()]);
    }
}
