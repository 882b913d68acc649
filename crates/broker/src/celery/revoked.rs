//! Tasks that nobody wants any more: what is heard of them, and how others hear of it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use frameloom_core::Result;
use frameloom_core::id::AttemptId;
use serde_json::json;

use super::message::{Address, envelope, task_id};
use super::{Celery, REMOTE_CONTROL};

/// Ids that are remembered; the oldest are forgotten. Celery's workers remember as many.
const MOST: usize = 50_000;

/// Ids that one call names, so that it is no large message.
const A_CALL: usize = 256;

#[derive(Default)]
struct Known {
    ids: BTreeSet<String>,
    order: VecDeque<String>,
}

/// Ids of tasks that are not to be begun.
#[derive(Default)]
pub(super) struct Revoked(Mutex<Known>);

impl Revoked {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers an id.
    pub(super) fn add(&self, id: &str) {
        let mut known = self.known();
        if known.ids.insert(id.to_owned()) {
            known.order.push_back(id.to_owned());
        }
        if known.order.len() > MOST
            && let Some(oldest) = known.order.pop_front()
        {
            known.ids.remove(&oldest);
        }
    }

    /// Whether a task is not to be begun. It is left out once: whoever sends it again wants it.
    pub(super) fn take(&self, id: &str) -> bool {
        let mut known = self.known();
        let was = known.ids.remove(id);
        if was {
            known.order.retain(|other| other != id);
        }
        was
    }

    /// What is remembered.
    pub(super) fn ids(&self) -> Vec<String> {
        self.known().order.iter().cloned().collect()
    }
}

impl Celery {
    /// Tells all workers not to begin these tasks. Those at work go on: they see by the store that
    /// nobody waits for them.
    ///
    /// # Errors
    /// Unavailable where Redis does not answer.
    pub async fn revoke(&self, attempts: &[AttemptId]) -> Result<()> {
        let shared = &self.shared;
        let to =
            Address { exchange: "celery.pidbox", routing_key: "", urgency: 0, delivery_mode: 1 };
        for some in attempts.chunks(A_CALL) {
            let ids: Vec<String> = some.iter().map(|attempt| task_id(*attempt)).collect();
            let body = json!({
                "method": "revoke",
                "arguments": { "task_id": ids, "terminate": false, "signal": "SIGTERM" },
                "destination": null, "pattern": null, "matcher": null,
            });
            let message = envelope(&body, &json!({}), &to, json!({}));
            let channel = format!("/{}.{REMOTE_CONTROL}", shared.link.database());
            let mut pipe = redis::pipe();
            pipe.publish(channel, message).ignore();
            let () = shared.ask(&pipe).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_left_out_once_and_the_oldest_are_forgotten() {
        let revoked = Revoked::default();
        for at in 0..=MOST {
            revoked.add(&at.to_string());
        }
        revoked.add("7");
        assert!(!revoked.take("0") && revoked.take("7") && !revoked.take("7"));
        assert_eq!(revoked.ids().len(), MOST - 1);
        assert!(revoked.take(&MOST.to_string()));
    }
}
