//! The video track's times: decoding times made anew, durations from what comes next.

use frameloom_core::{Error, Result};

/// Collects the times of all packets and frames of a track, segment after segment.
#[derive(Default)]
pub(super) struct TrackBuilder {
    /// Presentation times, ascending, known so far.
    shown: Vec<i64>,
    /// Packets seen so far.
    coded: usize,
    /// Pts of this segment's packets, in coding order.
    waiting: Vec<i64>,
}

/// The finished times of a track.
#[derive(Debug)]
pub(super) struct Track {
    shown: Vec<i64>,
    delay: i64,
    last_duration: i64,
}

impl TrackBuilder {
    /// A packet of the current segment, in coding order.
    pub(super) fn packet(&mut self, pts: i64) {
        self.waiting.push(pts);
    }

    /// A frame of the current segment, in order of pts.
    ///
    /// # Errors
    /// Internal where times do not ascend.
    pub(super) fn frame(&mut self, pts: i64) -> Result<()> {
        if let Some(last) = self.shown.last().filter(|last| **last >= pts) {
            return Err(Error::internal(format!("a frame at tick {pts} follows one at {last}")));
        }
        self.shown.push(pts);
        Ok(())
    }

    /// Ends a segment; `delay` is the deepest reordering known so far, and comes back.
    ///
    /// # Errors
    /// Internal where frames and packets are not the same.
    pub(super) fn end_segment(&mut self, segment: u32, delay: &mut i64) -> Result<()> {
        let frames = self.shown.len() - self.coded;
        if frames != self.waiting.len() {
            return Err(Error::internal(format!(
                "segment {segment} counted {frames} frames and has {} packets",
                self.waiting.len()
            )));
        }
        let shown = &self.shown[self.coded..];
        for (shown, coded) in shown.iter().zip(&self.waiting) {
            *delay = (*delay).max(shown.saturating_sub(*coded));
        }
        let mut coded = std::mem::take(&mut self.waiting);
        coded.sort_unstable();
        if coded != shown {
            return Err(Error::internal(format!(
                "segment {segment}: its packets are not those of its frames"
            )));
        }
        self.coded = self.shown.len();
        Ok(())
    }

    /// The track's times; the last frame is shown for `last_duration`.
    pub(super) fn finish(self, delay: i64, last_duration: i64) -> Track {
        Track { shown: self.shown, delay, last_duration: last_duration.max(1) }
    }
}

impl Track {
    /// Frames.
    pub(super) fn len(&self) -> usize {
        self.shown.len()
    }

    /// First presentation time.
    pub(super) fn first(&self) -> Option<i64> {
        self.shown.first().copied()
    }

    /// The tick behind the last frame.
    pub(super) fn end(&self) -> Option<i64> {
        self.shown.last().map(|last| last.saturating_add(self.last_duration))
    }

    /// Decoding time of the packet with this number in coding order: the presentation time with
    /// that number, earlier by the deepest reordering. So it ascends and never exceeds the pts.
    pub(super) fn dts(&self, coded: usize) -> Option<i64> {
        self.shown.get(coded).map(|shown| shown.saturating_sub(self.delay))
    }

    /// How long the frame at `pts` is shown.
    pub(super) fn duration(&self, pts: i64) -> i64 {
        let next = self.shown.partition_point(|shown| *shown <= pts);
        self.shown.get(next).map_or(self.last_duration, |next| next.saturating_sub(pts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn track(segments: &[&[i64]]) -> Result<Track> {
        let (mut builder, mut delay) = (TrackBuilder::default(), 0);
        for (number, coded) in (0..).zip(segments) {
            coded.iter().for_each(|pts| builder.packet(*pts));
            let mut shown = coded.to_vec();
            shown.sort_unstable();
            shown.iter().try_for_each(|pts| builder.frame(*pts))?;
            builder.end_segment(number, &mut delay)?;
        }
        Ok(builder.finish(delay, 7))
    }

    #[test]
    fn decoding_times_ascend_and_never_exceed_pts_when_the_rate_changes_tenfold() {
        // Pieces of one and two frames, a pyramid, and a border where frames become ten times as long.
        let segments: &[&[i64]] =
            &[&[0], &[1, 2], &[3, 7, 5, 4, 6], &[10, 50, 30, 20, 40], &[60, 70]];
        let track = track(segments).unwrap();
        let coded: Vec<i64> = segments.concat();
        let dts: Vec<i64> = (0..coded.len()).map(|i| track.dts(i).unwrap()).collect();
        assert!(dts.windows(2).all(|w| w[0] < w[1]), "{dts:?}");
        assert!(dts.iter().zip(&coded).all(|(dts, pts)| dts <= pts), "{dts:?}");
        assert_eq!((track.duration(7), track.duration(70)), (3, 7));
        assert_eq!(track.end(), Some(77));
    }

    #[test]
    fn segments_out_of_order_or_with_other_frames_are_refused() {
        assert!(track(&[&[5], &[3]]).is_err());
        let mut builder = TrackBuilder::default();
        builder.packet(1);
        builder.frame(2).unwrap();
        assert!(builder.end_segment(0, &mut 0).is_err());
    }

    proptest! {
        #[test]
        fn any_order_of_coding_gets_valid_times(steps in proptest::collection::vec(1i64..50, 1..30), seed in any::<u64>()) {
            let shown: Vec<i64> = steps.iter().scan(0, |at, step| { *at += step; Some(*at) }).collect();
            let mut coded = shown.clone();
            for i in 0..coded.len() {
                let j = i + usize::from((seed >> (i % 60)).to_le_bytes()[0] % 4);
                if j < coded.len() { coded.swap(i, j); }
            }
            let track = track(&[&coded]).unwrap();
            for (i, pts) in coded.iter().enumerate() {
                prop_assert!(track.dts(i).unwrap() <= *pts);
            }
        }
    }
}
