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
use frameloom_core::wire::{Queue, TaskMessage};

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
}
