mod scenes;

use proptest::prelude::*;
use scenes::*;

use super::*;
use crate::detection::{Found, Rect};

/// What of the tracker runs.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum Upto {
    Nothing,
    Forward,
    Backward,
    Joined,
    All,
}

const STAGES: [Upto; 5] = [Upto::Nothing, Upto::Forward, Upto::Backward, Upto::Joined, Upto::All];

fn staged(frames: &[FrameFound], config: &TrackConfig, upto: Upto) -> Vec<Vec<TrackedBox>> {
    if upto == Upto::Nothing {
        return untracked(frames, config.threshold);
    }
    if upto == Upto::All {
        return track(frames, config);
    }
    let mut scene = Scene::new(frames, config);
    let mut tracks = associate::forward(&mut scene);
    if upto >= Upto::Backward {
        associate::backward(&mut scene, &mut tracks);
    }
    let mut cuts = Vec::new();
    if upto >= Upto::Joined {
        (tracks, cuts) = stitch::join(&scene, tracks, config.bridge_us);
        associate::inside(&mut scene, &mut tracks);
    }
    fill::boxes(&scene, tracks, &cuts, &TrackConfig { lead_us: 0, ..*config })
}

/// Recall of each stage, and how often things go in and out of cover, over all paths and some seeds.
fn measured(detector: Detector) -> Vec<(f64, usize)> {
    let rows = STAGES.map(|upto| {
        let (mut sum, mut count, mut flickers) = (0.0, 0.0, 0);
        for seed in 1..6 {
            for (_, things) in paths() {
                let boxes = staged(&Detector { seed, ..detector }.look(&things), &config(), upto);
                sum += recall(&boxes, &things);
                count += 1.0;
                flickers += changes(&boxes, &things);
                assert_eq!(flicker(&boxes), 0);
            }
        }
        println!("{upto:?}: recall {:.3}, in and out of cover {flickers} times", sum / count);
        (sum / count, flickers)
    });
    rows.to_vec()
}

#[test]
fn a_detector_that_misses_60_percent_is_made_whole() {
    let rows = measured(Detector { blind: 0.6, ..Detector::default() });
    assert!(rows[0].0 < 0.42, "{rows:?}");
    assert!(rows[1].0 > 0.94, "{rows:?}");
    assert!(rows[4].0 > 0.98, "{rows:?}");
    assert!(rows[4].1 * 200 < rows[0].1, "{rows:?}");
}

#[test]
fn low_detections_before_a_track_began_count_by_the_backward_pass() {
    let rows = measured(Detector { blind: 0.75, unsure: 0.2, ..Detector::default() });
    assert!(rows[2].0 > rows[1].0 + 0.1, "{rows:?}");
    assert!(rows[3].0 > rows[2].0 + 0.1, "{rows:?}");
    assert!(rows[4].0 > 0.94, "{rows:?}");
}

#[test]
fn things_keep_their_ids() {
    for (name, things) in paths() {
        for every in [1, 3] {
            for seed in 1..6 {
                let detector = Detector { every, blind: 0.15, seed, ..Detector::default() };
                let boxes = track(&detector.look(&things), &config());
                let mut all: Vec<u32> = Vec::new();
                for thing in &things {
                    let ids = ids(&boxes, thing);
                    assert_eq!(ids.len(), 1, "{name}, every {every}, seed {seed}: {ids:?}");
                    all.extend(ids);
                }
                all.sort_unstable();
                all.dedup();
                assert_eq!(all.len(), things.len(), "{name}, every {every}, seed {seed}");
            }
        }
    }
}

fn any_frames() -> impl Strategy<Value = Vec<FrameFound>> {
    let number = prop_oneof![
        20 => -200.0f32..1500.0,
        1 => Just(f32::NAN),
        1 => Just(f32::INFINITY),
        1 => Just(-1e38f32),
        1 => Just(3e38f32),
    ];
    let side = prop_oneof![20 => 1.0f32..300.0, 1 => -5.0f32..0.0, 1 => Just(1e38f32), 1 => Just(1e-40f32)];
    let found = (number.clone(), number, side.clone(), side, -0.1f32..1.2, 0u16..2)
        .prop_map(|(x, y, w, h, score, class)| Found { rect: Rect { x, y, w, h }, score, class });
    let frame = (0i64..40_000, any::<bool>(), prop::collection::vec(found, 0..6))
        .prop_map(|(pts, looked, found)| FrameFound { pts, looked, found });
    prop::collection::vec(frame, 0..60)
}

proptest! {
    #[test]
    fn every_track_is_whole_sound_and_covers_what_it_is_made_of(frames in any_frames()) {
        let boxes = track(&frames, &config());
        prop_assert_eq!(boxes.len(), frames.len());
        let mut order: Vec<usize> = (0..frames.len()).collect();
        order.sort_by_key(|&at| frames[at].pts);
        let in_order: Vec<Vec<TrackedBox>> = order.iter().map(|&at| boxes[at].clone()).collect();
        prop_assert_eq!(flicker(&in_order), 0);
        let mut highest = 0;
        for (boxes, &at) in in_order.iter().zip(&order) {
            prop_assert!(boxes.len() <= MAX_BOXES);
            prop_assert!(boxes.windows(2).all(|pair| pair[0].track < pair[1].track));
            for found in boxes {
                prop_assert!(found.rect.is_sound(), "{:?}", found);
                prop_assert!(found.track >= 1 && found.track <= highest + 1);
                highest = highest.max(found.track);
            }
            // All sure ones that lie in the picture are there.
            let picture = Rect { x: 0.0, y: 0.0, w: 1280.0, h: 720.0 };
            for sure in &frames[at].found {
                if sure.rect.is_sound() && sure.score >= 0.5 && picture.overlap(&sure.rect) > 0.0 {
                    let near = boxes.iter().any(|b| {
                        b.source == BoxSource::Detected
                            && b.class == sure.class
                            && (b.rect.iou(&sure.rect) >= 0.68 || sure.rect.area() > 1e6 || sure.rect.area() < 1.0)
                    });
                    prop_assert!(near, "{:?} is not covered by {:?}", sure, boxes);
                }
            }
        }
        let mut shuffled = frames.clone();
        for frame in &mut shuffled {
            frame.found.reverse();
        }
        prop_assert_eq!(track(&shuffled, &config()), boxes);
    }
}
