//! What goes wrong: slots, nodes, their clocks, the server, the broker and the store.

use frameloom_core::Error;

use crate::broker::Place;
use crate::random::Time;
use crate::scenario::Faults;
use crate::world::{Event, World};

/// How long a slot at work may be silent before its node kills it.
const SLOT_TIMEOUT: Time = 60_000;

impl World {
    fn has_faults(&self) -> bool {
        self.now < self.scenario.faults_end
    }

    /// A node that lives, by chance.
    fn some_node(&mut self) -> Option<usize> {
        let living: Vec<usize> = (0..self.nodes.len()).filter(|n| !self.nodes[*n].dead).collect();
        if living.is_empty() { None } else { Some(living[self.random.index(living.len())]) }
    }

    /// The node dies, and another joins after a while.
    fn replace(&mut self, n: usize) {
        self.kill(n);
        let joins = self.now + self.random.time(1000, 30_000);
        self.at(joins, Event::Join);
    }

    /// One node or slot dies, freezes or has its clock set.
    pub(crate) fn node_fault(&mut self) {
        let every = self.scenario.faults.nodes_every;
        if every == 0 || !self.has_faults() {
            return;
        }
        let next = self.now + self.random.time(1, every * 2);
        self.at(next, Event::NodeFault);
        let Some(n) = self.some_node() else { return };
        match self.random.index(10) {
            0 | 1 => self.replace(n),
            2..=4 => {
                let until = self.now + self.random.time(1000, 40_000);
                self.nodes[n].freeze(self.now, until);
            }
            // A clock that is set back holds up timers; others run fast or slowly.
            5 => self.nodes[n].beats_from = self.now + self.random.time(1000, 60_000),
            6 => self.nodes[n].beat_every = self.random.time(300, 3000),
            _ => {
                let s = self.random.index(self.nodes[n].slots.len());
                self.slot_fault((n, s));
            }
        }
    }

    /// A slot at work dies, hangs or sleeps for a while.
    fn slot_fault(&mut self, (n, s): Place) {
        let kind = self.random.index(3);
        let sleeps = self.random.time(1000, 50_000);
        let now = self.now;
        if self.nodes[n].frozen_until > now {
            return;
        }
        let Some(work) = &mut self.nodes[n].slots[s].work else { return };
        let (run, message) = (work.run, work.message);
        let (ends_at, error) = match kind {
            0 => (now, Error::unavailable("slot died by signal 9")),
            1 => (now + SLOT_TIMEOUT, Error::timeout("slot was silent for 60 s")),
            _ => return work.ends_at += sleeps,
        };
        let is_poison = self.scenario.jobs[message.job].poison == Some(message.task);
        if is_poison || work.outcome.is_err() {
            return;
        }
        let Some(outcome) = self.fails_by_itself(&message, error) else { return };
        if let Some(work) = &mut self.nodes[n].slots[s].work {
            work.outcome = outcome;
            work.ends_at = ends_at;
        }
        self.at(ends_at, Event::End((n, s), run));
    }

    /// The server dies or freezes, the broker forgets or does not answer, the store is full, or all
    /// nodes die.
    pub(crate) fn server_fault(&mut self) {
        let every = self.scenario.faults.server_every;
        if every == 0 || !self.has_faults() {
            return;
        }
        let next = self.now + self.random.time(1, every * 2);
        self.at(next, Event::ServerFault);
        let until = self.now + self.random.time(1000, 20_000);
        let decisions = self.random.time(1, 20);
        let before = self.random.chance(500);
        let kind = self.random.index(10);
        let last = self.servers.len().wrapping_sub(1);
        let server = self.servers.get_mut(last).and_then(Option::as_mut);
        match (kind, server) {
            (0 | 1, Some(_)) => {
                self.servers[last] = None;
                self.at(until, Event::Start);
                self.lose_queue();
            }
            (2 | 3, Some(server)) => server.dies_at = Some((decisions, before)),
            (4, Some(server)) => server.frozen_until = until,
            // Another one takes over, and the first wakes after that.
            (5, Some(server)) => {
                server.frozen_until = until + 30_000;
                self.at(until, Event::Start);
            }
            (6, _) => self.broker.forget(),
            (7, _) => {
                self.broker.down_until = until;
                self.at(until, Event::BrokerBack);
            }
            (8, _) => self.store.full_until = until,
            (9, _) if self.random.chance(300) => {
                for n in 0..self.nodes.len() {
                    if !self.nodes[n].dead {
                        self.replace(n);
                    }
                }
            }
            _ => {}
        }
    }

    /// A broker in memory ends with its server, another does not.
    fn lose_queue(&mut self) {
        if self.random.chance(300) {
            self.broker.forget();
        }
    }

    /// Nothing goes wrong any more, but some nodes never come back.
    pub(crate) fn calm(&mut self) {
        self.scenario.faults = Faults::default();
        if let Some(survivors) = self.scenario.survivors {
            let living: Vec<usize> =
                (0..self.nodes.len()).filter(|n| !self.nodes[*n].dead).collect();
            for n in living.into_iter().skip(survivors) {
                self.kill(n);
            }
        }
        self.measure();
    }
}
