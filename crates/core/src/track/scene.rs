//! Frames and detections as the tracker wants them: checked, in order of time, sorted.

use std::ops::Range;

use super::motion::Shape;
use super::{MAX_DETECTIONS, TrackConfig};
use crate::detection::{Found, FrameFound, Rect};

/// A detection that may be followed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Detection {
    pub(super) shape: Shape,
    pub(super) score: f32,
    pub(super) class: u16,
    /// Whether a track has it.
    pub(super) used: bool,
}

/// The whole video; frames are counted in order of time.
pub(super) struct Scene {
    /// Seconds from the first frame, never falling.
    pub(super) times: Vec<f64>,
    /// Place of each frame in what the caller gave.
    pub(super) places: Vec<usize>,
    /// Longest gap that is filled, in seconds.
    pub(super) bridge: f64,
    /// Frames that were looked at, in order.
    pub(super) looks: Vec<usize>,
    pub(super) detections: Vec<Detection>,
    /// How sure a detection must be to count without others that bear it out.
    pub(super) low: f32,
    /// How sure one must be that a track may begin with.
    first: f32,
    /// For each look the first of its detections, and the first that is not sure; one more look
    /// at the end.
    starts: Vec<(usize, usize)>,
}

impl Scene {
    pub(super) fn new(frames: &[FrameFound], config: &TrackConfig) -> Self {
        let threshold = super::sureness(config.threshold);
        let low = config.low.min(threshold);
        let faint = if config.agree > 0 { config.faint.min(low) } else { low };
        let first = if config.agree > 0 { low } else { threshold };
        let mut places: Vec<usize> = (0..frames.len()).collect();
        places.sort_by_key(|&place| frames[place].pts);
        let origin = places.first().map_or(0, |&place| frames[place].pts);
        let mut scene = Self {
            times: Vec::with_capacity(frames.len()),
            bridge: super::seconds(config.bridge_us),
            looks: Vec::new(),
            detections: Vec::new(),
            low,
            first,
            starts: Vec::new(),
            places: Vec::new(),
        };
        for (index, &place) in places.iter().enumerate() {
            let frame = &frames[place];
            scene.times.push(config.time_base.seconds(frame.pts.saturating_sub(origin)));
            if !frame.looked && frame.found.is_empty() {
                continue;
            }
            scene.looks.push(index);
            let start = scene.detections.len();
            let found = clean(frame).filter(|found| found.score >= faint);
            scene.detections.extend(
                found
                    .filter_map(|found| Some((within(&found.rect, config.size)?, found)))
                    .take(MAX_DETECTIONS)
                    .map(|(shape, found)| Detection {
                        shape,
                        score: found.score,
                        class: found.class,
                        used: false,
                    }),
            );
            let sure = scene.detections[start..].partition_point(|d| d.score >= threshold);
            scene.starts.push((start, start + sure));
        }
        let end = scene.detections.len();
        scene.starts.push((end, end));
        scene.places = places;
        scene
    }

    /// The sure detections of a look, surest first.
    pub(super) fn sure(&self, look: usize) -> Range<usize> {
        self.starts[look].0..self.starts[look].1
    }

    /// Those with which a track may begin: the sure ones, and some of the others where several make one.
    pub(super) fn beginnings(&self, look: usize) -> Range<usize> {
        let all = self.starts[look].0..self.starts[look + 1].0;
        let first = self.detections[all.clone()].partition_point(|d| d.score >= self.first);
        all.start..all.start + first
    }

    /// Its others.
    pub(super) fn low(&self, look: usize) -> Range<usize> {
        self.starts[look].1..self.starts[look + 1].0
    }

    /// Number of a looked-at frame among the looks; of another, of the next look.
    pub(super) fn look_of(&self, frame: usize) -> usize {
        self.looks.partition_point(|&look| look < frame)
    }
}

/// The sound detections of a frame in an order that does not depend on theirs: surest first.
pub(super) fn clean(frame: &FrameFound) -> impl Iterator<Item = Found> {
    let sound = frame.found.iter().filter(|f| f.rect.is_sound() && !f.score.is_nan());
    let mut found: Vec<Found> =
        sound.map(|f| Found { score: f.score.clamp(0.0, 1.0), ..*f }).collect();
    found.sort_unstable_by(|a, b| {
        b.score
            .total_cmp(&a.score)
            .then_with(|| order(&a.rect, &b.rect))
            .then(a.class.cmp(&b.class))
    });
    found.into_iter()
}

/// Order of boxes by place: from left to right, then down.
pub(super) fn order(a: &Rect, b: &Rect) -> std::cmp::Ordering {
    let key = |r: &Rect| [r.x, r.y, r.w, r.h];
    let (a, b) = (key(a), key(b));
    a.iter()
        .zip(&b)
        .map(|(a, b)| a.total_cmp(b))
        .find(|o| o.is_ne())
        .unwrap_or(a.len().cmp(&b.len()))
}

/// The box cut off one picture's size beyond each edge; none where it lies beside the picture.
fn within(rect: &Rect, size: (u32, u32)) -> Option<Shape> {
    let side = |start: f32, length: f32, size: u32| {
        let size = f64::from(size);
        let (start, end) = (f64::from(start), f64::from(start) + f64::from(length));
        (start < size && end > 0.0).then(|| (start.max(-size), end.min(2.0 * size)))
    };
    let (left, right) = side(rect.x, rect.w, size.0)?;
    let (top, bottom) = side(rect.y, rect.h, size.1)?;
    Some(Shape::of_edges([left, top, right, bottom]))
}
