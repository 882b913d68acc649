//! What becomes of frames that cannot be done.

use ffmpeg_next::ffi;
use frameloom_core::spec::OnError;
use frameloom_core::{Error, Result};

use super::Lost;
use crate::ff;
use crate::frame::Frame;

/// Sees to it that each frame that has been away comes out as asked.
pub(super) struct Kept {
    on_error: OnError,
    /// The frame that came out before, where it may have to be shown again.
    before: Option<Frame>,
    /// Why the first frame could not be done, and the frames since then, without their planes: there is
    /// none yet to be shown for them.
    waiting: Option<(Error, Vec<Frame>)>,
    lost: Lost,
}

impl Kept {
    pub(super) fn new(on_error: OnError) -> Self {
        Self { on_error, before: None, waiting: None, lost: Lost::default() }
    }

    /// Whether frames that are away may have to stay as they are.
    pub(super) fn needs_planes(&self) -> bool {
        self.on_error == OnError::Original
    }

    /// What was lost since this was last asked.
    pub(super) fn lost(&mut self) -> Lost {
        std::mem::take(&mut self.lost)
    }

    /// Appends what came back for `frame`, or what stands for it; answers how many frames that are. A frame
    /// for which none before it can be shown comes out with the next one that is done.
    ///
    /// # Errors
    /// What became of the frame, where the job is to fail.
    pub(super) fn keep(
        &mut self,
        made: Result<Frame>,
        frame: Frame,
        out: &mut Vec<Frame>,
    ) -> Result<usize> {
        let pts = frame.pts();
        match made {
            Ok(made) => {
                let waited = self.waiting.take().map_or_else(Vec::new, |(_, frames)| frames);
                let count = waited.len() + 1;
                for frame in waited {
                    self.lost.held.push(frame.pts());
                    out.push(shown_for(&made, &frame)?);
                }
                if self.on_error == OnError::Hold {
                    self.before = Some(made.copy()?);
                }
                out.push(made);
                Ok(count)
            }
            Err(error) => match (self.on_error, &self.before) {
                (OnError::Fail, _) => Err(error),
                (OnError::Skip, _) => {
                    tracing::warn!(%error, pts, "a frame is left out");
                    self.lost.skipped.push(pts);
                    Ok(0)
                }
                (OnError::Original, _) => {
                    tracing::warn!(%error, pts, "a frame stays as it is");
                    self.lost.original.push(pts);
                    out.push(frame);
                    Ok(1)
                }
                (OnError::Hold, Some(before)) => {
                    tracing::warn!(%error, pts, "the frame before is shown again");
                    self.lost.held.push(pts);
                    out.push(shown_for(before, &frame)?);
                    Ok(1)
                }
                (OnError::Hold, None) => {
                    tracing::warn!(%error, pts, "the next frame that is done is shown for this one");
                    let (_, frames) = self.waiting.get_or_insert((error, Vec::new()));
                    frames.push(frame.without_planes()?);
                    Ok(0)
                }
            },
        }
    }

    /// No further frame comes.
    ///
    /// # Errors
    /// What became of the first frame, where none was done that could be shown for it.
    pub(super) fn end(&mut self) -> Result<()> {
        self.waiting.take().map_or(Ok(()), |(error, _)| Err(error))
    }
}

/// The picture of `picture` at the time of `at`.
fn shown_for(picture: &Frame, at: &Frame) -> Result<Frame> {
    let mut frame = picture.copy()?;
    // SAFETY: both frames are valid; props hold no planes.
    let code = unsafe { ffi::av_frame_copy_props(frame.as_mut_ptr(), at.as_ptr()) };
    ff::check(code, "cannot copy a frame's properties")?;
    // How its samples are to be taken is the picture's own.
    let (from, to) = (picture.raw(), frame.raw_mut());
    to.sample_aspect_ratio = from.sample_aspect_ratio;
    to.color_range = from.color_range;
    to.color_primaries = from.color_primaries;
    to.color_trc = from.color_trc;
    to.colorspace = from.colorspace;
    to.chroma_location = from.chroma_location;
    to.interlaced_frame = from.interlaced_frame;
    to.top_field_first = from.top_field_first;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PixelFormat;

    /// A frame of one level.
    fn frame(pts: i64, level: u8) -> Frame {
        let mut frame = Frame::new(PixelFormat::Gray8, 4, 2).unwrap();
        frame.plane_mut(0).unwrap().bytes.fill(level);
        frame.raw_mut().pts = pts;
        frame
    }

    /// What comes out where the frames with these numbers fail: pts and level each; levels are ten times
    /// the number once a frame is done.
    fn run(on_error: OnError, failing: &[i64]) -> (Vec<(i64, u8)>, Lost, Result<()>) {
        let (mut kept, mut out) = (Kept::new(on_error), Vec::new());
        let mut count = 0;
        for pts in 0..5 {
            let done = frame(pts, u8::try_from(pts * 10).unwrap());
            let made = if failing.contains(&pts) { Err(Error::invalid("no")) } else { Ok(done) };
            count += kept.keep(made, frame(pts, 255), &mut out).unwrap();
        }
        assert_eq!(count, out.len());
        let level = |frame: &Frame| frame.plane(0).unwrap().bytes[0];
        let out = out.iter().map(|frame| (frame.pts(), level(frame))).collect();
        (out, kept.lost(), kept.end())
    }

    #[test]
    fn a_frame_that_is_held_shows_one_that_is_done_even_where_it_is_the_first() {
        let (out, lost, end) = run(OnError::Hold, &[0, 1, 3]);
        assert_eq!(out, [(0, 20), (1, 20), (2, 20), (3, 20), (4, 40)]);
        assert_eq!((lost.held, lost.original), (vec![0, 1, 3], vec![]));
        end.unwrap();
    }

    #[test]
    fn where_none_is_done_nothing_is_shown_and_the_first_frame_has_failed() {
        let (out, lost, end) = run(OnError::Hold, &[0, 1, 2, 3, 4]);
        assert_eq!((out, lost), (vec![], Lost::default()));
        assert_eq!(end.unwrap_err().message(), "no");
    }

    #[test]
    fn others_are_left_out_or_stay_as_they_are() {
        let (out, lost, _) = run(OnError::Skip, &[0, 3]);
        assert_eq!((out, lost.skipped), (vec![(1, 10), (2, 20), (4, 40)], vec![0, 3]));
        let (out, lost, _) = run(OnError::Original, &[0]);
        assert_eq!((out[..2].to_vec(), lost.original), (vec![(0, 255), (1, 10)], vec![0]));
    }
}
