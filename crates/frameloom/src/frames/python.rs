//! Frames for Python functions: a node gives them to Celery workers by the store, and looks there for
//! what comes back.
//!
//! ```text
//! frames/JOB/GROUP.N.in.npy  ATTEMPT.N.out.npy   frames on their way, and back
//! frames/JOB/{claims,beats,cancelled}/ATTEMPT    as for other tasks, made by the worker and by us
//! frames/JOB/results/ATTEMPT.json                what became of an attempt
//! ```

mod group;
mod message;

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
use frameloom_core::spec::OnError;
use frameloom_core::wire::JobFile;
use frameloom_core::{Error, ErrorKind, Result};
use frameloom_server::store::{FrameDir, Store, What};
use serde_json::json;
use tokio::time::Instant;

use super::patience::{Depths, Looks};
use super::{
    Carriers, GIVEN_UP_AFTER, LEASE, Lost, MOST_AWAY, NO_WORKER_AFTER, RESEND_AFTER, WAITS_AT_MOST,
    begun, is_workers,
};
use crate::random;
use group::{Answer, Going, Group, Next, STORES, input, notes, output};
use message::{LONG, Run, SHORT, written_out};

/// Workers that die while they hold a frame, after which it is given up: its function kills them.
const MOST_LOST: u32 = 5;

/// Messages that somebody takes and does not begin, after which it is said so.
const SWALLOWED: u32 = 5;

/// How long a frame that is told to be done may take to show.
const SHOWS_WITHIN: Duration = Duration::from_secs(10);

/// The frames of one attempt at a segment.
pub(super) struct PythonFrames {
    store: Arc<Store>,
    celery: Arc<Celery>,
    depths: Arc<Depths>,
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
    /// Whether the last task that failed found no room on the store.
    full: bool,
}

