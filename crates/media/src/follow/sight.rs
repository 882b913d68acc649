//! How well a frame can be seen.

use frameloom_core::Result;

use crate::frame::Frame;

/// It is dark below this, the mean in levels of 0 to 255.
const DARK: f64 = 60.0;

/// A dark picture is looked at as bright as this, in the same levels, but no more than so many times as bright as it is.
const LIT: f64 = 100.0;
const MOST_GAIN: f64 = 4.0;

/// It is noisy above this, the noise's standard deviation in such levels.
const NOISY: f64 = 4.0;

/// Of so many lines and columns one is looked at.
const STEP: usize = 5;

/// The highest answer of the noise's mask: eight levels of white against eight of black.
const MOST: usize = 8 * 255;

/// What is seen of what is in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// All that is there.
    Good,
    /// Little, for want of light, be there noise or not.
    Dark,
    /// Little, for noise.
    Noisy,
}

/// How well a frame can be seen, and how many times as bright it is to be looked at, by its luma; the sums are of whole
/// numbers, so that they are the same on every machine.
///
/// # Errors
/// Internal for a frame of an unknown format.
pub(super) fn of(frame: &Frame) -> Result<(Sight, f32)> {
    let wide = frame.pixel()?.sample_bytes() == 2;
    let plane = frame.plane(0)?;
    let level = |x: usize, y: usize| -> i32 {
        let row = &plane.bytes[y * plane.stride..];
        if wide {
            // Ten bits.
            i32::from(u16::from_le_bytes([row[2 * x], row[2 * x + 1]]) >> 2)
        } else {
            i32::from(row[x])
        }
    };
    if plane.width < 3 || plane.height < 3 {
        return Ok((Sight::Good, 1.0));
    }
    let mut answers = vec![0u64; MOST + 1];
    let (mut sum, mut count) = (0i64, 0i64);
    for y in (1..plane.height - 1).step_by(STEP) {
        for x in (1..plane.width - 1).step_by(STEP) {
            // What a smooth picture answers with nothing (Immerkær, 1996).
            let row = |y: usize| level(x - 1, y) - 2 * level(x, y) + level(x + 1, y);
            let answer = row(y - 1) - 2 * row(y) + row(y + 1);
            answers[(answer.unsigned_abs() as usize).min(MOST)] += 1;
            sum += i64::from(level(x, y));
            count += 1;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let mean = sum as f64 / count as f64;
    let mean = if frame.is_full_range() { mean } else { (mean - 16.0) * 255.0 / 219.0 };
    if mean < DARK {
        #[expect(clippy::cast_possible_truncation, reason = "at most 4")]
        let gain = (LIT / mean.max(1.0)).min(MOST_GAIN) as f32;
        return Ok((Sight::Dark, gain));
    }
    Ok((if noise(&answers) > NOISY { Sight::Noisy } else { Sight::Good }, 1.0))
}

/// The noise's standard deviation by the median of the mask's answers: edges answer much, but are few.
fn noise(answers: &[u64]) -> f64 {
    let half = answers.iter().sum::<u64>() / 2;
    let mut below = 0;
    let median = answers.iter().position(|count| {
        below += count;
        below > half
    });
    #[expect(clippy::cast_precision_loss, reason = "at most 2040")]
    let median = median.unwrap_or(0) as f64;
    // The mask has a gain of 6, and half of what is normal lies within 0.6745 standard deviations.
    median / 6.0 / 0.6745
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PixelFormat;

    /// A picture of one level with edges, and noise that is even from `-noise` to `noise`.
    fn picture(pixel: PixelFormat, level: i32, noise: i32) -> Frame {
        let mut frame = Frame::new(pixel, 200, 120).unwrap();
        let bytes = pixel.sample_bytes() as usize;
        let to = frame.plane_mut(0).unwrap();
        let mut state = 1u32;
        for y in 0..120 {
            for x in 0..200 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let grain = i32::try_from(state >> 8).unwrap() % (2 * noise + 1) - noise;
                let edge = if (x / 40 + y / 40) % 2 == 0 { 10 } else { -10 };
                let value = u16::try_from(level + edge + grain).unwrap();
                let at = y * to.stride + x * bytes;
                if bytes == 2 {
                    to.bytes[at..at + 2].copy_from_slice(&(value << 2).to_le_bytes());
                } else {
                    to.bytes[at] = u8::try_from(value).unwrap();
                }
            }
        }
        frame
    }

    #[test]
    fn sight_is_poor_in_the_dark_and_behind_noise() {
        for pixel in [PixelFormat::Yuv420p, PixelFormat::Gray8, PixelFormat::Yuv420p10] {
            for (level, noise, sight) in [
                (120, 1, Sight::Good),
                (75, 1, Sight::Good),
                (120, 4, Sight::Good),
                (60, 1, Sight::Dark),
                (60, 12, Sight::Dark),
                (120, 12, Sight::Noisy),
            ] {
                let frame = picture(pixel, level, noise);
                let (found, gain) = of(&frame).unwrap();
                assert_eq!(found, sight, "{pixel:?} {level} {noise}");
                assert_eq!(gain > 1.0, sight == Sight::Dark);
            }
        }
    }

    #[test]
    fn the_dark_is_lit_to_a_level_and_no_more_than_so_much() {
        let gain = |level| of(&picture(PixelFormat::Yuv444p, level, 0)).unwrap().1;
        // Levels of limited range.
        assert!((gain(60) - 100.0 / 51.2).abs() < 0.05, "{}", gain(60));
        assert!((gain(30) - 4.0).abs() < 1e-6);
    }

    #[test]
    fn the_smallest_frames_are_seen() {
        for (width, height) in [(1, 1), (2, 9), (3, 3)] {
            let mut frame = Frame::new(PixelFormat::Yuv444p, width, height).unwrap();
            frame.plane_mut(0).unwrap().bytes.fill(128);
            assert_eq!(of(&frame).unwrap(), (Sight::Good, 1.0));
        }
    }
}
