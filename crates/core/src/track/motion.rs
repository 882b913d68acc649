//! How a box moves: a Kalman filter whose noise grows with the box.
//!
//! Middles have constant velocity with white noise as acceleration; width and height only drift.
//! Times may run backward: whoever follows a track into the past hands in negated ones.

use crate::detection::Rect;

/// How far a detector's middle lies beside the thing's, as a part of its size.
const PLACE_NOISE: f64 = 0.06;
/// The same of width and height.
const SIZE_NOISE: f64 = 0.08;
/// How much a low detection's noise exceeds a sure one's.
const LOW_NOISE: f64 = 2.0;
/// How much velocity changes in a second, in sizes a second.
const ACCELERATION: f64 = 4.0;
/// How much width and height change in a second, as a part of them.
const DRIFT: f64 = 0.35;
/// How fast a thing may be when it is first seen, in sizes a second.
const FIRST_SPEED: f64 = 8.0;
/// How many detections tell how fast a thing is.
const MEMORY: usize = 16;

/// A box by its middle, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) w: f64,
    pub(super) h: f64,
}

impl Shape {
    /// Of a rectangle.
    pub(super) fn of(rect: &Rect) -> Self {
        let [x, y, w, h] = [rect.x, rect.y, rect.w, rect.h].map(f64::from);
        Self::of_edges([x, y, x + w, y + h])
    }

    /// From left, upper, right and lower edge.
    pub(super) fn of_edges([left, top, right, bottom]: [f64; 4]) -> Self {
        Self {
            x: f64::midpoint(left, right),
            y: f64::midpoint(top, bottom),
            w: right - left,
            h: bottom - top,
        }
    }

    /// Left, upper, right and lower edge.
    pub(super) fn edges(&self) -> [f64; 4] {
        let (w, h) = (self.w / 2.0, self.h / 2.0);
        [self.x - w, self.y - h, self.x + w, self.y + h]
    }

    /// The side of a square of the same area, at least a pixel.
    pub(super) fn size(&self) -> f64 {
        (self.w * self.h).sqrt().max(1.0)
    }

    /// How much larger the larger of two is, from 1.
    pub(super) fn ratio(&self, other: &Self) -> f64 {
        let (a, b) = (self.size(), other.size());
        a.max(b) / a.min(b)
    }

    /// Square of the distance between two middles.
    pub(super) fn distance2(&self, other: &Self) -> f64 {
        let (x, y) = (self.x - other.x, self.y - other.y);
        x * x + y * y
    }

    /// `part` of the way to `other`.
    pub(super) fn toward(&self, other: &Self, part: f64) -> Self {
        let mix = |a: f64, b: f64| a + (b - a) * part;
        Self {
            x: mix(self.x, other.x),
            y: mix(self.y, other.y),
            w: mix(self.w, other.w),
            h: mix(self.h, other.h),
        }
    }

    /// As a rectangle of at least a thousandth of a pixel.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "pictures are far smaller than f32's range"
    )]
    pub(super) fn rect(&self) -> Rect {
        let (w, h) = (self.w.max(1e-3), self.h.max(1e-3));
        Rect {
            x: (self.x - w / 2.0) as f32,
            y: (self.y - h / 2.0) as f32,
            w: w as f32,
            h: h as f32,
        }
    }
}

/// A detection in a track.
#[derive(Debug, Clone, Copy)]
pub(super) struct Anchor {
    pub(super) frame: usize,
    pub(super) shape: Shape,
    pub(super) score: f32,
    /// Whether it could begin a track.
    pub(super) sure: bool,
}

/// Where a thing is and how it moves, with variances.
#[derive(Debug, Clone, Copy)]
pub(super) struct Motion {
    pub(super) time: f64,
    pub(super) shape: Shape,
    /// Pixels a second.
    pub(super) speed: (f64, f64),
    /// Of the middle, of middle and speed together, of the speed; both axes have the same.
    place: f64,
    both: f64,
    velocity: f64,
    /// Of width and height.
    extent: f64,
}

impl Motion {
    pub(super) fn new(time: f64, anchor: &Anchor) -> Self {
        let size2 = anchor.shape.w * anchor.shape.h;
        let size2 = size2.max(1.0);
        Self {
            time,
            shape: anchor.shape,
            speed: (0.0, 0.0),
            place: noise(PLACE_NOISE, anchor.sure) * size2,
            both: 0.0,
            velocity: FIRST_SPEED * FIRST_SPEED * size2,
            extent: noise(SIZE_NOISE, anchor.sure) * size2,
        }
    }

