//! How long is waited: for the next look at the store, for the next try, for the next question to Redis.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use frameloom_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

/// How soon the store is looked at again for a frame that is waited for, at first and in the end.
const LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));

/// How old an answer about a queue may be.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// How long a frame waits after a failure that was not its own; doubled with each.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Failures of a frame that were not its own, after which its attempt at a segment is given up.
const MOST_UNLUCKY: u32 = 8;

/// Pauses between looks at the store, longer while nothing comes.
pub(super) struct Looks(Duration);

impl Looks {
    pub(super) fn new() -> Self {
        Self(LOOKS.0)
    }

    /// How long until the next one.
    pub(super) fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 5 / 4).min(LOOKS.1);
        now
    }
}

/// How many messages wait in queues: asked for once a second at most, by all segments of a node together.
#[derive(Debug, Default)]
pub(crate) struct Depths(Mutex<BTreeMap<String, (Instant, Option<usize>)>>);

impl Depths {
    /// The depth of a queue less than a second ago; `None` where that is not known.
    pub(super) async fn of<F: Future<Output = Result<usize>>>(
        &self,
        queue: &str,
        ask: impl FnOnce() -> F,
    ) -> Option<usize> {
        let asked = Instant::now();
        {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match known.get(queue) {
                Some((at, depth)) if at.elapsed() < KNOWN_FOR => return *depth,
                _ => {}
            }
            // Who else asks meanwhile waits for the answer.
            known.insert(queue.to_owned(), (asked, None));
        }
        let depth = ask().await.ok();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(queue.to_owned(), (asked, depth));
        depth
    }
}

/// A frame's failures that were not its own.
#[derive(Debug, Default)]
pub(super) struct Luck {
    failures: u32,
    not_before: Option<Instant>,
}

impl Luck {
    /// One more; answers whether that is enough.
    pub(super) fn failed(&mut self) -> bool {
        self.not_before = Some(Instant::now() + FIRST_WAIT * (1 << self.failures.min(16)));
        self.failures += 1;
        self.failures >= MOST_UNLUCKY
    }

    /// Whether it waits for its next try; `Some(true)` where that is due now, which is told once.
    pub(super) fn due(&mut self) -> Option<bool> {
        let due = self.not_before? <= Instant::now();
        if due {
            self.not_before = None;
        }
        Some(due)
    }
}

/// Whether an error is the store's that a slot at work met: no frame is to blame for it.
pub(super) fn is_stores(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Exhausted | ErrorKind::Unavailable | ErrorKind::Timeout)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_asked_once_a_second_whoever_wants_to_know() {
        let (depths, asked) = (Depths::default(), Cell::new(0));
        let ask = || async {
            asked.set(asked.get() + 1);
            Ok(7)
        };
        for _ in 0..10 {
            for _ in 0..20 {
                assert_eq!(depths.of("a", ask).await, Some(7));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(asked.get(), 1);
        depths.of("a", ask).await;
        depths.of("b", ask).await;
        assert_eq!(asked.get(), 3);
        let failed = || async { Err(Error::unavailable("gone")) };
        assert_eq!(depths.of("c", failed).await, None);
        assert_eq!(depths.of("c", ask).await, None, "what does not answer is left alone, too");
    }

    #[test]
    fn looks_become_rarer_up_to_a_limit() {
        let mut looks = Looks::new();
        let pauses: Vec<Duration> = (0..40).map(|_| looks.next()).collect();
        assert_eq!((pauses[0], pauses[39]), LOOKS);
        assert!(pauses.is_sorted());
        let first_second: Duration = pauses.iter().take(25).sum();
        assert!(first_second > Duration::from_millis(900), "{first_second:?}");
    }
}
