//! What nodes, slots and workers left on the store and was refused, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// What it was to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A report in an inbox.
    Report,
    /// What a task made.
    Result,
    /// A plan.
    Plan,
    /// A node's sign of life.
    Beat,
    /// A picture of a job at work.
    Preview,
    /// A picture of a finished job.
    Picture,
    /// A frame that came back, or what is told of it.
    Frame,
}

impl What {
    /// All there are.
    pub const ALL: [Self; 7] = [
        Self::Report,
        Self::Result,
        Self::Plan,
        Self::Beat,
        Self::Preview,
        Self::Picture,
        Self::Frame,
    ];

    /// Its name, as the metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Result => "result",
            Self::Plan => "plan",
            Self::Beat => "beat",
            Self::Preview => "preview",
            Self::Picture => "picture",
            Self::Frame => "frame",
        }
    }
}

/// How often each was refused since the process began.
#[derive(Debug, Default)]
pub struct Refused([AtomicU64; What::ALL.len()]);

impl Refused {
    /// Notes that something was refused, and tells why.
    pub fn note(&self, what: What, why: &dyn std::fmt::Display) {
        tracing::warn!(what = what.name(), %why, "what lies on the store is refused");
        self.add(what, 1);
    }

    /// Counts what somebody else has refused.
    pub fn add(&self, what: What, more: u64) {
        let grown = |count: u64| Some(count.saturating_add(more));
        let count = &self.0[what as usize];
        // It is never refused.
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).ok();
    }

    /// How often it was refused.
    pub fn count(&self, what: What) -> u64 {
        self.0[what as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_for_itself_and_no_count_begins_anew() {
        let refused = Refused::default();
        for (number, what) in (1..).zip(What::ALL) {
            refused.add(what, number);
            refused.note(what, &"it is a link");
        }
        for (number, what) in (2..).zip(What::ALL) {
            assert_eq!(refused.count(what), number, "{}", what.name());
        }
        refused.add(What::Frame, u64::MAX);
        assert_eq!(refused.count(What::Frame), u64::MAX);
    }
}
