//! The slot itself: takes tasks from its socket, which is its standard input, until that closes.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use frameloom_core::fingerprint::hex;
use frameloom_core::plan::Plan;
use frameloom_core::slot::{
    CompareTask, ConcatTask, FilterTask, FrameFilters, FrameNumber, NeededSegment, PlanOutput,
    PlanTask, ProbeTask, SegmentOutput, SegmentTask, SlotCommand, SlotDone, SlotEvent, SlotFailed,
    SlotPreview, SlotProgress, SlotReady, TaskOutput, TrackTask, WrittenFile,
};
use frameloom_core::{Error, Result};
use frameloom_media::{
    Back, Compared, Elsewhere, Exchange, Files, FrameRunner, Given, Made, Progress, SegmentRunner,
};
use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::sandbox;
use super::wire::Peer;

/// How often progress is told at most.
const TELL_EVERY: Duration = Duration::from_millis(50);

/// Runs the slot until the node closes its socket.
///
/// # Errors
/// Unavailable where the socket breaks; Internal where the slot cannot be shut off.
pub(crate) fn run() -> Result<()> {
    let failed = |e: std::io::Error| Error::io("the socket to the node", &e);
    close_others();
    // Read before the slot is shut off from such files; it looks for ONNX Runtime, too.
    let engine = frameloom_media::engine();
    sandbox::enter()?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    let watched = socket.try_clone().map_err(failed)?;
    std::thread::Builder::new()
        .name("hangup".into())
        .stack_size(64 * 1024)
        .spawn(move || end_with_node(&watched))
        .map_err(failed)?;
    let mut peer = Peer(UnixStream::from(socket));
    frameloom_media::init();
    peer.send(&SlotEvent::Ready(SlotReady { engine }))?;
    let exchange: Exchange = Arc::new(Mutex::new(peer.another()?));
    let mut runner = SegmentRunner::new(Some(exchange));
    let mut frames = FrameRunner::default();
    let mut plans = Plans::default();
    while let Some((command, descriptors)) = peer.receive::<SlotCommand>()? {
        let ended = match command {
            SlotCommand::Filter(task) => filter(&mut frames, &mut plans, &task, descriptors),
            command => task(&mut peer, &mut runner, &mut plans, command, descriptors),
        };
        let event = match ended {
            Ok(output) => SlotEvent::Done(SlotDone { output }),
            Err(error) => SlotEvent::Failed(SlotFailed { error }),
        };
        peer.send(&event)?;
    }
    Ok(())
}

