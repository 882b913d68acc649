//! Which worker nodes live, by the counters in their signs of life.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use frameloom_core::id::{EngineId, NodeId};
use frameloom_core::wire::{Beat, NodeInfo, Queue};
use frameloom_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::status::NodeStatus;
use crate::store::{Store, What};

/// How long a node is shown that has fallen silent.
const SHOWN: Duration = Duration::from_secs(600);

/// What is known of the nodes.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    seen: BTreeMap<NodeId, Seen>,
    /// Those whose last sign of life was refused.
    refused: BTreeSet<NodeId>,
}

/// What is known of a node.
#[derive(Debug)]
struct Seen {
    beat: Beat,
    /// When its counter was first seen.
    at: Instant,
    info: Option<NodeInfo>,
    engine: Option<EngineId>,
}

/// The slots of the nodes that listen to a queue.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Pool {
    /// Segment slots.
    pub(super) slots: usize,
    /// Those without work.
    pub(super) idle: usize,
    /// Those of nodes of their own, which nobody wakes: a task waits for each of them.
    pub(super) remote: usize,
}

/// One look at all signs of life.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Nodes that live, with their last sign.
    pub(super) live: Vec<(NodeId, Beat)>,
    /// Nodes that have been silent for longer than the lease.
    pub(super) lost: Vec<NodeId>,
    /// The slots that the segments of each queue may have.
    pub(super) pools: BTreeMap<Queue, Pool>,
    /// All of them, to be shown.
    pub(super) all: Vec<NodeStatus>,
}

impl Nodes {
    /// A beat that cannot be read is a beat that did not come. One that is none is counted, once until a good one comes.
    fn refuse(&mut self, store: &Store, node: NodeId, error: &Error) -> Result<Option<Beat>> {
        if error.kind() == ErrorKind::Internal && self.refused.insert(node) {
            store.refused().note(What::Beat, error);
        }
        Ok(None)
    }

    /// Reads all signs of life; a node is believed for `lease` after its counter last moved.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn look(&mut self, store: &Store, lease: Duration) -> Result<Look> {
        let mut look = Look::default();
        let nodes = store.nodes()?;
        self.seen.retain(|node, _| nodes.contains(node));
        self.refused.retain(|node| nodes.contains(node));
        for node in nodes {
            let read = store.read_beat(node).or_else(|error| self.refuse(store, node, &error))?;
            let now = Instant::now();
            let seen = match (self.seen.get_mut(&node), read) {
                (Some(seen), Some(beat)) => {
                    if seen.beat.counter != beat.counter {
                        seen.at = now;
                        self.refused.remove(&node);
                    }
                    // What a node within the server refuses is counted already.
                    if seen.info.as_ref().is_some_and(|info| !info.within_server) {
                        let more = beat.refused.saturating_sub(seen.beat.refused);
                        store.refused().add(What::Frame, more);
                    }
                    seen.beat = beat;
                    seen
                }
                (Some(seen), None) => seen,
                (None, Some(beat)) => self.seen.entry(node).or_insert(Seen {
                    beat,
                    at: now,
                    info: None,
                    engine: None,
                }),
                (None, None) => continue,
            };
            if seen.info.is_none() {
                seen.info = store.read_node(node).ok().flatten();
                seen.engine = seen.info.as_ref().map(|info| info.engine.id());
            }
            let silent = now.duration_since(seen.at);
            let lives = silent <= lease;
            if lives {
                look.live.push((node, seen.beat.clone()));
                if let (Some(engine), Some(info)) = (seen.engine, &seen.info) {
                    for (queue, slots, idle) in [
                        (Queue::Segment(engine), info.slots, seen.beat.free_slots),
                        (Queue::Gpu(engine), info.gpu_slots, seen.beat.free_gpu_slots),
                    ] {
                        let pool = look.pools.entry(queue).or_default();
                        pool.slots += slots as usize;
                        pool.idle += idle as usize;
                        pool.remote += if info.within_server { 0 } else { slots as usize };
                    }
                }
            } else {
                look.lost.push(node);
                if silent > SHOWN {
                    // It makes its place anew where it wakes.
                    store.forget_node(node);
                    continue;
                }
            }
            look.all.push(NodeStatus {
                id: node,
                info: seen.info.clone(),
                beat: seen.beat.clone(),
                silent,
                lives,
            });
        }
        Ok(look)
    }
}
