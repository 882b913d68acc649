//! Detectors at work on the frames of a segment.

use std::time::Instant;

use frameloom_core::detection::Found;
use frameloom_core::plan::Plan;
use frameloom_core::time::{Rounding, TimeBase};
use frameloom_core::{Error, Result};

use super::Look;
use super::glances::{Glance, Ways, glances, merge};
use super::sight::{self, Sight};
use super::spec::{DetectorParams, OnError, is_detector};
use super::turned::Turned;
use crate::detect::{self, Detector, View};
use crate::filter::Files;
use crate::frame::Frame;

/// Where little can be seen of a frame it is looked at so many times as often: what is missed in one is found in another.
const OFTENER: u32 = 3;

/// Of so many frames one is looked at where little can be seen.
fn poorly_seen(every: u32) -> u32 {
    (every / OFTENER).max(1)
}

/// The detectors of a plan.
pub(crate) struct Looker {
    watchers: Vec<Watcher>,
    clock: FrameClock,
}

/// One of them.
struct Watcher {
    /// The detector's number in the plan.
    number: usize,
    /// What the filter is called in errors.
    name: String,
    detector: Box<dyn Detector>,
    params: DetectorParams,
    /// When the frame before was shown.
    before: Option<i64>,
}

/// Counts frame durations from the stream's start.
#[derive(Debug, Clone, Copy)]
struct FrameClock {
    start: i64,
    /// How long a frame lasts, in thousandths of a tick.
    frame: i64,
}

impl FrameClock {
    fn of(plan: &Plan) -> Self {
        let video = &plan.source.video;
        let frame = TimeBase::new(video.frame_rate.den, video.frame_rate.num).ok();
        // In thousandths of a tick: the frames of 30000/1001 a second last no whole ticks.
        let thousand = frame.and_then(|f| f.rescale(1000, video.time_base, Rounding::Nearest));
        let thousand = thousand.filter(|ticks| *ticks > 0).unwrap_or(1000);
        Self { start: video.start_pts.unwrap_or(0), frame: thousand }
    }

    /// Which turn of `every` frames a frame falls into; half a frame early, so that rounded times fall where
    /// exact ones would.
    fn turn(self, pts: i64, every: u32) -> i64 {
        let frame = i128::from(self.frame);
        let since = (i128::from(pts) - i128::from(self.start)) * 1000 * 2 + frame;
        let turn = since.div_euclid(frame * 2 * i128::from(every.max(1)));
        i64::try_from(turn).unwrap_or(i64::MAX)
    }

    /// When the frame before one was shown of which that is not known: a frame's duration earlier.
    fn before(self, pts: i64) -> i64 {
        pts.saturating_sub((self.frame / 1000).max(1))
    }
}

impl Looker {
    /// The detectors of a plan, loaded and warm; those of `before` that are asked for again are not loaded anew.
    ///
    /// # Errors
    /// Invalid for parameters; of the models.
    pub(crate) fn new(plan: &Plan, files: &Files, before: Option<Self>) -> Result<Self> {
        let mut asked = Vec::new();
        let detectors = plan.detection.iter().flat_map(|detection| &detection.detectors);
        for (number, planned) in detectors.enumerate() {
            let filter = plan.filters.get(planned.filter as usize);
            let spec = &filter.ok_or_else(|| Error::internal("a detector without a filter"))?.spec;
            if !is_detector(spec) {
                continue;
            }
            let name = format!("filter '{spec}'");
            asked.push((number, planned, name, DetectorParams::of(spec, files)?));
        }
        let before = before.into_iter().flat_map(|looker| looker.watchers);
        let mut loaded: Vec<_> =
            before.map(|known| (known.params.detector, known.detector)).collect();
        // What is of no more use goes before anything new comes.
        loaded.retain(|(spec, _)| asked.iter().any(|(.., params)| params.detector == *spec));
        let mut watchers = Vec::new();
        for (number, planned, name, params) in asked {
            let known = loaded.iter().position(|(spec, _)| *spec == params.detector);
            let detector = match known {
                Some(at) => loaded.swap_remove(at).1,
                None => {
                    tracing::debug!(detector = planned.name, "a detector is loaded");
                    detect::open(&params.detector).map_err(|e| e.at(name.clone()))?
                }
            };
            watchers.push(Watcher { number, name, detector, params, before: None });
        }
        Ok(Self { watchers, clock: FrameClock::of(plan) })
    }

