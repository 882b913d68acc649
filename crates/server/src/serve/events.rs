//! What happens to a job, kept for a while, so that a client that comes back misses nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

/// Events kept a job; a reader that is further behind begins at the oldest.
const MOST: usize = 1024;

/// One event.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// One more than the one before, from 1.
    pub(crate) id: u64,
    /// Its name.
    pub(crate) name: &'static str,
    /// JSON.
    pub(crate) data: Arc<str>,
}

/// A job's latest events. Readers cost no memory, however slow they are.
#[derive(Debug)]
pub(crate) struct EventLog {
    kept: Mutex<VecDeque<Event>>,
    last: watch::Sender<u64>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self { kept: Mutex::default(), last: watch::channel(0).0 }
    }
}

impl EventLog {
    /// Appends an event.
    pub(crate) fn push(&self, name: &'static str, data: &Value) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let id = *self.last.borrow() + 1;
        if kept.len() == MOST {
            kept.pop_front();
        }
        kept.push_back(Event { id, name, data: data.to_string().into() });
        // Within the lock, so that numbers never stand still.
        self.last.send_replace(id);
        drop(kept);
    }

    /// Forgets what was: a job that is tried again has an end before it. Numbers go on.
    pub(crate) fn clear(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The oldest event after `id` that is kept.
    pub(crate) fn after(&self, id: u64) -> Option<Event> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(kept.partition_point(|event| event.id <= id)).cloned()
    }

    /// Where a reader goes on that comes back and says which event it heard last. What was heard of a server before this
    /// one has numbers that mean nothing here: a reader that is further than there is begins anew, and so does one that would
    /// wait for what follows the `end`.
    pub(crate) fn resume(&self, heard: u64, over: bool) -> u64 {
        let last = *self.last.borrow();
        if heard > last || (over && heard == last) { 0 } else { heard }
    }

    /// Tells of the last event's id.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_goes_on_where_it_was_and_skips_what_is_gone() {
        let log = EventLog::default();
        assert!(log.after(0).is_none());
        for i in 0..MOST + 10 {
            log.push("n", &Value::from(i));
        }
        assert_eq!(log.after(0).unwrap().id, 11);
        assert_eq!(log.after(500).unwrap().id, 501);
        assert!(log.after(MOST as u64 + 10).is_none());
        log.clear();
        assert!(log.after(0).is_none());
        log.push("n", &Value::Null);
        assert_eq!(log.after(0).unwrap().id, MOST as u64 + 11);
    }

    #[test]
    fn a_reader_of_a_server_before_this_one_hears_how_a_job_ended() {
        let log = EventLog::default();
        for name in ["state", "planned", "end"] {
            log.push(name, &Value::Null);
        }
        for heard in [3, 4, 500] {
            assert_eq!(log.resume(heard, true), 0, "after {heard} comes nothing any more");
        }
        assert_eq!(log.resume(500, false), 0);
        assert_eq!((log.resume(3, false), log.resume(2, true)), (3, 2));
    }
}
