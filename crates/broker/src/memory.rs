//! The broker within one process: what `frameloom run` uses, and nothing else to install.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use frameloom_core::Error;
use frameloom_core::wire::{Queue, TaskMessage};
use tokio::sync::Notify;

use crate::{Broker, LEAST_URGENT, Reply, Urgency};

/// Messages that a queue holds at most. The scheduler's window keeps far below.
const MOST: usize = 100_000;

#[derive(Default)]
struct Waiting {
    /// By urgency.
    messages: Mutex<BTreeMap<Urgency, VecDeque<TaskMessage>>>,
    arrived: Notify,
}

/// Queues in memory; they end with the process.
#[derive(Default)]
pub struct Memory {
    queues: Mutex<BTreeMap<Queue, Arc<Waiting>>>,
}

impl Memory {
    /// Empty queues.
    pub fn new() -> Self {
        Self::default()
    }

    fn waiting(&self, queue: Queue) -> Arc<Waiting> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(queues.entry(queue).or_default())
    }
}

impl Broker for Memory {
    fn send(&self, queue: Queue, message: TaskMessage, urgency: Urgency) -> Reply<'_, ()> {
        Box::pin(async move {
            let waiting = self.waiting(queue);
            let mut messages = waiting.messages.lock().unwrap_or_else(PoisonError::into_inner);
            if messages.values().map(VecDeque::len).sum::<usize>() >= MOST {
                return Err(Error::exhausted(format!("{MOST} messages wait already")));
            }
            messages.entry(urgency.min(LEAST_URGENT)).or_default().push_back(message);
            waiting.arrived.notify_one();
            Ok(())
        })
    }

    fn receive(&self, queue: Queue) -> Reply<'_, TaskMessage> {
        Box::pin(async move {
            let waiting = self.waiting(queue);
            loop {
                let arrived = waiting.arrived.notified();
                {
                    let mut messages =
                        waiting.messages.lock().unwrap_or_else(PoisonError::into_inner);
                    let next = messages.values_mut().find_map(VecDeque::pop_front);
                    if let Some(message) = next {
                        if messages.values().any(|waiting| !waiting.is_empty()) {
                            // Another receiver may have missed its call.
                            waiting.arrived.notify_one();
                        }
                        return Ok(message);
                    }
                }
                arrived.await;
            }
        })
    }

    fn len(&self, queue: Queue) -> Reply<'_, usize> {
        Box::pin(async move {
            let waiting = self.waiting(queue);
            let messages = waiting.messages.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(messages.values().map(VecDeque::len).sum())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn keeps_the_contract() {
        crate::contract::check(&Memory::new()).await;
    }
}
