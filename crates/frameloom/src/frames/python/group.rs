//! Frames that are one task of a function's: what is known of them, and of their attempts.

use std::path::PathBuf;

use frameloom_core::Error;
use frameloom_core::id::AttemptId;
use frameloom_core::slot::FrameNumber;
use serde::Deserialize;
use tokio::time::Instant;

use super::super::MOST_FAILURES;
use super::super::patience::Luck;

/// `results/ATTEMPT.json`.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) outcome: String,
    #[serde(default)]
    pub(super) error: String,
    /// What sort of failure it is, where it is not the function's.
    #[serde(default)]
    pub(super) kind: String,
}

impl Answer {
    /// What a worker says, or why that is no answer.
    pub(super) fn failed(error: String) -> Self {
        Self { outcome: "failed".into(), error, kind: String::new() }
    }
}

/// The kind of failures that are the store's.
pub(super) const STORES: &str = "store";

/// A frame that is away.
pub(super) struct Going {
    pub(super) frame: FrameNumber,
    /// Its number in the group that it first went with.
    pub(super) number: usize,
    /// The file that it lies in.
    pub(super) input: String,
}

/// Frames that are one task.
pub(super) struct Group {
    pub(super) filter: u32,
    /// Those that have not come back.
    pub(super) frames: Vec<Going>,
    /// Numbers that they have had.
    pub(super) size: usize,
    /// The attempt that is under way; none yet while frames are collected.
    pub(super) attempt: Option<AttemptId>,
    /// Attempts that came to nothing: what they may have left is removed.
    pub(super) past: Vec<AttemptId>,
    /// When its message was last sent.
    pub(super) resent: Instant,
    /// The worker's counter, and when it last moved.
    pub(super) beat: Option<(u64, Instant)>,
    pub(super) errors: Vec<String>,
    pub(super) luck: Luck,
    /// Workers that died while they held it.
    pub(super) lost: u32,
    /// Messages that were taken and came to nothing.
    pub(super) swallowed: u32,
    /// When it was told to be done.
    pub(super) done: Option<Instant>,
    /// Why it is given up.
    pub(super) failed: Option<String>,
}

impl Group {
    pub(super) fn new(filter: u32) -> Self {
        let now = Instant::now();
        Self {
            filter,
            frames: Vec::new(),
            size: 0,
            attempt: None,
            past: Vec::new(),
            resent: now,
            beat: None,
            errors: Vec::new(),
            luck: Luck::default(),
            lost: 0,
            swallowed: 0,
            done: None,
            failed: None,
        }
    }
}

/// What is to be done about a group now.
pub(super) enum Next {
    Wait,
    Done,
    Failed(String),
    Send,
    SendAgain(AttemptId),
    GiveUp(Error),
}

/// The file of a frame on its way, by the group that it first went with.
pub(super) fn input(group: AttemptId, number: usize) -> String {
    format!("{group}.{number}.in.npy")
}

/// The file of a frame that comes back.
pub(super) fn output(attempt: AttemptId, number: usize) -> String {
    format!("{attempt}.{number}.out.npy")
}

/// The small files of an attempt.
pub(super) fn notes(attempt: AttemptId) -> [PathBuf; 3] {
    [
        format!("claims/{attempt}").into(),
        format!("beats/{attempt}").into(),
        format!("results/{attempt}.json").into(),
    ]
}

impl Group {
    /// What attempts that came to nothing have left, perhaps.
    pub(super) fn left(&self) -> Vec<PathBuf> {
        let outputs = |attempt: &AttemptId| {
            let attempt = *attempt;
            (0..self.size).map(move |number| output(attempt, number).into())
        };
        let outputs = self.past.iter().flat_map(outputs);
        outputs.chain(self.past.iter().flat_map(|attempt| notes(*attempt))).collect()
    }

    /// One more failure of its own.
    pub(super) fn failure(&mut self, said: &str) -> Next {
        self.errors.push(said.chars().take(500).collect());
        if self.errors.len() < MOST_FAILURES {
            self.past.extend(self.attempt.take());
            return Next::Send;
        }
        let mut said = self.errors.clone();
        said.dedup();
        let why = format!("{} ({MOST_FAILURES} tries)", said.join("; then "));
        self.failed = Some(why.clone());
        Next::Failed(why)
    }
}
