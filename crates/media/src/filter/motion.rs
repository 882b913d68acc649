//! `motion`: what moves, by a model of the background, by what differs from the frame before, or by optical flow.

use frameloom_core::catalogue::{Footprint, Params};
use frameloom_core::detection::{BoxSource, Rect, TrackedBox};
use frameloom_core::track::MAX_DETECTIONS;
use frameloom_core::{Error, Result};
use opencv::core::{self, Mat, Point, Ptr, Scalar, Size, Vector};
use opencv::imgproc::{
    self, CHAIN_APPROX_NONE, INTER_AREA, INTER_LINEAR, INTER_NEAREST, MORPH_ELLIPSE, MORPH_OPEN,
    RETR_EXTERNAL, THRESH_BINARY,
};
use opencv::prelude::*;
use opencv::video::{
    BackgroundSubtractorMOG2, DISOpticalFlow, DISOpticalFlow_PRESET_FAST,
    create_background_subtractor_mog2,
};

use super::notes::Notes;
use super::paint::outline_of;
use super::place::Place;
use super::plane::{failed, mat_of};
use super::{PerFrame, letters};
use crate::frame::{Frame, FrameFormat, PixelFormat};

/// Frames that the background model remembers.
const HISTORY: i32 = 500;

/// How wide a rim of what flow finds is no part of what moves, both sides together, in samples: measured on known masks.
const FLOW_SPILLS: i32 = 5;

/// Shortest side of a picture in which flow is looked for.
const LEAST_FLOW: i32 = 32;

/// What is shown where something moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Boxes,
    Mask,
    Heatmap,
    Highlight,
    Nothing,
}

/// How motion is found.
enum Method {
    Background(Ptr<BackgroundSubtractorMOG2>),
    Difference,
    Flow(Ptr<DISOpticalFlow>),
}

/// Finds motion on a small grey picture.
pub(super) struct Motion {
    method: Method,
    shown: Shown,
    threshold: f64,
    /// Least area of a box, in samples of the working picture.
    min_area: f64,
    working: Size,
    /// The working picture of the frame before.
    before: Option<Mat>,
    place: Place,
    pixel: PixelFormat,
    notes: Option<(u32, Notes)>,
}

/// Which frames it needs, by its parameters.
///
/// # Errors
/// Internal where the table row lacks them.
pub(super) fn footprint(params: &Params) -> Result<Footprint> {
    Ok(match params.text("method")? {
        "mog2" => {
            Footprint::Warmup { frames: u32::try_from(params.integer("warmup")?).unwrap_or(0) }
        }
        _ => Footprint::Window { before: 1, after: 0 },
    })
}

impl Motion {
    /// Makes it for frames of a format that lie at `place` in the source as displayed; what it finds is
    /// noted where `notes` says which detector of the plan it is.
    ///
    /// # Errors
    /// Of OpenCV.
    pub(super) fn new(
        params: &Params,
        format: &FrameFormat,
        place: Place,
        notes: Option<(u32, Notes)>,
    ) -> Result<Self> {
        let width = u32::try_from(params.integer("width")?).unwrap_or(640).min(format.width);
        let height = u64::from(format.height) * u64::from(width) / u64::from(format.width.max(1));
        let side = |v: u64| i32::try_from(v.max(1)).unwrap_or(i32::MAX);
        let working = Size::new(side(width.into()), side(height));
        let sensitivity = params.number("sensitivity")?;
        let given = params.number("threshold").ok();
        let (method, usual) = match params.text("method")? {
            "mog2" => {
                let threshold = given.unwrap_or(16.0) / sensitivity;
                let model = create_background_subtractor_mog2(HISTORY, threshold, false);
                (Method::Background(model.map_err(failed)?), 16.0)
            }
            "diff" => (Method::Difference, 15.0),
            _ => {
                let flow = DISOpticalFlow::create(DISOpticalFlow_PRESET_FAST);
                (Method::Flow(flow.map_err(failed)?), 1.0)
            }
        };
        let shown = match params.text("action")? {
            "boxes" => Shown::Boxes,
            "mask" => Shown::Mask,
            "heatmap" => Shown::Heatmap,
            "highlight" => Shown::Highlight,
            _ => Shown::Nothing,
        };
        let area = f64::from(working.width) * f64::from(working.height);
        let min_area = area * params.number("min_area")? / 100.0;
        Ok(Self {
            method,
            shown,
            threshold: given.unwrap_or(usual) / sensitivity,
            min_area,
            working,
            before: None,
            place,
            pixel: format.pixel,
            notes,
        })
    }

