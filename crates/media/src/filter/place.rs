//! Where a frame lies in the source as displayed: what filters that move pixels have made of it.

use frameloom_core::catalogue::Params;
use frameloom_core::detection::Rect;
use frameloom_core::frame_task::FILTER;
use frameloom_core::pipeline::{FilterSpec, GRAPH_FILTER};
use frameloom_core::{Error, Result};

use super::crop::Crop;
use crate::frame::FrameFormat;

/// A frame's pixel is the source's pixel times `scale`, less `offset`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    scale: (f32, f32),
    offset: (f32, f32),
    /// What may have moved anything anywhere.
    moved_by: Option<&'static str>,
}

impl Default for Place {
    fn default() -> Self {
        Self { scale: (1.0, 1.0), offset: (0.0, 0.0), moved_by: None }
    }
}

impl Place {
    /// Where frames lie behind a filter that takes frames of `from` and gives frames of `to`.
    ///
    /// # Errors
    /// Of the filter's parameters.
    pub(super) fn behind(
        self,
        spec: &FilterSpec,
        params: &Params,
        from: &FrameFormat,
        to: &FrameFormat,
    ) -> Result<Self> {
        #[expect(clippy::cast_precision_loss, reason = "sides of a picture")]
        let ratio = |to: u32, from: u32| to as f32 / from.max(1) as f32;
        Ok(match spec.name.as_str() {
            "crop" => {
                let (x, y) = Crop::corner(params, from)?;
                let offset = (self.offset.0 + x, self.offset.1 + y);
                Self { offset, ..self }
            }
            "scale" => {
                let (x, y) = (ratio(to.width, from.width), ratio(to.height, from.height));
                Self {
                    scale: (self.scale.0 * x, self.scale.1 * y),
                    offset: (self.offset.0 * x, self.offset.1 * y),
                    ..self
                }
            }
            GRAPH_FILTER => Self {
                moved_by: Some("'ffmpeg:…': a graph may move what was found to another place"),
                ..self
            },
            FILTER if params.boolean("moves")? => Self {
                moved_by: Some(
                    "'celery:…', whose function may move what was found to another place; moves=false says that it does not",
                ),
                ..self
            },
            _ => self,
        })
    }

    /// Says where a filter that needs to know stands in a pipeline's wrong place.
    ///
    /// # Errors
    /// Invalid behind a graph, and behind a function that may move things.
    pub(super) fn must_be_known(self) -> Result<()> {
        match self.moved_by {
            None => Ok(()),
            Some(mover) => Err(Error::invalid(format!("it must come before {mover}"))),
        }
    }

    /// A box of the source as displayed, in the frame.
    pub(super) fn to_frame(self, rect: Rect) -> Rect {
        let ((sx, sy), (ox, oy)) = (self.scale, self.offset);
        Rect { x: rect.x * sx - ox, y: rect.y * sy - oy, w: rect.w * sx, h: rect.h * sy }
    }

    /// A box of the frame, in the source as displayed.
    pub(super) fn to_source(self, rect: Rect) -> Rect {
        let ((sx, sy), (ox, oy)) = (self.scale, self.offset);
        Rect { x: (rect.x + ox) / sx, y: (rect.y + oy) / sy, w: rect.w / sx, h: rect.h / sy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_go_there_and_back() {
        let place = Place { scale: (0.5, 2.0), offset: (10.0, -4.0), moved_by: None };
        let rect = Rect { x: 100.0, y: 20.0, w: 8.0, h: 6.0 };
        assert_eq!(place.to_frame(rect), Rect { x: 40.0, y: 44.0, w: 4.0, h: 12.0 });
        assert_eq!(place.to_source(place.to_frame(rect)), rect);
    }
}
