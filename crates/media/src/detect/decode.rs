//! What the networks that are part of the program say, as boxes in pixels of their input.
//!
//! The rules are those of the models' own programs: MediaPipe's for BlazeFace, TensorFlow's object detection for SSDLite,
//! `centerface.py` for CenterFace; see `models/README.md`.

use frameloom_core::detection::{Found, Rect};
use frameloom_core::{Error, Result};

use super::classes::COCO_IDS;
use super::net::Output;

/// Most boxes that are compared with each other: the surest.
const MOST: usize = 4096;

/// What of two boxes of faces may overlap, as intersection over union.
const FACE_OVERLAP: f32 = 0.3;

/// The same of two things.
const THING_OVERLAP: f32 = 0.5;

/// A side of BlazeFace's grids, and the anchors in each of its cells.
const BLAZE_GRIDS: [(u16, usize); 2] = [(16, 2), (8, 6)];

/// A box from two corners; its sides may be nothing or less, see [`sized`].
///
/// # Errors
/// Corrupt where a side is no number.
pub(super) fn found(corners: [f32; 4], score: f32, class: usize) -> Result<Found> {
    let [left, top, right, bottom] = corners;
    let rect = Rect { x: left, y: top, w: right - left, h: bottom - top };
    if ![rect.x, rect.y, rect.w, rect.h, score].iter().all(|value| value.is_finite()) {
        return Err(Error::corrupt(format!(
            "it gave a box that is none: {corners:?} with score {score}"
        )));
    }
    if !(-0.001..=1.001).contains(&score) {
        return Err(Error::unsupported(format!(
            "it gave the score {score}, which is not from 0 to 1; export it with its last sigmoid"
        )));
    }
    let class = u16::try_from(class).map_err(|_| Error::unsupported("it has too many classes"))?;
    let score = score.clamp(0.0, 1.0);
    Ok(Found { rect, score, class })
}

/// The boxes that have a size. Of what a network is sure must be a place: it would not be hidden.
///
/// # Errors
/// Corrupt where a box as sure as `sure` has none.
pub(super) fn sized(mut boxes: Vec<Found>, sure: f32) -> Result<Vec<Found>> {
    let has_size = |found: &Found| found.rect.w > 0.0 && found.rect.h > 0.0;
    if let Some(odd) = boxes.iter().find(|found| found.score >= sure && !has_size(found)) {
        let Rect { x, y, w, h } = odd.rect;
        return Err(Error::corrupt(format!(
            "it is sure of a box (score {:.3}) that has no size: {w}×{h} at {x}, {y}",
            odd.score
        )));
    }
    boxes.retain(has_size);
    Ok(boxes)
}

/// Keeps the surest of boxes of one class that overlap by more than `overlap`; by falling score, then in the order given.
pub(super) fn suppress(mut boxes: Vec<Found>, overlap: f32) -> Vec<Found> {
    boxes.sort_by(|a, b| b.score.total_cmp(&a.score));
    boxes.truncate(MOST);
    let mut kept: Vec<Found> = Vec::new();
    for found in boxes {
        let hidden = |k: &Found| k.class == found.class && k.rect.iou(&found.rect) > overlap;
        if !kept.iter().any(hidden) {
            kept.push(found);
        }
    }
    kept
}

/// The outputs' numbers where they have these shapes.
fn shaped<'a, const N: usize>(
    outputs: &[Output<'a>],
    shapes: [&[usize]; N],
) -> Result<[&'a [f32]; N]> {
    let told = || {
        let shapes: Vec<String> = outputs.iter().map(|o| format!("{:?}", o.shape)).collect();
        Error::internal(format!("its outputs are {}", shapes.join(", ")))
    };
    if outputs.len() < N {
        return Err(told());
    }
    let mut values: [&[f32]; N] = [&[]; N];
    for (place, (output, shape)) in values.iter_mut().zip(outputs.iter().zip(shapes)) {
        if output.shape != shape {
            return Err(told());
        }
        *place = output.values;
    }
    Ok(values)
}

