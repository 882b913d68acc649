//! Frames for the built-in filters: a node gives them to frame slots, its own and others', by the store.
//!
//! ```text
//! frames/JOB/GROUP.N.in             a frame on its way; its neighbours' tasks read it, too
//! frames/JOB/ATTEMPT.out            a frame that comes back, renamed into place: nothing more is said
//! frames/JOB/claims/ATTEMPT         the node that has worked on it for a second; quick ones claim nothing
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
use frameloom_core::wire::{FrameFailure, FrameMessage};
use frameloom_core::{Error, Result};
use frameloom_server::store::{FrameDir, Store};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{
    Carriers, GIVEN_UP_AFTER, LEASE, LOOK_EVERY, Lost, MOST_AWAY, MOST_FAILURES, NO_WORKER_AFTER,
    RESEND_AFTER, WAITS_AT_MOST,
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
    /// The node that works on it, its counter, and when that last moved.
    beat: Option<(NodeId, u64, Instant)>,
    errors: Vec<String>,
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
    job: JobId,
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
}

/// What is to be done about a frame now.
enum Next {
    Wait,
    Came(OwnedFd),
    Failed(Error),
    SendAnew,
    SendAgain,
    GiveUp(String),
}

fn never() -> Error {
    Error::internal("a frame that was never away")
}