    /// Whether there are frames that are not looked at, by when the one before is shown.
    pub(crate) fn leaves_out(&self) -> bool {
        self.watchers.iter().any(|watcher| watcher.params.every > 1)
    }

    /// Begins a segment, the frame before which is shown at a time, if that is known.
    pub(crate) fn begin(&mut self, before: Option<i64>) {
        self.watchers.iter_mut().for_each(|watcher| watcher.before = before);
    }

    /// What its steps are called.
    pub(crate) fn names(&self) -> Vec<String> {
        self.watchers.iter().map(|watcher| format!("detect.{}", watcher.number)).collect()
    }

    /// Looks at a frame; writes what each detector says to its place in `looks`, and milliseconds by step
    /// to `ms`.
    ///
    /// # Errors
    /// Of the detectors that are to fail.
    pub(crate) fn look(
        &mut self,
        frame: &Frame,
        looks: &mut [Look],
        ms: &mut Vec<f32>,
    ) -> Result<()> {
        for watcher in &mut self.watchers {
            let begun = Instant::now();
            let look = watcher.look(frame, self.clock)?;
            if let Some(place) = looks.get_mut(watcher.number) {
                *place = look;
            }
            ms.push(begun.elapsed().as_secs_f32() * 1e3);
        }
        Ok(())
    }
}

impl Watcher {
    fn look(&mut self, frame: &Frame, clock: FrameClock) -> Result<Look> {
        let (pts, every) = (frame.pts(), self.params.every);
        // Frames may come faster than the rate that the source tells of: each is looked at where each is to be.
        let before = self.before.replace(pts).unwrap_or_else(|| clock.before(pts));
        let begins = |every| every == 1 || clock.turn(pts, every) != clock.turn(before, every);
        let in_turn = begins(every);
        if !in_turn && !begins(poorly_seen(every)) {
            return Ok(Look::default());
        }
        match self.find(frame, clock, in_turn) {
            Ok(Some(found)) => Ok(Look { looked: true, failed: false, found }),
            Ok(None) => Ok(Look::default()),
            Err(error) if self.params.on_error == OnError::Hide => {
                tracing::warn!(%error, pts, filter = self.name, "a frame is hidden");
                Ok(Look { looked: true, failed: true, found: Vec::new() })
            }
            Err(error) => Err(error.at(format!("{}, frame at {pts}", self.name))),
        }
    }