/// Faces that CenterFace found: a map of scores at a quarter of the size, with sizes and offsets.
pub(super) fn centerface(
    outputs: &[Output<'_>],
    (width, height): (u32, u32),
    floor: f32,
) -> Result<Vec<Found>> {
    let (columns, rows) = (width as usize / 4, height as usize / 4);
    let (one, two) = ([1, 1, rows, columns], [1, 2, rows, columns]);
    let [heat, sizes, offsets] = shaped(outputs, [&one, &two, &two])?;
    let cells = rows * columns;
    #[expect(clippy::cast_precision_loss, reason = "sides of inputs are small")]
    let (width, height) = (width as f32, height as f32);
    let mut boxes = Vec::new();
    for (cell, score) in heat.iter().enumerate().filter(|(_, score)| **score >= floor) {
        #[expect(clippy::cast_precision_loss, reason = "sides of inputs are small")]
        let (x, y) = ((cell % columns) as f32, (cell / columns) as f32);
        let (h, w) = (sizes[cell].exp() * 4.0, sizes[cells + cell].exp() * 4.0);
        let (dy, dx) = (offsets[cell], offsets[cells + cell]);
        let left = ((x + dx + 0.5) * 4.0 - w / 2.0).max(0.0);
        let top = ((y + dy + 0.5) * 4.0 - h / 2.0).max(0.0);
        if !(w.is_finite() && h.is_finite()) {
            return Err(Error::corrupt("it gave a face of endless size"));
        }
        let (right, bottom) = (((x + dx + 0.5) * 4.0 + w / 2.0), ((y + dy + 0.5) * 4.0 + h / 2.0));
        // Of a face beside the picture nothing is to be seen.
        if left < width && top < height && right > 0.0 && bottom > 0.0 {
            let corners = [left, top, (left + w).min(width), (top + h).min(height)];
            boxes.push(found(corners, *score, 0)?);
        }
    }
    Ok(suppress(boxes, FACE_OVERLAP))
}

/// The middles of BlazeFace's anchors, as parts of the input's sides.
pub(super) fn blaze_anchors() -> Vec<(f32, f32)> {
    let mut anchors = Vec::new();
    for (side, count) in BLAZE_GRIDS {
        let middle = |at: u16| (f32::from(at) + 0.5) / f32::from(side);
        for y in 0..side {
            for x in 0..side {
                anchors.extend(std::iter::repeat_n((middle(x), middle(y)), count));
            }
        }
    }
    anchors
}

/// Faces that BlazeFace found: for each anchor a score before its sigmoid, and a box beside the anchor.
pub(super) fn blaze(
    outputs: &[Output<'_>],
    anchors: &[(f32, f32)],
    side: u32,
    floor: f32,
) -> Result<Vec<Found>> {
    let [near, far, near_boxes, far_boxes] =
        shaped(outputs, [&[1, 512, 1], &[1, 384, 1], &[1, 512, 16], &[1, 384, 16]])?;
    #[expect(clippy::cast_precision_loss, reason = "sides of inputs are small")]
    let side = side as f32;
    let logits = near.iter().chain(far);
    let places = near_boxes.chunks_exact(16).chain(far_boxes.chunks_exact(16));
    let mut boxes = Vec::new();
    for ((logit, place), (anchor_x, anchor_y)) in logits.zip(places).zip(anchors) {
        let score = 1.0 / (1.0 + (-logit.clamp(-80.0, 80.0)).exp());
        if score < floor {
            continue;
        }
        let (x, y) = (place[0] + anchor_x * side, place[1] + anchor_y * side);
        let (w, h) = (place[2], place[3]);
        let corners = [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0];
        boxes.push(found(corners, score, 0)?);
    }
    Ok(suppress(boxes, FACE_OVERLAP))
}

/// Things that SSDLite found: for each anchor the scores of COCO's table of 90, and a box as parts of the sides.
pub(super) fn ssd(
    outputs: &[Output<'_>],
    (width, height): (u32, u32),
    floor: f32,
    wanted: &[u16],
) -> Result<Vec<Found>> {
    let [scores, places] = shaped(outputs, [&[1, 1917, 90], &[1, 1917, 1, 4]])?;
    #[expect(clippy::cast_precision_loss, reason = "sides of inputs are small")]
    let (width, height) = (width as f32, height as f32);
    let mut boxes = Vec::new();
    for (row, place) in scores.chunks_exact(90).zip(places.chunks_exact(4)) {
        let known = COCO_IDS.iter().map(|id| row[id - 1]);
        let Some((class, score)) = surest(known, wanted) else { continue };
        if score >= floor {
            let [top, left, bottom, right] = [place[0], place[1], place[2], place[3]];
            let corners = [left * width, top * height, right * width, bottom * height];
            boxes.push(found(corners, score, class)?);
        }
    }
    Ok(suppress(boxes, THING_OVERLAP))
}

/// The first of the highest scores of the classes that are `wanted`, and its place; of all where none is named.
pub(super) fn surest(scores: impl Iterator<Item = f32>, wanted: &[u16]) -> Option<(usize, f32)> {
    let counts = |(class, _): &(usize, f32)| {
        wanted.is_empty() || wanted.iter().any(|wanted| usize::from(*wanted) == *class)
    };
    scores.enumerate().filter(counts).fold(None, |best, (class, score)| match best {
        Some((_, highest)) if highest >= score => best,
        _ => Some((class, score)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thing(x: f32, score: f32, class: u16) -> Found {
        Found { rect: Rect { x, y: 0.0, w: 10.0, h: 10.0 }, score, class }
    }

    #[test]
    fn of_boxes_that_overlap_the_surest_of_each_class_stays() {
        let kept = suppress(
            vec![thing(0.0, 0.5, 0), thing(1.0, 0.9, 0), thing(1.0, 0.4, 1), thing(8.0, 0.3, 0)],
            0.3,
        );
        assert_eq!(kept, [thing(1.0, 0.9, 0), thing(1.0, 0.4, 1), thing(8.0, 0.3, 0)]);
    }

    #[test]
    fn the_surest_is_one_that_is_wanted() {
        let scores = [0.1, 0.9, 0.4, 0.4];
        assert_eq!(surest(scores.into_iter(), &[]), Some((1, 0.9)));
        assert_eq!(surest(scores.into_iter(), &[3, 0]), Some((3, 0.4)));
        assert_eq!(surest(scores.into_iter(), &[7]), None);
    }

    #[test]
    fn boxes_that_are_none_do_not_come_out() {
        for odd in [f32::NAN, f32::INFINITY] {
            assert!(found([0.0, odd, 1.0, 1.0], 0.5, 0).is_err());
            assert!(found([0.0, 0.0, 1.0, 1.0], odd, 0).is_err());
        }
        let error = found([0.0, 0.0, 1.0, 1.0], 3.5, 0).unwrap_err();
        assert!(error.message().contains("3.5"), "{error}");
    }

    #[test]
    fn a_box_without_size_is_an_error_where_the_network_is_sure_of_it() {
        for corners in [[5.0, 0.0, 5.0, 9.0], [5.0, 9.0, 8.0, 2.0]] {
            let boxes = vec![thing(0.0, 0.9, 0), found(corners, 0.4, 0).unwrap()];
            assert_eq!(sized(boxes.clone(), 0.5).unwrap(), [thing(0.0, 0.9, 0)]);
            let error = sized(boxes, 0.4).unwrap_err();
            assert_eq!(error.kind(), frameloom_core::ErrorKind::Corrupt);
            assert!(error.message().contains("score 0.400"), "{error}");
        }
    }

    #[test]
    fn a_face_beside_the_picture_is_none() {
        let (heat, sizes) = ([0.9; 64], [1.0; 128]);
        for far in [-50.0, 50.0] {
            let away = [far; 128];
            let shape = |channels| vec![1, channels, 8, 8];
            let output = |channels, values| Output { name: "", shape: shape(channels), values };
            let outputs = [output(1, &heat), output(2, &sizes), output(2, &away)];
            let faces = centerface(&outputs, (32, 32), 0.5).unwrap();
            assert_eq!(sized(faces, 0.5).unwrap(), [], "{far}");
        }
    }

    #[test]
    fn a_face_of_endless_size_is_an_error() {
        let shape = |channels| vec![1, channels, 8, 8];
        let heat = [0.9; 64];
        let output = |channels, values| Output { name: "", shape: shape(channels), values };
        let (fine, endless) = ([1.0; 128], [100.0; 128]);
        let faces =
            centerface(&[output(1, &heat), output(2, &fine), output(2, &fine)], (32, 32), 0.5);
        assert!(!faces.unwrap().is_empty());
        let faces =
            centerface(&[output(1, &heat), output(2, &endless), output(2, &fine)], (32, 32), 0.5);
        assert!(faces.unwrap_err().message().contains("endless"));
    }
}
