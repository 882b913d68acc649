//! Brokers carry task messages from the server to nodes, and nothing else.
//!
//! A broker may lose, delay or repeat any message: claims, beats and the journal on the store see
//! to it that every job still ends right. A backend is one file that implements [`Broker`] and one
//! line that runs [`contract`].

pub mod celery;
pub mod contract;
mod memory;

use std::future::Future;
use std::pin::Pin;

use frameloom_core::Result;
use frameloom_core::id::EngineId;
use frameloom_core::wire::{FrameMessage, FrameTask, Queue, StrangeFrame, TaskMessage};

pub use memory::Memory;

/// A future that a broker answers with.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// How urgent a message is: 0 is the most urgent, 9 the least, as Celery's brokers have it.
pub type Urgency = u8;

/// The least urgent.
pub const LEAST_URGENT: Urgency = 9;

/// Carries task messages.
pub trait Broker: Send + Sync {
    /// Puts a message in a queue, behind those that are as urgent or more so.
    ///
    /// # Errors
    /// Exhausted where the queue is full; Unavailable where the broker does not answer.
    fn send(&self, queue: Queue, message: TaskMessage, urgency: Urgency) -> Reply<'_, ()>;

    /// Waits for the most urgent message of a queue and takes it. A future that is dropped takes none.
    ///
    /// # Errors
    /// Unavailable where the broker does not answer.
    fn receive(&self, queue: Queue) -> Reply<'_, TaskMessage>;

    /// How many messages wait in a queue.
    ///
    /// # Errors
    /// Unavailable where the broker does not answer.
    fn len(&self, queue: Queue) -> Reply<'_, usize>;

    /// Puts frames in the queue of nodes of an engine, in order, behind those that are as urgent or more so.
    ///
    /// # Errors
    /// As [`Broker::send`].
    fn send_frames(
        &self,
        engine: EngineId,
        frames: Vec<FrameMessage>,
        urgency: Urgency,
    ) -> Reply<'_, ()>;

    /// Waits for a frame for a node of this engine and takes it: of a job, or of a stranger who does
    /// not care for the engine. A future that is dropped takes none.
    ///
    /// # Errors
    /// Unavailable where the broker does not answer.
    fn receive_frame(&self, engine: EngineId) -> Reply<'_, FrameTask>;

    /// How many frames wait in the queue of an engine's nodes.
    ///
    /// # Errors
    /// Unavailable where the broker does not answer.
    fn frames_waiting(&self, engine: EngineId) -> Reply<'_, usize>;

    /// A stranger's frame is done, and is given to nobody any more.
    ///
    /// # Errors
    /// Unavailable where the broker does not answer: then it is done once more.
    fn frame_is_done<'a>(&'a self, frame: &'a StrangeFrame) -> Reply<'a, ()>;
}
