//! Known paths, and what a poor detector sees of them.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of a few hundred pixels"
)]

use std::ops::Range;

use crate::detection::{Found, FrameFound, Rect, TrackedBox};
use crate::time::TimeBase;
use crate::track::{TrackConfig, path_missed};

/// Frames a second, and ticks of one.
pub(super) const RATE: usize = 25;
pub(super) const TICKS: i64 = 512;

/// Random numbers that are the same everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    /// 0..1.
    pub(super) fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Nearly normal, of deviation 1.
    pub(super) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// One thing: where it is in each frame, and when it cannot be seen there.
#[derive(Clone)]
pub(super) struct Thing {
    pub(super) path: Vec<Option<Rect>>,
    pub(super) hidden: Range<usize>,
}

impl Thing {
    /// `at` gives middle, width and height for a time in seconds.
    pub(super) fn new(frames: usize, at: impl Fn(f64) -> [f64; 4]) -> Self {
        let rect_at = |frame: usize| {
            let [x, y, w, h] = at(frame as f64 / RATE as f64);
            let picture = self::rect(640.0, 360.0, 1280.0, 720.0);
            Some(rect(x, y, w, h)).filter(|rect| rect.overlap(&picture) > 0.5 * rect.area())
        };
        Self { path: (0..frames).map(rect_at).collect(), hidden: 0..0 }
    }

    pub(super) fn hidden(self, hidden: Range<usize>) -> Self {
        Self { hidden, ..self }
    }

    /// In these frames only.
    pub(super) fn only(mut self, frames: Range<usize>) -> Self {
        for (frame, rect) in self.path.iter_mut().enumerate() {
            if !frames.contains(&frame) {
                *rect = None;
            }
        }
        self
    }
}

pub(super) fn rect(x: f64, y: f64, w: f64, h: f64) -> Rect {
    Rect { x: (x - w / 2.0) as f32, y: (y - h / 2.0) as f32, w: w as f32, h: h as f32 }
}

/// How poor the detector is.
#[derive(Clone, Copy)]
pub(super) struct Detector {
    pub(super) every: usize,
    /// Part of the things that it does not find at all.
    pub(super) blind: f64,
    /// Part that it finds with a low score.
    pub(super) unsure: f64,
    /// How far it is off, as a part of the thing's size.
    pub(super) jitter: f64,
    /// Things a frame that are not there, with low scores.
    pub(super) ghosts: f64,
    pub(super) seed: u64,
}

impl Default for Detector {
    fn default() -> Self {
        Self { every: 1, blind: 0.0, unsure: 0.0, jitter: 0.03, ghosts: 0.0, seed: 1 }
    }
}

