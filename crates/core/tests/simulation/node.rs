//! Worker nodes and their slots: they take messages, claim, work, report and beat.

use frameloom_core::Error;
use frameloom_core::id::AttemptId;
use frameloom_core::scheduler::MAX_ATTEMPTS;

use crate::broker::{Message, Place, Queue};
use crate::random::Time;
use crate::scenario::SLOWEST;
use crate::store::{Beat, Outcome, Report};
use crate::world::{Event, World};

/// How often a node beats.
const BEAT: Time = 1000;

/// An attempt at work.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) message: Message,
    pub(crate) ends_at: Time,
    pub(crate) outcome: Outcome,
    /// Tells it from other runs of the slot.
    pub(crate) run: u64,
}

/// A slot: one attempt at a time.
#[derive(Debug)]
pub(crate) struct Slot {
    /// How many times as long as usual it takes.
    slowness: u64,
    /// Taken, and not looked at.
    pub(crate) message: Option<Message>,
    pub(crate) work: Option<Work>,
}

/// A worker node. One that is started again is another.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) dead: bool,
    pub(crate) frozen_until: Time,
    /// Its clock was set back: its timer does not fire until then.
    pub(crate) beats_from: Time,
    /// How often it beats, by the clock of others.
    pub(crate) beat_every: Time,
    counter: u64,
    pub(crate) slots: Vec<Slot>,
}

impl Node {
    /// Stops it; what it works on goes on when it wakes.
    pub(crate) fn freeze(&mut self, now: Time, until: Time) {
        if self.frozen_until > now {
            return;
        }
        self.frozen_until = until;
        for work in self.slots.iter_mut().filter_map(|slot| slot.work.as_mut()) {
            work.ends_at += until - now;
        }
    }
}

fn queue_of(slot: usize) -> Queue {
    if slot == 0 { Queue::Control } else { Queue::Segment }
}

impl World {
    /// A new node with a control slot and segment slots.
    pub(crate) fn join(&mut self) {
        let n = self.nodes.len();
        let mut slots = Vec::new();
        for s in 0..=self.scenario.slots {
            let slow = self.random.chance(self.scenario.slow_slots);
            let first = if (n, s) == (0, 1) { self.scenario.first_slot } else { 1 };
            let slowness = if slow { self.random.time(2, SLOWEST) } else { first };
            slots.push(Slot { slowness, message: None, work: None });
        }
        let node = Node {
            dead: false,
            frozen_until: 0,
            beats_from: 0,
            beat_every: BEAT,
            counter: 0,
            slots,
        };
        self.nodes.push(node);
        for s in 0..=self.scenario.slots {
            self.broker.queue(queue_of(s)).free.push((n, s));
        }
        let phase = self.random.time(0, BEAT);
        self.at(self.now + phase, Event::Beat(n));
        self.hand_out(Queue::Control);
        self.hand_out(Queue::Segment);
    }

    /// Notes how fast the nodes that live are; where none does, one of slow slots will join.
    pub(crate) fn measure(&mut self) {
        let living = self.nodes.iter().filter(|node| !node.dead);
        let slots = living.flat_map(|node| node.slots.iter().skip(1));
        let speed: Time = slots.map(|slot| 1000 / slot.slowness).sum();
        let least = self.scenario.slots as Time * 1000 / SLOWEST;
        self.speed = speed.max(least);
    }

    /// The node dies with all it holds.
    pub(crate) fn kill(&mut self, n: usize) {
        self.counts.nodes_died += 1;
        let node = &mut self.nodes[n];
        node.dead = true;
        node.slots.clear();
        for queue in [Queue::Control, Queue::Segment] {
            self.broker.queue(queue).free.retain(|(node, _)| *node != n);
        }
    }

    /// The slot claims what its message stands for, and begins. On a frozen node it does so late.
    pub(crate) fn take(&mut self, (n, s): Place) {
        let now = self.now;
        let node = &mut self.nodes[n];
        if node.dead {
            return;
        }
        if node.frozen_until > now {
            let wake = node.frozen_until;
            return self.at(wake, Event::Take((n, s)));
        }
        let Some(message) = node.slots[s].message.take() else { return };
        let slowness = node.slots[s].slowness;
        let seen_from = now + self.until_seen();
        if !self.store.claim(message.attempt, (message.job, n), now, seen_from) {
            return self.free((n, s));
        }
        let takes = self.scenario.jobs[message.job].takes(message.task) * slowness;
        let outcome = self.draw_outcome(&message);
        // A failure comes at any point of the work.
        let takes = if outcome.is_err() { self.random.time(0, takes) } else { takes };
        let run = self.counts.events;
        let ends_at = now + takes;
        self.nodes[n].slots[s].work = Some(Work { message, ends_at, outcome, run });
        self.at(ends_at, Event::End((n, s), run));
    }

