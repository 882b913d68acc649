//! Filtering single frames for whoever asks: the other side of frames that are away.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::time::Instant;

use frameloom_core::catalogue::Footprint;
use frameloom_core::frame_task::{FILTER, is_about_things};
use frameloom_core::pipeline::FilterSpec;
use frameloom_core::plan::{Plan, PlannedFilter};
use frameloom_core::slot::{FilterTask, FrameFilters};
use frameloom_core::time::{Rational, TimeBase};
use frameloom_core::{Error, Result};

use crate::filter::{self, Chain, Files, Parts};
use crate::frame::{Frame, FrameFormat};
use crate::frame_file::{self, Head};

/// Chains that are kept for the next frame.
const MOST_KEPT: usize = 4;

/// Runs frames through filters, and keeps filters that look at each frame alone.
#[derive(Default)]
pub struct FrameRunner {
    kept: Vec<Kept>,
}

/// Filters that have done frames and can do more.
struct Kept {
    filters: Vec<PlannedFilter>,
    input: FrameFormat,
    chain: Chain,
    /// The pts of its last frame: a graph may take none before it.
    last: i64,
}

impl FrameRunner {
    /// Filters one of `frames`, which are it and its neighbours in order, and writes it to `out`; `plan`
    /// is that of the task's filters, where they are a plan's.
    ///
    /// # Errors
    /// Invalid for files that are no frames, and filters that cannot be done a frame at a time; of the
    /// filters.
    pub fn run(
        &mut self,
        plan: Option<&Plan>,
        task: &FilterTask,
        frames: &[File],
        out: &File,
    ) -> Result<()> {
        let begun = Instant::now();
        let heads = frames.iter().map(frame_file::read_head).collect::<Result<Vec<_>>>()?;
        let at = task.frame as usize;
        let head =
            heads.get(at).ok_or_else(|| Error::invalid(format!("no frame {at} was given")))?;
        let (filters, input) = match (&task.filters, plan) {
            (FrameFilters::Plan { from, to }, Some(plan)) => planned(plan, *from, *to)?,
            (FrameFilters::Given { filters }, _) => given(filters, head)?,
            (FrameFilters::Plan { .. }, None) => {
                return Err(Error::internal("a frame's task without its plan"));
            }
        };
        if let Some(filter) = filters.iter().find(|filter| is_about_things(&filter.spec.name)) {
            return Err(Error::invalid(format!(
                "filter '{}' has to do with what is found in a whole video: it cannot be done a frame at a time",
                filter.spec
            )));
        }
        let made = self.filter(&filters, &input, &heads, frames, at)?;
        let rewound = (&*out).seek(SeekFrom::Start(0)).and_then(|_| out.set_len(0));
        rewound.map_err(|e| Error::io("cannot write a frame", &e))?;
        frame_file::write(&made, begun.elapsed().as_secs_f32() * 1e3, out)
    }

    /// Filters one of frames whose heads were read.
    pub(crate) fn filter(
        &mut self,
        filters: &[PlannedFilter],
        input: &FrameFormat,
        heads: &[Head],
        frames: &[File],
        at: usize,
    ) -> Result<Frame> {
        let picture = (input.width, input.height, input.pixel.name());
        if let Some(other) =
            heads.iter().find(|h| picture != (h.width, h.height, h.pixel_format.as_str()))
        {
            return Err(Error::invalid(format!(
                "a frame of {}x{} of {} where {}x{} of {} is awaited",
                other.width, other.height, other.pixel_format, picture.0, picture.1, picture.2
            )));
        }
        let read = |at: usize| frame_file::read(&heads[at], &frames[at], None);
        let alone = |filters: &[PlannedFilter]| {
            filters.iter().all(|filter| filter.footprint == Footprint::PerFrame)
        };
        if alone(filters) {
            return self.alone(filters, input, read(at)?);
        }
        let files = Files::default();
        let parts = Parts::alone(&files);
        // What looks at each frame alone behind the filter that needs neighbours has one to do.
        let first = if alone(&filters[1..]) { 1 } else { filters.len() };
        let mut chain = Chain::new(&filters[..first], input, &parts)?;
        let mut made = Vec::new();
        for at in 0..frames.len() {
            chain.push(read(at)?, &mut made)?;
        }
        chain.finish(&mut made)?;
        let made = one(made, heads[at].pts)?;
        if first == filters.len() {
            Ok(made)
        } else {
            self.alone(&filters[first..], chain.output(), made)
        }
    }

