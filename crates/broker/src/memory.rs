//! The broker within one process: what `frameloom run` uses, and nothing else to install.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use frameloom_core::id::EngineId;
use frameloom_core::wire::{FrameMessage, FrameTask, Queue, StrangeFrame, TaskMessage};
use frameloom_core::{Error, Result};
use tokio::sync::Notify;

use crate::{Broker, LEAST_URGENT, Reply, Urgency};

/// Messages that a queue holds at most. The scheduler's window keeps far below.
const MOST: usize = 100_000;

/// Messages of one kind that wait.
struct Waiting<M> {
    /// By urgency.
    messages: Mutex<BTreeMap<Urgency, VecDeque<M>>>,
    arrived: Notify,
}

impl<M> Default for Waiting<M> {
    fn default() -> Self {
        Self { messages: Mutex::default(), arrived: Notify::new() }
    }
}

impl<M> Waiting<M> {
    fn messages(&self) -> MutexGuard<'_, BTreeMap<Urgency, VecDeque<M>>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, message: M, urgency: Urgency) -> Result<()> {
        let mut messages = self.messages();
        if messages.values().map(VecDeque::len).sum::<usize>() >= MOST {
            return Err(Error::exhausted(format!("{MOST} messages wait already")));
        }
        messages.entry(urgency.min(LEAST_URGENT)).or_default().push_back(message);
        self.arrived.notify_one();
        Ok(())
    }

    async fn take(&self) -> M {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut messages = self.messages();
                let next = messages.values_mut().find_map(VecDeque::pop_front);
                if let Some(message) = next {
                    if messages.values().any(|waiting| !waiting.is_empty()) {
                        // Another receiver may have missed its call.
                        self.arrived.notify_one();
                    }
                    return message;
                }
            }
            arrived.await;
        }
    }

    fn len(&self) -> usize {
        self.messages().values().map(VecDeque::len).sum()
    }
}

/// Queues in memory; they end with the process.
#[derive(Default)]
pub struct Memory {
    queues: Mutex<BTreeMap<Queue, Arc<Waiting<TaskMessage>>>>,
    frames: Mutex<BTreeMap<EngineId, Arc<Waiting<FrameMessage>>>>,
}

impl Memory {
    /// Empty queues.
    pub fn new() -> Self {
        Self::default()
    }

    fn waiting(&self, queue: Queue) -> Arc<Waiting<TaskMessage>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(queues.entry(queue).or_default())
    }

    fn frames(&self, engine: EngineId) -> Arc<Waiting<FrameMessage>> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(frames.entry(engine).or_default())
    }
}

impl Broker for Memory {
    fn send(&self, queue: Queue, message: TaskMessage, urgency: Urgency) -> Reply<'_, ()> {
        Box::pin(async move { self.waiting(queue).put(message, urgency) })
    }

    fn receive(&self, queue: Queue) -> Reply<'_, TaskMessage> {
        Box::pin(async move { Ok(self.waiting(queue).take().await) })
    }

    fn len(&self, queue: Queue) -> Reply<'_, usize> {
        Box::pin(async move { Ok(self.waiting(queue).len()) })
    }

    fn send_frames(
        &self,
        engine: EngineId,
        frames: Vec<FrameMessage>,
        urgency: Urgency,
    ) -> Reply<'_, ()> {
        Box::pin(async move {
            let waiting = self.frames(engine);
            frames.into_iter().try_for_each(|frame| waiting.put(frame, urgency))
        })
    }

    fn receive_frame(&self, engine: EngineId) -> Reply<'_, FrameTask> {
        Box::pin(async move { Ok(FrameTask::Ours(self.frames(engine).take().await)) })
    }

    fn frames_waiting(&self, engine: EngineId) -> Reply<'_, usize> {
        Box::pin(async move { Ok(self.frames(engine).len()) })
    }

    fn frame_is_done<'a>(&'a self, _: &'a StrangeFrame) -> Reply<'a, ()> {
        // No stranger reaches a queue in memory.
        Box::pin(async { Ok(()) })
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
