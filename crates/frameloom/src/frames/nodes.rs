//! Frames for the built-in filters: a node gives them to frame slots, its own and others', by the store.
//!
//! ```text
//! frames/JOB/GROUP.N.in             a frame on its way; its neighbours' tasks read it, too
//! frames/JOB/ATTEMPT.out            a frame that comes back, renamed into place: nothing more is said
//! frames/JOB/claims/ATTEMPT         the node that has worked on it for a second; quick ones claim nothing.
//!                                   That it still does stands in its beats
//! frames/JOB/results/ATTEMPT.json   why it failed
//! ```
//!
//! A frame that is done twice comes out the same, so nobody needs to take one for himself alone.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use frameloom_broker::{Broker, Urgency};
use frameloom_core::frame_task::{Stretch, stretches};
use frameloom_core::id::{AttemptId, EngineId, JobId, NodeId};
use frameloom_core::plan::Plan;
use frameloom_core::slot::FrameNumber;
use frameloom_core::wire::{FrameFailure, FrameMessage, JobFile};
use frameloom_core::{Error, ErrorKind, Result};
use frameloom_server::store::{FrameDir, Store, What};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::patience::{Depths, Looks, Luck};
use super::{
    Carriers, GIVEN_UP_AFTER, LEASE, Lost, MOST_AWAY, MOST_FAILURES, NO_WORKER_AFTER, RESEND_AFTER,
    WAITS_AT_MOST, begun, is_workers,
};
use crate::random;

pub(crate) const MIB: u64 = 1 << 20;

/// Bytes that files of frames may take at most, of all segments that a node has at work.
const MOST_BYTES: u64 = 512 * MIB;

/// MiB of frames' files that segments of a node may have between them.
pub(crate) fn budget() -> usize {
    usize::try_from(MOST_BYTES / MIB).unwrap_or(1)
}

/// Bytes for the frames' files of a segment on a node that does so many at a time; `None` where the plan
/// sends no frames to nodes. A share each, or more where neighbours need it: then fewer segments are
/// done at a time.
pub(crate) fn needs(plan: &Plan, slots: usize) -> Option<u64> {
    let all = stretches(&plan.filters, &plan.working);
    if plan.granularity.is_segment() || all.is_empty() {
        return None;
    }
    let least = all.iter().map(Stretch::least).max().unwrap_or(0) * all.len() as u64;
    Some(least.max(MOST_BYTES / slots.max(1) as u64))
}

/// A frame that is away.
struct Task {
    pts: i64,
    attempt: AttemptId,
    sent: Instant,
    /// How often its message was sent again.
    again: u32,
    /// The node that works on it, its counter, and when that last moved and said so.
    beat: Option<(NodeId, u64, Instant)>,
    errors: Vec<String>,
    luck: Luck,
}

/// The frames of a stretch.
struct Going {
    stretch: Stretch,
    group: AttemptId,
    /// Pts of the frames that are written and not sent yet.
    unsent: BTreeMap<u64, i64>,
    /// Frames that are written.
    written: u64,
    away: BTreeMap<u64, Task>,
    /// The first whose file may still be there.
    first_kept: u64,
}

/// The frames that go to nodes, of one attempt at a segment.
pub(super) struct NodeFrames {
    store: Arc<Store>,
    broker: Arc<dyn Broker>,
    done: Arc<Notify>,
    depths: Arc<Depths>,
    job: JobId,
    /// Whether the job is this process's alone: then nobody can do its frames where this one cannot.
    alone: bool,
    plan: AttemptId,
    engine: EngineId,
    urgency: Urgency,
    stretches: Vec<Stretch>,
    state: Mutex<State>,
}

struct State {
    going: BTreeMap<u32, Going>,
    /// When a frame last came back, or somebody was seen at work on one.
    seen: Instant,
    /// Whether the last one that failed found no room on the store.
    full: bool,
}

/// What is to be done about a frame now.
enum Next {
    Wait,
    Came(OwnedFd),
    Failed(Error),
    SendAnew,
    SendAgain,
    GiveUp(Error),
}

fn over() -> Next {
    Next::GiveUp(Error::unavailable("the job is over"))
}

fn never() -> Error {
    Error::internal("a frame that was never away")
}