    fn draw_outcome(&mut self, message: &Message) -> Outcome {
        let model = &self.scenario.jobs[message.job];
        if model.poison == Some(message.task) {
            return Err((Error::unavailable("the slot dies on it each time"), true));
        }
        if self.random.chance(self.scenario.own_failures)
            && let Some(outcome) = self.fails_by_itself(message, Error::unavailable("slot died"))
        {
            return outcome;
        }
        if self.random.chance(self.scenario.faults.unlucky) {
            self.counts.unlucky += 1;
            return Err(match self.random.index(4) {
                0 => (Error::unavailable("the node drains"), false),
                1 => (Error::timeout("the store does not answer"), false),
                2 => (Error::internal("the plan is gone"), false),
                _ => (Error::exhausted("no space left"), true),
            });
        }
        Ok(())
    }

    /// A failure that counts, where the task may still have one without failing its job.
    pub(crate) fn fails_by_itself(&mut self, message: &Message, error: Error) -> Option<Outcome> {
        let failures = self.own.entry((message.job, message.task)).or_insert(0);
        if *failures + 1 >= MAX_ATTEMPTS {
            return None;
        }
        *failures += 1;
        self.counts.own_failures += 1;
        Some(Err((error, true)))
    }

    /// The slot is done with the run of this number, unless that was put off or is gone.
    pub(crate) fn slot_ends(&mut self, (n, s): Place, run: u64) {
        let node = &mut self.nodes[n];
        let Some(slot) = node.slots.get_mut(s) else { return };
        match &slot.work {
            Some(work) if work.run == run && work.ends_at > self.now => {
                let ends_at = work.ends_at;
                return self.at(ends_at, Event::End((n, s), run));
            }
            Some(work) if work.run == run => {}
            _ => return,
        }
        let Some(Work { message, outcome, .. }) = slot.work.take() else { return };
        let Message { job, task, attempt, .. } = message;
        if !self.store.is_cancelled(attempt, self.now) {
            if outcome.is_ok() {
                self.store.publish(job, task, attempt);
            }
            if !self.random.chance(self.scenario.faults.unreported) {
                let report = Report { task, node: n, outcome };
                // Whoever lists a directory may meet a file again that was removed.
                let times = if self.random.chance(self.scenario.faults.repeated) { 2 } else { 1 };
                for _ in 0..times {
                    let at = self.now + self.until_seen();
                    self.at(at, Event::ReportSeen(job, attempt, report.clone()));
                }
            }
        }
        self.free((n, s));
    }

    /// The slot waits for a message.
    fn free(&mut self, (n, s): Place) {
        self.broker.queue(queue_of(s)).free.push((n, s));
        self.hand_out(queue_of(s));
    }

    /// The node tells that it lives and what it holds, and stops what was cancelled.
    pub(crate) fn beat(&mut self, n: usize) {
        let now = self.now;
        let node = &mut self.nodes[n];
        if node.dead {
            return;
        }
        let from = node.frozen_until.max(node.beats_from);
        if from > now {
            return self.at(from, Event::Beat(n));
        }
        let mut stopped = Vec::new();
        for (s, slot) in node.slots.iter_mut().enumerate() {
            let is_cancelled = |w: &mut Work| self.store.is_cancelled(w.message.attempt, now);
            if slot.work.take_if(is_cancelled).is_some() {
                stopped.push((n, s));
            }
        }
        node.counter += 1;
        let next = now + node.beat_every;
        let at_work = |slot: &Slot| slot.work.as_ref().map(|work| work.message.attempt);
        let held: Vec<AttemptId> = node.slots.iter().filter_map(at_work).collect();
        let free = |slot: &&Slot| slot.work.is_none() && slot.message.is_none();
        let free = node.slots.iter().skip(1).filter(free).count();
        let beat = Beat { counter: node.counter, held, free };
        let seen = now + self.until_seen();
        self.at(seen, Event::BeatSeen(n, beat));
        self.at(next, Event::Beat(n));
        for place in stopped {
            self.free(place);
        }
    }
}
