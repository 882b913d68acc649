//! Virtual time: what happens when, and to whom.

use std::collections::{BTreeMap, BTreeSet};

use frameloom_core::id::AttemptId;
use frameloom_core::wire::Task;

use crate::broker::{Broker, Message, Place, Queue};
use crate::node::Node;
use crate::random::{Random, Time};
use crate::scenario::Scenario;
use crate::server::Server;
use crate::store::{Beat, Report, Store};

/// What happens at a time.
#[derive(Debug)]
pub(crate) enum Event {
    /// A server begins.
    Start,
    /// A server looks at the store.
    Look(usize),
    /// A message reaches its queue.
    Arrive(Message),
    /// A slot looks at the message that it has.
    Take(Place),
    /// A slot ends the run of this number.
    End(Place, u64),
    /// A node beats.
    Beat(usize),
    /// A beat can be seen.
    BeatSeen(usize, Beat),
    /// A report can be seen.
    ReportSeen(usize, AttemptId, Report),
    /// The broker answers again.
    BrokerBack,
    /// A new node joins.
    Join,
    /// A fault of a node or a slot.
    NodeFault,
    /// A fault of the server, the broker or the store.
    ServerFault,
    /// The faults are over.
    Calm,
}

/// What is counted, to see that a run was not idle.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) events: u64,
    pub(crate) nodes_died: u32,
    pub(crate) servers: u32,
    /// Servers that went on after another had taken over.
    pub(crate) overtaken: u32,
    pub(crate) lost: u32,
    pub(crate) resent: u32,
    pub(crate) speculative: u32,
    pub(crate) own_failures: u32,
    pub(crate) unlucky: u32,
}

impl Counts {
    /// All that must have happened in a run of many seeds, by its name.
    pub(crate) fn faults(&self) -> [(&'static str, u32); 8] {
        [
            ("nodes died", self.nodes_died),
            ("servers were followed by others", self.servers - 1),
            ("servers were overtaken", self.overtaken),
            ("attempts were lost", self.lost),
            ("messages were sent again", self.resent),
            ("second attempts were sent", self.speculative),
            ("tasks failed by themselves", self.own_failures),
            ("attempts failed otherwise", self.unlucky),
        ]
    }
}

/// Everything that there is.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) now: Time,
    pub(crate) random: Random,
    events: BTreeMap<(Time, u64), Event>,
    next: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) broker: Broker,
    pub(crate) store: Store,
    pub(crate) servers: Vec<Option<Server>>,
    /// How often each task has failed by itself.
    pub(crate) own: BTreeMap<(usize, Task), u32>,
    pub(crate) counts: Counts,
    /// What all segment slots do in a second, in milliseconds of a slot of usual speed.
    pub(crate) speed: Time,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ending {
    /// How long each job took, from submitted to ended.
    pub(crate) took: Vec<Time>,
    /// When the last job ended.
    pub(crate) at: Time,
    /// The same for runs that decided the same.
    pub(crate) digest: u128,
    pub(crate) counts: Counts,
}

/// Runs a scenario to the end of its jobs, and checks it.
pub(crate) fn run(scenario: Scenario) -> Ending {
    let mut world = World {
        now: 0,
        random: Random::new(scenario.seed),
        events: BTreeMap::new(),
        next: 0,
        nodes: Vec::new(),
        broker: Broker::default(),
        store: Store::new(scenario.seed, scenario.jobs.len()),
        servers: Vec::new(),
        own: BTreeMap::new(),
        counts: Counts::default(),
        speed: 1,
        scenario,
    };
    for _ in 0..world.scenario.nodes {
        world.join();
    }
    world.measure();
    world.at(0, Event::Start);
    if world.scenario.faults_end > 0 {
        world.at(world.scenario.faults.nodes_every, Event::NodeFault);
        world.at(world.scenario.faults.server_every, Event::ServerFault);
        world.at(world.scenario.faults_end, Event::Calm);
    }
    while !world.is_over() {
        let Some(((now, _), event)) = world.events.pop_first() else { break };
        world.now = now;
        assert!(now <= world.deadline(), "{}", world.stuck());
        world.counts.events += 1;
        world.happen(event);
    }
    world.ending()
}

impl World {
    pub(crate) fn seed(&self) -> u64 {
        self.scenario.seed
    }

    /// Has something happen at a time.
    pub(crate) fn at(&mut self, time: Time, event: Event) {
        self.events.insert((time.max(self.now), self.next), event);
        self.next += 1;
    }

    /// How long until a file that is written now can be seen by others.
    pub(crate) fn until_seen(&mut self) -> Time {
        let late = self.random.chance(self.scenario.faults.unseen);
        self.random.time(1, if late { 15_000 } else { 50 })
    }

