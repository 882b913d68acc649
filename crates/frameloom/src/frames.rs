//! Frames as tasks of their own: a node gives them to Celery workers by the store, and looks there
//! for what comes back.
//!
//! ```text
//! frames/JOB/GROUP.N.in.npy  GROUP.N.out.npy     frames on their way, and back
//! frames/JOB/{claims,beats,cancelled}/ATTEMPT    as for other tasks, made by the worker and by us
//! frames/JOB/results/ATTEMPT.json                what became of an attempt
//! ```

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use frameloom_broker::celery::Celery;
use frameloom_core::frame_task::{FILTER, FrameTaskSpec};
use frameloom_core::id::AttemptId;
use frameloom_core::slot::FrameNumber;
use frameloom_core::wire::JobFile;
use frameloom_core::{Error, ErrorKind, Result};
use frameloom_server::store::{FrameDir, Store};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::random;

/// How often the store is looked at for a frame that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How long a task's message is believed to be under way while its queue is empty.
const RESEND_AFTER: Duration = Duration::from_secs(2);

/// How long a worker is believed whose sign of life stands still.
const LEASE: Duration = Duration::from_secs(10);

/// How long nobody takes a task before the job says so.
const NO_WORKER_AFTER: Duration = Duration::from_secs(30);

/// Workers that die while they hold a frame, after which it is given up: its function kills them.
const MOST_LOST: u32 = 5;

/// Failures of a frame's own, after which it is given up.
const MOST_FAILURES: usize = 3;

/// `results/ATTEMPT.json`.
#[derive(Debug, Deserialize)]
struct Answer {
    outcome: String,
    #[serde(default)]
    error: String,
}

/// Frames that are one task.
struct Group {
    filter: u32,
    frames: Vec<FrameNumber>,
    /// The attempt that is under way; none yet while frames are collected.
    attempt: Option<AttemptId>,
    sent: Instant,
    resent: Instant,
    /// The worker's counter, and when it last moved.
    beat: Option<(u64, Instant)>,
    errors: Vec<String>,
    /// Workers that died while they held it.
    lost: u32,
    done: bool,
}

/// The frames of one attempt at a segment.
pub(crate) struct Frames {
    store: Arc<Store>,
    celery: Arc<Celery>,
    job: JobFile,
    /// The job's filters that send frames away.
    specs: BTreeMap<u32, FrameTaskSpec>,
    state: Mutex<State>,
    /// Nobody has taken a task for a while.
    starved: AtomicBool,
}

#[derive(Default)]
struct State {
    groups: BTreeMap<AttemptId, Group>,
    /// The group of each frame that is away.
    of: BTreeMap<FrameNumber, AttemptId>,
    /// The group that collects a filter's frames.
    open: BTreeMap<u32, AttemptId>,
}

/// What is to be done about a group now.
enum Next {
    Wait,
    Done,
    Failed(String),
    Send,
    SendAgain(AttemptId),
}

