//! How well things were followed.

use std::collections::BTreeMap;

use crate::detection::{Rect, TrackedBox};

/// Frames without a box inside the life of a track, summed over all; 0 for what
/// [`track`](super::track) gives of frames in order. Boxes with track 0 belong to none.
pub fn flicker(frames: &[Vec<TrackedBox>]) -> u64 {
    // First and last frame, and in how many it is.
    let mut lives: BTreeMap<u32, (usize, usize, usize)> = BTreeMap::new();
    for (frame, boxes) in frames.iter().enumerate() {
        for found in boxes.iter().filter(|found| found.track != 0) {
            let life = lives.entry(found.track).or_insert((frame, frame, 1));
            if life.1 != frame {
                *life = (life.0, frame, life.2 + 1);
            }
        }
    }
    lives.values().map(|&(first, last, present)| (last - first + 1 - present) as u64).sum()
}

/// Which frames of a known path no box covers with an IoU of at least `iou`; the path is `None`
/// where there is nothing to find. It tells the flicker of boxes with and without tracks alike.
pub fn path_missed(frames: &[Vec<TrackedBox>], path: &[Option<Rect>], iou: f32) -> Vec<usize> {
    let covered = |frame: usize, rect: &Rect| {
        frames.get(frame).is_some_and(|boxes| boxes.iter().any(|b| b.rect.iou(rect) >= iou))
    };
    path.iter()
        .enumerate()
        .filter_map(|(frame, rect)| {
            rect.as_ref().filter(|rect| !covered(frame, rect)).map(|_| frame)
        })
        .collect()
}
