//! Which detections are the same thing: forward, then backward from where tracks began.

use std::ops::Range;

use super::MAX_DETECTIONS;
use super::assign::{Edge, assign};
use super::motion::{Anchor, Motion};
use super::scene::Scene;

/// How long a track goes on over looks that miss it before it is left to be stitched, in seconds;
/// no longer than gaps are bridged. 0.4 s leave three times as much open where most is low.
const PATIENCE: f64 = 1.0;
/// Longest time between two looks that a track goes on over, in seconds.
const MAX_STEP: f64 = 10.0;
/// How far from its prediction a detection may lie, in standard deviations.
const GATE: f64 = 3.5;
/// The least and the most of that, in sizes.
const REACH: (f64, f64) = (0.7, 3.0);
/// How much of it low detections get.
const LOW_REACH: f64 = 0.6;
/// How much larger or smaller a sure detection may be, and how much more for each second.
const RATIO: (f64, f64) = (1.8, 1.0);
/// How much larger or smaller a low one may be.
const LOW_RATIO: f64 = 1.5;
/// Most detections that one track is weighed against.
const CHOICES: usize = 16;

/// Detections of one thing, in order of time.
#[derive(Debug, Clone)]
pub(super) struct Track {
    pub(super) class: u16,
    pub(super) anchors: Vec<Anchor>,
}

impl Track {
    /// Frames of its first and its last detection.
    pub(super) fn ends(&self) -> (usize, usize) {
        let frame = |anchor: Option<&Anchor>| anchor.map_or(0, |anchor| anchor.frame);
        (frame(self.anchors.first()), frame(self.anchors.last()))
    }
}

/// A track that may still go on.
struct Live {
    track: usize,
    motion: Motion,
    /// Whether a look has missed it since.
    missed: bool,
    /// Whether it was found in this look.
    seen: bool,
}

impl Live {
    fn goes_on(&self, time: f64, bridge: f64) -> bool {
        time - self.motion.time <= if self.missed { PATIENCE.min(bridge) } else { MAX_STEP }
    }
}

/// Tracks as they look to one who does not know the future, in order of their first frames.
pub(super) fn forward(scene: &mut Scene) -> Vec<Track> {
    let mut tracks: Vec<Track> = Vec::new();
    let mut live: Vec<Live> = Vec::new();
    for look in 0..scene.looks.len() {
        let time = scene.times[scene.looks[look]];
        begin(&mut live, time, scene.bridge);
        let (sure, low) = (scene.sure(look), scene.low(look));
        follow(scene, look, sure.clone(), time, &mut live, &mut tracks);
        follow(scene, look, low, time, &mut live, &mut tracks);
        for at in scene.beginnings(look) {
            if scene.detections[at].used {
                continue;
            }
            let anchor = take(scene, look, at, at < sure.end);
            live.push(Live {
                track: tracks.len(),
                motion: Motion::new(time, &anchor),
                missed: false,
                seen: true,
            });
            tracks.push(Track { class: scene.detections[at].class, anchors: vec![anchor] });
        }
        end(&mut live);
    }
    tracks
}

/// Gives tracks the low detections from before they began.
pub(super) fn backward(scene: &mut Scene, tracks: &mut [Track]) {
    for track in tracks.iter_mut() {
        track.anchors.reverse();
    }
    let mut waiting = tracks.len();
    let mut live: Vec<Live> = Vec::new();
    for look in (0..scene.looks.len()).rev() {
        let frame = scene.looks[look];
        let time = -scene.times[frame];
        begin(&mut live, time, scene.bridge);
        follow(scene, look, scene.low(look), time, &mut live, tracks);
        // Tracks are in order of their first frames, and what began here was found here.
        while waiting > 0 && tracks[waiting - 1].ends().1 == frame {
            waiting -= 1;
            let anchors = tracks[waiting].anchors.iter();
            if let Some(motion) = Motion::at_last(anchors, |frame| -scene.times[frame]) {
                live.push(Live { track: waiting, motion, missed: false, seen: true });
            }
        }
        end(&mut live);
    }
    for track in tracks {
        track.anchors.reverse();
    }
}

fn begin(live: &mut Vec<Live>, time: f64, bridge: f64) {
    live.retain(|live| live.goes_on(time, bridge));
    for live in live {
        live.seen = false;
    }
}

fn end(live: &mut Vec<Live>) {
    for live in live.iter_mut() {
        live.missed = !live.seen;
    }
    if live.len() > MAX_DETECTIONS {
        live.sort_by(|a, b| b.motion.time.total_cmp(&a.motion.time));
        live.truncate(MAX_DETECTIONS);
    }
}

fn take(scene: &mut Scene, look: usize, at: usize, sure: bool) -> Anchor {
    let frame = scene.looks[look];
    let detection = &mut scene.detections[at];
    detection.used = true;
    Anchor { frame, shape: detection.shape, score: detection.score, sure }
}

/// Continues the tracks that were not seen in this look yet with some of its detections.
fn follow(
    scene: &mut Scene,
    look: usize,
    detections: Range<usize>,
    time: f64,
    live: &mut [Live],
    tracks: &mut [Track],
) {
    if detections.is_empty() {
        return;
    }
    let sure = detections.start < scene.sure(look).end;
    let mut edges = Vec::new();
    for (row, live) in live.iter().enumerate().filter(|(_, live)| !live.seen) {
        let motion = live.motion.predict(time);
        let size = motion.shape.size();
        let reach = (GATE * motion.spread()).clamp(REACH.0 * size, REACH.1 * size);
        let away = (time - live.motion.time).min(1.0);
        let (reach, ratio_limit) =
            if sure { (reach, RATIO.0 + RATIO.1 * away) } else { (reach * LOW_REACH, LOW_RATIO) };
        let reach2 = reach * reach;
        let first = edges.len();
        for at in detections.clone() {
            let detection = &scene.detections[at];
            let distance2 = motion.shape.distance2(&detection.shape);
            if distance2 > reach2 || detection.used || detection.class != tracks[live.track].class {
                continue;
            }
            let ratio = motion.shape.ratio(&detection.shape);
            if ratio > ratio_limit {
                continue;
            }
            // Three parts place, one part size.
            let resize = (ratio - 1.0) / (ratio_limit - 1.0);
            let cost = 0.75 * distance2 / reach2 + 0.25 * resize * resize;
            edges.push(Edge { row, column: at - detections.start, cost });
        }
        if edges.len() - first > CHOICES {
            edges[first..].select_nth_unstable_by(CHOICES, |a, b| {
                a.cost.total_cmp(&b.cost).then(a.column.cmp(&b.column))
            });
            edges.truncate(first + CHOICES);
        }
    }
    for (row, column) in assign(live.len(), detections.len(), edges) {
        let anchor = take(scene, look, detections.start + column, sure);
        let live = &mut live[row];
        live.motion = live.motion.predict(time).update(&anchor);
        live.seen = true;
        tracks[live.track].anchors.push(anchor);
    }
}
