//! What every backend must do, as one suite of checks.

use std::time::Duration;

use frameloom_core::id::{AttemptId, EngineId, JobId};
use frameloom_core::wire::{FrameMessage, FrameTask, Queue, Task, TaskMessage};

use crate::Broker;

fn message(task: Task, attempt: u128) -> TaskMessage {
    TaskMessage { job: JobId::from_bits(1), task, attempt: AttemptId::from_bits(attempt) }
}

fn frame(number: u64) -> FrameMessage {
    FrameMessage {
        job: JobId::from_bits(1),
        plan: AttemptId::from_bits(2),
        attempt: AttemptId::from_bits(u128::from(number) << 64 | 3),
        group: AttemptId::from_bits(4),
        frame: number,
        first: number.saturating_sub(1),
        last: number + 1,
        from: 0,
        to: 2,
    }
}

/// Checks a backend with empty queues.
///
/// # Panics
/// Where the backend breaks the contract.
#[expect(clippy::unwrap_used, reason = "a check fails by panicking")]
pub async fn check(broker: &dyn Broker) {
    let segments = Queue::Segment(EngineId::from_digest(&[1; 6]));
    let others = Queue::Segment(EngineId::from_digest(&[2; 6]));
    let gpu = Queue::Gpu(EngineId::from_digest(&[1; 6]));
    // In order, and each queue for itself.
    for i in 0..3u8 {
        broker
            .send(segments, message(Task::Segment(u32::from(i)), u128::from(i)), 6)
            .await
            .unwrap();
    }
    broker.send(Queue::Control, message(Task::Plan, 9), 6).await.unwrap();
    broker.send(others, message(Task::Segment(8), 8), 6).await.unwrap();
    // A plan, too, may be for whoever has a GPU, or for an engine's nodes.
    broker.send(gpu, message(Task::Plan, 7), 6).await.unwrap();
    assert_eq!(broker.len(segments).await.unwrap(), 3);
    assert_eq!(broker.len(Queue::Control).await.unwrap(), 1);
    assert_eq!(broker.receive(Queue::Control).await.unwrap(), message(Task::Plan, 9));
    assert_eq!(broker.receive(others).await.unwrap(), message(Task::Segment(8), 8));
    assert_eq!(broker.receive(gpu).await.unwrap(), message(Task::Plan, 7));
    for i in 0..3u8 {
        let expected = message(Task::Segment(u32::from(i)), u128::from(i));
        assert_eq!(broker.receive(segments).await.unwrap(), expected);
    }
    assert_eq!(broker.len(segments).await.unwrap(), 0);

    // The most urgent first, and in order among those that are as urgent.
    for (task, urgency) in [(1, 6), (2, 9), (3, 3), (4, 6), (5, 3)] {
        broker
            .send(segments, message(Task::Segment(task), u128::from(task)), urgency)
            .await
            .unwrap();
    }
    for expected in [3, 5, 1, 4, 2] {
        let received = broker.receive(segments).await.unwrap();
        assert_eq!(received.task, Task::Segment(expected));
    }

    // Receiving waits, and a wait that is given up takes nothing.
    let wait = tokio::time::timeout(Duration::from_millis(50), broker.receive(segments));
    assert!(wait.await.is_err(), "a message came from an empty queue");
    let late = message(Task::Segment(7), 7);
    let (received, sent) =
        tokio::join!(broker.receive(segments), broker.send(segments, late.clone(), 6));
    sent.unwrap();
    assert_eq!(received.unwrap(), late);

    // Several that wait get a message each.
    let (a, b, sent) = tokio::join!(broker.receive(segments), broker.receive(segments), async {
        broker.send(segments, message(Task::Segment(1), 1), 6).await?;
        broker.send(segments, message(Task::Segment(2), 2), 6).await
    });
    sent.unwrap();
    let mut tasks = [a.unwrap().task, b.unwrap().task];
    tasks.sort_unstable();
    assert_eq!(tasks, [Task::Segment(1), Task::Segment(2)]);

    // Frames come whole and in order, to nodes of their engine only, and wait for none before.
    let (engine, other) = (EngineId::from_digest(&[1; 6]), EngineId::from_digest(&[2; 6]));
    let wait = tokio::time::timeout(Duration::from_millis(50), broker.receive_frame(engine));
    assert!(wait.await.is_err(), "a frame came from an empty queue");
    broker.send_frames(engine, (0..3).map(frame).collect(), 3).await.unwrap();
    broker.send_frames(other, vec![frame(9)], 3).await.unwrap();
    assert_eq!(broker.frames_waiting(engine).await.unwrap(), 3);
    for number in 0..3 {
        assert_eq!(broker.receive_frame(engine).await.unwrap(), FrameTask::Ours(frame(number)));
    }
    assert_eq!(broker.receive_frame(other).await.unwrap(), FrameTask::Ours(frame(9)));
    // The most urgent first.
    for (number, urgency) in [(1, 6), (2, 0), (3, 3)] {
        broker.send_frames(engine, vec![frame(number)], urgency).await.unwrap();
    }
    for number in [2, 3, 1] {
        assert_eq!(broker.receive_frame(engine).await.unwrap(), FrameTask::Ours(frame(number)));
    }
    assert_eq!(broker.frames_waiting(engine).await.unwrap(), 0);
}
