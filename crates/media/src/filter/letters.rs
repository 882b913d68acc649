//! Words and colours on pictures: what is written beside a drawn box, and on a contact sheet.

use frameloom_core::Result;
use frameloom_core::detection::Rect;
use opencv::core::{Point, Scalar};
use opencv::imgproc::{self, FONT_HERSHEY_SIMPLEX, LINE_AA};

use super::plane::{failed, mat_of_mut};
use crate::frame::{Frame, PixelFormat};

/// Colours as luma and chroma, bright enough for black letters and told apart by most eyes.
const COLORS: [(u8, u8, u8); 8] = [
    (210, 60, 150),
    (150, 54, 90),
    (170, 150, 60),
    (190, 110, 190),
    (160, 190, 120),
    (200, 90, 100),
    (140, 170, 180),
    (220, 128, 128),
];

/// The colour of this number, as luma, Cb and Cr.
pub(crate) fn color(number: u32) -> (u8, u8, u8) {
    COLORS[number as usize % COLORS.len()]
}

/// Writes `text` above `rect`, or within it where there is no room, black on `color`.
///
/// # Errors
/// Of OpenCV.
pub(crate) fn write(
    frame: &mut Frame,
    pixel: PixelFormat,
    text: &str,
    rect: Rect,
    color: (u8, u8, u8),
) -> Result<()> {
    if text.is_empty() || !rect.is_sound() {
        return Ok(());
    }
    // Class names may be of any script; these letters are not.
    let text: String =
        text.chars().take(40).map(|c| if c.is_ascii_graphic() { c } else { ' ' }).collect();
    let (width, height) = (frame.width(), frame.height());
    let scale = (f64::from(height) / 900.0).clamp(0.35, 3.0);
    let thick = if scale > 1.0 { 2 } else { 1 };
    let mut below = 0;
    let size = imgproc::get_text_size(&text, FONT_HERSHEY_SIMPLEX, scale, thick, &mut below)
        .map_err(failed)?;
    let pad = 2;
    let (w, h) = (size.width + 2 * pad, size.height + below + 2 * pad);
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    let (x, top) = (rect.x as i32, rect.y as i32);
    let y = if top >= h { top - h } else { top.max(0) };
    let side = |v: u32| i32::try_from(v).unwrap_or(i32::MAX);
    let x = x.clamp(0, (side(width) - w).max(0));
    let y = y.clamp(0, (side(height) - h).max(0));
    for plane in 0..pixel.planes() {
        let (sx, sy) = pixel.shift(plane);
        let value = [color.0, color.1, color.2][plane.min(2)];
        let mut to = frame.plane_mut(plane)?;
        let part = |from: i32, length: i32, shift: u32, most: usize| {
            let from = usize::try_from(from).unwrap_or(0);
            let to = from + usize::try_from(length).unwrap_or(0);
            ((from >> shift).min(most), (to >> shift).min(most))
        };
        let (left, right) = part(x, w, sx, to.width);
        let (upper, lower) = part(y, h, sy, to.height);
        for row in upper..lower {
            to.bytes[row * to.stride + left..row * to.stride + right].fill(value);
        }
        if plane == 0 {
            let mut picture = mat_of_mut(&mut to)?;
            let at = Point::new(x + pad, y + pad + size.height);
            let black = Scalar::all(16.0);
            let (font, line) = (FONT_HERSHEY_SIMPLEX, LINE_AA);
            imgproc::put_text(&mut picture, &text, at, font, scale, black, thick, line, false)
                .map_err(failed)?;
        }
    }
    Ok(())
}
