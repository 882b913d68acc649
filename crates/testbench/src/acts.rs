//! Doing and mending each fault.

use std::time::Duration;

use frameloom_core::Result;
use rustix::process::Signal;

use crate::cluster::{Cluster, STRANGER, set_clock};
use crate::fault::{Fault, Kind, NODES};
use crate::journals::Journals;
use crate::part::{Part, children, signal};
use crate::relay::{Mode, Relay};

/// How late a slow network is, each way.
const LATE: Duration = Duration::from_millis(300);

/// How many of a hundred packets a lossy one loses.
const LOST: u8 = 20;

/// By how many seconds a clock jumps.
const JUMPS: [i64; 6] = [3_600, -3_600, 86_400 * 10, -86_400, 45, -600];

impl Cluster {
    /// Does it; answers whether there was somebody to do it to.
    ///
    /// # Errors
    /// Unavailable where it cannot be done.
    pub fn begin(&mut self, fault: &Fault, journals: &Journals) -> Result<bool> {
        let there = |part: &Part| part.pid().is_some();
        let struck = match fault.kind {
            Kind::ServerKilled | Kind::ServerStopped | Kind::ServerFrozen => there(&self.server),
            Kind::NodeKilled | Kind::NodeFrozen => there(&self.nodes[fault.node].part),
            Kind::RedisKilled | Kind::RedisLost | Kind::RedisFrozen => there(&self.redis),
            _ => true,
        };
        match fault.kind {
            Kind::ServerKilled => self.server.kill(),
            Kind::ServerStopped => self.server.stop(),
            Kind::ServerFrozen => self.server.freeze(true),
            Kind::NodeKilled => self.nodes[fault.node].part.kill(),
            Kind::NodeFrozen => self.nodes[fault.node].part.freeze(true),
            Kind::SlotKilled => return Ok(self.kill_slot(fault.node, journals)),
            Kind::RedisKilled | Kind::RedisLost => self.redis.kill(),
            Kind::RedisEmptied => self.flush()?,
            Kind::RedisFrozen => self.redis.freeze(true),
            Kind::AllKilled => {
                self.server.kill();
                self.redis.kill();
                self.nodes[..NODES].iter_mut().for_each(|node| node.part.kill());
            }
            Kind::ServerCut => self.server_host.cable(false)?,
            Kind::ServerFromRedisCut => self.server_relay.set(Mode::Held),
            Kind::NodeCut if by_cable(fault) => self.nodes[fault.node].host.cable(false)?,
            Kind::NodeCut => self.nodes[fault.node].relay.set(Mode::Held),
            Kind::RedisCut => self.redis_host.cable(false)?,
            Kind::ClientsCut => self.clients_relay.set(Mode::Held),
            Kind::NetSlow => self.disturb(&["delay", "300ms"], Mode::Slow(LATE))?,
            Kind::NetLossy => self.disturb(&["loss", "20%"], Mode::Lossy(LOST))?,
            Kind::DiskFull => self.disk.fill()?,
            Kind::StoreSlow => {}
            Kind::NodeStoreCut => self.nodes[fault.node].view.cut(),
            Kind::ServerStoreCut => self.server_view.cut(),
            Kind::ClockJumped => set_clock(&self.place, jump(fault))?,
            Kind::OtherVersion => self.nodes[STRANGER].part.start()?,
            Kind::Scaled => {
                for node in &mut self.nodes[NODES..STRANGER] {
                    node.part.start()?;
                }
            }
        }
        Ok(struck)
    }

