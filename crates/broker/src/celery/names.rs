//! Names on the wire: queues, their lists in Redis, and tasks.

use frameloom_core::id::EngineId;
use frameloom_core::wire::{PROTOCOL, Queue, Task};

use crate::Urgency;

/// What parts a queue's name from its step, and the parts of a binding.
pub(super) const SEPARATOR: &str = "\x06\x16";

/// The steps of urgency that a queue has lists for, the most urgent first.
const STEPS: [Urgency; 4] = [0, 3, 6, 9];

/// A queue's name.
pub fn queue_name(queue: Queue) -> String {
    match queue {
        Queue::Control => format!("frameloom.control.V{PROTOCOL}"),
        Queue::Segment(engine) => format!("frameloom.cpu.{engine}"),
        Queue::Gpu(engine) => format!("frameloom.gpu.{engine}"),
    }
}

/// The queue of frames for nodes of an engine.
pub(super) fn frame_queue(engine: EngineId) -> String {
    format!("{FRAME_TASK}.{engine}")
}

/// The task that filters a frame, and the queue of such that strangers send.
pub(super) const FRAME_TASK: &str = "frameloom.frame";

/// The lists of a queue, the most urgent first.
pub(super) fn keys(queue: &str) -> [String; 4] {
    STEPS.map(|step| key(queue, step))
}

/// The list that a message of this urgency waits in; an urgency between steps rounds down.
pub(super) fn key(queue: &str, urgency: Urgency) -> String {
    match STEPS.iter().rev().find(|step| **step <= urgency) {
        None | Some(0) => queue.to_owned(),
        Some(step) => format!("{queue}{SEPARATOR}{step}"),
    }
}

/// The queue that a list belongs to.
pub(super) fn queue_of(key: &str) -> &str {
    key.split(SEPARATOR).next().unwrap_or(key)
}

/// The set and member by which tools find a queue.
pub(super) fn binding(queue: &str) -> ([String; 2], String) {
    let sets = [format!("_kombu.binding.{queue}"), format!("_kombu.binding_permanent.{queue}")];
    (sets, format!("{queue}{SEPARATOR}{SEPARATOR}{queue}"))
}

/// The names of the tasks that nodes do.
pub const TASKS: [&str; 6] = [
    "frameloom.concat",
    "frameloom.detect",
    FRAME_TASK,
    "frameloom.plan",
    "frameloom.segment",
    "frameloom.track",
];

/// The names of the tasks that come by a queue.
pub(super) fn tasks_of(queue: Queue) -> &'static [&'static str] {
    match queue {
        Queue::Control => &["frameloom.plan", "frameloom.track", "frameloom.concat"],
        // Those of a job that is planned anew for an engine are all done by it, as is the plan of one
        // whose model or encoder needs a GPU.
        Queue::Segment(_) => &[
            "frameloom.detect",
            "frameloom.segment",
            "frameloom.plan",
            "frameloom.track",
            "frameloom.concat",
        ],
        Queue::Gpu(_) => &["frameloom.detect", "frameloom.segment", "frameloom.plan"],
    }
}

/// A task's name.
pub fn task_name(task: Task) -> &'static str {
    match task {
        Task::Plan => "frameloom.plan",
        Task::Detect(_) => "frameloom.detect",
        Task::Track => "frameloom.track",
        Task::Segment(_) => "frameloom.segment",
        Task::Concat => "frameloom.concat",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_those_of_kombu() {
        let queue = queue_name(Queue::Segment(EngineId::from_digest(&[0xab; 6])));
        assert_eq!(queue, "frameloom.cpu.abababababab");
        let queue = queue_name(Queue::Gpu(EngineId::from_digest(&[0xab; 6])));
        assert_eq!(queue, "frameloom.gpu.abababababab");
        assert_eq!(keys("q"), ["q", "q\x06\x163", "q\x06\x166", "q\x06\x169"].map(str::to_owned));
        for (urgency, key) in [(0, "q"), (2, "q"), (3, "q\x06\x163"), (8, "q\x06\x166")] {
            assert_eq!(super::key("q", urgency), key);
            assert_eq!(queue_of(key), "q");
        }
        let queues = [Queue::Control, Queue::Segment(EngineId::from_digest(&[0; 6]))];
        let mut all: Vec<&str> =
            queues.iter().flat_map(|queue| tasks_of(*queue)).copied().collect();
        all.push(FRAME_TASK);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all, TASKS);
        assert_eq!(binding("q").1, "q\x06\x16\x06\x16q");
    }
}