    /// How much moves at each sample of the working picture, 0..=255, and where it is enough.
    fn find(&mut self, frame: &Frame) -> opencv::Result<(Mat, Mat)> {
        let luma = frame.plane(0).and_then(mat_of);
        let luma = luma.map_err(|e| opencv::Error::new(core::StsError, e.to_string()))?;
        let mut small = Mat::default();
        if luma.size()? == self.working {
            luma.copy_to(&mut small)?;
        } else {
            // Means of areas cost four times as much, and tell nothing more where hardly two samples become one.
            let twice = luma.cols() >= 2 * self.working.width;
            let how = if twice { INTER_AREA } else { INTER_LINEAR };
            imgproc::resize(&luma, &mut small, self.working, 0.0, 0.0, how)?;
        }
        let mut strength = Mat::default();
        let mut mask = Mat::default();
        match (&mut self.method, &self.before) {
            (Method::Background(model), before) => {
                BackgroundSubtractorMOG2Trait::apply_def(model, &small, &mut strength)?;
                if before.is_none() {
                    // All of the first frame is new to it.
                    strength.set_to_def(&Scalar::all(0.0))?;
                }
                imgproc::threshold(&strength, &mut mask, 200.0, 255.0, THRESH_BINARY)?;
            }
            (Method::Difference, Some(before)) => {
                let mut difference = Mat::default();
                core::absdiff(before, &small, &mut difference)?;
                imgproc::gaussian_blur_def(&difference, &mut strength, Size::new(5, 5), 0.0)?;
                imgproc::threshold(&strength, &mut mask, self.threshold, 255.0, THRESH_BINARY)?;
            }
            (Method::Flow(flow), Some(before))
                if self.working.width.min(self.working.height) >= LEAST_FLOW =>
            {
                let mut moved = Mat::default();
                flow.calc(before, &small, &mut moved)?;
                let (mut x, mut y, mut length) = (Mat::default(), Mat::default(), Mat::default());
                core::extract_channel(&moved, &mut x, 0)?;
                core::extract_channel(&moved, &mut y, 1)?;
                core::magnitude(&x, &y, &mut length)?;
                // 16 levels a pixel of the working picture, as far as levels go.
                length.convert_to(&mut strength, core::CV_8U, 16.0, 0.0)?;
                let mut moves = Mat::default();
                imgproc::threshold(&length, &mut moves, self.threshold, 255.0, THRESH_BINARY)?;
                moves.convert_to(&mut mask, core::CV_8U, 1.0, 0.0)?;
            }
            (Method::Difference | Method::Flow(_), _) => {
                let zero = Mat::zeros_size(self.working, core::CV_8U)?.to_mat()?;
                zero.copy_to(&mut strength)?;
                zero.copy_to(&mut mask)?;
            }
        }
        let spot =
            |side| imgproc::get_structuring_element_def(MORPH_ELLIPSE, Size::new(side, side));
        let mut opened = Mat::default();
        imgproc::morphology_ex_def(&mask, &mut opened, MORPH_OPEN, &spot(3)?)?;
        if matches!(self.method, Method::Flow(_)) {
            // Flow is found in patches, which tell of what lies around a thing that it moves, too.
            imgproc::erode_def(&opened, &mut mask, &spot(FLOW_SPILLS)?)?;
        } else {
            imgproc::dilate_def(&opened, &mut mask, &spot(7)?)?;
        }
        self.before = Some(small);
        Ok((strength, mask))
    }

    /// The parts of a mask that hang together, in pixels of the frame, with the share of the box that moves; a hole within a part
    /// moves with it. The fullest first, and as many as are told of any frame, as where nothing is followed.
    #[expect(clippy::cast_precision_loss, reason = "sizes of a picture")]
    fn boxes(&self, mask: &Mat, frame: &Frame) -> opencv::Result<Vec<(Rect, f32)>> {
        let mut outlines: Vector<Vector<Point>> = Vector::new();
        imgproc::find_contours_def(mask, &mut outlines, RETR_EXTERNAL, CHAIN_APPROX_NONE)?;
        let (fx, fy) = (
            frame.width() as f32 / self.working.width as f32,
            frame.height() as f32 / self.working.height as f32,
        );
        let mut boxes = Vec::new();
        for outline in outlines {
            // Pick's theorem: the samples of a shape, from the area between their centres and those on its outline.
            let around = outline.len() as f64;
            let samples = imgproc::contour_area_def(&outline)? + around / 2.0 + 1.0;
            if samples < self.min_area {
                continue;
            }
            let bounds = imgproc::bounding_rect(&outline)?;
            let [x, y, w, h] = [bounds.x, bounds.y, bounds.width, bounds.height].map(|v| v as f32);
            let rect = Rect { x: x * fx, y: y * fy, w: w * fx, h: h * fy };
            #[expect(clippy::cast_possible_truncation, reason = "a share")]
            let share = (samples / f64::from(w * h)).min(1.0) as f32;
            boxes.push((rect, share));
        }
        let key = |rect: &Rect| [rect.x, rect.y, rect.w, rect.h];
        boxes.sort_by(|a, b| {
            let place = key(&a.0).partial_cmp(&key(&b.0)).unwrap_or(std::cmp::Ordering::Equal);
            b.1.total_cmp(&a.1).then(place)
        });
        boxes.truncate(MAX_DETECTIONS);
        Ok(boxes)
    }