    /// Keeps it up; to be called again and again until it is mended.
    ///
    /// # Errors
    /// Unavailable where it cannot be kept up.
    pub fn keep_up(&mut self, fault: &Fault) -> Result<()> {
        match fault.kind {
            // What the server sets aside for that is taken, too, when it gives it up.
            Kind::DiskFull => self.disk.fill(),
            Kind::StoreSlow => {
                // One host's view, or all of them.
                let which = usize::try_from(fault.way % 6).unwrap_or_default();
                for (i, node) in self.nodes[..NODES].iter_mut().enumerate() {
                    if which == i || which == NODES + 1 {
                        node.view.slow();
                    }
                }
                if which >= NODES {
                    self.server_view.slow();
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Mends it.
    ///
    /// # Errors
    /// Unavailable where it cannot be mended.
    pub fn mend(&mut self, fault: &Fault) -> Result<()> {
        match fault.kind {
            Kind::ServerKilled | Kind::ServerStopped => self.server.start()?,
            Kind::ServerFrozen => self.server.freeze(false),
            Kind::NodeKilled => self.nodes[fault.node].part.start()?,
            Kind::NodeFrozen => self.nodes[fault.node].part.freeze(false),
            Kind::SlotKilled | Kind::RedisEmptied => {}
            Kind::RedisKilled => self.redis.start()?,
            Kind::RedisLost => {
                self.lose_redis()?;
                self.redis.start()?;
            }
            Kind::RedisFrozen => self.redis.freeze(false),
            Kind::AllKilled => {
                self.redis.start()?;
                self.server.start()?;
                for node in &mut self.nodes[..NODES] {
                    node.part.start()?;
                }
            }
            Kind::ServerCut => self.server_host.cable(true)?,
            Kind::ServerFromRedisCut => self.server_relay.set(Mode::Open),
            Kind::NodeCut if by_cable(fault) => self.nodes[fault.node].host.cable(true)?,
            Kind::NodeCut => self.nodes[fault.node].relay.set(Mode::Open),
            Kind::RedisCut => self.redis_host.cable(true)?,
            Kind::ClientsCut => self.clients_relay.set(Mode::Open),
            Kind::NetSlow | Kind::NetLossy => self.calm()?,
            Kind::DiskFull => self.disk.empty()?,
            Kind::StoreSlow => {
                self.nodes.iter_mut().for_each(|node| node.view.mend());
                self.server_view.mend();
            }
            Kind::NodeStoreCut => self.nodes[fault.node].view.mend(),
            Kind::ServerStoreCut => self.server_view.mend(),
            Kind::ClockJumped => set_clock(&self.place, 0)?,
            Kind::OtherVersion => self.nodes[STRANGER].part.stop(),
            Kind::Scaled => {
                self.nodes[NODES..STRANGER].iter_mut().for_each(|node| node.part.stop());
            }
        }
        Ok(())
    }

    /// Kills the slot of a node that is at work, any where none is; answers whether there was one.
    fn kill_slot(&self, node: usize, journals: &Journals) -> bool {
        let Some(pid) = self.nodes[node].part.pid() else { return false };
        let mut held = journals.hands(pid).into_iter().map(|held| held.slot_pid);
        let slots = children(pid);
        // What was told a second ago may be over.
        let slot = held.find(|slot| slots.contains(slot)).or(slots.first().copied());
        slot.is_some_and(|slot| signal(slot, Signal::KILL))
    }

    fn relays(&self) -> impl Iterator<Item = &Relay> {
        let nodes = self.nodes.iter().map(|node| &node.relay);
        [&self.server_relay, &self.clients_relay].into_iter().chain(nodes)
    }

    /// Disturbs all traffic: by the kernel where it can, else by the relays.
    fn disturb(&self, netem: &[&str], mode: Mode) -> Result<()> {
        if !self.netem {
            self.relays().for_each(|relay| relay.set(mode));
            return Ok(());
        }
        for node in &self.nodes {
            node.host.netem(Some(netem))?;
        }
        self.server_host.netem(Some(netem))
    }

    fn calm(&self) -> Result<()> {
        if !self.netem {
            self.relays().for_each(|relay| relay.set(Mode::Open));
            return Ok(());
        }
        for node in &self.nodes {
            node.host.netem(None)?;
        }
        self.server_host.netem(None)
    }
}

/// Whether a node's cable is pulled; else its relay holds what it says.
fn by_cable(fault: &Fault) -> bool {
    fault.way.is_multiple_of(2)
}

fn jump(fault: &Fault) -> i64 {
    JUMPS[usize::try_from(fault.way % 6).unwrap_or_default()]
}