/// Closes what whoever started the node has left open for its children: a slot holds what it is given, and nothing else.
#[expect(unsafe_code, reason = "there is no other way to close what this program has not opened")]
fn close_others() {
    // SAFETY: this is the first thing that a slot does; nothing in it holds a descriptor but for the three that it begins with.
    // Kernels before 5.9 do not know the call, and leave them open.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Ends the slot, in whatever it is, when the node's end of the socket closes: no orphan is left.
fn end_with_node(socket: &OwnedFd) {
    loop {
        let mut watched = [PollFd::new(socket, PollFlags::RDHUP)];
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        match poll(&mut watched, None) {
            Ok(_) if watched[0].revents().intersects(gone) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
    }
    let me = rustix::process::getpid();
    if rustix::process::kill_process(me, rustix::process::Signal::KILL).is_err() {
        std::process::abort();
    }
}

/// Frames go away and come back by the node, which waits while the slot does.
impl Elsewhere for Peer {
    fn away(&mut self, frame: FrameNumber) -> Result<File> {
        self.send(&SlotEvent::Away(frame))?;
        match given(self, frame)? {
            Back::Done(file) => Ok(file),
            Back::Failed(error) => Err(error),
        }
    }

    fn gone(&mut self, frame: FrameNumber) -> Result<()> {
        self.send(&SlotEvent::Gone(frame))
    }

    fn back(&mut self, frame: FrameNumber) -> Result<Back> {
        self.send(&SlotEvent::Back(frame))?;
        given(self, frame)
    }
}

/// The file of a frame, as the node answers.
fn given(peer: &mut Peer, frame: FrameNumber) -> Result<Back> {
    match peer.receive()? {
        Some((SlotCommand::Frame(given), descriptors)) if given == frame => {
            Descriptors(descriptors.into_iter()).take().map(Back::Done)
        }
        Some((SlotCommand::NoFrame(SlotFailed { error }), _)) => Ok(Back::Failed(error)),
        _ => Err(Error::internal(format!("frame {} was not given", frame.number))),
    }
}

/// The descriptors that came with a task, one after the other.
struct Descriptors(std::vec::IntoIter<OwnedFd>);

impl Descriptors {
    fn take(&mut self) -> Result<File> {
        let descriptor = self.0.next();
        descriptor.map(File::from).ok_or_else(|| Error::internal("a task lacks a descriptor"))
    }

    fn take_where(&mut self, wanted: bool) -> Result<Option<File>> {
        wanted.then(|| self.take()).transpose()
    }

    /// The files that filters take, by name.
    fn files(&mut self, names: &[String]) -> Result<Files> {
        names.iter().map(|name| Ok((name.clone(), self.take()?))).collect()
    }
}

fn task(
    peer: &mut Peer,
    runner: &mut SegmentRunner,
    plans: &mut Plans,
    command: SlotCommand,
    descriptors: Vec<OwnedFd>,
) -> Result<TaskOutput> {
    let mut descriptors = Descriptors(descriptors.into_iter());
    match command {
        SlotCommand::Plan(task) => plan(peer, &task, &mut descriptors),
        SlotCommand::Probe(task) => probe(&task, &mut descriptors),
        SlotCommand::Validate(task) => {
            frameloom_media::validate(&task.spec).map(|()| TaskOutput::Valid)
        }
        SlotCommand::Picture(task) => {
            let (video, out) = (descriptors.take()?, descriptors.take()?);
            frameloom_media::picture(&video, &task, out).map(TaskOutput::Picture)
        }
        SlotCommand::Compare(task) => compare(peer, &task, &mut descriptors),
        SlotCommand::Detect(task) => {
            segment(peer, runner, plans, &task, true, &mut descriptors).map(TaskOutput::Detect)
        }
        SlotCommand::Track(task) => track(peer, &task, &mut descriptors),
        SlotCommand::Segment(task) => {
            segment(peer, runner, plans, &task, false, &mut descriptors).map(TaskOutput::Segment)
        }
        SlotCommand::Concat(task) => concat(peer, &task, &mut descriptors),
        SlotCommand::Frame(_) | SlotCommand::NoFrame(_) | SlotCommand::Filter(_) => {
            Err(Error::internal("nobody asked for a frame"))
        }
        SlotCommand::Segments(needed) => {
            Err(Error::internal(format!("nobody asked for segment {}", needed.segment)))
        }
    }
}

/// Tells the node of progress, now and then.
struct Teller {
    told: Option<Instant>,
}

impl Teller {
    fn tell(&mut self, peer: &mut Peer, frames: u64) {
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            // Where the node has gone the slot ends by itself.
            drop(peer.send(&SlotEvent::Progress(SlotProgress { frames })));
        }
    }
}

fn plan(peer: &mut Peer, task: &PlanTask, descriptors: &mut Descriptors) -> Result<TaskOutput> {
    let source = descriptors.take()?;
    let files = descriptors.files(&task.files)?;
    let out = descriptors.take()?;
    let mut teller = Teller { told: None };
    let mut progress = |packets| teller.tell(peer, packets);
    let plan = frameloom_media::make_plan(&source, task, &files, &mut progress)?;
    let segments = u32::try_from(plan.segments.len()).unwrap_or(u32::MAX);
    Ok(TaskOutput::Plan(PlanOutput { file: write_json(out, &plan)?, segments }))
}

fn probe(task: &ProbeTask, descriptors: &mut Descriptors) -> Result<TaskOutput> {
    let (source, out) = (descriptors.take()?, descriptors.take()?);
    let report = frameloom_media::probe(&source, &task.name)?;
    Ok(TaskOutput::Probe(write_json(out, &report)?))
}

fn compare(
    peer: &mut Peer,
    task: &CompareTask,
    descriptors: &mut Descriptors,
) -> Result<TaskOutput> {
    let given = Compared {
        output: descriptors.take()?,
        source: descriptors.take()?,
        places: descriptors.take()?,
        sheet: descriptors.take_where(task.sheet.is_some())?,
    };
    let out = descriptors.take()?;
    let mut teller = Teller { told: None };
    let report = frameloom_media::compare(task, given, &mut |frames| teller.tell(peer, frames))?;
    Ok(TaskOutput::Compared(write_json(out, &report)?))
}

fn write_json<T: Serialize>(mut out: File, value: &T) -> Result<WrittenFile> {
    let text = serde_json::to_vec(value)
        .map_err(|e| Error::internal("cannot write JSON").with_source(e))?;
    out.write_all(&text).map_err(|e| Error::io("cannot write a report", &e))?;
    Ok(WrittenFile { size: text.len() as u64, sha256: hex(&Sha256::digest(&text)) })
}

/// The plan of the job that is at work: read once, not with each of its segments.
#[derive(Default)]
struct Plans {
    /// Which file it was read from: device, inode, size and time of change.
    read: Option<([i64; 4], Plan)>,
}

impl Plans {
    fn get(&mut self, file: File) -> Result<&Plan> {
        let meta = file.metadata().map_err(|e| Error::io("cannot read the plan", &e))?;
        let number = |n: u64| n.cast_signed();
        let key = [number(meta.dev()), number(meta.ino()), number(meta.len()), meta.ctime_nsec()];
        if self.read.as_ref().is_none_or(|(known, _)| *known != key) {
            self.read = Some((key, read_plan(file)?));
        }
        match &self.read {
            Some((_, plan)) => Ok(plan),
            None => Err(Error::internal("no plan was read")),
        }
    }
}

fn read_plan(file: File) -> Result<Plan> {
    serde_json::from_reader(std::io::BufReader::new(file))
        .map_err(|e| Error::internal("the plan is malformed").with_source(e))
}

fn segment(
    peer: &mut Peer,
    runner: &mut SegmentRunner,
    plans: &mut Plans,
    task: &SegmentTask,
    detect: bool,
    descriptors: &mut Descriptors,
) -> Result<SegmentOutput> {
    let (source, plan) = (descriptors.take()?, descriptors.take()?);
    let given = Given {
        files: descriptors.files(&task.files)?,
        tracks: descriptors.take_where(task.tracks)?,
    };
    let out = descriptors.take()?;
    let plan = plans.get(plan)?;
    let mut teller = Teller { told: None };
    let mut progress = |progress| match progress {
        Progress::Frames(frames) => teller.tell(peer, frames),
        Progress::Preview(pair) => {
            let base64 = base64::engine::general_purpose::STANDARD;
            let (before, after) = (base64.encode(pair.before), base64.encode(pair.after));
            // Where the node has gone the slot ends by itself.
            drop(peer.send(&SlotEvent::Preview(SlotPreview { before, after })));
        }
    };
    if detect {
        runner.detect(&source, plan, task, given, out, &mut progress)
    } else {
        runner.run(&source, plan, task, given, out, &mut progress)
    }
}

fn filter(
    runner: &mut FrameRunner,
    plans: &mut Plans,
    task: &FilterTask,
    descriptors: Vec<OwnedFd>,
) -> Result<TaskOutput> {
    let mut descriptors = Descriptors(descriptors.into_iter());
    let plan = match task.filters {
        FrameFilters::Plan { .. } => Some(plans.get(descriptors.take()?)?),
        FrameFilters::Given { .. } => None,
    };
    let out = descriptors.take()?;
    let frames: Vec<File> = descriptors.0.map(File::from).collect();
    runner.run(plan, task, &frames, &out).map(|()| TaskOutput::Frame)
}

/// The files of segments, as the node gives them.
fn needed<'a>(peer: &'a RefCell<&mut Peer>) -> impl FnMut(u32) -> Result<File> + 'a {
    |segment| {
        let mut peer = peer.borrow_mut();
        peer.send(&SlotEvent::Need(NeededSegment { segment }))?;
        match peer.receive()? {
            Some((SlotCommand::Segments(given), descriptors)) if given.segment == segment => {
                Descriptors(descriptors.into_iter()).take()
            }
            _ => Err(Error::internal(format!("segment {segment} was not given"))),
        }
    }
}