    fn show(
        &self,
        frame: &mut Frame,
        strength: &Mat,
        mask: &Mat,
        boxes: &[(Rect, f32)],
    ) -> Result<()> {
        match self.shown {
            Shown::Nothing => Ok(()),
            Shown::Boxes => boxes
                .iter()
                .try_for_each(|(rect, _)| outline_of(frame, self.pixel, *rect, letters::color(0))),
            Shown::Mask => self.show_mask(frame, mask),
            Shown::Heatmap => self.show_heat(frame, strength, mask),
            Shown::Highlight => self.highlight(frame, mask),
        }
    }

    /// A working picture in the size of a plane.
    fn sized(&self, picture: &Mat, width: usize, height: usize, how: i32) -> Result<Mat> {
        let side = |v: usize| i32::try_from(v).map_err(|_| Error::unsupported("size of a plane"));
        let mut large = Mat::default();
        let size = Size::new(side(width)?, side(height)?);
        imgproc::resize(picture, &mut large, size, 0.0, 0.0, how).map_err(failed)?;
        Ok(large)
    }

    /// Calls `change` with each row of each plane beside a picture's row of the same size.
    fn beside(
        &self,
        frame: &mut Frame,
        picture: &Mat,
        how: i32,
        mut change: impl FnMut(usize, &mut [u8], &[u8]),
    ) -> Result<()> {
        for plane in 0..self.pixel.planes() {
            let to = frame.plane_mut(plane)?;
            let large = self.sized(picture, to.width, to.height, how)?;
            let from = large.data_bytes().map_err(failed)?;
            for y in 0..to.height {
                let row = &mut to.bytes[y * to.stride..y * to.stride + to.width];
                change(plane, row, &from[y * to.width..(y + 1) * to.width]);
            }
        }
        Ok(())
    }

    fn show_mask(&self, frame: &mut Frame, mask: &Mat) -> Result<()> {
        let (white, black) = if frame.is_full_range() { (255, 0) } else { (235, 16) };
        self.beside(frame, mask, INTER_NEAREST, |plane, row, mask| {
            for (sample, mask) in row.iter_mut().zip(mask) {
                *sample = match (plane, *mask > 127) {
                    (0, true) => white,
                    (0, false) => black,
                    _ => 128,
                };
            }
        })
    }

    /// From yellow for a little to red for much.
    fn show_heat(&self, frame: &mut Frame, strength: &Mat, mask: &Mat) -> Result<()> {
        let mut heat = Mat::default();
        let mut both = Mat::default();
        core::add_weighted_def(strength, 0.6, mask, 0.4, 0.0, &mut both)
            .and_then(|()| imgproc::gaussian_blur_def(&both, &mut heat, Size::new(15, 15), 0.0))
            .map_err(failed)?;
        self.beside(frame, &heat, INTER_LINEAR, |plane, row, heat| {
            for (sample, heat) in row.iter_mut().zip(heat) {
                let heat = u32::from(*heat);
                let toward = match plane {
                    0 => 210 - heat / 2,
                    1 => 60 + heat / 6,
                    _ => 150 + heat / 3,
                };
                // Never all of it: what moves is to be seen, too.
                let share = (heat * 2).min(150);
                let mixed = (u32::from(*sample) * (255 - share) + toward * share) / 255;
                *sample = u8::try_from(mixed).unwrap_or(u8::MAX);
            }
        })
    }

    /// What does not move is dark and grey.
    fn highlight(&self, frame: &mut Frame, mask: &Mat) -> Result<()> {
        self.beside(frame, mask, INTER_LINEAR, |plane, row, mask| {
            for (sample, mask) in row.iter_mut().zip(mask) {
                let (mask, value) = (i32::from(*mask), i32::from(*sample));
                let zero = if plane == 0 { 16 } else { 128 };
                let kept = 80 + mask * 175 / 255;
                let dimmed = zero + (value - zero) * kept / 255;
                *sample = u8::try_from(dimmed.clamp(0, 255)).unwrap_or(0);
            }
        })
    }
}

impl PerFrame for Motion {
    fn apply(&mut self, mut frame: Frame) -> Result<Frame> {
        let (strength, mask) = self.find(&frame).map_err(failed)?;
        let wanted = self.notes.is_some() || self.shown == Shown::Boxes;
        let boxes = if wanted { self.boxes(&mask, &frame).map_err(failed)? } else { Vec::new() };
        if let Some((detector, notes)) = &self.notes {
            let found = boxes.iter().map(|(rect, score)| TrackedBox {
                rect: self.place.to_source(*rect),
                score: *score,
                class: 0,
                track: 0,
                source: BoxSource::Detected,
            });
            notes.note(frame.pts(), *detector, found.collect());
        }
        self.show(&mut frame, &strength, &mask, &boxes)?;
        Ok(frame)
    }
}