    /// What the detector finds at all the glances of this frame's turn; none where it is not looked at, being no frame
    /// `in_turn` and well seen.
    fn find(
        &mut self,
        frame: &Frame,
        clock: FrameClock,
        in_turn: bool,
    ) -> Result<Option<Vec<Found>>> {
        let (asked, every) = (self.params.ways, self.params.every);
        let ways = Ways { zoomed: asked.zoomed && self.detector.zooms(), ..asked };
        let (sight, gain) = if ways.need_sight() { sight::of(frame)? } else { (Sight::Good, 1.0) };
        let every = match sight {
            Sight::Good if !in_turn => return Ok(None),
            Sight::Good => every,
            _ => poorly_seen(every),
        };
        let turn = clock.turn(frame.pts(), every);
        let mut found = Vec::new();
        for glance in glances(turn, sight, ways) {
            match glance {
                Glance::Upright(zoom) => {
                    merge(self.detector.detect(frame, View { zoom, gain })?, &mut found);
                }
                Glance::Turned(degrees, zoom) => {
                    let turned = Turned::new(frame, degrees)?;
                    let more = self.detector.detect(&turned.frame, View { zoom, gain })?;
                    merge(turned.upright(more, frame), &mut found);
                }
            }
        }
        Ok(Some(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PixelFormat;

    /// The frames of a stream that are looked at, where a segment begins with each frame of `borders`.
    fn looked(pts: &[i64], clock: FrameClock, every: u32, borders: &[usize]) -> Vec<usize> {
        let mut last = None;
        let mut looked = Vec::new();
        for (i, pts) in pts.iter().enumerate() {
            if borders.contains(&i) {
                last = None;
            }
            let before = last.replace(*pts).unwrap_or_else(|| clock.before(*pts));
            if clock.turn(*pts, every) != clock.turn(before, every) {
                looked.push(i);
            }
        }
        looked
    }

    #[test]
    fn every_third_frame_is_the_same_wherever_the_video_is_cut() {
        // 30000/1001 frames a second in milliseconds, as Matroska rounds them.
        let clock = FrameClock { start: 0, frame: 33_367 };
        let pts: Vec<i64> = (0..3000i64).map(|i| (i * 1001 + 15) / 30).collect();
        let wanted: Vec<usize> = (0..3000).step_by(3).collect();
        assert_eq!(looked(&pts, clock, 3, &[0]), wanted);
        assert_eq!(looked(&pts, clock, 3, &[0, 7, 8, 1000, 1001, 1002]), wanted);
        assert_eq!(looked(&pts, clock, 1, &[0, 50]).len(), 3000);
    }

    #[test]
    fn where_frames_are_missing_the_first_of_each_turn_is_looked_at() {
        let clock = FrameClock { start: 1000, frame: 100_000 };
        let pts: Vec<i64> = [0, 1, 5, 6, 7, 8, 20].map(|i| 1000 + i * 100).to_vec();
        assert_eq!(looked(&pts, clock, 3, &[0]), [0, 2, 3, 6]);
    }

    /// It sees nothing.
    struct Blind;

    impl Detector for Blind {
        fn detect(&mut self, _: &Frame, _: View) -> Result<Vec<Found>> {
            Ok(Vec::new())
        }

        fn zooms(&self) -> bool {
            true
        }

        fn classes(&self) -> &[String] {
            &[]
        }
    }

    /// The frames that are looked at of a video that is dark where `dark` says so.
    fn lit(filter: &str, count: i64, dark: impl Fn(i64) -> bool, borders: &[i64]) -> Vec<i64> {
        let params = DetectorParams::of(&filter.parse().unwrap(), &Files::default()).unwrap();
        let name = String::new();
        let mut watcher =
            Watcher { number: 0, name, detector: Box::new(Blind), params, before: None };
        let clock = FrameClock { start: 0, frame: 40_000 };
        let looked = |at: &i64| {
            if borders.contains(at) {
                watcher.before = None;
            }
            let mut frame = Frame::new(PixelFormat::Gray8, 64, 64).unwrap();
            frame.plane_mut(0).unwrap().bytes.fill(if dark(*at) { 40 } else { 120 });
            frame.raw_mut().pts = at * 40;
            watcher.look(&frame, clock).unwrap().looked
        };
        (0..count).filter(looked).collect()
    }

    #[test]
    fn what_is_poorly_seen_is_looked_at_oftener() {
        let dark = |at: i64| (6..12).contains(&at);
        let wanted = [0, 3, 6, 7, 8, 9, 10, 11, 12, 15];
        assert_eq!(lit("faces:every=3", 18, dark, &[]), wanted);
        assert_eq!(lit("faces:every=3", 18, dark, &[4, 7, 8, 13]), wanted);
        assert_eq!(lit("faces:every=8", 18, dark, &[]), [0, 6, 8, 10, 16]);
        assert_eq!(lit("faces:every=1", 9, dark, &[]).len(), 9);
        // Nobody asks how well these see.
        assert_eq!(lit("faces:every=3:zoomed=false:turned=false", 9, dark, &[]), [0, 3, 6]);
    }
}