    /// At the last of some detections, in order of time.
    pub(super) fn at_last<'a>(
        anchors: impl DoubleEndedIterator<Item = &'a Anchor> + Clone,
        time: impl Fn(usize) -> f64,
    ) -> Option<Self> {
        let mut motion: Option<Self> = None;
        let mut recent: Vec<&Anchor> = anchors.rev().take(MEMORY).collect();
        while let Some(anchor) = recent.pop() {
            let at = time(anchor.frame);
            motion = Some(match motion {
                Some(before) => before.predict(at).update(anchor),
                None => Self::new(at, anchor),
            });
        }
        motion
    }

    pub(super) fn predict(&self, time: f64) -> Self {
        let dt = time - self.time;
        let size = self.shape.size();
        let q = ACCELERATION * ACCELERATION * size * size;
        Self {
            time,
            shape: self.moved(dt),
            speed: self.speed,
            place: self.place
                + dt * (2.0 * self.both + dt * self.velocity)
                + q * dt * dt * dt / 3.0,
            both: self.both + dt * self.velocity + q * dt * dt / 2.0,
            velocity: self.velocity + q * dt,
            extent: self.extent + DRIFT * DRIFT * size * size * dt,
        }
    }

    pub(super) fn update(&self, anchor: &Anchor) -> Self {
        let size2 = anchor.shape.size() * anchor.shape.size();
        let sum = self.place + noise(PLACE_NOISE, anchor.sure) * size2;
        let (gain, speed_gain) = (self.place / sum, self.both / sum);
        let grow = self.extent / (self.extent + noise(SIZE_NOISE, anchor.sure) * size2);
        let (x, y) = (anchor.shape.x - self.shape.x, anchor.shape.y - self.shape.y);
        Self {
            time: self.time,
            shape: Shape {
                x: self.shape.x + gain * x,
                y: self.shape.y + gain * y,
                w: self.shape.w + grow * (anchor.shape.w - self.shape.w),
                h: self.shape.h + grow * (anchor.shape.h - self.shape.h),
            },
            speed: (self.speed.0 + speed_gain * x, self.speed.1 + speed_gain * y),
            place: self.place * (1.0 - gain),
            both: self.both * (1.0 - gain),
            velocity: self.velocity - speed_gain * self.both,
            extent: self.extent * (1.0 - grow),
        }
    }

    /// The shape `dt` seconds on.
    pub(super) fn moved(&self, dt: f64) -> Shape {
        Shape {
            x: self.shape.x + self.speed.0 * dt,
            y: self.shape.y + self.speed.1 * dt,
            ..self.shape
        }
    }

    /// How far from the prediction a detection may be expected: one standard deviation, in pixels.
    pub(super) fn spread(&self) -> f64 {
        let size = self.shape.size();
        (self.place + PLACE_NOISE * PLACE_NOISE * size * size).sqrt()
    }
}

fn noise(part: f64, sure: bool) -> f64 {
    let part = if sure { part } else { part * LOW_NOISE };
    part * part
}

/// Where the thing was at each of some detections, as told by all of them.
pub(super) fn smoothed(anchors: &[Anchor], times: &[f64]) -> Vec<Motion> {
    let mut motions: Vec<Motion> = Vec::with_capacity(anchors.len());
    for anchor in anchors {
        let at = times[anchor.frame];
        motions.push(match motions.last() {
            Some(before) => before.predict(at).update(anchor),
            None => Motion::new(at, anchor),
        });
    }
    for index in (1..motions.len()).rev() {
        let (next, now) = (motions[index], motions[index - 1]);
        let ahead = now.predict(next.time);
        let dt = next.time - now.time;
        let det = ahead.place * ahead.velocity - ahead.both * ahead.both;
        if det <= 0.0 {
            continue;
        }
        // Covariance of the state now with that of the prediction, times the latter's inverse.
        let (a, b) = (now.place + dt * now.both, now.both);
        let (c, d) = (now.both + dt * now.velocity, now.velocity);
        let gain = [
            (a * ahead.velocity - b * ahead.both) / det,
            (b * ahead.place - a * ahead.both) / det,
            (c * ahead.velocity - d * ahead.both) / det,
            (d * ahead.place - c * ahead.both) / det,
        ];
        let axis = |p: f64, v: f64, off: f64, fast: f64| {
            (p + gain[0] * off + gain[1] * fast, v + gain[2] * off + gain[3] * fast)
        };
        let (x, vx) = axis(
            now.shape.x,
            now.speed.0,
            next.shape.x - ahead.shape.x,
            next.speed.0 - ahead.speed.0,
        );
        let (y, vy) = axis(
            now.shape.y,
            now.speed.1,
            next.shape.y - ahead.shape.y,
            next.speed.1 - ahead.speed.1,
        );
        let grow = now.extent / ahead.extent;
        let smooth = &mut motions[index - 1];
        smooth.speed = (vx, vy);
        smooth.shape = Shape {
            x,
            y,
            w: now.shape.w + grow * (next.shape.w - ahead.shape.w),
            h: now.shape.h + grow * (next.shape.h - ahead.shape.h),
        };
    }
    motions
}