    /// Runs a frame through filters that need no other.
    fn alone(
        &mut self,
        filters: &[PlannedFilter],
        input: &FrameFormat,
        frame: Frame,
    ) -> Result<Frame> {
        if filters.is_empty() {
            return Ok(frame);
        }
        let (pts, files) = (frame.pts(), Files::default());
        let fits = |kept: &Kept| kept.filters == filters && kept.input == *input && kept.last < pts;
        let mut kept = match self.kept.iter().position(fits) {
            Some(at) => self.kept.remove(at),
            None => Kept {
                filters: filters.to_vec(),
                input: input.clone(),
                chain: Chain::new(filters, input, &Parts::alone(&files))?,
                last: pts,
            },
        };
        let mut made = Vec::new();
        kept.chain.push(frame, &mut made)?;
        if made.is_empty() {
            kept.chain.finish(&mut made)?;
            return one(made, pts);
        }
        kept.last = pts;
        self.kept.truncate(MOST_KEPT - 1);
        self.kept.insert(0, kept);
        one(made, pts)
    }
}

/// The frame at `pts`, of which there must be one.
fn one(made: Vec<(Frame, filter::FilterTimes)>, pts: i64) -> Result<Frame> {
    let mut found = made.into_iter().map(|(frame, _)| frame).filter(|frame| frame.pts() == pts);
    match (found.next(), found.next()) {
        (Some(frame), None) => Ok(frame),
        (first, _) => Err(Error::unsupported(format!(
            "the filters made {} frames at pts {pts} of one; only filters that keep one frame in, one frame out can be used",
            if first.is_some() { "several" } else { "no" }
        ))),
    }
}

/// Some of a plan's filters, and the frames that they take.
fn planned(plan: &Plan, from: u32, to: u32) -> Result<(Vec<PlannedFilter>, FrameFormat)> {
    let range = from as usize..to as usize;
    let filters = plan.filters.get(range).filter(|filters| !filters.is_empty());
    let filters =
        filters.ok_or_else(|| Error::invalid(format!("the plan has no filters {from} to {to}")))?;
    let before = (from as usize).checked_sub(1).map(|at| &plan.filters[at].output);
    let input = FrameFormat::of(before.unwrap_or(&plan.working), &plan.source.video)?;
    Ok((filters.to_vec(), input))
}

/// Filters that somebody asks for, for frames like this one.
fn given(filters: &[FilterSpec], head: &Head) -> Result<(Vec<PlannedFilter>, FrameFormat)> {
    let input = FrameFormat {
        width: head.width,
        height: head.height,
        pixel: head.pixel()?,
        time_base: TimeBase::MICROS,
        frame_rate: Rational::new(0, 0),
        sample_aspect_ratio: head.sample_aspect_ratio,
        field_order: match (head.interlaced, head.top_field_first) {
            (false, _) => "progressive".into(),
            (true, true) => "tff".into(),
            (true, false) => "bff".into(),
        },
        color: head.color.clone(),
    };
    let (planned, _, _) = filter::plan_chain(filters, &input)?;
    let stateful = planned.iter().find(|filter| {
        matches!(filter.footprint, Footprint::Warmup { .. } | Footprint::Sequential)
            || filter.spec.name == FILTER
    });
    match stateful {
        Some(filter) => Err(Error::invalid(format!(
            "filter '{}' keeps state from frame to frame, or sends frames away: it cannot be done a frame at a time",
            filter.spec
        ))),
        None => Ok((planned, input)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PixelFormat;

    #[test]
    fn what_would_come_back_with_nothing_hidden_is_refused() {
        let refused = |filter: &str| {
            let frame = Frame::new(PixelFormat::Yuv420p, 64, 48).unwrap();
            let mut file = tempfile::tempfile().unwrap();
            frame_file::write(&frame, 0.0, &file).unwrap();
            file.rewind().unwrap();
            let filters = FrameFilters::Given { filters: vec![filter.parse().unwrap()] };
            let (task, out) = (FilterTask { filters, frame: 0 }, tempfile::tempfile().unwrap());
            FrameRunner::default().run(None, &task, &[file], &out).map_err(|e| e.to_string())
        };
        refused("blur").unwrap();
        for filter in ["faces", "objects", "motion", "regions:file=r.jsonl"] {
            let error = refused(filter).unwrap_err();
            assert!(error.contains(filter) && error.contains("a frame at a time"), "{error}");
        }
    }
}
