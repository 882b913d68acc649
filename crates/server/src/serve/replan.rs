//! A job that waits for a node which does not come is planned anew for nodes that are there.

use std::collections::BTreeMap;
use std::sync::Arc;

use frameloom_core::id::EngineId;
use frameloom_core::wire::{Decision, NodeInfo, PROTOCOL, Queue};
use frameloom_core::{ErrorKind, Result};

use super::job::Job;
use super::jobs::Jobs;
use super::trace;

impl Jobs {
    /// Has a job that waits for a node planned anew, and done, by nodes of another engine: what is done of it
    /// is given up. It happens once what is at work for it has stopped.
    ///
    /// # Errors
    /// Conflict where it waits for no node, or where no other could do it.
    pub(crate) fn replan(&self, job: &Job) -> Result<()> {
        let _deciding = job.deciding();
        let missing = job.progress().no_node.filter(|_| !job.state().is_terminal());
        let Some(missing) = missing else {
            return Err(job.conflict("it is planned anew only while it waits for a node"));
        };
        let nodes = self.parts.engine.status().nodes();
        let infos = nodes.iter().filter(|node| node.lives).filter_map(|node| node.info.as_ref());
        let Some(engine) = engine_there(missing, infos) else {
            return Err(job.conflict("no node of another engine is there that could do it"));
        };
        job.plan_anew_by(engine);
        Ok(())
    }

    /// A job's run was stopped: begins it anew where that was asked for.
    pub(crate) fn begun_anew(self: &Arc<Self>, job: &Arc<Job>) -> bool {
        let _deciding = job.deciding();
        let Some(engine) = job.take_new_planner() else { return false };
        match self.decide(job, Decision::Replanned { engine }) {
            Ok(()) => trace::again(self, job),
            // Then it goes on as it was, and says again what it waits for.
            Err(error) if error.kind() == ErrorKind::Exhausted => {
                tracing::warn!(%error, job = %job.id(), "a job is not planned anew");
            }
            Err(error) => {
                tracing::error!(%error, job = %job.id(), "a job cannot be planned anew");
                return false;
            }
        }
        self.begin(job);
        true
    }
}

/// The engine with the most slots for what is missing.
fn engine_there<'a>(missing: Queue, nodes: impl Iterator<Item = &'a NodeInfo>) -> Option<EngineId> {
    let mut slots: BTreeMap<EngineId, u32> = BTreeMap::new();
    for node in nodes.filter(|node| node.protocol == PROTOCOL) {
        let there = match missing {
            Queue::Gpu(_) => node.gpu_slots,
            Queue::Segment(_) | Queue::Control => node.slots,
        };
        *slots.entry(node.engine.id()).or_default() += there;
    }
    slots.retain(|engine, slots| *slots > 0 && Some(*engine) != missing.engine());
    slots.into_iter().max_by_key(|(_, slots)| *slots).map(|(engine, _)| engine)
}

#[cfg(test)]
mod tests {
    use frameloom_core::plan::Engine;

    use super::*;

    fn node(version: &str, slots: u32, gpu_slots: u32) -> NodeInfo {
        let engine = Engine {
            frameloom: version.into(),
            ffmpeg: String::new(),
            encoders: String::new(),
            opencv: String::new(),
            onnxruntime: String::new(),
            models: String::new(),
            cpu: String::new(),
        };
        NodeInfo {
            name: version.into(),
            host: String::new(),
            pid: 1,
            slots,
            gpu_slots,
            engine,
            protocol: PROTOCOL,
            within_server: false,
            started_ms: 0,
        }
    }

    #[test]
    fn the_engine_with_the_most_slots_of_the_kind_is_taken() {
        let [a, b, c] = [node("a", 2, 0), node("b", 3, 1), node("c", 2, 0)];
        let ids = [&a, &b, &c].map(|node| node.engine.id());
        let gone = node("gone", 0, 0).engine.id();
        let all = [a.clone(), b, c.clone(), c];
        assert_eq!(engine_there(Queue::Segment(gone), all.iter()), Some(ids[2]));
        assert_eq!(engine_there(Queue::Gpu(gone), all.iter()), Some(ids[1]));
        assert_eq!(engine_there(Queue::Gpu(ids[1]), all.iter()), None);
        let other = NodeInfo { protocol: PROTOCOL + 1, ..a };
        assert_eq!(engine_there(Queue::Segment(gone), [other].iter()), None);
    }
}
