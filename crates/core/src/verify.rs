//! What a second look at an output says: where a detector still finds what should be hidden, and whether it is seen there.
//!
//! A detector fires on blots and squares, too. So a finding is told apart by the picture and not by its score: it is a
//! [`Verdict::Blot`] only where the detections tell of something hidden there *and* the source's details are gone.
//! Whatever else is found is a [`Verdict::Leak`].

use serde::{Deserialize, Serialize};

use crate::detection::Rect;

/// Least part of a finding's box that hidden boxes must cover for it to be a blot. Small, since the detector sees the
/// whole blot, which is larger than the box that was hidden.
pub const COVERED: f32 = 0.3;

/// At this part of the source's details and more, what is there is seen.
pub const SEEN: f32 = 0.4;

/// Least overlap (intersection over union) with what is found in the source for it to be the same thing.
pub const SAME: f32 = 0.3;

/// What a finding in the output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Something is to be seen: beside all boxes, or within one in which nothing was hidden.
    Leak,
    /// The detector fires on what hides: a box covers it, and the source's details are gone.
    Blot,
}

impl Verdict {
    /// The verdict on a finding of which boxes cover the part `covered`, and where the part `kept` of the source's
    /// details is left; not known is as if all were.
    pub fn of(covered: f32, kept: Option<f32>) -> Self {
        let gone = kept.is_some_and(|kept| kept < SEEN);
        if covered >= COVERED && gone { Self::Blot } else { Self::Leak }
    }
}

/// A place in an output that is compared with the source.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// The frame's time in ticks of the output.
    pub pts: i64,
    /// The same frame's time in ticks of the source; none where it is not known.
    pub source_pts: Option<i64>,
    /// Where, in pixels of the output as displayed.
    pub rect: Rect,
    /// Where, in pixels of the source as displayed.
    pub source_rect: Rect,
    /// The frame's time in seconds, for the sheet.
    pub time: f64,
    /// The detector's score, for the sheet.
    pub score: f32,
    /// The part of it that hidden boxes cover, 0..=1.
    pub covered: f32,
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The part of the source's details that is left at each place, 0..=1, in their order; none where the source
    /// has no such frame.
    pub kept: Vec<Option<f32>>,
    /// How many places the sheet shows.
    pub shown: u64,
}

/// Something that is still found in an output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Number of the frame, from 0.
    pub frame: u64,
    /// Its time in seconds from the output's start.
    pub time: f64,
    /// Where, in pixels of the output as displayed.
    #[serde(flatten)]
    pub rect: Rect,
    /// Its class, e.g. `face`.
    pub class: String,
    /// The detector's score, 0..=1.
    pub score: f32,
    /// The part of it that boxes of the detections file cover, 0..=1; 0 lies beside all of them.
    pub covered: f32,
    /// The score of the same thing in the source's frame, looked for with half the threshold; none where nothing is
    /// found there.
    pub source_score: Option<f32>,
    /// The part of the source's details that is left there, 0..=1; none where it cannot be compared.
    pub kept: Option<f32>,
    /// What it is.
    pub verdict: Verdict,
}

/// All that was found in an output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// Frames looked at.
    pub frames: u64,
    /// Frames with a leak.
    pub frames_leaking: u64,
    /// `frames_leaking / frames`.
    pub rate: f64,
    /// The rate that was allowed.
    pub max_rate: f64,
    /// Leaks.
    pub leaks: u64,
    /// Findings that are blots.
    pub blots: u64,
    /// Leaks that were too many to be compared and are not among `findings`.
    pub unlisted: u64,
    /// The detector, with the SHA-256 of its file.
    pub detector: String,
    /// See `detector`.
    pub sha256: String,
    /// The least score that counts.
    pub threshold: f32,
    /// How many findings the sheet shows, where one was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shown: Option<u64>,
    /// What was found, by frame.
    pub findings: Vec<Finding>,
}

/// The part of `rect` that boxes cover together, 0..=1, by points of a grid over it.
pub fn covered(rect: &Rect, boxes: &[Rect]) -> f32 {
    const SIDE: u16 = 16;
    let near: Vec<&Rect> = boxes.iter().filter(|other| other.overlap(rect) > 0.0).collect();
    if near.is_empty() {
        return 0.0;
    }
    let at = |i: u16| (f32::from(i) + 0.5) / f32::from(SIDE);
    let points = (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (x, y)));
    let inside = points.filter(|(x, y)| {
        let (x, y) = (rect.x + rect.w * at(*x), rect.y + rect.h * at(*y));
        near.iter().any(|b| (b.x..b.x + b.w).contains(&x) && (b.y..b.y + b.h).contains(&y))
    });
    let inside = u16::try_from(inside.count()).unwrap_or(SIDE * SIDE);
    f32::from(inside) / f32::from(SIDE * SIDE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_covered_and_gone_is_a_blot() {
        assert_eq!(Verdict::of(1.0, Some(0.1)), Verdict::Blot);
        assert_eq!(Verdict::of(0.5, Some(0.0)), Verdict::Blot);
        for (covered, kept) in
            [(1.0, Some(0.9)), (0.0, Some(0.0)), (0.1, Some(0.1)), (1.0, None), (0.0, Some(1.0))]
        {
            assert_eq!(Verdict::of(covered, kept), Verdict::Leak, "{covered} {kept:?}");
        }
    }

    #[test]
    fn boxes_cover_together_and_count_once() {
        let rect = Rect { x: 10.0, y: 10.0, w: 32.0, h: 32.0 };
        let left = Rect { w: 16.0, ..rect };
        let right = Rect { x: 26.0, ..left };
        assert_eq!(covered(&rect, &[]), 0.0);
        assert_eq!(covered(&rect, &[left]), 0.5);
        assert_eq!(covered(&rect, &[left, left]), 0.5);
        assert_eq!(covered(&rect, &[left, right]), 1.0);
        assert_eq!(covered(&rect, &[Rect { x: 100.0, ..rect }]), 0.0);
    }
}
