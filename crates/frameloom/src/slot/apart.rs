//! A slot apart from those of the node: for short questions of the server, one at a time.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;

use frameloom_core::slot::{SlotCommand, TaskOutput};
use frameloom_core::{Error, Result};
use tokio::sync::Mutex;

use super::parent::{Job, Slot, SlotConfig, Trouble};

/// What comes of a question.
type Answer = Pin<Box<dyn Future<Output = Result<TaskOutput>> + Send>>;

/// Makes a slot that is started with the first question, and asks it.
pub(crate) fn ask(
    name: &str,
    config: SlotConfig,
) -> impl Fn(SlotCommand, Vec<OwnedFd>) -> Answer + Send + Sync + use<> {
    let slot = Arc::new(Mutex::new(Slot::new(name.to_owned(), config)));
    move |command, descriptors| {
        let slot = Arc::clone(&slot);
        Box::pin(async move {
            let mut slot = slot.lock().await;
            let shows = !descriptors.is_empty();
            // Where whoever asked goes away in the middle, the slot is not to answer the next one
            // with what this one asked for.
            let mut guarded = Unfinished { slot: &mut slot, finished: false };
            let job = Job {
                command,
                descriptors,
                segment: &|_| Err(Error::internal("nothing is joined here")),
                frames: None,
                progress: &|_| {},
                preview: &|_| {},
                cancelled: &|| false,
            };
            let ended = guarded.slot.run(job).await;
            // What it was shown it is not to keep until the next question, which may be somebody else's.
            guarded.finished = !shows;
            ended.map_err(|trouble| match trouble {
                Trouble::Failed { error, .. } => error,
                Trouble::Cancelled => Error::internal("nobody cancelled"),
            })
        })
    }
}

/// A question that may be left unanswered.
struct Unfinished<'a> {
    slot: &'a mut Slot,
    finished: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.slot.abandon();
        }
    }
}
