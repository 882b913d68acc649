//! What the frame slots of a node share.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use frameloom_core::id::AttemptId;
use tokio_util::sync::CancellationToken;

/// What the frame slots of a node share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Attempts that they work on.
    held: Mutex<BTreeSet<AttemptId>>,
    /// Whether it was said that something is wrong.
    pub(super) said: AtomicBool,
    /// Cancelled where none of them can do a frame any more.
    pub(super) over: CancellationToken,
}

impl Default for Shared {
    fn default() -> Self {
        let (held, said) = (Mutex::default(), AtomicBool::new(false));
        Self { held, said, over: CancellationToken::new() }
    }
}

impl Shared {
    /// The attempts that they work on.
    pub(crate) fn held(&self) -> Vec<AttemptId> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Waits until none can do a frame any more.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Holds an attempt.
    pub(super) fn hold(&self, attempt: AttemptId) -> Hold<'_> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(attempt);
        Hold { shared: self, attempt }
    }
}

/// An attempt at work, for as long as this lives.
pub(super) struct Hold<'a> {
    shared: &'a Shared,
    attempt: AttemptId,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut held = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&self.attempt);
    }
}
