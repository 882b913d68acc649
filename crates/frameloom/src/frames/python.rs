//! Frames for Python functions: a node gives them to Celery workers by the store, and looks there for
//! what comes back.
//!
//! ```text
//! frames/JOB/GROUP.N.in.npy  ATTEMPT.N.out.npy   frames on their way, and back
//! frames/JOB/{claims,beats,cancelled}/ATTEMPT    as for other tasks, made by the worker and by us
//! frames/JOB/results/ATTEMPT.json                what became of an attempt
//! ```

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use frameloom_broker::Urgency;
use frameloom_broker::celery::Celery;
use frameloom_core::frame_task::{FILTER, FrameTaskSpec};
use frameloom_core::id::{AttemptId, JobId};
use frameloom_core::slot::FrameNumber;
use frameloom_core::wire::JobFile;
use frameloom_core::{Error, Result};
use frameloom_server::store::{FrameDir, Store};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    GIVEN_UP_AFTER, LEASE, LOOK_EVERY, Lost, MOST_AWAY, MOST_FAILURES, NO_WORKER_AFTER,
    RESEND_AFTER, WAITS_AT_MOST,
};
use crate::random;

/// Workers that die while they hold a frame, after which it is given up: its function kills them.
const MOST_LOST: u32 = 5;

/// Messages that somebody takes and does not begin, after which it is said so.
const SWALLOWED: u32 = 5;

/// How long a frame that is told to be done may take to show.
const SHOWS_WITHIN: Duration = Duration::from_secs(10);

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
    /// How many of them have come back.
    opened: usize,
    /// The attempt that is under way; none yet while frames are collected.
    attempt: Option<AttemptId>,
    /// When its message was last sent.
    resent: Instant,
    /// The worker's counter, and when it last moved.
    beat: Option<(u64, Instant)>,
    errors: Vec<String>,
    /// Workers that died while they held it.
    lost: u32,
    /// Messages that were taken and came to nothing.
    swallowed: u32,
    /// When it was told to be done.
    done: Option<Instant>,
    /// Why it is given up.
    failed: Option<String>,
}

impl Group {
    fn new(filter: u32) -> Self {
        let now = Instant::now();
        Self {
            filter,
            frames: Vec::new(),
            opened: 0,
            attempt: None,
            resent: now,
            beat: None,
            errors: Vec::new(),
            lost: 0,
            swallowed: 0,
            done: None,
            failed: None,
        }
    }
}

/// The frames of one attempt at a segment.
pub(super) struct PythonFrames {
    store: Arc<Store>,
    celery: Arc<Celery>,
    job: JobId,
    /// The job's filters that send frames away.
    specs: BTreeMap<u32, FrameTaskSpec>,
    urgency: Urgency,
    state: Mutex<State>,
}

struct State {
    groups: BTreeMap<AttemptId, Group>,
    /// The group of each frame that is away, by filter and number.
    of: BTreeMap<(u32, u64), AttemptId>,
    /// The group that collects a filter's frames.
    open: BTreeMap<u32, AttemptId>,
    /// When a worker was last seen to take or do something.
    seen: Instant,
}

/// What is to be done about a group now.
enum Next {
    Wait,
    Done,
    Failed(String),
    Send,
    SendAgain(AttemptId),
    GiveUp(String),
}

