//! The frames that an encoder has seen before a segment's first.
//!
//! With a constant rate factor x264 begins each encode at that factor's own quantiser and finds a finer one only within the next
//! frames, from what they cost. A segment would so begin coarser than the same frames are amidst a long encode: measured over 6 s
//! with preset medium, 0.6 dB in its first 20 frames. So the first few are encoded twice: once for the rate
//! control alone, as if they lay before the segment, and then again, from a keyframe on.

use ffmpeg_next::ffi;

use crate::frame::Frame;

/// Frames that are encoded twice: 3 win two thirds of what was lost, 6 nearly all, and more no more.
pub(super) const FRAMES: u32 = 6;

/// The presets of x264 for which it is worth its time: the faster ones lose 0.1 dB without it.
const PRESETS: &[&str] = &["faster", "fast", "medium", "slow", "slower", "veryslow", "placebo"];

/// How many frames the encoder `name` with these options rehearses.
pub(super) fn wanted(name: &str, options: &[(String, String)]) -> u32 {
    let value = |key: &str| options.iter().find(|(known, _)| known == key).map(|(_, value)| value);
    let preset = value("preset").is_some_and(|preset| PRESETS.contains(&preset.as_str()));
    if name == "libx264" && preset && value("crf").is_some() { FRAMES } else { 0 }
}

/// Gathers a segment's first frames.
pub(super) struct Rehearsal {
    wanted: usize,
    frames: Vec<Frame>,
}

impl Rehearsal {
    /// Of so many frames; none where they are fewer than two, from which no time between frames can be told.
    pub(super) fn of(frames: u32) -> Option<Self> {
        (frames > 1).then(|| Self { wanted: frames as usize, frames: Vec::new() })
    }

    /// Takes one more; whether all are there.
    pub(super) fn push(&mut self, frame: Frame) -> bool {
        self.frames.push(frame);
        self.frames.len() >= self.wanted
    }

    /// What the encoder is to get: the frames as if they lay before the segment, then as they are; and the pts
    /// from which on packets count.
    pub(super) fn play(mut self) -> (Vec<Frame>, Option<i64>) {
        let start = self.frames.first().map(Frame::pts);
        let mut order = Vec::new();
        if let [first, second, .., last] | [first, second @ last] = self.frames.as_slice() {
            let back = last
                .pts()
                .saturating_sub(first.pts())
                .saturating_add(second.pts().saturating_sub(first.pts()));
            for frame in &self.frames {
                let mut early = frame.clone();
                early.raw_mut().pts = frame.pts().saturating_sub(back);
                order.push(early);
            }
            if let Some(first) = self.frames.first_mut() {
                first.raw_mut().pict_type = ffi::AVPictureType::AV_PICTURE_TYPE_I;
            }
        }
        order.append(&mut self.frames);
        (order, start)
    }
}

#[cfg(test)]
mod tests {
    use frameloom_core::plan::PlannedEncoder;
    use frameloom_core::time::TimeBase;

    use super::*;
    use crate::encode::Encoder;
    use crate::frame::{FrameFormat, PixelFormat};

    fn format() -> FrameFormat {
        FrameFormat::plain(PixelFormat::Yuv420p, (128, 96), TimeBase::new(1, 1000).unwrap(), "tv")
    }

    fn planned(preset: &str) -> PlannedEncoder {
        let option = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let options = vec![option("preset", preset), option("crf", "20")];
        PlannedEncoder {
            codec: None,
            name: "libx264".into(),
            keyframe_interval: 50,
            threads: 1,
            rehearsed: wanted("libx264", &options),
            options,
        }
    }

    /// The packets of a still gradient, at the times given: pts, whether it is a key, bytes.
    fn encode(times: &[i64], rehearses: bool) -> Vec<(i64, bool, usize)> {
        let planned = planned("medium");
        let mut encoder = Encoder::open(&planned, &format()).unwrap();
        if rehearses {
            encoder.rehearse(&planned);
        }
        let mut packets = Vec::new();
        let mut take = |packet: &crate::ff::Packet| {
            packets.push((packet.pts().unwrap(), packet.is_key(), packet.data().len()));
            Ok(())
        };
        for pts in times {
            let mut frame = Frame::new(PixelFormat::Yuv420p, 128, 96).unwrap();
            for plane in 0..3 {
                let to = frame.plane_mut(plane).unwrap();
                for (at, sample) in to.bytes.iter_mut().enumerate() {
                    let (x, y) = (at % to.stride, at / to.stride);
                    *sample = u8::try_from((x * 3 + y * 5 + x * y / 7) % 256).unwrap();
                }
            }
            frame.raw_mut().pts = *pts;
            encoder.send(Some(&frame), &mut take).unwrap();
        }
        encoder.send(None, &mut take).unwrap();
        packets
    }

    #[test]
    fn each_frame_comes_out_once_and_the_first_is_finer_than_without() {
        let times: Vec<i64> = (0..30).map(|i| 1000 + i * 40).collect();
        let (cold, warm) = (encode(&times, false), encode(&times, true));
        let mut pts: Vec<i64> = warm.iter().map(|packet| packet.0).collect();
        pts.sort_unstable();
        assert_eq!(pts, times);
        assert!(warm[0].1 && warm[0].0 == times[0], "{:?}", warm[0]);
        assert!(warm[0].2 > cold[0].2, "{} bytes, {} without", warm[0].2, cold[0].2);
    }

    #[test]
    fn segments_of_few_and_uneven_frames_are_whole() {
        for times in [&[7][..], &[7, 8], &[0, 1000, 1001, 1002, 5000], &[i64::MIN / 4, 0, 1]] {
            let mut pts: Vec<i64> = encode(times, true).iter().map(|packet| packet.0).collect();
            pts.sort_unstable();
            assert_eq!(pts, times);
        }
    }

    #[test]
    fn fast_presets_and_fixed_quantisers_need_none() {
        assert_eq!(planned("veryfast").rehearsed, 0);
        assert_eq!(planned("slow").rehearsed, FRAMES);
        let lossless =
            [("preset".to_owned(), "slow".to_owned()), ("qp".to_owned(), "0".to_owned())];
        assert_eq!(wanted("libx264", &lossless), 0);
        assert_eq!(wanted("libx265", &planned("slow").options), 0);
    }
}
