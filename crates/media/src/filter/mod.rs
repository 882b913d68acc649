//! Filters: they take frames in order and give each back, changed, with its own pts.
//!
//! A filter never looks at segments: the runner hands it the frames that its footprint asks for,
//! and drops what comes out for those around a segment. A new filter is a file here, a `mod` line
//! and a row in [`table`].

mod chain;
mod gaussian;
mod gaussian_wide;
mod graph;
mod graph_lists;
mod graph_rules;
#[cfg(test)]
mod laws;
mod plane;
mod table;
mod table_detecting;

mod arithmetic;
mod away;
mod celery;
mod crop;
mod denoise;
mod edges;
mod files;
mod kept;
pub(crate) mod letters;
mod motion;
mod notes;
mod overlay_time;
mod paint;
mod pixelate;
mod place;
mod regions;
mod scale;
mod smooth;
mod trial;

pub use celery::{Back, Elsewhere, Exchange};
pub(crate) use chain::{Chain, FilterTimes, Parts, Spread, plan_chain, validate};
pub use files::Files;
pub use graph_rules::{GraphFilters, graph_filters};
pub(crate) use notes::Notes;
pub(crate) use plane::{failed as opencv_failed, mat_of, mat_of_mut};
pub(crate) use regions::{Pictured, PlannedRegions, REGIONS, RegionsKept, plan_regions};
pub use table::catalogue;

use frameloom_core::Result;

use crate::frame::Frame;

/// A filter at work.
pub(crate) trait Filter: Send {
    /// Takes the next frame, in order of pts, and appends the frames that are ready to `out`.
    ///
    /// Each frame taken comes out once, here or from [`Filter::finish`], in order, with its pts.
    ///
    /// # Errors
    /// Internal or Exhausted; never because of a frame's content.
    fn push(&mut self, frame: Frame, out: &mut Vec<Frame>) -> Result<()>;

    /// No further frame comes: appends the frames that are left.
    ///
    /// # Errors
    /// As [`Filter::push`].
    fn finish(&mut self, out: &mut Vec<Frame>) -> Result<()>;

    /// Milliseconds that others worked on the next of the frames that came out; `None` where the filter
    /// itself did the work.
    fn worked(&mut self) -> Option<f32> {
        None
    }

    /// Frames that could not be done, so far.
    fn lost(&mut self) -> Lost {
        Lost::default()
    }
}

/// Frames that could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Lost {
    /// Pts of those that were left out.
    pub(crate) skipped: Vec<i64>,
    /// Pts of those for which the one before is shown again.
    pub(crate) held: Vec<i64>,
    /// Pts of those that stayed as they were.
    pub(crate) original: Vec<i64>,
}

/// A filter that changes each frame by itself.
trait PerFrame: Send {
    /// Changes a frame.
    fn apply(&mut self, frame: Frame) -> Result<Frame>;
}

impl<T: PerFrame> Filter for T {
    fn push(&mut self, frame: Frame, out: &mut Vec<Frame>) -> Result<()> {
        out.push(self.apply(frame)?);
        Ok(())
    }

    fn finish(&mut self, _: &mut Vec<Frame>) -> Result<()> {
        Ok(())
    }
}
