//! Joins tracks over gaps, and finds the cuts of the video.

use super::MAX_BOXES;
use super::associate::Track;
use super::motion::{Motion, Shape};
use super::scene::Scene;

/// How far apart what both ends predict may lie, in sizes, and how much more for each second.
const APART: (f64, f64) = (1.0, 0.75);
/// The same in standard deviations of the predictions, which are wide where speeds are hardly known,
/// and its most in sizes.
const UNKNOWN: (f64, f64) = (1.5, 4.0);
/// How much larger or smaller a thing may be after the gap, and how much more for each second.
const RATIO: (f64, f64) = (1.6, 0.4);
/// How many sizes apart a second of gap counts as.
const GAP_COST: f64 = 0.5;
/// Most later tracks that one end is weighed against.
const CHOICES: usize = 256;
/// How many of those are kept.
const KEPT: usize = 8;
/// Detections that a track needs to tell of a cut.
const SETTLED: usize = 3;

/// A place in time where the picture changes: the last look before it and the first after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) before: usize,
    pub(super) after: usize,
}

/// Both ends of a track.
struct Ends {
    first: Motion,
    last: Motion,
    frames: (usize, usize),
}

/// The tracks joined over gaps, in order of their first frames, and the cuts.
pub(super) fn join(scene: &Scene, mut tracks: Vec<Track>) -> (Vec<Track>, Vec<Cut>) {
    tracks.sort_by_key(|track| track.ends().0);
    let ends: Vec<Ends> = tracks
        .iter()
        .filter_map(|track| {
            let time = |frame: usize| scene.times[frame];
            let mut first = Motion::at_last(track.anchors.iter().rev(), |frame| -time(frame))?;
            first.speed = (-first.speed.0, -first.speed.1);
            let last = Motion::at_last(track.anchors.iter(), time)?;
            Some(Ends { first, last, frames: track.ends() })
        })
        .collect();
    let cuts = cuts(scene, &tracks, &ends);

    let mut choices = Vec::new();
    for (early, end) in ends.iter().enumerate() {
        let from = ends.partition_point(|other| other.frames.0 <= end.frames.1);
        let limit = scene.times[end.frames.1] + scene.bridge;
        let kept = choices.len();
        let later = ends[from..].iter().enumerate().take(CHOICES);
        for (late, start) in later.take_while(|(_, s)| scene.times[s.frames.0] <= limit) {
            let late = from + late;
            if tracks[early].class != tracks[late].class {
                continue;
            }
            if let Some(cost) = apart(scene, end, start) {
                choices.push((cost, early, late));
            }
        }
        if choices.len() - kept > KEPT {
            choices[kept..].sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.2.cmp(&b.2)));
            choices.truncate(kept + KEPT);
        }
    }
    choices.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));

    let mut load = load(scene, &ends);
    let mut next: Vec<Option<usize>> = vec![None; tracks.len()];
    let mut has_past = vec![false; tracks.len()];
    for (_, early, late) in choices {
        let (from, to) = (ends[early].frames.1, ends[late].frames.0);
        let gap = from + 1..to;
        if next[early].is_some()
            || has_past[late]
            || crosses(&cuts, from, to)
            || load[gap.clone()].iter().any(|&load| load >= MAX_BOXES)
        {
            continue;
        }
        next[early] = Some(late);
        has_past[late] = true;
        for load in &mut load[gap] {
            *load += 1;
        }
    }
    let mut joined = Vec::new();
    for index in 0..tracks.len() {
        if has_past[index] {
            continue;
        }
        let mut anchors = std::mem::take(&mut tracks[index].anchors);
        let mut at = index;
        while let Some(later) = next[at] {
            anchors.append(&mut tracks[later].anchors);
            at = later;
        }
        joined.push(Track { class: tracks[index].class, anchors });
    }
    (joined, cuts)
}

/// Boxes of each frame once the gaps inside the tracks are filled.
fn load(scene: &Scene, ends: &[Ends]) -> Vec<usize> {
    let mut load = vec![0usize; scene.times.len()];
    for end in ends {
        for load in &mut load[end.frames.0..=end.frames.1] {
            *load += 1;
        }
    }
    load
}

/// Whether a cut lies between two frames.
fn crosses(cuts: &[Cut], from: usize, to: usize) -> bool {
    let at = cuts.partition_point(|cut| cut.before < from);
    cuts.get(at).is_some_and(|cut| cut.after <= to)
}

/// How badly two ends fit, in sizes; none where they are not the same thing.
fn apart(scene: &Scene, end: &Ends, start: &Ends) -> Option<f64> {
    let (last, first) = (&end.last, &start.first);
    let gap = scene.times[start.frames.0] - scene.times[end.frames.1];
    if last.shape.ratio(&first.shape) > RATIO.0 + RATIO.1 * gap {
        return None;
    }
    let size = f64::midpoint(last.shape.size(), first.shape.size());
    let distance = |a: &Shape, b: &Shape| a.distance2(b).sqrt() / size;
    // A thing goes on as it did, slows down, or stays.
    let least = [gap, gap / (1.0 + gap), 0.0]
        .into_iter()
        .map(|dt| {
            let ahead = distance(&last.moved(dt), &first.shape);
            let back = distance(&first.moved(-dt), &last.shape);
            f64::midpoint(ahead, back)
        })
        .fold(f64::INFINITY, f64::min);
    let spread = |motion: &Motion| motion.predict(motion.time + gap).spread();
    let unknown = UNKNOWN.0 * f64::midpoint(spread(last), spread(first)) / size;
    let limit = (APART.0 + APART.1 * gap).max(unknown.min(UNKNOWN.1));
    (least <= limit).then_some(least + GAP_COST * gap)
}

/// Cuts: nothing is followed from one look into the next, though things were there before and
/// others are after, and none of those fits one of these.
fn cuts(scene: &Scene, tracks: &[Track], ends: &[Ends]) -> Vec<Cut> {
    let looks = scene.looks.len();
    // Of each look: tracks that go on from it into the next.
    let mut over = vec![0isize; looks + 1];
    // Settled tracks by the look of their last detection; those by the first are in order already.
    let mut by_last = Vec::new();
    for (index, end) in ends.iter().enumerate() {
        let (first, last) = (scene.look_of(end.frames.0), scene.look_of(end.frames.1));
        over[first] += 1;
        over[last] -= 1;
        if tracks[index].anchors.len() >= SETTLED {
            by_last.push((last, index));
        }
    }
    by_last.sort_unstable();
    let mut going = 0;
    for over in &mut over {
        going += *over;
        *over = going;
    }
    let mut cuts = Vec::new();
    for group in by_last.chunk_by(|a, b| a.0 == b.0) {
        let look = group[0].0;
        if look + 1 >= looks || over[look] != 0 {
            continue;
        }
        let (before, after) = (scene.looks[look], scene.looks[look + 1]);
        let from = ends.partition_point(|end| end.frames.0 < after);
        let to = ends.partition_point(|end| end.frames.0 <= after);
        let settled = |&start: &usize| tracks[start].anchors.len() >= SETTLED;
        let mut starts = (from..to).filter(settled).take(CHOICES);
        let any = starts.clone().next().is_some();
        let fits = starts.any(|start| {
            group.iter().take(CHOICES).any(|&(_, end)| {
                tracks[end].class == tracks[start].class
                    && apart(scene, &ends[end], &ends[start]).is_some()
            })
        });
        if any && !fits {
            cuts.push(Cut { before, after });
        }
    }
    cuts
}
