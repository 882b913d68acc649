//! Follows what detectors found over a whole video: tracks without holes, from boxes that come and go.
//!
//! It runs between detecting and rendering, so it knows the future. In order:
//!
//! 1. `associate` goes forward: a Kalman filter of constant velocity predicts each track, sure
//!    detections are matched first and low ones after, as in ByteTrack (Zhang et al., ECCV 2022);
//!    sure ones that are left begin tracks. Then it goes backward from where tracks began: low
//!    detections before that belong to them too.
//! 2. `agree` keeps what is low only where several detections that are close in time bear each other out.
//! 3. `stitch` joins tracks over gaps where both ends predict each other, and finds cuts, which
//!    nothing is joined over.
//! 4. `fill` smooths (Rauch, Tung, Striebel) and gives a box to every frame of a track's life.
//!
//! The same input gives the same bytes on every machine: only operations that IEEE 754 defines
//! exactly are used, and no order depends on hashing. Memory is linear in frames and boxes.

mod agree;
mod assign;
mod associate;
mod fill;
mod measure;
mod motion;
mod scene;
mod stitch;
#[cfg(test)]
mod tests;

use crate::detection::{BoxSource, FrameFound, TrackedBox};
use crate::time::TimeBase;
use scene::Scene;

pub use measure::{flicker, path_missed};

/// Most detections that are followed in one frame: the surest.
pub const MAX_DETECTIONS: usize = 1000;

/// Most boxes in one frame of the result: what was found there, and what was missed by tracks that
/// came from before and from after.
pub const MAX_BOXES: usize = 3 * MAX_DETECTIONS;

/// Most boxes in a line of a detections file, which holds those of all detectors of a job.
pub const MAX_TOLD: usize = 8 * MAX_BOXES;

/// Longest gap that is ever bridged, and longest that a track is carried on, in microseconds.
pub const MAX_BRIDGE_US: i64 = 10_000_000;

/// How things are followed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrackConfig {
    /// Seconds a tick of the frames' `pts`.
    pub time_base: TimeBase,
    /// Width and height of the picture, in pixels of the source as displayed.
    pub size: (u32, u32),
    /// A track needs a detection at least this sure, 0..=1. What is no number counts as 0, so that
    /// a mistake hides too much instead of nothing.
    pub threshold: f32,
    /// Detections from here to `threshold` continue tracks; they begin one only where `agree` says so.
    /// Not above `threshold`.
    pub low: f32,
    /// Detections from here to `low` continue tracks only where [`TrackConfig::agree`] of a track's lie close
    /// together. `low` or more: none do.
    pub faint: f32,
    /// So many detections within twice as many looks make a track, the first of them not below `low`, though none
    /// is as sure as `threshold`; but not of what covers a tenth of the picture. 0: they never do.
    pub agree: u32,
    /// Gaps up to this are filled, in microseconds, at most [`MAX_BRIDGE_US`]; 0 joins nothing.
    pub bridge_us: i64,
    /// How long a track is carried on before its first and after its last detection, in
    /// microseconds, at most [`MAX_BRIDGE_US`]. The mean time between its detections is added, up to
    /// a second, and where no frame was looked at for longer, it goes on until the next look. 0: never.
    pub lead_us: i64,
    /// Tracks of fewer detections are dropped. 1 keeps all: hiding errs on hiding.
    pub min_detections: u32,
    /// How much wider and higher boxes get for each second to the nearest detection, as a part of
    /// their size, up to [`TrackConfig::MAX_GROWTH`] in all; 0 leaves them.
    pub grow: f32,
}

impl TrackConfig {
    /// Most that a box without a detection is enlarged, as a part of its size.
    pub const MAX_GROWTH: f32 = 0.4;

    /// The defaults: sure from 0.5, low from 0.2, nothing fainter, gaps of 2 s filled, tracks carried on for 0.3 s, no
    /// track too short, boxes growing by 0.2 a second.
    pub fn new(time_base: TimeBase, size: (u32, u32)) -> Self {
        Self {
            time_base,
            size,
            threshold: 0.5,
            low: 0.2,
            faint: 0.2,
            agree: 0,
            bridge_us: 2_000_000,
            lead_us: 300_000,
            min_detections: 1,
            grow: 0.2,
        }
    }
}

/// Follows what was found over the whole video: the boxes of each frame, in order of `frames`.
///
/// Each track has one box in every frame of its life, in order of presentation time; frames need
/// not come in that order. A detection's box is moved by smoothing, but each of its edges stays
/// within 5 % of the detection's width or height inside and 10 % outside it: IoU with the detection
/// is never below 0.69. A frame counts as looked at where it says so or something was found in it.
///
/// Ignored: boxes that are not [sound](crate::detection::Rect::is_sound), lie beside the picture or
/// have a score that is no number, and all but the [`MAX_DETECTIONS`] surest of a frame. Scores are
/// cut to 0..=1, boxes a picture's size beyond its edges. Tracks are neither carried on nor joined
/// where a frame would hold more than [`MAX_BOXES`].
pub fn track(frames: &[FrameFound], config: &TrackConfig) -> Vec<Vec<TrackedBox>> {
    let mut scene = Scene::new(frames, config);
    let mut tracks = associate::forward(&mut scene);
    associate::backward(&mut scene, &mut tracks);
    agree::believe(&scene, &mut tracks, config);
    let (tracks, cuts) = stitch::join(&scene, tracks);
    fill::boxes(&scene, tracks, &cuts, config)
}

/// What was found at least as sure as `threshold`, frame by frame, each box with track 0: none. A
/// threshold that is no number lets all pass.
///
/// The same boxes are ignored as in [`track`], but for those beside the picture, which is not known here.
pub fn untracked(frames: &[FrameFound], threshold: f32) -> Vec<Vec<TrackedBox>> {
    let threshold = sureness(threshold);
    frames
        .iter()
        .map(|frame| {
            scene::clean(frame)
                .take(MAX_DETECTIONS)
                .filter(|found| found.score >= threshold)
                .map(|found| TrackedBox {
                    rect: found.rect,
                    score: found.score,
                    class: found.class,
                    track: 0,
                    source: BoxSource::Detected,
                })
                .collect()
        })
        .collect()
}

/// A threshold as it is meant: what is no number lets all pass.
fn sureness(threshold: f32) -> f32 {
    if threshold.is_nan() { 0.0 } else { threshold }
}

/// In seconds, from 0 to the longest that is bridged.
#[expect(clippy::cast_precision_loss, reason = "at most ten seconds")]
fn seconds(micros: i64) -> f64 {
    micros.clamp(0, MAX_BRIDGE_US) as f64 / 1e6
}