impl Frames {
    /// For a job with filters that send frames away; `None` for others.
    ///
    /// # Errors
    /// Unsupported where this node has no Celery broker; Invalid as the filters' parameters.
    pub(crate) fn of(
        store: &Arc<Store>,
        celery: Option<&Arc<Celery>>,
        job: &JobFile,
    ) -> Result<Option<Self>> {
        let mut specs = BTreeMap::new();
        for (at, filter) in job.spec.filters.iter().enumerate() {
            if filter.name == FILTER {
                let params = frameloom_media::catalogue().check(filter)?;
                specs.insert(u32::try_from(at).unwrap_or(u32::MAX), FrameTaskSpec::of(&params)?);
            }
        }
        if specs.is_empty() {
            return Ok(None);
        }
        let celery = celery.ok_or_else(|| {
            Error::unsupported("the filter 'celery' needs a server with --broker redis://")
        })?;
        Ok(Some(Self {
            store: Arc::clone(store),
            celery: Arc::clone(celery),
            job: job.clone(),
            specs,
            state: Mutex::new(State::default()),
            starved: AtomicBool::new(false),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dir(&self) -> FrameDir<'_> {
        self.store.frames(self.job.id)
    }

    fn spec(&self, filter: u32) -> Result<&FrameTaskSpec> {
        self.specs
            .get(&filter)
            .ok_or_else(|| Error::internal(format!("filter {filter} sends no frames away")))
    }

    /// Whether nobody has taken a task for a while.
    pub(crate) fn are_starved(&self) -> bool {
        self.starved.load(Ordering::Relaxed)
    }

    /// A file for a frame that is about to go.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn away(&self, frame: FrameNumber) -> Result<OwnedFd> {
        self.spec(frame.filter)?;
        let mut state = self.state();
        let open = match state.open.get(&frame.filter) {
            Some(open) => *open,
            None => {
                let group = AttemptId::from_bits(random::bits()?);
                let now = Instant::now();
                let fresh = Group {
                    filter: frame.filter,
                    frames: Vec::new(),
                    attempt: None,
                    sent: now,
                    resent: now,
                    beat: None,
                    errors: Vec::new(),
                    lost: 0,
                    done: false,
                };
                state.groups.insert(group, fresh);
                state.open.insert(frame.filter, group);
                group
            }
        };
        let group = state.groups.get_mut(&open).ok_or_else(|| Error::internal("no group"))?;
        let number = group.frames.len();
        group.frames.push(frame);
        // A segment that is decoded again from further back begins anew.
        state.of.retain(|known, _| (known.filter, known.number) != (frame.filter, frame.number));
        state.of.insert(frame, open);
        drop(state);
        let dir = self.dir();
        dir.make()?;
        dir.create(&format!("{open}.{number}.in.npy")).map(OwnedFd::from)
    }

    /// The frame's file is written: its task is sent once it has all its frames.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) async fn gone(&self, frame: FrameNumber) -> Result<()> {
        let batch = self.spec(frame.filter)?.batch as usize;
        let full = {
            let mut state = self.state();
            let Some(group) = state.of.get(&frame).copied() else {
                return Err(Error::internal("a frame that was never away"));
            };
            let full = state.groups.get(&group).is_some_and(|group| group.frames.len() >= batch);
            if full {
                state.open.remove(&frame.filter);
            }
            full.then_some(group)
        };
        match full {
            Some(group) => self.send(group, None).await,
            None => Ok(()),
        }
    }

    /// Sends a group's task; as a new attempt, or the same again.
    async fn send(&self, id: AttemptId, same: Option<AttemptId>) -> Result<()> {
        let attempt = match same {
            Some(attempt) => attempt,
            None => AttemptId::from_bits(random::bits()?),
        };
        let (spec, message) = {
            let mut state = self.state();
            let group = state.groups.get_mut(&id).ok_or_else(|| Error::internal("no group"))?;
            let now = Instant::now();
            if same.is_none() {
                (group.attempt, group.sent, group.beat) = (Some(attempt), now, None);
            }
            group.resent = now;
            let spec = self.spec(group.filter)?;
            let dir = format!("frames/{}", self.job.id);
            let frames: Vec<Value> = group
                .frames
                .iter()
                .enumerate()
                .map(|(n, frame)| {
                    json!({
                        "index": frame.number,
                        "pts": frame.pts,
                        "input": format!("{dir}/{id}.{n}.in.npy"),
                        "output": format!("{dir}/{attempt}.{n}.out.npy"),
                    })
                })
                .collect();
            let message = json!({
                "job": self.job.id, "attempt": attempt, "params": spec.params,
                "timeout": spec.timeout, "frames": frames,
            });
            (spec, message)
        };
        let sent = self.celery.send_frames(&spec.queue, &spec.task, attempt, message).await;
        match sent {
            // It counts as lost, and is sent again.
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                tracing::debug!(%error, "a frame's task is not sent yet");
                Ok(())
            }
            sent => sent,
        }
    }

