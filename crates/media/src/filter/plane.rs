//! Regions and planes: what filters share to work on a part of a picture.

use std::ffi::c_void;

use frameloom_core::catalogue::{Params, Region};
use frameloom_core::{Error, Result};
use opencv::core::{CV_8UC1, Mat, MatTrait, MatTraitConst, Rect};

use crate::frame::{Frame, FrameFormat, Plane, PlaneMut};

/// A rectangle of a plane, in samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) w: usize,
    pub(super) h: usize,
}

/// The part of each plane that a filter works on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Areas {
    planes: Vec<Area>,
    whole: bool,
}

impl Areas {
    /// The region `roi` of the parameters, or the whole picture. Chroma covers what luma does.
    ///
    /// # Errors
    /// Invalid where the region reaches outside the picture.
    pub(super) fn new(params: &Params, format: &FrameFormat) -> Result<Self> {
        let region: Option<Region> = params.region("roi");
        let (x, y, w, h) = match region {
            Some(region) => region.resolve(format.width, format.height)?,
            None => (0, 0, format.width, format.height),
        };
        let planes = (0..format.pixel.planes())
            .map(|plane| {
                let (sx, sy) = format.pixel.shift(plane);
                let up = |v: u32, s: u32| (v + (1 << s) - 1) >> s;
                Area {
                    x: (x >> sx) as usize,
                    y: (y >> sy) as usize,
                    w: (up(x + w, sx) - (x >> sx)) as usize,
                    h: (up(y + h, sy) - (y >> sy)) as usize,
                }
            })
            .collect();
        Ok(Self { planes, whole: region.is_none() })
    }

    /// The part of a plane.
    pub(super) fn of(&self, plane: usize) -> Area {
        self.planes[plane.min(self.planes.len() - 1)]
    }

    /// Calls `change` with each row of each plane in `planes` within the region.
    pub(super) fn rows(
        &self,
        frame: &mut Frame,
        planes: std::ops::Range<usize>,
        mut change: impl FnMut(usize, &mut [u8]),
    ) -> Result<()> {
        let count = frame.pixel()?.planes();
        for plane in planes.start..planes.end.min(count) {
            let area = self.of(plane);
            let PlaneMut { bytes, stride, .. } = frame.plane_mut(plane)?;
            for y in area.y..area.y + area.h {
                let at = y * stride + area.x;
                change(plane, &mut bytes[at..at + area.w]);
            }
        }
        Ok(())
    }

    /// Makes a new frame whose planes in `planes` are made by `make` from those of `frame`, within
    /// the region; everything else is as it was.
    pub(super) fn remake(
        &self,
        frame: &Frame,
        planes: std::ops::Range<usize>,
        mut make: impl FnMut(usize, &Mat, &mut Mat) -> opencv::Result<()>,
    ) -> Result<Frame> {
        let pixel = frame.pixel()?;
        let mut out = if self.whole {
            frame.new_like(pixel, frame.width(), frame.height())?
        } else {
            let mut copy = frame.clone();
            copy.make_writable()?;
            copy
        };
        for plane in 0..pixel.planes() {
            if planes.contains(&plane) {
                let area = self.of(plane);
                let from = mat_of(frame.plane(plane)?)?;
                let mut to = mat_of_mut(&mut out.plane_mut(plane)?)?;
                if self.whole {
                    make(plane, &from, &mut to).map_err(failed)?;
                } else {
                    let rect = rect(area)?;
                    let from = part(from, rect).map_err(failed)?;
                    let mut part = Mat::default();
                    make(plane, &from, &mut part).map_err(failed)?;
                    let mut to = Mat::roi_mut(&mut to, rect).map_err(failed)?;
                    part.copy_to(&mut to).map_err(failed)?;
                }
            } else if self.whole {
                copy_plane(frame.plane(plane)?, &mut out.plane_mut(plane)?);
            }
        }
        Ok(out)
    }
}

/// Copies all samples of a plane.
pub(super) fn copy_plane(from: Plane<'_>, to: &mut PlaneMut<'_>) {
    for y in 0..from.height.min(to.height) {
        let width = from.width.min(to.width);
        to.bytes[y * to.stride..y * to.stride + width]
            .copy_from_slice(&from.bytes[y * from.stride..y * from.stride + width]);
    }
}

fn rect(area: Area) -> Result<Rect> {
    let side = |v: usize| i32::try_from(v).map_err(|_| Error::unsupported("size of a region"));
    Ok(Rect::new(side(area.x)?, side(area.y)?, side(area.w)?, side(area.h)?))
}

/// The header of a part of a plane: it sees the samples around it, as the whole picture would.
pub(super) fn part(mut whole: Mat, part: Rect) -> opencv::Result<Mat> {
    let (below, right) = (part.y + part.height - whole.rows(), part.x + part.width - whole.cols());
    whole.adjust_roi(-part.y, below, -part.x, right)
}

/// OpenCV's error as ours: a bug, since parameters are checked before.
pub(crate) fn failed(error: opencv::Error) -> Error {
    if error.code == opencv::core::StsNoMem {
        return crate::ff::out_of_memory();
    }
    Error::internal("OpenCV refused").with_source(error)
}

/// A Mat's header over a plane; it must not outlive the plane, and is not written to.
pub(crate) fn mat_of(plane: Plane<'_>) -> Result<Mat> {
    // SAFETY: callers keep the plane while they use the Mat, and only read it.
    unsafe { header(plane.width, plane.height, plane.stride, plane.bytes.as_ptr().cast_mut()) }
}

/// A Mat's header over a plane to write; it must not outlive the plane.
pub(crate) fn mat_of_mut(plane: &mut PlaneMut<'_>) -> Result<Mat> {
    // SAFETY: callers keep the plane while they use the Mat.
    unsafe { header(plane.width, plane.height, plane.stride, plane.bytes.as_mut_ptr()) }
}

/// # Safety
/// `data` holds `height` rows of `width` samples, `stride` bytes apart, as long as the Mat lives.
#[expect(unsafe_code, reason = "OpenCV takes a pointer")]
unsafe fn header(width: usize, height: usize, stride: usize, data: *mut u8) -> Result<Mat> {
    let side = |v: usize| i32::try_from(v).map_err(|_| Error::unsupported("size of a plane"));
    let data: *mut c_void = data.cast();
    // SAFETY: by contract.
    unsafe {
        Mat::new_rows_cols_with_data_unsafe(side(height)?, side(width)?, CV_8UC1, data, stride)
    }
    .map_err(failed)
}