fn track(peer: &mut Peer, task: &TrackTask, descriptors: &mut Descriptors) -> Result<TaskOutput> {
    let (plan, out) = (read_plan(descriptors.take()?)?, descriptors.take()?);
    let peer = RefCell::new(peer);
    let mut teller = Teller { told: None };
    let mut progress = |frames| teller.tell(&mut peer.borrow_mut(), frames);
    frameloom_media::track(&plan, task, out, &mut needed(&peer), &mut progress)
        .map(TaskOutput::Track)
}

fn concat(peer: &mut Peer, task: &ConcatTask, descriptors: &mut Descriptors) -> Result<TaskOutput> {
    let (source, plan) = (descriptors.take()?, read_plan(descriptors.take()?)?);
    let tracks = descriptors.take_where(task.tracks.is_some())?;
    let made = Made {
        out: descriptors.take()?,
        frame_metrics: descriptors.take_where(task.frame_metrics)?,
        detections: descriptors.take_where(task.detections)?,
    };
    let peer = RefCell::new(peer);
    let mut teller = Teller { told: None };
    let mut progress = |frames| teller.tell(&mut peer.borrow_mut(), frames);
    let mut need = needed(&peer);
    frameloom_media::concat(&source, &plan, task, tracks, made, &mut need, &mut progress)
        .map(TaskOutput::Concat)
}