impl NodeFrames {
    /// For a job with this plan.
    ///
    /// # Errors
    /// Unavailable where its frames are gone.
    pub(super) fn of(
        carriers: &Carriers<'_>,
        job: &JobFile,
        attempt: AttemptId,
        plan: &Plan,
        urgency: Urgency,
    ) -> Result<Self> {
        begun(&carriers.store.frames(job.id))?;
        Ok(Self {
            store: Arc::clone(carriers.store),
            broker: Arc::clone(carriers.broker),
            done: Arc::clone(carriers.done),
            depths: Arc::clone(carriers.depths),
            job: job.id,
            alone: job.submission.is_none(),
            plan: attempt,
            engine: plan.engine.id(),
            urgency,
            stretches: stretches(&plan.filters, &plan.working),
            state: Mutex::new(State { going: BTreeMap::new(), seen: Instant::now(), full: false }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dir(&self) -> FrameDir<'_> {
        self.store.frames(self.job)
    }

    /// Whether nobody has taken a frame for a while.
    pub(super) fn are_starved(&self) -> bool {
        let state = self.state();
        state.going.values().any(|going| !going.away.is_empty())
            && state.seen.elapsed() > NO_WORKER_AFTER
    }

    /// Whether one found no room on the store.
    pub(super) fn are_without_room(&self) -> bool {
        self.state().full
    }

    /// See [`super::Frames::away`].
    pub(super) fn away(&self, frame: FrameNumber) -> Result<OwnedFd> {
        if frame.number == 0 {
            // A segment that is decoded again from further back begins anew.
            self.forget(Some(frame.filter));
        }
        let mut state = self.state();
        if state.going.values().all(|going| going.away.is_empty()) {
            // Nobody was waited for until now.
            state.seen = Instant::now();
        }
        let group = match state.going.get(&frame.filter) {
            Some(going) if going.away.len() + going.unsent.len() >= MOST_AWAY => {
                return Err(Error::internal(format!("{MOST_AWAY} frames are away already")));
            }
            Some(going) if going.written != frame.number => return Err(never()),
            Some(going) => going.group,
            None => {
                let stretch = self.stretches.iter().find(|s| s.first == frame.filter);
                let stretch = *stretch.filter(|_| frame.number == 0).ok_or_else(never)?;
                let group = AttemptId::from_bits(random::bits()?);
                let going = Going {
                    stretch,
                    group,
                    unsent: BTreeMap::new(),
                    written: 0,
                    away: BTreeMap::new(),
                    first_kept: 0,
                };
                state.going.insert(frame.filter, going);
                group
            }
        };
        drop(state);
        self.dir().create(&input(group, frame.number)).map(OwnedFd::from)
    }

    /// See [`super::Frames::gone`]: tasks are sent once their neighbours are there.
    pub(super) async fn gone(&self, frame: FrameNumber) -> Result<()> {
        let due = {
            let mut state = self.state();
            let going = state.going.get_mut(&frame.filter).ok_or_else(never)?;
            if going.written != frame.number {
                return Err(never());
            }
            going.written += 1;
            going.unsent.insert(frame.number, frame.pts);
            let behind = (frame.number + 1).saturating_sub(u64::from(going.stretch.after));
            going.unsent.range(..behind).map(|(number, _)| *number).collect::<Vec<_>>()
        };
        self.send(frame.filter, &due).await
    }

    /// Sends frames' tasks, each as a new attempt where it is none yet.
    async fn send(&self, filter: u32, frames: &[u64]) -> Result<()> {
        let mut messages = Vec::new();
        {
            let mut state = self.state();
            let going = state.going.get_mut(&filter).ok_or_else(never)?;
            let now = Instant::now();
            for frame in frames {
                if let Some(pts) = going.unsent.remove(frame) {
                    let attempt = AttemptId::from_bits(random::bits()?);
                    let task = Task {
                        pts,
                        attempt,
                        sent: now,
                        again: 0,
                        beat: None,
                        errors: Vec::new(),
                        luck: Luck::default(),
                    };
                    going.away.insert(*frame, task);
                }
                let task = going.away.get_mut(frame).ok_or_else(never)?;
                task.sent = now;
                let stretch = &going.stretch;
                messages.push(FrameMessage {
                    job: self.job,
                    plan: self.plan,
                    attempt: task.attempt,
                    group: going.group,
                    frame: *frame,
                    first: frame.saturating_sub(u64::from(stretch.before)),
                    last: (frame + u64::from(stretch.after)).min(going.written - 1),
                    from: stretch.first,
                    to: stretch.end,
                });
            }
        }
        if let Err(error) = self.broker.send_frames(self.engine, messages, self.urgency).await {
            // They count as lost, and are sent again.
            tracing::debug!(%error, "frames are not sent yet");
        }
        Ok(())
    }

    /// See [`super::Frames::back`].
    pub(super) async fn back(&self, frame: FrameNumber) -> Result<OwnedFd, Lost> {
        let (filter, number) = (frame.filter, frame.number);
        let left: Vec<u64> = {
            let state = self.state();
            let going = state.going.get(&filter).ok_or_else(never).map_err(Lost::Otherwise)?;
            let waits = going.unsent.contains_key(&number);
            // It is waited for, so no neighbours come any more.
            let all = going.unsent.keys().copied();
            if waits { all.collect() } else { Vec::new() }
        };
        if !left.is_empty() {
            self.send(filter, &left).await.map_err(Lost::Otherwise)?;
        }
        let mut looks = Looks::new();
        loop {
            let done = self.done.notified();
            match self.next(filter, number).await.map_err(Lost::Otherwise)? {
                Next::Came(file) => return Ok(file),
                Next::Failed(error) => return Err(Lost::ByFunction(error)),
                Next::GiveUp(error) => return Err(Lost::Otherwise(error)),
                Next::SendAnew => {
                    self.renew(filter, number).map_err(Lost::Otherwise)?;
                    self.send(filter, &[number]).await.map_err(Lost::Otherwise)?;
                }
                Next::SendAgain => {
                    let late = self.late(filter);
                    tracing::info!(frames = late.len(), "frames are not taken; sent again");
                    self.send(filter, &late).await.map_err(Lost::Otherwise)?;
                }
                Next::Wait => {
                    // A slot of this node may have it first.
                    tokio::select! {
                        () = done => {}
                        () = tokio::time::sleep(looks.next()) => {}
                    }
                }
            }
        }
    }

    /// Gives a frame a new attempt; what the old one has left is removed.
    fn renew(&self, filter: u32, number: u64) -> Result<()> {
        let attempt = AttemptId::from_bits(random::bits()?);
        let old = {
            let mut state = self.state();
            let going = state.going.get_mut(&filter).ok_or_else(never)?;
            let task = going.away.get_mut(&number).ok_or_else(never)?;
            task.beat = None;
            std::mem::replace(&mut task.attempt, attempt)
        };
        self.dir().remove(&[
            output(old).into(),
            format!("claims/{old}").into(),
            format!("results/{old}.json").into(),
        ]);
        Ok(())
    }

    /// Frames whose messages are lost where one is: sent as long ago, not back and not claimed.
    fn late(&self, filter: u32) -> Vec<u64> {
        let dir = self.dir();
        let mut state = self.state();
        let Some(going) = state.going.get_mut(&filter) else { return Vec::new() };
        let late = going.away.iter_mut().filter(|(_, task)| {
            task.sent.elapsed() >= RESEND_AFTER
                && !dir.is_claimed(task.attempt)
                && dir.has(&output(task.attempt)).is_ok_and(|there| !there)
        });
        let late = late.map(|(number, task)| {
            task.again += 1;
            *number
        });
        late.collect()
    }

    /// Looks at the store for what has become of a frame.
    async fn next(&self, filter: u32, number: u64) -> Result<Next> {
        let (attempt, sent, again, seen, due) = {
            let mut state = self.state();
            let seen = state.seen;
            let going = state.going.get_mut(&filter).ok_or_else(never)?;
            let task = going.away.get_mut(&number).ok_or_else(never)?;
            (task.attempt, task.sent, task.again, seen, task.luck.due())
        };
        let dir = self.dir();
        match due {
            Some(true) => return Ok(Next::SendAnew),
            Some(false) if dir.is_gone() => return Ok(over()),
            Some(false) => return Ok(Next::Wait),
            None => {}
        }
        let refused = |error| {
            self.store.refused().note(What::Frame, &error);
            FrameFailure { error, by_task: true }
        };
        match dir.open(&output(attempt)) {
            Ok(Some(file)) => {
                self.came_back(filter, number);
                return Ok(Next::Came(OwnedFd::from(file)));
            }
            Ok(None) => {}
            Err(error) if is_workers(&error) => return self.failed(filter, number, refused(error)),
            Err(error) => return Err(error),
        }
        match dir.answer::<FrameFailure>(attempt) {
            Ok(Some(FrameFailure { error, by_task })) => {
                let failure = FrameFailure { error: error.tamed(), by_task };
                return self.failed(filter, number, failure);
            }
            Ok(None) => {}
            Err(error) if is_workers(&error) => return self.failed(filter, number, refused(error)),
            Err(error) => return Err(error),
        }
        if sent.elapsed() < RESEND_AFTER * (1 << again.min(4)) {
            return Ok(Next::Wait);
        }
        if dir.is_gone() {
            return Ok(over());
        }
        if let Some(claim) = dir.claim_of(attempt) {
            return self.watch(filter, number, claim.node);
        }
        if seen.elapsed() > GIVEN_UP_AFTER {
            return Ok(Next::GiveUp(Error::unavailable("no node takes frames")));
        }
        // Not claimed for long: is the message still there?
        let (broker, engine) = (&self.broker, self.engine);
        match self.depths.of(&engine.to_string(), || broker.frames_waiting(engine)).await {
            Some(0) => Ok(Next::SendAgain),
            Some(_) if sent.elapsed() > WAITS_AT_MOST => Ok(Next::SendAgain),
            _ => Ok(Next::Wait),
        }
    }

    /// Watches over a frame that a node says to work on: for as long as its beats say so, too.
    fn watch(&self, filter: u32, number: u64, node: NodeId) -> Result<Next> {
        let beat = self.store.read_beat(node).ok().flatten();
        let mut state = self.state();
        let now = Instant::now();
        let going = state.going.get_mut(&filter).ok_or_else(never)?;
        let task = going.away.get_mut(&number).ok_or_else(never)?;
        let holds = beat.filter(|beat| beat.frames.contains(&task.attempt)).map(|b| b.counter);
        match task.beat {
            Some((known, before, at))
                if known == node && holds.is_none_or(|counter| counter == before) =>
            {
                if now.duration_since(at) <= LEASE {
                    return Ok(Next::Wait);
                }
                tracing::info!(attempt = %task.attempt, %node, "a frame is lost with its node");
                Ok(Next::SendAnew)
            }
            _ => {
                task.beat = Some((node, holds.unwrap_or(0), now));
                if holds.is_some() {
                    state.seen = now;
                }
                Ok(Next::Wait)
            }
        }
    }

    /// One more failure of a frame.
    fn failed(&self, filter: u32, number: u64, failure: FrameFailure) -> Result<Next> {
        let mut state = self.state();
        state.seen = Instant::now();
        let going = state.going.get_mut(&filter).ok_or_else(never)?;
        let task = going.away.get_mut(&number).ok_or_else(never)?;
        if !failure.by_task {
            let error = failure.error;
            let kind = error.kind();
            tracing::info!(%error, pts = task.pts, "a frame is not done where it was, and is sent again");
            // Whoever else there may be was never asked where there is nobody else.
            let given_up = task.luck.failed() || (self.alone && kind == ErrorKind::Conflict);
            state.full = kind == ErrorKind::Exhausted;
            return Ok(if given_up { Next::GiveUp(error) } else { Next::Wait });
        }
        task.errors.push(failure.error.message().to_owned());
        if task.errors.len() < MOST_FAILURES {
            return Ok(Next::SendAnew);
        }
        let mut said = task.errors.clone();
        said.dedup();
        let text = format!(
            "the frame at pts {} failed {MOST_FAILURES} times: {}",
            task.pts,
            said.join("; then ")
        );
        drop(state);
        self.came_back(filter, number);
        let kind = failure.error.kind();
        // It was tried again already.
        Ok(Next::Failed(if kind.is_retryable() {
            Error::unsupported(text)
        } else {
            Error::new(kind, text)
        }))
    }

    /// A frame is not away any more: files that nobody needs now are removed.
    fn came_back(&self, filter: u32, number: u64) {
        let mut names = Vec::new();
        {
            let mut state = self.state();
            (state.seen, state.full) = (Instant::now(), false);
            let Some(going) = state.going.get_mut(&filter) else { return };
            if let Some(task) = going.away.remove(&number) {
                names.push(PathBuf::from(output(task.attempt)));
                if task.sent.elapsed() > RESEND_AFTER / 2 || !task.errors.is_empty() {
                    names.push(format!("claims/{}", task.attempt).into());
                    names.push(format!("results/{}.json", task.attempt).into());
                }
            }
            let open = going.away.keys().chain(going.unsent.keys()).min().copied();
            let needed = open.unwrap_or(going.written);
            let needed = needed.saturating_sub(u64::from(going.stretch.before));
            // The next frame to come may need those before it.
            for number in going.first_kept..needed {
                names.push(input(going.group, number).into());
            }
            going.first_kept = going.first_kept.max(needed);
        }
        self.dir().remove(&names);
    }

    /// Drops what is away, of one filter or of all, and removes what was written.
    fn forget(&self, filter: Option<u32>) {
        let mut dropped = Vec::new();
        {
            let mut state = self.state();
            match filter {
                Some(filter) => dropped.extend(state.going.remove(&filter)),
                None => dropped.extend(std::mem::take(&mut state.going).into_values()),
            }
        }
        let mut names = Vec::new();
        for going in dropped {
            names.extend((going.first_kept..=going.written).map(|n| input(going.group, n).into()));
            names.extend(going.away.values().map(|task| output(task.attempt).into()));
        }
        self.dir().remove(&names);
    }
}

impl Drop for NodeFrames {
    fn drop(&mut self) {
        self.forget(None);
    }
}

/// The file of a frame on its way.
pub(super) fn input(group: AttemptId, number: u64) -> String {
    format!("{group}.{number}.in")
}

/// The file of a frame that comes back.
pub(super) fn output(attempt: AttemptId) -> String {
    format!("{attempt}.out")
}

#[cfg(test)]
mod tests;