    /// When every job must have ended: a good while after the faults, by what slots are left.
    fn deadline(&self) -> Time {
        let begun = self.scenario.jobs.iter().map(|job| job.submitted).max().unwrap_or(0);
        let since = self.scenario.faults_end.max(begun);
        since + 400_000 + self.scenario.work() * 2000 / self.speed
    }

    fn is_over(&self) -> bool {
        self.store.jobs.iter().all(|dir| dir.ended.is_some())
    }

    fn ending(self) -> Ending {
        let seed = self.seed();
        let mut took = Vec::new();
        for (j, (dir, model)) in self.store.jobs.iter().zip(&self.scenario.jobs).enumerate() {
            let (at, well) = dir.ended.unwrap_or_else(|| panic!("seed {seed}: nothing happens"));
            assert_eq!(well, model.poison.is_none(), "seed {seed}: job {j} ends otherwise");
            if well {
                let all: BTreeSet<Task> = model.tasks().collect();
                let accepted: BTreeSet<Task> = dir.accepted.keys().copied().collect();
                assert_eq!(accepted, all, "seed {seed}: job {j} ended without all its tasks");
            }
            took.push(at - model.submitted);
        }
        Ending { took, at: self.now, digest: self.store.digest, counts: self.counts }
    }

    fn stuck(&self) -> String {
        let open: Vec<String> = (self.store.jobs.iter().enumerate())
            .filter(|(_, dir)| dir.ended.is_none())
            .map(|(j, dir)| {
                let total = self.scenario.jobs[j].tasks().count();
                format!("job {j} has {} of {total} tasks", dir.accepted.len())
            })
            .collect();
        let living = self.nodes.iter().filter(|node| !node.dead).count();
        format!(
            "seed {}: stuck after {} s with {living} nodes alive: {}",
            self.seed(),
            self.now / 1000,
            open.join(", ")
        )
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start => self.start_server(),
            Event::Look(server) => self.look(server),
            Event::Arrive(message) => {
                self.broker.arrive(message, &self.scenario.faults, &mut self.random);
                self.hand_out(Queue::of(message.task));
            }
            Event::Take(place) => self.take(place),
            Event::End(place, run) => self.slot_ends(place, run),
            Event::Beat(node) => self.beat(node),
            Event::BeatSeen(node, beat) => self.store.beat(node, beat),
            Event::ReportSeen(job, attempt, report) => {
                self.store.jobs[job].inbox.insert(attempt, report);
            }
            Event::BrokerBack => {
                self.hand_out(Queue::Control);
                self.hand_out(Queue::Segment);
            }
            Event::Join => self.join(),
            Event::NodeFault => self.node_fault(),
            Event::ServerFault => self.server_fault(),
            Event::Calm => self.calm(),
        }
    }

    /// Gives messages that wait to slots that wait.
    pub(crate) fn hand_out(&mut self, queue: Queue) {
        while let Some(((n, s), message)) = self.broker.pair(queue, self.now, &mut self.random) {
            let node = &mut self.nodes[n];
            // A message that a dead node took is lost with it; one that died before took none.
            if !node.dead {
                node.slots[s].message = Some(message);
                self.take((n, s));
            }
        }
    }

    /// Sends a message, unless the broker does not answer.
    pub(crate) fn send(&mut self, message: Message) -> bool {
        if self.broker.down_until > self.now {
            return false;
        }
        let (faults, random) = (&self.scenario.faults, &mut self.random);
        for at in Broker::arrivals(faults, random, self.now) {
            self.at(at, Event::Arrive(message));
        }
        true
    }

    fn start_server(&mut self) {
        self.store.epoch += 1;
        self.store.sweep();
        let server = Server::new(self.store.epoch, self.now);
        self.servers.push(Some(server));
        self.counts.servers += 1;
        self.at(self.now, Event::Look(self.servers.len() - 1));
    }

    fn look(&mut self, at: usize) {
        let Some(mut server) = self.servers[at].take() else { return };
        if server.frozen_until > self.now {
            self.at(server.frozen_until, Event::Look(at));
            self.servers[at] = Some(server);
        } else if server.look(self).is_ok() {
            self.at(self.now + self.scenario.poll, Event::Look(at));
            self.servers[at] = Some(server);
        } else if server.epoch == self.store.epoch {
            // It died at a decision, and nobody has taken over.
            let after = self.random.time(1000, 20_000);
            self.at(self.now + after, Event::Start);
        } else {
            self.counts.overtaken += 1;
        }
    }
}
