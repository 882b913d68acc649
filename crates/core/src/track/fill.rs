//! A box for every frame of a track's life.

use super::associate::Track;
use super::motion::{Motion, Shape, smoothed};
use super::scene::{Scene, order};
use super::stitch::Cut;
use super::{MAX_BOXES, TrackConfig};
use crate::detection::{BoxSource, Rect, TrackedBox};

/// How far an edge may lie inside a detection's, and outside it, as a part of its width or height.
const SLACK: (f64, f64) = (0.05, 0.1);
/// A track carried on slows down: after this many seconds it has gone half as far as at full speed.
const SLOWING: f64 = 1.0;
/// Most seconds that a track is carried on for being found rarely.
const MOST_LEAD: f64 = 1.0;

/// A track's boxes.
struct Life {
    /// Frame of the first; the others follow frame by frame.
    first: usize,
    boxes: Vec<TrackedBox>,
}

/// What a track is carried on by.
struct Ends {
    first: Motion,
    last: Motion,
    /// For how many seconds.
    lead: f64,
}

/// The boxes of every frame, in the caller's order.
pub(super) fn boxes(
    scene: &Scene,
    tracks: Vec<Track>,
    cuts: &[Cut],
    config: &TrackConfig,
) -> Vec<Vec<TrackedBox>> {
    let least = usize::try_from(config.min_detections).unwrap_or(usize::MAX);
    let mut lives: Vec<(Life, Ends)> = Vec::new();
    for track in tracks {
        if !track.anchors.is_empty() && track.anchors.len() >= least {
            lives.extend(life(scene, &track, config));
        }
    }
    let mut load = vec![0usize; scene.times.len()];
    for (life, _) in &lives {
        for load in &mut load[life.first..life.first + life.boxes.len()] {
            *load += 1;
        }
    }
    let mut lives: Vec<Life> = lives
        .into_iter()
        .map(|(life, ends)| carried(scene, life, &ends, cuts, config, &mut load))
        .collect();
    lives.sort_by(|a, b| {
        a.first.cmp(&b.first).then_with(|| order(&a.boxes[0].rect, &b.boxes[0].rect))
    });
    let mut frames: Vec<Vec<TrackedBox>> = load.iter().map(|&n| Vec::with_capacity(n)).collect();
    for (id, life) in (1..).zip(lives) {
        for (offset, found) in life.boxes.into_iter().enumerate() {
            frames[life.first + offset].push(TrackedBox { track: id, ..found });
        }
    }
    let mut out = vec![Vec::new(); frames.len()];
    for (&place, boxes) in scene.places.iter().zip(frames) {
        out[place] = boxes;
    }
    out
}

/// Where a thing was at a time between two smoothed detections: the cubic through both places with
/// both speeds, which is what the motion's model expects; width and height linear.
pub(super) fn between(ends: &[Motion], time: f64) -> Shape {
    let (a, b) = (&ends[0], &ends[1]);
    let span = b.time - a.time;
    if span <= 0.0 {
        return a.shape;
    }
    let u = (time - a.time) / span;
    let cubic = |pa: f64, va: f64, pb: f64, vb: f64| {
        let (a0, b0) = (1.0 - u, u);
        a0 * a0 * (1.0 + 2.0 * u) * pa
            + b0 * b0 * (3.0 - 2.0 * u) * pb
            + span * u * a0 * (a0 * va - b0 * vb)
    };
    Shape {
        x: cubic(a.shape.x, a.speed.0, b.shape.x, b.speed.0),
        y: cubic(a.shape.y, a.speed.1, b.shape.y, b.speed.1),
        ..a.shape.toward(&b.shape, u)
    }
}

/// From a track's first detection to its last.
fn life(scene: &Scene, track: &Track, config: &TrackConfig) -> Option<(Life, Ends)> {
    let motions = smoothed(&track.anchors, &scene.times);
    let (first, last) = (*motions.first()?, *motions.last()?);
    let moved: Vec<[f64; 4]> =
        track.anchors.iter().zip(&motions).map(|(a, m)| correction(&m.shape, &a.shape)).collect();
    let start = track.anchors[0].frame;
    let mut boxes = Vec::with_capacity(track.ends().1 - start + 1);
    for (index, anchor) in track.anchors.iter().enumerate() {
        let found = |rect: Rect, score: f32, source: BoxSource| TrackedBox {
            rect,
            score,
            class: track.class,
            track: 0,
            source,
        };
        let corrected = corrected(&motions[index].shape, &moved[index]);
        boxes.push(found(corrected.rect(), anchor.score, BoxSource::Detected));
        let Some(next) = track.anchors.get(index + 1) else { break };
        let (from, to) = (scene.times[anchor.frame], scene.times[next.frame]);
        for frame in anchor.frame + 1..next.frame {
            let time = scene.times[frame];
            let part = if to > from { (time - from) / (to - from) } else { 0.0 };
            let mut edges = moved[index];
            for (edge, next) in edges.iter_mut().zip(&moved[index + 1]) {
                *edge += (next - *edge) * part;
            }
            let shape = corrected_between(&motions[index..index + 2], time, &edges);
            let shape = grown(shape, (time - from).min(to - time), config);
            let score = if part <= 0.5 { anchor.score } else { next.score };
            boxes.push(found(shape.rect(), score, BoxSource::Interpolated));
        }
    }
    // A thing that is rarely found is there for longer than it is found.
    let gaps = track.anchors.len().max(2) - 1;
    let mean = ((last.time - first.time) / count(gaps)).min(MOST_LEAD);
    let lead = super::seconds(config.lead_us) + mean;
    Some((Life { first: start, boxes }, Ends { first, last, lead }))
}

