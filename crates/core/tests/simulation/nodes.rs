//! What a server knows of nodes: which live, by the counters in their beats, and what they hold.

use std::collections::{BTreeMap, BTreeSet};

use frameloom_core::id::AttemptId;

use crate::random::Time;
use crate::store::Store;

/// How long a silent node is believed.
pub(crate) const LEASE: Time = 10_000;

/// What is known of a node.
#[derive(Debug, Default)]
struct Known {
    counter: u64,
    /// When the counter moved last.
    at: Time,
    /// What it held, and since when it does not list that any more.
    held: BTreeMap<AttemptId, Option<Time>>,
}

/// What is known of all nodes.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    known: BTreeMap<usize, Known>,
    /// Segment slots without work.
    pub(crate) idle: usize,
    /// Slots at work, and segment slots without.
    pub(crate) slots: usize,
}

/// What one look told.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Attempts that nodes hold.
    pub(crate) held: BTreeSet<AttemptId>,
    /// Attempts of which a node has nothing to tell any more.
    pub(crate) lost: Vec<AttemptId>,
}

impl Nodes {
    /// Reads all beats. Only a counter that has moved by the server's own clock is a sign of life.
    pub(crate) fn look(&mut self, store: &Store, now: Time) -> Heard {
        let mut heard = Heard::default();
        (self.idle, self.slots) = (0, 0);
        for (node, beat) in &store.beats {
            let new = Known { at: now, ..Known::default() };
            let known = self.known.entry(*node).or_insert(new);
            if known.counter != beat.counter {
                (known.counter, known.at) = (beat.counter, now);
                known.hear(&beat.held, now, &mut heard);
            } else if now - known.at > LEASE {
                heard.lost.extend(std::mem::take(&mut known.held).into_keys());
                continue;
            }
            self.idle += beat.free;
            self.slots += beat.free + beat.held.len();
        }
        heard
    }

    /// A node has told what became of an attempt.
    pub(crate) fn reported(&mut self, attempt: AttemptId, node: usize) {
        if let Some(known) = self.known.get_mut(&node) {
            known.held.remove(&attempt);
        }
    }
}

impl Known {
    fn hear(&mut self, held: &[AttemptId], now: Time, heard: &mut Heard) {
        for (attempt, unlisted) in &mut self.held {
            match unlisted {
                _ if held.contains(attempt) => *unlisted = None,
                None => *unlisted = Some(now),
                // Its report may be on its way.
                Some(since) if now - *since > LEASE => heard.lost.push(*attempt),
                Some(_) => {}
            }
        }
        for attempt in &heard.lost {
            self.held.remove(attempt);
        }
        self.held.extend(held.iter().map(|attempt| (*attempt, None)));
        heard.held.extend(held);
    }
}
