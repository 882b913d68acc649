//! What detectors find in frames, and the file that tells of it.
//!
//! Boxes are in pixels of the source as displayed: after its rotation, before any filter.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::Fingerprint;
use crate::time::TimeBase;

/// Version of the detections file: the value of its header's first field.
pub const DETECTIONS_VERSION: u32 = 1;

/// A box in pixels of the source as displayed. It may reach over the picture's edges.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Rect {
    /// Left edge.
    pub x: f32,
    /// Upper edge.
    pub y: f32,
    /// Width, above 0.
    pub w: f32,
    /// Height, above 0.
    pub h: f32,
}

impl Rect {
    /// Its middle.
    pub fn center(&self) -> (f32, f32) {
        (self.x + self.w / 2.0, self.y + self.h / 2.0)
    }

    /// Area in square pixels.
    pub fn area(&self) -> f32 {
        self.w.max(0.0) * self.h.max(0.0)
    }

    /// Area that both cover, in square pixels.
    pub fn overlap(&self, other: &Self) -> f32 {
        let w = (self.x + self.w).min(other.x + other.w) - self.x.max(other.x);
        let h = (self.y + self.h).min(other.y + other.h) - self.y.max(other.y);
        w.max(0.0) * h.max(0.0)
    }

    /// Intersection over union, 0..=1; 0 where both are empty.
    pub fn iou(&self, other: &Self) -> f32 {
        let overlap = self.overlap(other);
        let union = self.area() + other.area() - overlap;
        if union > 0.0 { overlap / union } else { 0.0 }
    }

    /// The same box as far as it lies within a million pixels of the picture's corner, so that sums of its numbers
    /// mean something; what lies beyond keeps a pixel at the edge.
    #[must_use]
    pub fn bounded(&self) -> Self {
        const FAR: f64 = 1e6;
        let side = |at: f32, length: f32| {
            let (from, to) = (f64::from(at), f64::from(at) + f64::from(length));
            if from >= -FAR && to <= FAR {
                return (at, length);
            }
            let (from, to) = (from.clamp(-FAR, FAR - 1.0), to.clamp(1.0 - FAR, FAR));
            #[expect(clippy::cast_possible_truncation, reason = "within two millions")]
            let cut = (from as f32, (to - from).max(1.0) as f32);
            cut
        };
        let ((x, w), (y, h)) = (side(self.x, self.w), side(self.y, self.h));
        Self { x, y, w, h }
    }

    /// Whether all its numbers are finite and it covers something.
    pub fn is_sound(&self) -> bool {
        [self.x, self.y, self.w, self.h].iter().all(|v| v.is_finite())
            && self.w > 0.0
            && self.h > 0.0
    }
}

/// A thing that a detector found in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Where.
    #[serde(flatten)]
    pub rect: Rect,
    /// How sure the detector is, 0..=1.
    pub score: f32,
    /// Its class: an index into the detector's names.
    pub class: u16,
}

/// What a detector says of one frame.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FrameFound {
    /// Presentation time in ticks of the source.
    pub pts: i64,
    /// Whether the detector looked at this frame; with `every=N` it skips some.
    pub looked: bool,
    /// What it found, below the threshold as well as above: low scores continue tracks.
    pub found: Vec<Found>,
}

/// How a box came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BoxSource {
    /// A detector found it in this frame.
    Detected,
    /// It was found in frames before or after, and lies on the way.
    Interpolated,
}

impl fmt::Display for BoxSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detected => "detected",
            Self::Interpolated => "interpolated",
        })
    }
}

/// A box of a track in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrackedBox {
    /// Where, smoothed over time.
    #[serde(flatten)]
    pub rect: Rect,
    /// The detector's score; that of the nearest detection where it is interpolated.
    pub score: f32,
    /// Its class: an index into the detector's names.
    pub class: u16,
    /// The track, from 1, in order of the tracks' first frames; 0 where nothing is followed.
    pub track: u32,
    /// How it came to be.
    pub source: BoxSource,
}

impl TrackedBox {
    /// What a detector says of it.
    pub fn found(&self) -> Found {
        Found { rect: self.rect, score: self.score, class: self.class }
    }
}

/// First line of a detections file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DetectionsHeader {
    /// [`DETECTIONS_VERSION`].
    pub frameloom_detections: u32,
    /// What identifies the source.
    pub source: Fingerprint,
    /// Seconds a tick of `pts`, as `1/12800`.
    #[serde(with = "ratio")]
    #[schemars(with = "String")]
    pub time_base: TimeBase,
    /// Width and height of the source as displayed, in pixels.
    pub size: [u32; 2],
}

/// A time base as text.
mod ratio {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::time::TimeBase;

    pub(super) fn serialize<S: Serializer>(base: &TimeBase, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(base)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<TimeBase, D::Error> {
        let text = String::deserialize(from)?;
        let parts = text.split_once('/');
        let parts = parts.and_then(|(num, den)| Some((num.parse().ok()?, den.parse().ok()?)));
        let base = parts.and_then(|(num, den)| TimeBase::new(num, den).ok());
        base.ok_or_else(|| D::Error::custom(format!("'{text}' is no time base like '1/12800'")))
    }
}

/// Any further line of a detections file: one a frame, in order of presentation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DetectionsLine {
    /// Number of the frame in the output, from 0.
    pub frame: u64,
    /// Presentation time in ticks of the source.
    pub pts: i64,
    /// The same in seconds from the output's start.
    pub time: f64,
    /// What is there.
    pub boxes: Vec<DetectedBox>,
}

/// A box in a detections file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DetectedBox {
    /// Where, in pixels of the source as displayed.
    #[serde(flatten)]
    pub rect: Rect,
    /// The detector's score, 0..=1.
    pub score: f32,
    /// Its class, e.g. `face`, `person` or `motion`.
    pub class: String,
    /// Its track, from 1; none where nothing is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track: Option<u32>,
    /// How it came to be.
    pub source: BoxSource,
    /// What was done there: `blur`, `pixelate`, `fill`, `boxes`, … or `none`.
    pub action: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_headers_time_base_is_written_as_people_read_it() {
        let source = Fingerprint { size: 1, modified_ns: 2, sha256: "ab".into(), whole: false };
        let time_base = TimeBase::new(1, 12800).unwrap();
        let header =
            DetectionsHeader { frameloom_detections: 1, source, time_base, size: [64, 48] };
        let text = serde_json::to_string(&header).unwrap();
        assert!(text.contains(r#""time_base":"1/12800""#), "{text}");
        assert_eq!(serde_json::from_str::<DetectionsHeader>(&text).unwrap(), header);
        for bad in ["1/0", "x", "1", "-1/5"] {
            let text = text.replace("1/12800", bad);
            assert!(serde_json::from_str::<DetectionsHeader>(&text).is_err(), "{bad}");
        }
    }

    #[test]
    fn overlap_is_counted_by_area() {
        let a = Rect { x: 0.0, y: 0.0, w: 10.0, h: 10.0 };
        let b = Rect { x: 5.0, y: 0.0, w: 10.0, h: 10.0 };
        assert!((a.iou(&b) - 1.0 / 3.0).abs() < 1e-6);
        assert_eq!(a.iou(&Rect { x: 20.0, ..a }), 0.0);
        assert_eq!(Rect::default().iou(&Rect::default()), 0.0);
        assert!(!Rect { w: f32::NAN, ..a }.is_sound());
    }
}
