//! What slots do that only sleep.

use std::time::Duration;

use frameloom_core::id::NodeId;
use frameloom_core::metrics::FrameCounts;
use frameloom_core::slot::{SegmentOutput, TaskOutput, WrittenFile};
use frameloom_core::wire::{AttemptReport, Outcome, TaskMessage};
use frameloom_core::{Error, Result};
use frameloom_server::store::Store;

const CONTENT: &[u8] = b"nothing";

/// Claims a task, sleeps for some milliseconds, and reports a segment of one frame.
///
/// # Errors
/// Of the file system.
pub(crate) async fn work(
    store: &Store,
    node: NodeId,
    message: &TaskMessage,
    sleep: u32,
) -> Result<()> {
    let dir = store.job(message.job);
    if !dir.claim(message.attempt)? {
        return Ok(());
    }
    tokio::time::sleep(Duration::from_millis(sleep.into())).await;
    let path = dir.result_path(message.task, message.attempt, "");
    std::fs::write(&path, CONTENT).map_err(|e| Error::io("cannot write a result", &e))?;
    let size = CONTENT.len() as u64;
    let output = SegmentOutput {
        file: WrittenFile { size, sha256: String::new() },
        frames: FrameCounts { input: 1, output: 1, ..FrameCounts::default() },
        cpu_us: 0,
        wall_us: u64::from(sleep) * 1000,
    };
    dir.report(&AttemptReport {
        attempt: message.attempt,
        task: message.task,
        node,
        slot: format!("{node}/0"),
        slot_pid: 0,
        outcome: Outcome::Done(TaskOutput::Segment(output)),
    })
}