impl PythonFrames {
    /// For a job with filters that send frames away; `None` for others.
    ///
    /// # Errors
    /// Unsupported where this node has no Celery broker; Invalid as the filters' parameters; Unavailable where
    /// the job's frames are gone.
    pub(super) fn of(
        carriers: &Carriers<'_>,
        job: &JobFile,
        urgency: Urgency,
    ) -> Result<Option<Self>> {
        let Carriers { store, celery, depths, .. } = *carriers;
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
        begun(&store.frames(job.id))?;
        let state = State {
            groups: BTreeMap::new(),
            of: BTreeMap::new(),
            open: BTreeMap::new(),
            seen: Instant::now(),
            full: false,
        };
        Ok(Some(Self {
            store: Arc::clone(store),
            celery: Arc::clone(celery),
            depths: Arc::clone(depths),
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

    /// Whether a task found no room on the store.
    pub(super) fn are_without_room(&self) -> bool {
        self.state().full
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
        let input = input(open, number);
        group.frames.push(Going { frame, number, input: input.clone() });
        group.size = number + 1;
        state.of.insert((frame.filter, frame.number), open);
        drop(state);
        self.dir().create(&input).map(OwnedFd::from)
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
        let mut left = Vec::new();
        let (spec, message) = {
            let mut state = self.state();
            let group = state.groups.get_mut(&id).ok_or_else(|| Error::internal("no group"))?;
            let now = Instant::now();
            if same.is_none() {
                group.past.extend(group.attempt.replace(attempt));
                group.beat = None;
                left = group.left();
            }
            group.resent = now;
            let spec = self.spec(group.filter)?;
            let mut message = json!({
                "job": self.job, "attempt": attempt, "params": spec.params,
                "timeout": spec.timeout,
            });
            match Run::of(id, &group.frames) {
                Some(run) => (message["version"], message["frames"]) = (SHORT.into(), json!(run)),
                None => {
                    message["version"] = LONG.into();
                    message["frames"] = written_out(self.job, attempt, &group.frames);
                }
            }
            (spec, message)
        };
        // The disk must not fill with what attempts before have made.
        self.dir().remove(&left);
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
        let mut looks = Looks::new();
        let mut id = {
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
                    tokio::time::sleep(looks.next()).await;
                }
                Next::Send => self.send(id, None).await.map_err(Lost::Otherwise)?,
                Next::SendAgain(attempt) => {
                    self.send(id, Some(attempt)).await.map_err(Lost::Otherwise)?;
                }
                Next::Failed(why) => {
                    let spec = self.spec(frame.filter).map_err(Lost::Otherwise)?;
                    if spec.on_error != OnError::Fail
                        && let Some(alone) = self.part(id, frame).map_err(Lost::Otherwise)?
                    {
                        tracing::info!(
                            error = why,
                            "a batch failed; its frames are tried one by one"
                        );
                        id = alone;
                        continue;
                    }
                    let task = &spec.task;
                    self.came_back(id, frame);
                    return Err(Lost::ByFunction(Error::invalid(format!(
                        "task '{task}' failed on the frame at pts {}: {why}",
                        frame.pts
                    ))));
                }
                Next::GiveUp(error) => return Err(Lost::Otherwise(error)),
                Next::Wait => tokio::time::sleep(looks.next()).await,
            }
        }
    }

    /// Looks at the store for what has become of a group's task.
    async fn next(&self, id: AttemptId) -> Result<Next> {
        let no_group = || Error::internal("no group");
        let dir = self.dir();
        let over = || Ok(Next::GiveUp(Error::unavailable("the job is over")));
        let (attempt, resent, filter, swallowed, seen) = {
            let mut state = self.state();
            let seen = state.seen;
            let group = state.groups.get_mut(&id).ok_or_else(no_group)?;
            if let Some(why) = &group.failed {
                return Ok(Next::Failed(why.clone()));
            }
            if group.done.is_some() {
                return Ok(Next::Done);
            }
            let Some(attempt) = group.attempt else { return Ok(Next::Send) };
            match group.luck.due() {
                Some(true) => return Ok(Next::Send),
                Some(false) if dir.is_gone() => return over(),
                Some(false) => return Ok(Next::Wait),
                None => {}
            }
            (attempt, group.resent, group.filter, group.swallowed, seen)
        };
        if dir.is_gone() {
            return over();
        }
        let answer = match dir.answer::<Answer>(attempt) {
            Err(error) if is_workers(&error) => {
                self.store.refused().note(What::Frame, &error);
                Some(Answer::failed(error.message().to_owned()))
            }
            answer => answer?,
        };
        if let Some(answer) = answer {
            if answer.kind == STORES && answer.outcome != "done" {
                return self.unlucky(id, answer.error);
            }
            let mut state = self.state();
            let now = Instant::now();
            (state.seen, state.full) = (now, false);
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
            let why = format!("no worker on queue '{}'", spec.queue);
            return Ok(Next::GiveUp(Error::unavailable(why)));
        }
        let celery = &self.celery;
        let waiting = self.depths.of(&spec.queue, || celery.depth_of(&spec.queue)).await;
        let mut state = self.state();
        let group = state.groups.get_mut(&id).ok_or_else(no_group)?;
        match waiting {
            Some(0) => {
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
            Some(_) if resent.elapsed() > WAITS_AT_MOST => Ok(Next::SendAgain(attempt)),
            _ => Ok(Next::Wait),
        }
    }

    /// A task failed, and the store is to blame.
    fn unlucky(&self, id: AttemptId, said: String) -> Result<Next> {
        let room = self.dir().try_room(random::bits()?);
        let mut state = self.state();
        state.seen = Instant::now();
        let group = state.groups.get_mut(&id).ok_or_else(|| Error::internal("no group"))?;
        tracing::info!(error = said, "a task could not use the store, and is sent again");
        let given_up = group.luck.failed();
        let error = match room {
            Err(error) if error.kind() == ErrorKind::Exhausted => error,
            _ => Error::unavailable(format!("a worker could not use the store: {said}")),
        };
        state.full = error.kind() == ErrorKind::Exhausted;
        Ok(if given_up { Next::GiveUp(error) } else { Next::Wait })
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
                if let Err(error) = self.dir().try_room(random::bits()?)
                    && error.kind() == ErrorKind::Exhausted
                {
                    // Where nobody can write nobody can tell that he lives.
                    drop(state);
                    self.dir().cancel(attempt).ok();
                    return self.unlucky(id, error.message().to_owned());
                }
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
        let (attempt, number, input, done) = {
            let state = self.state();
            let group = state.groups.get(&id);
            let going = group.and_then(|group| group.frames.iter().find(|g| g.frame == frame));
            let found = group.zip(going).and_then(|(group, going)| {
                Some((group.attempt?, going.number, going.input.clone(), group.done?))
            });
            found.ok_or_else(|| Error::internal("a frame that was never away"))?
        };
        let dir = self.dir();
        let name = output(attempt, number);
        let why = match dir.open(&name) {
            Ok(Some(file)) => {
                // Both are of no use any more once the slot has read what it holds open.
                dir.remove(&[name.into(), input.into()]);
                self.came_back(id, frame);
                return Ok(Some(OwnedFd::from(file)));
            }
            Ok(None) if done.elapsed() < SHOWS_WITHIN => return Ok(None),
            Ok(None) => "it was told to be done, and its file is not there".to_owned(),
            Err(error) if is_workers(&error) => {
                self.store.refused().note(What::Frame, &error);
                error.message().to_owned()
            }
            Err(error) => return Err(error),
        };
        let mut state = self.state();
        let group = state.groups.get_mut(&id).ok_or_else(|| Error::internal("no group"))?;
        group.done = None;
        group.failure(&why);
        Ok(None)
    }

    /// A frame is not away any more; with its last one a group is over.
    fn came_back(&self, id: AttemptId, frame: FrameNumber) {
        let mut state = self.state();
        state.of.remove(&(frame.filter, frame.number));
        let Some(group) = state.groups.get_mut(&id) else { return };
        let mut gone = Vec::new();
        group.frames.retain(|going| {
            if going.frame == frame {
                gone.push(PathBuf::from(&going.input));
            }
            going.frame != frame
        });
        let over = if group.frames.is_empty() { state.groups.remove(&id) } else { None };
        drop(state);
        self.dir().remove(&gone);
        if let Some(group) = over {
            self.clear(&group);
        }
    }

    /// Makes each frame of a group that failed a group of its own; answers that of `frame`, or `None` where it
    /// was alone already.
    fn part(&self, id: AttemptId, frame: FrameNumber) -> Result<Option<AttemptId>> {
        let mut state = self.state();
        let Some(group) = state.groups.get_mut(&id).filter(|group| group.frames.len() > 1) else {
            return Ok(None);
        };
        let (filter, frames) = (group.filter, std::mem::take(&mut group.frames));
        let parted = state.groups.remove(&id);
        let mut found = None;
        for going in frames {
            let own = AttemptId::from_bits(random::bits()?);
            if going.frame == frame {
                found = Some(own);
            }
            state.of.insert((filter, going.frame.number), own);
            let mut group = Group::new(filter);
            group.size = going.number + 1;
            group.frames.push(going);
            state.groups.insert(own, group);
        }
        drop(state);
        if let Some(parted) = parted {
            self.clear(&parted);
        }
        Ok(found)
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
                dropped.extend(state.groups.remove(&id));
            }
        }
        let mut outstanding = Vec::new();
        for group in dropped {
            if let Some(attempt) = group.attempt.filter(|_| group.done.is_none()) {
                outstanding.push(attempt);
                if !self.dir().is_gone() {
                    // Where the job is gone everything is.
                    drop(self.dir().cancel(attempt));
                }
            }
            self.clear(&group);
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
    fn clear(&self, group: &Group) {
        let mut names: Vec<PathBuf> =
            group.frames.iter().map(|going| going.input.clone().into()).collect();
        names.extend(group.left());
        if let Some(attempt) = group.attempt {
            names.extend((0..group.size).map(|number| output(attempt, number).into()));
            if group.done.is_some() || group.failed.is_some() {
                names.extend(notes(attempt));
            }
        }
        self.dir().remove(&names);
    }
}

impl Drop for PythonFrames {
    fn drop(&mut self) {
        self.forget(|_| true);
    }
}

#[cfg(test)]
mod tests;