impl NodeFrames {
    /// For a job with this plan.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn of(
        carriers: &Carriers<'_>,
        job: JobId,
        attempt: AttemptId,
        plan: &Plan,
        urgency: Urgency,
    ) -> Result<Self> {
        // Made once: where it is gone later the job is over.
        let made = carriers.store.frames(job).make();
        made.map_err(|e| Error::unavailable(e.message().to_owned()))?;
        Ok(Self {
            store: Arc::clone(carriers.store),
            broker: Arc::clone(carriers.broker),
            done: Arc::clone(carriers.done),
            job,
            plan: attempt,
            engine: plan.engine.id(),
            urgency,
            stretches: stretches(&plan.filters, &plan.working),
            state: Mutex::new(State { going: BTreeMap::new(), seen: Instant::now() }),
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
                    let task =
                        Task { pts, attempt, sent: now, again: 0, beat: None, errors: Vec::new() };
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
        loop {
            let done = self.done.notified();
            match self.next(filter, number).await.map_err(Lost::Otherwise)? {
                Next::Came(file) => return Ok(file),
                Next::Failed(error) => return Err(Lost::ByFunction(error)),
                Next::GiveUp(why) => return Err(Lost::Otherwise(Error::unavailable(why))),
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
                        () = tokio::time::sleep(LOOK_EVERY) => {}
                    }
                }
            }
        }
    }

    /// Gives a frame a new attempt.
    fn renew(&self, filter: u32, number: u64) -> Result<()> {
        let attempt = AttemptId::from_bits(random::bits()?);
        let mut state = self.state();
        let going = state.going.get_mut(&filter).ok_or_else(never)?;
        let task = going.away.get_mut(&number).ok_or_else(never)?;
        (task.attempt, task.beat) = (attempt, None);
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
                && !dir.has(&output(task.attempt))
        });
        let late = late.map(|(number, task)| {
            task.again += 1;
            *number
        });
        late.collect()
    }

    /// Looks at the store for what has become of a frame.
    async fn next(&self, filter: u32, number: u64) -> Result<Next> {
        let (attempt, sent, again, seen) = {
            let state = self.state();
            let going = state.going.get(&filter).ok_or_else(never)?;
            let task = going.away.get(&number).ok_or_else(never)?;
            (task.attempt, task.sent, task.again, state.seen)
        };
        let dir = self.dir();
        if let Some(file) = dir.open(&output(attempt))? {
            self.came_back(filter, number);
            return Ok(Next::Came(OwnedFd::from(file)));
        }
        if let Some(failure) = dir.answer::<FrameFailure>(attempt)? {
            return self.failed(filter, number, failure);
        }
        if sent.elapsed() < RESEND_AFTER * (1 << again.min(4)) {
            return Ok(Next::Wait);
        }
        if !dir.exists() {
            return Ok(Next::GiveUp("the job is over".into()));
        }
        if let Some(claim) = dir.claim_of(attempt) {
            return self.watch(filter, number, claim.node);
        }
        if seen.elapsed() > GIVEN_UP_AFTER {
            return Ok(Next::GiveUp("no node takes frames".into()));
        }
        // Not claimed for long: is the message still there?
        match self.broker.frames_waiting(self.engine).await {
            Ok(0) => Ok(Next::SendAgain),
            Ok(_) if sent.elapsed() > WAITS_AT_MOST => Ok(Next::SendAgain),
            _ => Ok(Next::Wait),
        }
    }

    /// Watches over a frame that a node says to work on.
    fn watch(&self, filter: u32, number: u64, node: NodeId) -> Result<Next> {
        let counter = self.store.read_beat(node).ok().flatten().map_or(0, |beat| beat.counter);
        let mut state = self.state();
        let now = Instant::now();
        let going = state.going.get_mut(&filter).ok_or_else(never)?;
        let task = going.away.get_mut(&number).ok_or_else(never)?;
        match task.beat {
            Some((known, before, at)) if known == node && before == counter => {
                if now.duration_since(at) <= LEASE {
                    return Ok(Next::Wait);
                }
                tracing::info!(attempt = %task.attempt, %node, "a frame is lost with its node");
                Ok(Next::SendAnew)
            }
            _ => {
                task.beat = Some((node, counter, now));
                state.seen = now;
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
            tracing::info!(error = %failure.error, "a frame is lost, and sent again");
            return Ok(Next::SendAnew);
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
            state.seen = Instant::now();
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
mod tests {
    use std::fs;

    use frameloom_broker::Memory;
    use frameloom_core::ErrorKind;
    use frameloom_core::wire::{FrameClaim, FrameTask};

    use super::*;

    struct Trial {
        dir: tempfile::TempDir,
        frames: NodeFrames,
    }

    impl Trial {
        fn new(before: u32, after: u32) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(dir.path()).unwrap());
            let job = JobId::from_bits(1);
            store.frames(job).make().unwrap();
            let stretch = Stretch { first: 2, end: 3, before, after, input: 9, output: 9 };
            let frames = NodeFrames {
                store,
                broker: Arc::new(Memory::new()),
                done: Arc::new(Notify::new()),
                job,
                plan: AttemptId::from_bits(2),
                engine: EngineId::from_digest(&[3; 6]),
                urgency: 3,
                stretches: vec![stretch],
                state: Mutex::new(State { going: BTreeMap::new(), seen: Instant::now() }),
            };
            Self { dir, frames }
        }

        async fn write(&self, number: u64) {
            self.frames.away(at(number)).unwrap();
            self.frames.gone(at(number)).await.unwrap();
        }

        async fn message(&self) -> FrameMessage {
            match self.frames.broker.receive_frame(self.frames.engine).await.unwrap() {
                FrameTask::Ours(message) => message,
                FrameTask::Stranger(frame) => panic!("{frame:?}"),
            }
        }

        async fn waiting(&self) -> usize {
            self.frames.broker.frames_waiting(self.frames.engine).await.unwrap()
        }

        /// A node's slot does what a message asks for.
        fn answer(&self, message: &FrameMessage) {
            let dir = self.frames.dir();
            dir.create("part").unwrap();
            dir.publish("part", &output(message.attempt)).unwrap();
        }

        fn files(&self) -> usize {
            let dir = self.dir.path().join("frames").join(self.frames.job.to_string());
            let entries = fs::read_dir(dir).unwrap().flatten();
            entries.filter(|entry| entry.file_type().unwrap().is_file()).count()
        }
    }

    fn at(number: u64) -> FrameNumber {
        FrameNumber { filter: 2, number, pts: i64::try_from(number).unwrap() * 10 }
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_name_the_neighbours_that_there_are_and_files_go_when_nobody_needs_them() {
        let trial = Trial::new(1, 2);
        for number in 0..4 {
            trial.write(number).await;
        }
        assert_eq!(trial.waiting().await, 2, "frames 2 and 3 want frames behind them");
        let mut seen = Vec::new();
        for number in 0..4 {
            let (message, back) = tokio::join!(
                async {
                    let message = trial.message().await;
                    trial.answer(&message);
                    message
                },
                trial.frames.back(at(number))
            );
            back.unwrap();
            seen.push((message.frame, message.first, message.last));
        }
        assert_eq!(seen, [(0, 0, 2), (1, 0, 3), (2, 1, 3), (3, 2, 3)]);
        assert_eq!(trial.files(), 1, "the last one is kept for a frame to come");
        drop(trial.frames.away(at(0)).unwrap());
        assert_eq!(trial.files(), 1, "what was there before a new beginning is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_message_is_sent_again_as_it_was_with_all_that_are_lost() {
        let trial = Trial::new(0, 0);
        for number in 0..3 {
            trial.write(number).await;
        }
        let mut lost = Vec::new();
        for _ in 0..3 {
            lost.push(trial.message().await);
        }
        trial.answer(&lost[1]);
        let (again, back) = tokio::join!(
            async {
                let again = [trial.message().await, trial.message().await];
                again.iter().for_each(|message| trial.answer(message));
                again
            },
            trial.frames.back(at(0))
        );
        back.unwrap();
        assert_eq!(again, [lost[0].clone(), lost[2].clone()]);
        assert_eq!(trial.waiting().await, 0, "what has come back is not sent again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_a_living_node_works_on_is_waited_for_and_a_silent_ones_is_sent_anew() {
        let trial = Trial::new(0, 0);
        trial.write(0).await;
        let first = trial.message().await;
        let node = NodeId::from_bits(5);
        trial.frames.dir().claim(first.attempt, FrameClaim { node }).unwrap();
        fs::create_dir(trial.dir.path().join("nodes").join(node.to_string())).unwrap();
        let begun = Instant::now();
        let beats = async {
            // It works for half a minute, and then nothing is heard of it.
            for counter in 1..=30 {
                let beat = frameloom_core::wire::Beat { counter, ..Default::default() };
                trial.frames.store.write_beat(node, &beat).unwrap();
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        };
        let answers = async {
            let anew = trial.message().await;
            trial.answer(&anew);
            (anew, begun.elapsed())
        };
        let (back, (anew, after), ()) = tokio::join!(trial.frames.back(at(0)), answers, beats);
        back.unwrap();
        assert_ne!(anew.attempt, first.attempt);
        assert!((38..43).contains(&after.as_secs()), "after {after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn three_failures_of_its_own_end_a_frame_and_others_count_nothing() {
        let trial = Trial::new(0, 0);
        trial.write(0).await;
        let failures = async {
            for by_task in [false, true, false, true, true] {
                let message = trial.message().await;
                let error = Error::unavailable("the slot died");
                let failure = FrameFailure { error, by_task };
                trial.frames.dir().say(message.attempt, &failure).unwrap();
            }
        };
        let (back, ()) = tokio::join!(trial.frames.back(at(0)), failures);
        match back {
            Err(Lost::ByFunction(error)) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                let expected = "the frame at pts 0 failed 3 times: the slot died";
                assert_eq!(error.message(), expected);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(trial.waiting().await, 0);
    }
}
