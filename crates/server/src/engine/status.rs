//! What an engine tells of itself: its nodes, and whether its broker answers.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use frameloom_core::id::NodeId;
use frameloom_core::wire::{Beat, NodeInfo};

/// A node as the engine last saw it.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// The node.
    pub id: NodeId,
    /// Who it is, as far as it has told.
    pub info: Option<NodeInfo>,
    /// Its last sign of life.
    pub beat: Beat,
    /// How long ago that came.
    pub silent: Duration,
    /// Whether it is believed to live.
    pub lives: bool,
}

/// What is known now, for whoever asks.
#[derive(Debug, Default)]
pub struct Status(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    nodes: Vec<NodeStatus>,
    broker: Option<String>,
}

impl Status {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The nodes that have told of themselves.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        self.inner().nodes.clone()
    }

    /// Why the broker does not answer; `None` while it does.
    pub fn broker_trouble(&self) -> Option<String> {
        self.inner().broker.clone()
    }

    pub(super) fn set_nodes(&self, nodes: Vec<NodeStatus>) {
        self.inner().nodes = nodes;
    }

    /// Answers whether this is news.
    pub(super) fn set_broker(&self, trouble: Option<String>) -> bool {
        let mut inner = self.inner();
        let news = inner.broker.is_some() != trouble.is_some();
        inner.broker = trouble;
        news
    }
}