fn corrected_between(ends: &[Motion], time: f64, edges: &[f64; 4]) -> Shape {
    corrected(&between(ends, time), edges)
}

/// What to add to a smoothed shape's edges, so that it covers what was detected and little more.
fn correction(smooth: &Shape, found: &Shape) -> [f64; 4] {
    let (smooth, edges) = (smooth.edges(), found.edges());
    let sides = [found.w, found.h, found.w, found.h];
    let mut add = [0.0; 4];
    for at in 0..4 {
        let (inside, outside) = (SLACK.0 * sides[at], SLACK.1 * sides[at]);
        let (before, behind) = if at < 2 { (outside, inside) } else { (inside, outside) };
        add[at] = smooth[at].clamp(edges[at] - before, edges[at] + behind) - smooth[at];
    }
    add
}

fn corrected(shape: &Shape, add: &[f64; 4]) -> Shape {
    let mut edges = shape.edges();
    for (edge, add) in edges.iter_mut().zip(add) {
        *edge += add;
    }
    Shape::of_edges(edges)
}

/// Larger by how long ago, or how far ahead, the nearest detection is.
fn grown(shape: Shape, seconds: f64, config: &TrackConfig) -> Shape {
    let growth = f64::from(config.grow) * seconds;
    let growth = 1.0 + growth.max(0.0).min(f64::from(TrackConfig::MAX_GROWTH));
    Shape { w: shape.w * growth, h: shape.h * growth, ..shape }
}

/// The track carried on beyond both ends until the time is over, it leaves the picture or the
/// picture changes.
fn carried(
    scene: &Scene,
    life: Life,
    ends: &Ends,
    cuts: &[Cut],
    config: &TrackConfig,
    load: &mut [usize],
) -> Life {
    if config.lead_us <= 0 {
        return life;
    }
    let (Some(&first), Some(&last)) = (life.boxes.first(), life.boxes.last()) else { return life };
    let end = life.first + life.boxes.len();
    let cut = cuts[..cuts.partition_point(|cut| cut.before < life.first)].last();
    let look = scene.look_of(life.first);
    let before = (cut.map_or(0, |cut| cut.before + 1)..life.first).rev();
    let unseen = look.checked_sub(1).map_or(0, |look| scene.looks[look] + 1);
    let before =
        lead(scene, first, (&ends.first, ends.lead), before, |frame| frame >= unseen, config, load);

    let cut = cuts.get(cuts.partition_point(|cut| cut.after < end));
    let unseen = scene.looks.get(scene.look_of(end)).copied().unwrap_or(scene.times.len());
    let after = end..cut.map_or(scene.times.len(), |cut| cut.after);
    let after =
        lead(scene, last, (&ends.last, ends.lead), after, |frame| frame < unseen, config, load);

    let first = life.first - before.len();
    let mut boxes: Vec<TrackedBox> = before.into_iter().rev().collect();
    boxes.extend(life.boxes);
    boxes.extend(after);
    Life { first, boxes }
}

/// Boxes that go on from `from` over `frames`; `unseen` says whether no look came until a frame.
fn lead(
    scene: &Scene,
    from: TrackedBox,
    (motion, limit): (&Motion, f64),
    frames: impl Iterator<Item = usize>,
    unseen: impl Fn(usize) -> bool,
    config: &TrackConfig,
    load: &mut [usize],
) -> Vec<TrackedBox> {
    let longest = scene.bridge.max(limit);
    let start = Shape::of(&from.rect);
    let mut boxes = Vec::new();
    for frame in frames {
        let dt = scene.times[frame] - motion.time;
        let far = dt.abs();
        if far > limit && !(far <= longest && unseen(frame)) || load[frame] >= MAX_BOXES {
            break;
        }
        let going = dt / (1.0 + far / SLOWING);
        let shape = Shape {
            x: start.x + motion.speed.0 * going,
            y: start.y + motion.speed.1 * going,
            ..start
        };
        let shape = grown(shape, far, config);
        let [left, top, right, bottom] = shape.edges();
        let (w, h) = (f64::from(config.size.0), f64::from(config.size.1));
        if right <= 0.0 || bottom <= 0.0 || left >= w || top >= h {
            break;
        }
        load[frame] += 1;
        boxes.push(TrackedBox { rect: shape.rect(), source: BoxSource::Interpolated, ..from });
    }
    boxes
}

#[expect(clippy::cast_precision_loss, reason = "no video has that many frames")]
fn count(count: usize) -> f64 {
    count as f64
}