impl Detector {
    pub(super) fn look(&self, things: &[Thing]) -> Vec<FrameFound> {
        let mut random = Random(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let frames = things.iter().map(|thing| thing.path.len()).max().unwrap_or(0);
        let mut out = Vec::new();
        for frame in 0..frames {
            let looked = frame % self.every == 0;
            let mut found = Vec::new();
            for thing in things {
                let Some(rect) = thing.path[frame] else { continue };
                let (luck, off) = (random.unit(), [(); 4].map(|()| random.normal()));
                if !looked || luck < self.blind || thing.hidden.contains(&frame) {
                    continue;
                }
                let size = f64::from(rect.area()).sqrt() * self.jitter;
                let off = off.map(|off| (off * size) as f32);
                found.push(Found {
                    rect: Rect {
                        x: rect.x + off[0],
                        y: rect.y + off[1],
                        w: rect.w + off[2],
                        h: rect.h + off[3],
                    },
                    score: if luck < self.blind + self.unsure { 0.3 } else { 0.9 },
                    class: 0,
                });
            }
            for _ in 0..4 {
                if !looked || random.unit() >= self.ghosts / 4.0 {
                    continue;
                }
                let (x, y) = (random.unit() * 1280.0, random.unit() * 720.0);
                found.push(Found { rect: self::rect(x, y, 40.0, 50.0), score: 0.35, class: 0 });
            }
            out.push(FrameFound { pts: frame as i64 * TICKS, looked, found });
        }
        out
    }
}

pub(super) fn config() -> TrackConfig {
    let base = TimeBase::new(1, i32::try_from(RATE as i64 * TICKS).unwrap()).unwrap();
    TrackConfig::new(base, (1280, 720))
}

/// Part of the things' frames that a box covers with an IoU of at least 0.5.
pub(super) fn recall(boxes: &[Vec<TrackedBox>], things: &[Thing]) -> f64 {
    let all: usize = things.iter().map(|thing| thing.path.iter().flatten().count()).sum();
    let missed: usize = things.iter().map(|thing| path_missed(boxes, &thing.path, 0.5).len()).sum();
    1.0 - missed as f64 / all as f64
}

/// Times that a thing in view goes from covered to not covered, or back.
pub(super) fn changes(boxes: &[Vec<TrackedBox>], things: &[Thing]) -> usize {
    things
        .iter()
        .map(|thing| {
            let missed = path_missed(boxes, &thing.path, 0.5);
            let covered: Vec<bool> = (0..thing.path.len())
                .filter(|&frame| thing.path[frame].is_some())
                .map(|frame| missed.binary_search(&frame).is_err())
                .collect();
            covered.windows(2).filter(|pair| pair[0] != pair[1]).count()
        })
        .sum()
}

/// The tracks that cover a thing, in the order in which they first do.
pub(super) fn ids(boxes: &[Vec<TrackedBox>], thing: &Thing) -> Vec<u32> {
    let mut ids = Vec::new();
    for (boxes, rect) in boxes.iter().zip(&thing.path) {
        let Some(rect) = rect else { continue };
        let best = boxes.iter().max_by(|a, b| a.rect.iou(rect).total_cmp(&b.rect.iou(rect)));
        if let Some(best) = best.filter(|best| best.rect.iou(rect) >= 0.5)
            && !ids.contains(&best.track)
        {
            ids.push(best.track);
        }
    }
    ids
}

/// The set that the stages are measured on: paths of all kinds, faces of 30 to 150 pixels.
pub(super) fn paths() -> Vec<(&'static str, Vec<Thing>)> {
    let n = 250;
    let line = |x: f64, y: f64, vx: f64, vy: f64, w: f64| {
        Thing::new(n, move |t| [x + vx * t, y + vy * t, w, 1.25 * w])
    };
    vec![
        ("still", vec![line(300.0, 300.0, 0.0, 0.0, 60.0)]),
        ("straight", vec![line(100.0, 200.0, 90.0, 20.0, 50.0)]),
        ("fast and small", vec![line(20.0, 360.0, 400.0, 0.0, 30.0).only(0..75)]),
        (
            "crossing",
            vec![line(200.0, 300.0, 80.0, 10.0, 70.0), line(1000.0, 380.0, -80.0, -8.0, 70.0)],
        ),
        ("accelerating", vec![Thing::new(n, |t| [100.0 + 10.0 * t * t, 300.0, 60.0, 75.0])]),
        (
            "turning back",
            vec![Thing::new(n, |t| {
                let phase = t % 4.0;
                let x = if phase < 2.0 { phase } else { 4.0 - phase };
                [300.0 + 150.0 * x, 350.0, 60.0, 75.0]
            })],
        ),
        (
            "growing",
            vec![Thing::new(n, |t| {
                let w = 30.0 + 12.0 * t;
                [400.0 + 20.0 * t, 300.0, w, 1.25 * w]
            })],
        ),
        ("leaving", vec![line(900.0, 300.0, 150.0, 0.0, 80.0)]),
        ("behind a pole", vec![line(200.0, 300.0, 60.0, 0.0, 60.0).hidden(100..110)]),
        ("behind a bus", vec![line(200.0, 300.0, 60.0, 0.0, 60.0).hidden(100..140)]),
        (
            "circling",
            vec![Thing::new(n, |t| {
                // A quarter turn a second by a polynomial would not close; go round a diamond.
                let corner = [[0.0, -1.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]];
                let (from, part) = ((t as usize) % 4, t % 1.0);
                let to = (from + 1) % 4;
                let at = |axis: usize| {
                    corner[from][axis] + (corner[to][axis] - corner[from][axis]) * part
                };
                [640.0 + 120.0 * at(0), 360.0 + 120.0 * at(1), 50.0, 60.0]
            })],
        ),
        (
            "crowd",
            (0..20)
                .map(|i| {
                    let (row, column) = (f64::from(i / 5), f64::from(i % 5));
                    line(
                        150.0 + 230.0 * column,
                        100.0 + 160.0 * row,
                        20.0 * (f64::from(i * 7 % 5) - 2.0),
                        10.0 * (f64::from(i * 3 % 5) - 2.0),
                        40.0,
                    )
                })
                .collect(),
        ),
    ]
}
