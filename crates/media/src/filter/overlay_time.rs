//! `overlay-time`: burns pts and time into the picture, to see and to test which frame is which.

use frameloom_core::Result;
use frameloom_core::catalogue::Params;
use frameloom_core::time::{Rounding, TimeBase};

use super::{Filter, PerFrame};
use crate::frame::{Frame, FrameFormat};

/// Digits and marks, 5 × 7, a row a byte, the leftmost pixel in bit 4.
const FONT: &[(char, [u8; 7])] = &[
    ('0', [0x0e, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0e]),
    ('1', [0x04, 0x0c, 0x04, 0x04, 0x04, 0x04, 0x0e]),
    ('2', [0x0e, 0x11, 0x01, 0x02, 0x04, 0x08, 0x1f]),
    ('3', [0x1f, 0x02, 0x04, 0x02, 0x01, 0x11, 0x0e]),
    ('4', [0x02, 0x06, 0x0a, 0x12, 0x1f, 0x02, 0x02]),
    ('5', [0x1f, 0x10, 0x1e, 0x01, 0x01, 0x11, 0x0e]),
    ('6', [0x06, 0x08, 0x10, 0x1e, 0x11, 0x11, 0x0e]),
    ('7', [0x1f, 0x01, 0x02, 0x04, 0x08, 0x08, 0x08]),
    ('8', [0x0e, 0x11, 0x11, 0x0e, 0x11, 0x11, 0x0e]),
    ('9', [0x0e, 0x11, 0x11, 0x0f, 0x01, 0x02, 0x0c]),
    (':', [0x00, 0x04, 0x04, 0x00, 0x04, 0x04, 0x00]),
    ('.', [0x00, 0x00, 0x00, 0x00, 0x00, 0x0c, 0x0c]),
    ('-', [0x00, 0x00, 0x00, 0x1f, 0x00, 0x00, 0x00]),
    (' ', [0; 7]),
];

/// Writes `H:MM:SS.mmm PTS` on a black bar in the upper left corner.
pub(super) struct OverlayTime {
    time_base: TimeBase,
    scale: usize,
}

impl OverlayTime {
    pub(super) fn build(params: &Params, format: &FrameFormat) -> Result<Box<dyn Filter>> {
        let scale = usize::try_from(params.integer("size")?).unwrap_or(1);
        Ok(Box::new(Self { time_base: format.time_base, scale }))
    }

    fn text(&self, pts: i64) -> String {
        let millis = TimeBase::new(1, 1000)
            .ok()
            .and_then(|base| self.time_base.rescale(pts, base, Rounding::Down))
            .unwrap_or(0);
        let sign = if millis < 0 { "-" } else { "" };
        let millis = millis.unsigned_abs();
        let (seconds, millis) = (millis / 1000, millis % 1000);
        let (minutes, seconds) = (seconds / 60, seconds % 60);
        format!("{sign}{}:{:02}:{seconds:02}.{millis:03} {pts}", minutes / 60, minutes % 60)
    }
}

impl PerFrame for OverlayTime {
    fn apply(&mut self, mut frame: Frame) -> Result<Frame> {
        let pixel = frame.pixel()?;
        let text = self.text(frame.pts());
        let scale = self.scale;
        let (bar_w, bar_h) = ((text.chars().count() * 6 + 1) * scale, 9 * scale);
        for plane in 0..pixel.planes() {
            let (sx, sy) = pixel.shift(plane);
            let to = frame.plane_mut(plane)?;
            let (w, h) = ((bar_w >> sx).min(to.width), (bar_h >> sy).min(to.height));
            for y in 0..h {
                let row = &mut to.bytes[y * to.stride..y * to.stride + w];
                row.fill(if plane == 0 { 16 } else { 128 });
            }
            if plane > 0 {
                continue;
            }
            for (i, c) in text.chars().enumerate() {
                let Some((_, glyph)) = FONT.iter().find(|(known, _)| *known == c) else { continue };
                for y in 0..7 * scale {
                    for x in 0..5 * scale {
                        let lit = glyph[y / scale] >> (4 - x / scale) & 1 == 1;
                        let (px, py) = ((i * 6 + 1) * scale + x, scale + y);
                        if lit && px < to.width && py < to.height {
                            to.bytes[py * to.stride + px] = 235;
                        }
                    }
                }
            }
        }
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_pts_are_written_as_people_read_them() {
        let filter = OverlayTime { time_base: TimeBase::new(1, 90000).unwrap(), scale: 1 };
        assert_eq!(filter.text(90_000 * 3725 + 45_000), "1:02:05.500 335295000");
        assert_eq!(filter.text(-9000), "-0:00:00.100 -9000");
    }
}
