//! What a job's filters do with what is to be seen in it: the program that the server is a part of
//! knows it, and the server only asks.

use frameloom_core::pipeline::FilterSpec;
use frameloom_core::{Error, ErrorKind, Result};

use super::job::Job;

/// What filters do with what is to be seen.
#[derive(Debug, Clone, Copy)]
pub struct Sights {
    /// Whether a filter looks for things, so that there are detections to tell of.
    pub looks: fn(&FilterSpec) -> bool,
    /// Whether a filter hides what is found.
    pub hides: fn(&FilterSpec) -> bool,
}

impl Sights {
    pub(super) fn of(self, filters: &[FilterSpec]) -> Sight {
        Sight { looks: filters.iter().any(self.looks), hides: filters.iter().any(self.hides) }
    }
}

/// What a job's filters do with what is to be seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    /// Something is looked for.
    pub(crate) looks: bool,
    /// Something is hidden.
    pub(crate) hides: bool,
}

/// Refuses pictures of a source in which something is hidden.
///
/// # Errors
/// Forbidden, unless the job was submitted with `reveal_previews`.
pub(crate) fn may_show_source(job: &Job) -> Result<()> {
    if !job.hides_source() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Forbidden,
        format!(
            "something is hidden in job {}, so no picture of its source is shown; a job that is submitted with \
             'reveal_previews' shows them",
            job.id()
        ),
    ))
}
