//! Timestamps that begin anew within a file, as where transport streams were joined end to end: the
//! times behind such a place are moved so that they go on, as the `ffmpeg` command moves them.

use ffmpeg_next::ffi;

use crate::ff::Packet;

const MICROS: ffi::AVRational = ffi::AVRational { num: 1, den: 1_000_000 };

/// A jump of more than this, in microseconds, is a discontinuity.
const JUMP: i64 = 10_000_000;

/// A jump to where a picture's time was already, within this, is a gap: pictures that are decoded early were shown behind it.
const GAP: i64 = JUMP / 2;

/// So is a step back of more than this.
const STEP_BACK: i64 = 100_000;

/// What is known of one stream, in microseconds of the corrected timeline.
#[derive(Debug, Clone, Copy, Default)]
struct Track {
    last: Option<i64>,
    next: Option<i64>,
}

/// Moves the times of a file's packets, which must all be shown to it, in their order.
#[derive(Debug, Default)]
pub(crate) struct Corrector {
    /// Microseconds that are added to every time.
    offset: i64,
    last: Option<i64>,
    /// The latest time of all that was to be shown so far.
    ahead: Option<i64>,
    tracks: Vec<Track>,
}

impl Corrector {
    /// Corrects the times of a packet of a stream of picture or sound.
    pub(crate) fn correct(&mut self, packet: &mut Packet, base: ffi::AVRational) {
        let Ok(stream) = usize::try_from(packet.raw().stream_index) else { return };
        if self.tracks.len() <= stream {
            self.tracks.resize(stream + 1, Track::default());
        }
        // SAFETY: plain arithmetic.
        let micros = |ticks| unsafe { ffi::av_rescale_q(ticks, base, MICROS) };
        if let Some(dts) = packet.dts() {
            let dts = micros(dts);
            let length = micros(packet.raw().duration.max(0));
            self.look(stream, dts, length);
        }
        // SAFETY: plain arithmetic.
        let shift = unsafe { ffi::av_rescale_q(self.offset, MICROS, base) };
        let (pts, dts) = (packet.pts(), packet.dts());
        let raw = packet.raw_mut();
        if let Some(pts) = pts {
            raw.pts = pts.saturating_add(shift);
            self.ahead = self.ahead.max(Some(micros(pts).saturating_add(self.offset)));
        }
        if let Some(dts) = dts {
            raw.dts = dts.saturating_add(shift);
        }
    }

    /// Sees a packet at `dts` of the file, and finds the offset that holds from it on.
    fn look(&mut self, stream: usize, dts: i64, length: i64) {
        let track = self.tracks[stream];
        let at = dts.saturating_add(self.offset);
        // The first packet of a stream is compared with whatever came before it.
        let expected = track.next.or(self.last);
        if let Some(expected) = expected {
            let jump = at.saturating_sub(expected);
            let back = track.last.is_some_and(|last| at.saturating_add(STEP_BACK) < last);
            if (jump.saturating_abs() > JUMP && !is_gap(at, self.ahead)) || back {
                self.offset = self.offset.saturating_sub(jump);
            }
        }
        let at = dts.saturating_add(self.offset);
        self.tracks[stream] = Track { last: Some(at), next: Some(at.saturating_add(length)) };
        self.last = Some(at);
    }
}

/// Whether times go on at `at` after a gap: something that came before was to be shown there, by `ahead`.
fn is_gap(at: i64, ahead: Option<i64>) -> bool {
    ahead.is_some_and(|ahead| at.saturating_sub(ahead).saturating_abs() <= GAP)
}

/// Whether a step from `last` to `dts` is a discontinuity, where `ahead` is the latest pts before it.
pub(crate) fn is_jump(last: i64, dts: i64, ahead: Option<i64>, base: ffi::AVRational) -> bool {
    // SAFETY: plain arithmetic.
    let micros = |ticks| unsafe { ffi::av_rescale_q(ticks, base, MICROS) };
    let step = micros(dts.saturating_sub(last));
    step < -STEP_BACK || (step > JUMP && !is_gap(micros(dts), ahead.map(micros)))
}

/// Whether a stream's times are looked at: those of picture and sound.
pub(crate) fn counts(stream: &ffi::AVStream) -> bool {
    use ffi::AVMediaType::{AVMEDIA_TYPE_AUDIO, AVMEDIA_TYPE_VIDEO};
    // SAFETY: a stream has parameters.
    let kind = unsafe { (*stream.codecpar).codec_type };
    matches!(kind, AVMEDIA_TYPE_AUDIO | AVMEDIA_TYPE_VIDEO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ff;

    fn times(steps: &[(usize, i64)]) -> Vec<i64> {
        let mut corrector = Corrector::default();
        let mut packet = Packet::with_data(&[0]).unwrap();
        steps
            .iter()
            .map(|(stream, ms)| {
                let raw = packet.raw_mut();
                raw.stream_index = i32::try_from(*stream).unwrap();
                (raw.pts, raw.dts, raw.duration) = (*ms, *ms, 40);
                corrector.correct(&mut packet, ffi::AVRational { num: 1, den: 1000 });
                assert_eq!(packet.pts(), packet.dts());
                ff::known(packet.raw().dts).unwrap()
            })
            .collect()
    }

    #[test]
    fn times_go_on_where_they_begin_anew_and_streams_stay_together() {
        assert_eq!(times(&[(0, 1000), (0, 1040), (0, 1080)]), [1000, 1040, 1080]);
        // A gap that is no jump stays.
        assert_eq!(times(&[(0, 1000), (0, 9000)]), [1000, 9000]);
        // The second part begins anew: it goes on, and both streams by the same offset.
        let joined = times(&[(0, 1000), (1, 1010), (0, 1040), (0, 0), (1, 20), (0, 40)]);
        assert_eq!(joined, [1000, 1010, 1040, 1080, 1100, 1120]);
        // Where a picture was to be shown behind it before, times only have a gap.
        let mut corrector = Corrector::default();
        let mut packet = Packet::with_data(&[0]).unwrap();
        let base = ffi::AVRational { num: 1, den: 1000 };
        for (dts, pts) in [(0, 40), (40, 90_120), (90_000, 90_040), (90_040, 90_080)] {
            let raw = packet.raw_mut();
            (raw.stream_index, raw.pts, raw.dts, raw.duration) = (0, pts, dts, 40);
            corrector.correct(&mut packet, base);
            assert_eq!((packet.dts(), packet.pts()), (Some(dts), Some(pts)));
        }
        assert!(is_jump(40, 90_000, Some(80), base));
        assert!(!is_jump(40, 90_000, Some(90_120), base));
        // A jump ahead is closed.
        assert_eq!(times(&[(0, 0), (0, 40), (0, 90_000), (0, 90_040)]), [0, 40, 80, 120]);
    }
}
