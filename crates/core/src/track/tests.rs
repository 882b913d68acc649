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
        (tracks, cuts) = stitch::join(&scene, tracks);
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
    assert!(rows[3].0 > rows[2].0 + 0.02, "{rows:?}");
    assert!(rows[4].0 > 0.96, "{rows:?}");
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

fn found(rect: Rect, score: f32) -> Found {
    Found { rect, score, class: 0 }
}

/// Frames that were looked at, `at` telling what is in each.
fn frames(count: usize, at: impl Fn(usize) -> Vec<Found>) -> Vec<FrameFound> {
    let frame = |frame| FrameFound { pts: frame as i64 * TICKS, looked: true, found: at(frame) };
    (0..count).map(frame).collect()
}

/// No frames.
const NONE: [usize; 0] = [];

/// Frames that hold a box.
fn with_boxes(boxes: &[Vec<TrackedBox>]) -> Vec<usize> {
    (0..boxes.len()).filter(|&frame| !boxes[frame].is_empty()).collect()
}

#[test]
fn what_is_hidden_for_10_or_40_frames_is_covered_there() {
    for (name, things) in paths().iter().filter(|(name, _)| name.starts_with("behind")) {
        let frames = Detector::default().look(things);
        let hidden = things[0].hidden.clone();
        assert!(frames[hidden.clone()].iter().all(|frame| frame.found.is_empty()));
        let missed = path_missed(&track(&frames, &config()), &things[0].path, 0.5);
        assert_eq!(missed, NONE, "{name}");
        let apart = TrackConfig { bridge_us: 200_000, lead_us: 0, ..config() };
        let missed = path_missed(&track(&frames, &apart), &things[0].path, 0.5);
        assert_eq!(missed, hidden.collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn nothing_is_bridged_over_a_cut() {
    let (left, right) = (rect(200.0, 300.0, 60.0, 75.0), rect(1000.0, 400.0, 60.0, 75.0));
    let there_and_back = |frame: usize| match frame {
        50..75 => vec![found(right, 0.9)],
        _ => vec![found(left, 0.9)],
    };
    let boxes = track(&frames(120, there_and_back), &config());
    for (frame, boxes) in boxes.iter().enumerate() {
        let there = if (50..75).contains(&frame) { right } else { left };
        assert!(boxes.len() == 1 && boxes[0].rect.iou(&there) > 0.9, "{frame}: {boxes:?}");
    }
    // The same, with someone else in the picture all the time: no cut, so the gap is filled.
    let third = rect(640.0, 100.0, 60.0, 75.0);
    let with_third = |frame| [there_and_back(frame), vec![found(third, 0.9)]].concat();
    let boxes = track(&frames(120, with_third), &config());
    assert!(boxes[50..75].iter().all(|b| b.iter().any(|b| b.rect.iou(&left) > 0.6)));
}

#[test]
fn low_scores_alone_are_no_track() {
    let nothing = vec![Thing { path: vec![None; 250], hidden: 0..0 }];
    let frames = Detector { ghosts: 3.0, ..Detector::default() }.look(&nothing);
    assert!(frames.iter().map(|frame| frame.found.len()).sum::<usize>() > 500);
    assert_eq!(with_boxes(&track(&frames, &config())), NONE);
}

#[test]
fn low_scores_elsewhere_draw_no_track_away() {
    let detector = Detector { ghosts: 3.0, blind: 0.3, unsure: 0.3, ..Detector::default() };
    for (name, mut things) in paths() {
        let boxes = track(&detector.look(&things), &config());
        // Behind a bus, a ghost beside it may well be taken for what is hidden there.
        for thing in &mut things {
            thing.path[thing.hidden.clone()].fill(None);
        }
        assert!(recall(&boxes, &things) > 0.97, "{name}: {}", recall(&boxes, &things));
    }
}

#[test]
fn a_track_is_carried_on_at_both_ends() {
    let still = rect(300.0, 300.0, 60.0, 75.0);
    let seen =
        |frame: usize| if (50..60).contains(&frame) { vec![found(still, 0.9)] } else { vec![] };
    let lead =
        |lead_us| with_boxes(&track(&frames(100, seen), &TrackConfig { lead_us, ..config() }));
    assert_eq!(lead(0), (50..60).collect::<Vec<_>>());
    // 0.3 s are 7.5 frames, and it was found each frame: one more.
    assert_eq!(lead(300_000), (42..68).collect::<Vec<_>>());
    assert_eq!(lead(i64::MAX), (0..100).collect::<Vec<_>>());
    let boxes = track(&frames(100, seen), &config());
    assert_eq!(
        (boxes[42][0].source, boxes[50][0].source),
        (BoxSource::Interpolated, BoxSource::Detected)
    );
    assert!(boxes[42][0].rect.iou(&still) > 0.8 && boxes[42][0].rect.area() > still.area());
}

#[test]
fn a_track_ends_where_the_picture_does() {
    let out = Thing::new(100, |t| [1000.0 + 300.0 * t, 300.0, 60.0, 75.0]);
    let boxes =
        track(&Detector::default().look(&[out]), &TrackConfig { lead_us: 2_000_000, ..config() });
    let last = with_boxes(&boxes).pop().unwrap();
    assert!(boxes[last][0].rect.x > 1240.0 && boxes[last][0].rect.x < 1280.0, "{:?}", boxes[last]);
    // Its left edge crosses the picture's at 1.03 s.
    assert!((24..34).contains(&last), "{last}");
}

#[test]
fn frames_that_were_not_looked_at_are_no_miss() {
    let thing = Thing::new(250, |t| [200.0 + 60.0 * t, 300.0, 60.0, 75.0]);
    for every in [3, 10, 25, 70] {
        let frames = Detector { every, ..Detector::default() }.look(std::slice::from_ref(&thing));
        let boxes = track(&frames, &config());
        assert_eq!(ids(&boxes, &thing), [1], "every {every}");
        let missed = path_missed(&boxes, &thing.path, 0.5);
        // After the last look it is carried on ever slower: 17 frames are right.
        let last = 249 / every * every;
        assert!(missed.iter().all(|&frame| frame > last + 17), "every {every}: {missed:?}");
    }
}

#[test]
fn boxes_are_smooth_and_cover_what_was_found() {
    let things = [Thing::new(250, |t| [300.0 + 40.0 * t, 300.0, 60.0, 75.0])];
    let frames = Detector { jitter: 0.05, ..Detector::default() }.look(&things);
    let boxes = track(&frames, &config());
    let shake = |x: &dyn Fn(usize) -> f32| -> f32 {
        (1..249).map(|f| (x(f - 1) - 2.0 * x(f) + x(f + 1)).abs()).sum::<f32>() / 248.0
    };
    let before = shake(&|frame| frames[frame].found[0].rect.center().0);
    let after = shake(&|frame| boxes[frame][0].rect.center().0);
    assert!(after < 0.4 * before, "{after} of {before}");
    let (mut sum, mut least) = (0.0, 1.0f32);
    for (frame, boxes) in frames.iter().zip(&boxes) {
        let iou = boxes[0].rect.iou(&frame.found[0].rect);
        sum += iou;
        least = least.min(iou);
    }
    assert!(least > 0.7 && sum / 250.0 > 0.85, "{least}, {}", sum / 250.0);
}

#[test]
fn time_counts_in_seconds_and_not_in_frames() {
    // 10 frames a second, then 100: the same thing at the same speed.
    let times = (0..30).map(|i| i * 1280).chain((1..200).map(|i| 29 * 1280 + i * 128));
    let path = |pts: i64| rect(100.0 + 150.0 * pts as f64 / 12_800.0, 300.0, 50.0, 60.0);
    let frames: Vec<FrameFound> = times
        .enumerate()
        .map(|(i, pts)| FrameFound {
            pts,
            looked: true,
            found: if i % 4 == 1 { vec![] } else { vec![found(path(pts), 0.9)] },
        })
        .collect();
    let thing = Thing { path: frames.iter().map(|f| Some(path(f.pts))).collect(), hidden: 0..0 };
    let boxes = track(&frames, &config());
    assert_eq!(path_missed(&boxes, &thing.path, 0.8), NONE);
    assert_eq!(ids(&boxes, &thing), [1]);
    // A jump of a minute ends it.
    let mut jumped = frames.clone();
    for frame in &mut jumped[100..] {
        frame.pts += 60 * 12_800;
    }
    assert_eq!(ids(&track(&jumped, &config()), &thing), [1, 2]);
}

#[test]
fn frames_need_no_order() {
    let things = &paths()[3].1;
    let frames = Detector { blind: 0.3, ..Detector::default() }.look(things);
    let boxes = track(&frames, &config());
    let mixed: Vec<usize> = (0..250).map(|i| i * 77 % 250).collect();
    let other: Vec<FrameFound> = mixed.iter().map(|&at| frames[at].clone()).collect();
    let expected: Vec<Vec<TrackedBox>> = mixed.iter().map(|&at| boxes[at].clone()).collect();
    assert_eq!(track(&other, &config()), expected);
}

#[test]
fn classes_are_followed_apart() {
    let thing = rect(300.0, 300.0, 60.0, 75.0);
    let boxes = track(
        &frames(40, |frame| vec![Found { class: u16::from(frame >= 20), ..found(thing, 0.9) }]),
        &TrackConfig { lead_us: 0, ..config() },
    );
    let seen: Vec<(u32, u16)> = boxes.iter().map(|b| (b[0].track, b[0].class)).collect();
    assert_eq!(seen, [vec![(1, 0); 20], vec![(2, 1); 20]].concat());
}

#[test]
fn short_tracks_are_dropped_on_demand() {
    let thing = rect(300.0, 300.0, 60.0, 75.0);
    let frames = frames(40, |frame| if frame == 20 { vec![found(thing, 0.9)] } else { vec![] });
    let with = |min_detections| track(&frames, &TrackConfig { min_detections, ..config() });
    assert_eq!(with_boxes(&with(1)).len(), 15);
    assert_eq!(with_boxes(&with(2)), NONE);
}

#[test]
fn thousands_of_boxes_a_frame_are_bounded() {
    let mut random = Random(5);
    let crowd: Vec<Vec<Found>> = (0..8)
        .map(|_| {
            let spot =
                |_| found(rect(random.unit() * 1280.0, random.unit() * 720.0, 20.0, 20.0), 0.9);
            (0..2500).map(spot).collect()
        })
        .collect();
    // A class for each frame, so that all tracks are carried on beside each other.
    let class = |frame: usize| u16::try_from(frame).unwrap();
    let all =
        |frame: usize| crowd[frame].iter().map(|f| Found { class: class(frame), ..*f }).collect();
    let boxes = track(&frames(8, all), &config());
    for boxes in &boxes {
        let detected = boxes.iter().filter(|b| b.source == BoxSource::Detected).count();
        assert_eq!(detected, MAX_DETECTIONS);
        assert!(boxes.len() <= MAX_BOXES);
    }
    assert_eq!(untracked(&frames(1, all), 0.5)[0].len(), MAX_DETECTIONS);
    assert!(boxes.iter().any(|boxes| boxes.len() == MAX_BOXES));
}

#[test]
fn without_tracks_each_sure_detection_is_a_box() {
    let thing = rect(300.0, 300.0, 60.0, 75.0);
    let wrong = Rect { w: f32::NAN, ..thing };
    let frames = frames(1, |_| {
        vec![found(thing, 0.4), found(thing, 0.6), found(wrong, 0.9), found(thing, f32::NAN)]
    });
    let boxes = untracked(&frames, 0.5);
    assert_eq!(boxes[0].len(), 1);
    assert_eq!((boxes[0][0].score, boxes[0][0].track, boxes[0][0].rect), (0.6, 0, thing));
    assert_eq!(untracked(&frames, f32::NAN)[0].len(), 2);
    let config = TrackConfig { threshold: f32::NAN, ..config() };
    assert_eq!(track(&frames, &config)[0].len(), 2);
}

#[test]
fn holes_in_a_track_are_counted() {
    let found = |track| TrackedBox {
        rect: rect(300.0, 300.0, 60.0, 75.0),
        score: 0.9,
        class: 0,
        track,
        source: BoxSource::Detected,
    };
    let boxes =
        [vec![found(1), found(0)], vec![], vec![found(2)], vec![found(1), found(0)], vec![]];
    assert_eq!(flicker(&boxes), 2);
    let path = [None, Some(rect(300.0, 300.0, 60.0, 75.0)), Some(rect(310.0, 300.0, 60.0, 75.0))];
    assert_eq!(path_missed(&boxes, &path, 0.5), [1]);
    assert_eq!(path_missed(&boxes, &path, 0.9), [1, 2]);
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
    let score = prop_oneof![-0.1f32..1.2, Just(0.9f32)];
    let found = (number.clone(), number, side.clone(), side, score, 0u16..2)
        .prop_map(|(x, y, w, h, score, class)| Found { rect: Rect { x, y, w, h }, score, class });
    let pts = prop_oneof![50 => 0i64..40_000, 1 => any::<i64>()];
    let frame = (pts, any::<bool>(), prop::collection::vec(found, 0..6))
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
