//! Filters: they take frames in order and give each back, changed, with its own pts.
//!
//! A filter never looks at segments: the runner hands it the frames that its footprint asks for,
//! and drops what comes out for those around a segment.

use frameloom_core::Result;

use crate::frame::{Frame, FrameFormat};

/// A filter at work.
pub trait Filter: Send {
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

    /// The format of the frames that come out.
    fn output(&self) -> &FrameFormat;
}