    /// Waits for a frame to come back.
    ///
    /// # Errors
    /// Invalid where its function failed three times, with what it said.
    pub(crate) async fn back(&self, frame: FrameNumber) -> Result<OwnedFd> {
        let id = {
            let mut state = self.state();
            let known = state.of.get(&frame).copied();
            let id = known.ok_or_else(|| Error::internal("a frame that was never away"))?;
            if state.open.get(&frame.filter) == Some(&id) {
                state.open.remove(&frame.filter);
            }
            id
        };
        loop {
            match self.next(id).await? {
                Next::Done => return self.open(id, frame),
                Next::Send => self.send(id, None).await?,
                Next::SendAgain(attempt) => self.send(id, Some(attempt)).await?,
                Next::Failed(why) => {
                    let spec = self.spec(frame.filter)?;
                    return Err(Error::invalid(format!(
                        "task '{}' failed on the frame at pts {}: {why}",
                        spec.task, frame.pts
                    )));
                }
                Next::Wait => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Looks at the store for what has become of a group's task.
    async fn next(&self, id: AttemptId) -> Result<Next> {
        let (attempt, sent, resent, filter) = {
            let state = self.state();
            let group = state.groups.get(&id).ok_or_else(|| Error::internal("no group"))?;
            if group.done {
                return Ok(Next::Done);
            }
            let Some(attempt) = group.attempt else { return Ok(Next::Send) };
            (attempt, group.sent, group.resent, group.filter)
        };
        let dir = self.dir();
        if let Some(answer) = dir.answer::<Answer>(attempt)? {
            self.starved.store(false, Ordering::Relaxed);
            let mut state = self.state();
            let group = state.groups.get_mut(&id).ok_or_else(|| Error::internal("no group"))?;
            if answer.outcome == "done" {
                group.done = true;
                return Ok(Next::Done);
            }
            let said: String = answer.error.chars().take(500).collect();
            group.errors.push(said);
            group.attempt = None;
            return Ok(if group.errors.len() >= MOST_FAILURES {
                group.attempt = Some(attempt);
                group.errors.dedup();
                Next::Failed(format!("{} ({MOST_FAILURES} tries)", group.errors.join("; then ")))
            } else {
                Next::Send
            });
        }
        if resent.elapsed() < RESEND_AFTER {
            return Ok(Next::Wait);
        }
        if dir.is_claimed(attempt) {
            return self.watch(id, attempt);
        }
        // Not claimed for long: is the message still there?
        let queue = &self.spec(filter)?.queue;
        let waiting = self.celery.depth_of(queue).await;
        if sent.elapsed() > NO_WORKER_AFTER {
            self.starved.store(true, Ordering::Relaxed);
        }
        let mut state = self.state();
        let group = state.groups.get_mut(&id).ok_or_else(|| Error::internal("no group"))?;
        match waiting {
            Ok(0) => Ok(Next::SendAgain(attempt)),
            _ => {
                group.resent = Instant::now();
                Ok(Next::Wait)
            }
        }
    }

    /// Watches over a task that a worker has claimed.
    fn watch(&self, id: AttemptId, attempt: AttemptId) -> Result<Next> {
        self.starved.store(false, Ordering::Relaxed);
        let counter = self.dir().beat(attempt);
        let mut state = self.state();
        let group = state.groups.get_mut(&id).ok_or_else(|| Error::internal("no group"))?;
        let now = Instant::now();
        let (seen, at) = *group.beat.get_or_insert((counter.unwrap_or(0), now));
        match counter {
            Some(counter) if counter != seen => {
                group.beat = Some((counter, now));
                Ok(Next::Wait)
            }
            _ if now.duration_since(at) > LEASE => {
                group.lost += 1;
                let lost = group.lost;
                drop(state);
                self.dir().cancel(attempt)?;
                tracing::info!(%attempt, lost, "a frame's task is lost with its worker");
                Ok(if lost < MOST_LOST {
                    Next::Send
                } else {
                    Next::Failed(format!("{lost} workers died of it"))
                })
            }
            _ => Ok(Next::Wait),
        }
    }

    fn open(&self, id: AttemptId, frame: FrameNumber) -> Result<OwnedFd> {
        let (attempt, number) = {
            let state = self.state();
            let group = state.groups.get(&id);
            let number = group.and_then(|group| group.frames.iter().position(|f| *f == frame));
            let attempt = group.and_then(|group| group.attempt);
            attempt.zip(number).ok_or_else(|| Error::internal("a frame that was never away"))?
        };
        let dir = self.dir();
        let name = format!("{attempt}.{number}.out.npy");
        let file = dir.open(&name)?.ok_or_else(|| {
            Error::invalid(format!(
                "the frame at pts {} was told to be done and is not there",
                frame.pts
            ))
        })?;
        // Both are of no use any more once the slot has read what it holds open.
        dir.remove(&[PathBuf::from(name), PathBuf::from(format!("{id}.{number}.in.npy"))]);
        Ok(OwnedFd::from(file))
    }

    /// The segment's attempt is over: what is away is called back, and what was written is removed.
    pub(crate) fn end(&self) {
        let groups = std::mem::take(&mut self.state().groups);
        let dir = self.dir();
        let mut names = Vec::new();
        for (id, group) in groups {
            let Some(attempt) = group.attempt else { continue };
            if !group.done && dir.exists() {
                // Where the job is gone everything is.
                drop(dir.cancel(attempt));
            }
            for n in 0..group.frames.len() {
                names.push(PathBuf::from(format!("{id}.{n}.in.npy")));
                names.push(PathBuf::from(format!("{attempt}.{n}.out.npy")));
            }
            if group.done {
                names.push(PathBuf::from(format!("claims/{attempt}")));
                names.push(PathBuf::from(format!("beats/{attempt}")));
                names.push(PathBuf::from(format!("results/{attempt}.json")));
            }
        }
        dir.remove(&names);
    }
}
