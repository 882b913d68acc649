//! Which worker nodes live, by the counters in their signs of life.

use std::collections::BTreeMap;
use std::time::Duration;

use frameloom_core::Result;
use frameloom_core::id::NodeId;
use frameloom_core::wire::Beat;
use tokio::time::Instant;

use crate::store::Store;

/// What is known of the nodes.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// The last counter seen of each, and when it was first seen.
    seen: BTreeMap<NodeId, (u64, Instant)>,
}

/// One look at all signs of life.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Nodes that live, with their last sign.
    pub(super) live: Vec<(NodeId, Beat)>,
    /// Nodes that have been silent for longer than the lease.
    pub(super) lost: Vec<NodeId>,
}

impl Look {
    /// Segment slots, at work or not; what control slots hold counts, too.
    pub(super) fn slots(&self) -> usize {
        self.idle() + self.live.iter().map(|(_, beat)| beat.held.len()).sum::<usize>()
    }

    /// Segment slots without work.
    pub(super) fn idle(&self) -> usize {
        self.live.iter().map(|(_, beat)| beat.free_slots as usize).sum()
    }
}

impl Nodes {
    /// Reads all signs of life; a node is believed for `lease` after its counter last moved.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn look(&mut self, store: &Store, lease: Duration) -> Result<Look> {
        let mut look = Look::default();
        for node in store.nodes()? {
            // A beat that cannot be read is a beat that did not come.
            let Ok(Some(beat)) = store.read_beat(node) else { continue };
            let now = Instant::now();
            let seen = self.seen.entry(node).or_insert((0, now));
            if seen.0 != beat.counter {
                *seen = (beat.counter, now);
            } else if now.duration_since(seen.1) > lease {
                look.lost.push(node);
                continue;
            }
            look.live.push((node, beat));
        }
        Ok(look)
    }
}