impl PythonFrames {
    /// For a job with filters that send frames away; `None` for others.
    ///
    /// # Errors
    /// Unsupported where this node has no Celery broker; Invalid as the filters' parameters.
    pub(super) fn of(
        store: &Arc<Store>,
        celery: Option<&Arc<Celery>>,
        job: &JobFile,
        urgency: Urgency,
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
        let celery = celery
            .ok_or_else(|| Error::unsupported("the filter 'celery' needs --broker redis://"))?;
        // Made once: where it is gone later the job is over.
        store.frames(job.id).make().map_err(|e| Error::unavailable(e.message().to_owned()))?;
        let state = State {
            groups: BTreeMap::new(),
            of: BTreeMap::new(),
            open: BTreeMap::new(),
            seen: Instant::now(),
        };
        Ok(Some(Self {
            store: Arc::clone(store),
            celery: Arc::clone(celery),
            job: job.id,
            specs,
            urgency,
            state: Mutex::new(state),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dir(&self) -> FrameDir<'_> {
        self.store.frames(self.job)
    }

    fn spec(&self, filter: u32) -> Result<&FrameTaskSpec> {
        self.specs
            .get(&filter)
            .ok_or_else(|| Error::internal(format!("filter {filter} sends no frames away")))
    }

    /// Whether a filter of the job sends frames away here.
    pub(super) fn has(&self, filter: u32) -> bool {
        self.specs.contains_key(&filter)
    }

    /// Whether nobody has taken a task for a while.
    pub(super) fn are_starved(&self) -> bool {
        let state = self.state();
        !state.groups.is_empty() && state.seen.elapsed() > NO_WORKER_AFTER
    }

    /// A file for a frame that is about to go.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn away(&self, frame: FrameNumber) -> Result<OwnedFd> {
        self.spec(frame.filter)?;
        if frame.number == 0 {
            // A segment that is decoded again from further back begins anew.
            self.forget(|group| group.filter == frame.filter);
        }
        let mut state = self.state();
        if state.of.len() >= MOST_AWAY {
            return Err(Error::internal(format!("{MOST_AWAY} frames are away already")));
        }
        if state.groups.is_empty() {
            // Nobody was waited for until now.
            state.seen = Instant::now();
        }
        let open = match state.open.get(&frame.filter) {
            Some(open) => *open,
            None => {
                let group = AttemptId::from_bits(random::bits()?);
                state.groups.insert(group, Group::new(frame.filter));
                state.open.insert(frame.filter, group);
                group
            }
        };
        let group = state.groups.get_mut(&open).ok_or_else(|| Error::internal("no group"))?;
        let number = group.frames.len();
        group.frames.push(frame);
        state.of.insert((frame.filter, frame.number), open);
        drop(state);
        self.dir().create(&format!("{open}.{number}.in.npy")).map(OwnedFd::from)
    }

    /// The frame's file is written: its task is sent once it has all its frames.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) async fn gone(&self, frame: FrameNumber) -> Result<()> {
        let batch = self.spec(frame.filter)?.batch as usize;
        let full = {
            let mut state = self.state();
            let Some(group) = state.of.get(&(frame.filter, frame.number)).copied() else {
                return Err(Error::internal("a frame that was never away"));
            };
            let full = state.open.get(&frame.filter) == Some(&group)
                && state.groups.get(&group).is_some_and(|group| group.frames.len() >= batch);
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
                (group.attempt, group.beat) = (Some(attempt), None);
            }
            group.resent = now;
            let spec = self.spec(group.filter)?;
            let dir = format!("frames/{}", self.job);
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
                "job": self.job, "attempt": attempt, "params": spec.params,
                "timeout": spec.timeout, "frames": frames,
            });
            (spec, message)
        };
        let FrameTaskSpec { queue, task, .. } = spec;
        let sent = self.celery.send_frames(queue, task, attempt, message, self.urgency).await;
        if let Err(error) = sent {
            // It counts as lost, and is sent again.
            tracing::debug!(%error, "a frame's task is not sent yet");
        }
        Ok(())
    }

    /// Waits for a frame to come back.
    ///
    /// # Errors
    /// Why it does not: Invalid where its function failed three times, with what it said.
    pub(super) async fn back(&self, frame: FrameNumber) -> Result<OwnedFd, Lost> {
        let id = {
            let mut state = self.state();
            let known = state.of.get(&(frame.filter, frame.number)).copied();
            let never = || Error::internal("a frame that was never away");
            let id = known.ok_or_else(never).map_err(Lost::Otherwise)?;
            if state.open.get(&frame.filter) == Some(&id) {
                state.open.remove(&frame.filter);
            }
            id
        };
        loop {
            match self.next(id).await.map_err(Lost::Otherwise)? {
                Next::Done => {
                    if let Some(file) = self.open(id, frame).map_err(Lost::Otherwise)? {
                        return Ok(file);
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Next::Send => self.send(id, None).await.map_err(Lost::Otherwise)?,
                Next::SendAgain(attempt) => {
                    self.send(id, Some(attempt)).await.map_err(Lost::Otherwise)?;
                }
                Next::Failed(why) => {
                    let task = self.spec(frame.filter).map_err(Lost::Otherwise)?.task.clone();
                    self.came_back(id, frame);
                    return Err(Lost::ByFunction(Error::invalid(format!(
                        "task '{task}' failed on the frame at pts {}: {why}",
                        frame.pts
                    ))));
                }
                Next::GiveUp(why) => return Err(Lost::Otherwise(Error::unavailable(why))),
                Next::Wait => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Looks at the store for what has become of a group's task.
    async fn next(&self, id: AttemptId) -> Result<Next> {
        let no_group = || Error::internal("no group");
        let (attempt, resent, filter, swallowed, seen) = {
            let state = self.state();
            let group = state.groups.get(&id).ok_or_else(no_group)?;
            if let Some(why) = &group.failed {
                return Ok(Next::Failed(why.clone()));
            }
            if group.done.is_some() {
                return Ok(Next::Done);
            }
            let Some(attempt) = group.attempt else { return Ok(Next::Send) };
            (attempt, group.resent, group.filter, group.swallowed, state.seen)
        };
        let dir = self.dir();
        if !dir.exists() {
            return Ok(Next::GiveUp("the job is over".into()));
        }
        if let Some(answer) = dir.answer::<Answer>(attempt)? {
            let mut state = self.state();
            let now = Instant::now();
            state.seen = now;
            let group = state.groups.get_mut(&id).ok_or_else(no_group)?;
            if answer.outcome == "done" {
                group.done = Some(now);
                return Ok(Next::Done);
            }
            return Ok(group.failure(&answer.error));
        }
        if resent.elapsed() < RESEND_AFTER * (1 << swallowed.min(4)) {
            return Ok(Next::Wait);
        }
        if dir.is_claimed(attempt) {
            return self.watch(id, attempt);
        }
        // Not claimed for long: is the message still there?
        let spec = self.spec(filter)?;
        if seen.elapsed() > GIVEN_UP_AFTER {
            return Ok(Next::GiveUp(format!("no worker on queue '{}'", spec.queue)));
        }
        let waiting = self.celery.depth_of(&spec.queue).await;
        let mut state = self.state();
        let group = state.groups.get_mut(&id).ok_or_else(no_group)?;
        match waiting {
            Ok(0) => {
                // Celery's workers hold some messages back before they begin: that is no reason to give up.
                group.swallowed += 1;
                if group.swallowed == SWALLOWED {
                    tracing::warn!(
                        queue = spec.queue,
                        task = spec.task,
                        "workers take this task and do not begin it: do they have it, with @frame_task, and \
                         FRAMELOOM_DATA at this server's store? Their log says why"
                    );
                }
                Ok(Next::SendAgain(attempt))
            }
            Ok(_) if resent.elapsed() > WAITS_AT_MOST => Ok(Next::SendAgain(attempt)),
            _ => Ok(Next::Wait),
        }
    }

    /// Watches over a task that a worker has claimed.
    fn watch(&self, id: AttemptId, attempt: AttemptId) -> Result<Next> {
        let counter = self.dir().beat(attempt);
        let mut state = self.state();
        let now = Instant::now();
        let group = state.groups.get_mut(&id).ok_or_else(|| Error::internal("no group"))?;
        let (before, at) = *group.beat.get_or_insert((counter.unwrap_or(0), now));
        match counter {
            Some(counter) if counter != before => {
                group.beat = Some((counter, now));
                state.seen = now;
                Ok(Next::Wait)
            }
            _ if now.duration_since(at) > LEASE => {
                group.lost += 1;
                let lost = group.lost;
                let given_up = (lost >= MOST_LOST).then(|| format!("{lost} workers died of it"));
                group.failed.clone_from(&given_up);
                drop(state);
                self.dir().cancel(attempt)?;
                tracing::info!(%attempt, lost, "a frame's task is lost with its worker");
                Ok(given_up.map_or(Next::Send, Next::Failed))
            }
            _ => Ok(Next::Wait),
        }
    }

    /// Opens a frame that is told to be done; `None` where it does not show yet.
    fn open(&self, id: AttemptId, frame: FrameNumber) -> Result<Option<OwnedFd>> {
        let (attempt, number, done) = {
            let state = self.state();
            let group = state.groups.get(&id);
            let number = group.and_then(|group| group.frames.iter().position(|f| *f == frame));
            let found = group.and_then(|group| Some((group.attempt?, number?, group.done?)));
            found.ok_or_else(|| Error::internal("a frame that was never away"))?
        };
        let dir = self.dir();
        let name = format!("{attempt}.{number}.out.npy");
        let Some(file) = dir.open(&name)? else {
            if done.elapsed() < SHOWS_WITHIN {
                return Ok(None);
            }
            let mut state = self.state();
            let group = state.groups.get_mut(&id).ok_or_else(|| Error::internal("no group"))?;
            group.done = None;
            group.failure("it was told to be done, and its file is not there");
            return Ok(None);
        };
        // Both are of no use any more once the slot has read what it holds open.
        dir.remove(&[PathBuf::from(name), PathBuf::from(format!("{id}.{number}.in.npy"))]);
        self.came_back(id, frame);
        Ok(Some(OwnedFd::from(file)))
    }

    /// A frame is not away any more; with its last one a group is over.
    fn came_back(&self, id: AttemptId, frame: FrameNumber) {
        let mut state = self.state();
        state.of.remove(&(frame.filter, frame.number));
        let Some(group) = state.groups.get_mut(&id) else { return };
        group.opened += 1;
        if group.opened < group.frames.len() {
            return;
        }
        let group = state.groups.remove(&id);
        drop(state);
        if let Some(group) = group {
            self.clear(id, &group);
        }
    }

    /// Drops groups: what is away is called back, and what was written is removed.
    fn forget(&self, which: impl Fn(&Group) -> bool) {
        let mut dropped = Vec::new();
        {
            let mut state = self.state();
            let ids: Vec<AttemptId> =
                state.groups.iter().filter(|(_, g)| which(g)).map(|(id, _)| *id).collect();
            for id in ids {
                state.of.retain(|_, group| *group != id);
                state.open.retain(|_, group| *group != id);
                dropped.extend(state.groups.remove(&id).map(|group| (id, group)));
            }
        }
        let mut outstanding = Vec::new();
        for (id, group) in dropped {
            if let Some(attempt) = group.attempt.filter(|_| group.done.is_none()) {
                outstanding.push(attempt);
                if self.dir().exists() {
                    // Where the job is gone everything is.
                    drop(self.dir().cancel(attempt));
                }
            }
            self.clear(id, &group);
        }
        self.revoke(outstanding);
    }

    /// Tells workers not to begin tasks that nobody waits for any more. The store tells them, too: nothing
    /// rests on whether they hear of it.
    fn revoke(&self, attempts: Vec<AttemptId>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if attempts.is_empty() {
            return;
        }
        let celery = Arc::clone(&self.celery);
        runtime.spawn(async move {
            if let Err(error) = celery.revoke(&attempts).await {
                tracing::debug!(%error, "workers do not hear that frames are not wanted any more");
            }
        });
    }

    /// Removes a group's files.
    fn clear(&self, id: AttemptId, group: &Group) {
        let mut names = Vec::new();
        for n in 0..group.frames.len() {
            names.push(PathBuf::from(format!("{id}.{n}.in.npy")));
            names.extend(group.attempt.map(|attempt| format!("{attempt}.{n}.out.npy").into()));
        }
        if let Some(attempt) = group.attempt.filter(|_| group.done.is_some()) {
            names.push(format!("claims/{attempt}").into());
            names.push(format!("beats/{attempt}").into());
            names.push(format!("results/{attempt}.json").into());
        }
        self.dir().remove(&names);
    }
}

impl Group {
    /// One more failure of its own.
    fn failure(&mut self, said: &str) -> Next {
        self.errors.push(said.chars().take(500).collect());
        if self.errors.len() < MOST_FAILURES {
            self.attempt = None;
            return Next::Send;
        }
        let mut said = self.errors.clone();
        said.dedup();
        let why = format!("{} ({MOST_FAILURES} tries)", said.join("; then "));
        self.failed = Some(why.clone());
        Next::Failed(why)
    }
}

impl Drop for PythonFrames {
    fn drop(&mut self) {
        self.forget(|_| true);
    }
}
