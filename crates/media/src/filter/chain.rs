//! A pipeline's filters, one after the other, each timed.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use frameloom_core::catalogue::{Footprint, Params};
use frameloom_core::frame_task::{FILTER, Stretch, is_about_things, stretches};
use frameloom_core::pipeline::FilterSpec;
use frameloom_core::plan::{Plan, PlannedDetector, PlannedFilter};
use frameloom_core::spec::OnError;
use frameloom_core::{Error, Result};

use super::away::Away;
use super::celery::{CeleryFilter, Exchange};
use super::files::Files;
use super::graph::GraphFilter;
use super::motion::Motion;
use super::notes::Notes;
use super::paint::{Boxes, Paint};
use super::place::Place;
use super::plane;
use super::regions::{Pictured, REGIONS, Regions, RegionsKept};
use super::table::{self, Row};
use super::{Filter, Lost, catalogue};
use crate::frame::{Frame, FrameFormat, PixelFormat};

/// Milliseconds that each filter spent on a frame, in the order of the chain. What a filter that
/// holds frames back spends counts for the frame that comes out of it then.
pub(crate) type FilterTimes = Vec<f32>;

/// Checks filters against their table rows and finds what comes out of them, and what they need.
///
/// # Errors
/// Invalid for filters and parameters; Unsupported where a filter does not take the frames.
pub(crate) fn plan_chain(
    filters: &[FilterSpec],
    input: &FrameFormat,
) -> Result<(Vec<PlannedFilter>, FrameFormat, Footprint)> {
    let mut format = input.clone();
    let mut footprint = Footprint::PerFrame;
    let mut planned = Vec::new();
    let mut frame_place = Place::default();
    for spec in filters {
        let params = catalogue().check(spec)?;
        let row = table::row(&spec.name)?;
        takes(row, &format)?;
        let place = |e: Error| e.at(format!("filter '{spec}'"));
        let needs = (row.footprint)(&params).map_err(place)?;
        if is_about_things(&spec.name) {
            frame_place.must_be_known().map_err(place)?;
        }
        let behind = (row.output)(&params, &format).map_err(place)?;
        frame_place = frame_place.behind(spec, &params, &format, &behind).map_err(place)?;
        format = behind;
        footprint = footprint.then(needs);
        let output = format.picture();
        planned.push(PlannedFilter { spec: spec.clone(), footprint: needs, output });
    }
    Ok((planned, format, footprint))
}

/// Checks filters as far as no source is needed for it.
///
/// # Errors
/// Invalid for filters and parameters.
pub(crate) fn validate(filters: &[FilterSpec]) -> Result<()> {
    for spec in filters {
        let params = catalogue().check(spec)?;
        let place = |e: Error| e.at(format!("filter '{spec}'"));
        (table::row(&spec.name)?.footprint)(&params).map_err(place)?;
        if spec.name == "ffmpeg" {
            GraphFilter::try_text(params.text("graph")?).map_err(place)?;
        }
    }
    Ok(())
}

fn takes(row: &Row, format: &FrameFormat) -> Result<()> {
    if format.pixel == PixelFormat::Yuv420p10 && !row.deep {
        return Err(Error::unsupported(format!(
            "filter '{}' works on 8 bits: with --keep-depth take a graph like -f ffmpeg:gblur=sigma=3, or leave out --keep-depth \
             (of an HDR source make an SDR video first, with ffmpeg's zscale and tonemap)",
            row.info.name
        )));
    }
    Ok(())
}

/// How frames are spread over other slots.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    /// Bytes that files of frames on their way may take.
    pub(crate) bytes: u64,
    /// What becomes of frames that cannot be done.
    pub(crate) on_error: OnError,
}

/// What filters need beside their parameters.
pub(crate) struct Parts<'a> {
    /// Carries frames that are processed elsewhere.
    pub(crate) exchange: Option<&'a Exchange>,
    /// The files that filters take.
    pub(crate) files: &'a Files,
    /// The plan, where there is one.
    pub(crate) plan: Option<&'a Plan>,
    /// The tracks of the whole video.
    pub(crate) tracks: Option<&'a File>,
    /// Whether and how frames are spread over other slots.
    pub(crate) spread: Option<Spread>,
    /// The files of boxes that earlier segments of the job have read.
    pub(crate) regions: Option<&'a RegionsKept>,
}

impl<'a> Parts<'a> {
    /// Those of filters that have nothing but a job's files.
    pub(crate) fn alone(files: &'a Files) -> Self {
        Self { exchange: None, files, plan: None, tracks: None, spread: None, regions: None }
    }

    /// The number of the detector of filter `at`, and its classes.
    fn detector(&self, at: usize) -> Option<(usize, &PlannedDetector)> {
        let detection = self.plan.and_then(|plan| plan.detection.as_ref());
        let mut detectors = detection?.detectors.iter().enumerate();
        detectors.find(|(_, detector)| detector.filter as usize == at)
    }

    /// Where filter `at` notes what it finds: by the number of its detector.
    fn notes(&self, at: usize, notes: &Notes) -> Option<(u32, Notes)> {
        let number = self.detector(at).and_then(|(number, _)| u32::try_from(number).ok());
        number.map(|number| (number, notes.clone()))
    }

    /// Where the boxes of a filter that paints come from.
    fn boxes(&self, at: usize, spec: &FilterSpec, params: &Params, notes: &Notes) -> Result<Boxes> {
        let failed = |e| Error::io("cannot read tracks", &e);
        match (self.plan, self.tracks) {
            (Some(plan), _) if spec.name == REGIONS => {
                let (source, number) = (&plan.source, u32::try_from(at).unwrap_or(u32::MAX));
                let of = Pictured {
                    source: &source.fingerprint,
                    file: None,
                    time_base: source.video.time_base,
                    size: (plan.working.width, plan.working.height),
                };
                let read = || Regions::read(params, self.files, &of);
                let regions = match self.regions {
                    Some(kept) => kept.get(number, read)?,
                    None => Arc::new(read()?),
                };
                Ok(Boxes::Regions { regions, notes: self.notes(at, notes) })
            }
            (Some(_), Some(tracks)) => {
                let missing = || Error::internal("a filter whose detector is not planned");
                let (number, detector) = self.detector(at).ok_or_else(missing)?;
                let tracks = tracks.try_clone().map_err(failed)?;
                Boxes::of_tracks(tracks, number, detector.classes.clone())
            }
            // What is to be hidden must be known.
            (Some(plan), None) if plan.stages().render => {
                Err(Error::internal("the tracks did not come along"))
            }
            _ => Ok(Boxes::Unknown),
        }
    }
}

/// Filters at work.
pub(crate) struct Chain {
    filters: Vec<Box<dyn Filter>>,
    names: Vec<String>,
    output: FrameFormat,
    /// Per filter, what it has spent since a frame last came out of it.
    spent: Vec<f32>,
    /// What filters find on the way.
    notes: Notes,
}

impl Chain {
    /// Builds the filters of a plan for frames of `input`; with `spread` those that can be are done in
    /// other slots.
    ///
    /// # Errors
    /// As [`plan_chain`].
    pub(crate) fn new(
        filters: &[PlannedFilter],
        input: &FrameFormat,
        parts: &Parts<'_>,
    ) -> Result<Self> {
        // A slot is one core's work: OpenCV would take all of them for each.
        opencv::core::set_num_threads(1).map_err(plane::failed)?;
        let mut format = input.clone();
        let mut frame_place = Place::default();
        let mut chain = Self {
            filters: Vec::new(),
            names: Vec::new(),
            output: format.clone(),
            spent: Vec::new(),
            notes: Notes::default(),
        };
        let spread = parts.exchange.zip(parts.spread);
        let away: Vec<Stretch> =
            spread.map_or_else(Vec::new, |_| stretches(filters, &input.picture()));
        for (at, PlannedFilter { spec, output, .. }) in filters.iter().enumerate() {
            let params = catalogue().check(spec)?;
            let row = table::row(&spec.name)?;
            takes(row, &format)?;
            let place = |e: Error| e.at(format!("filter '{spec}'"));
            let number = u32::try_from(at).unwrap_or(u32::MAX);
            let stretch = away.iter().find(|s| (s.first..s.end).contains(&number));
            match (stretch, spread) {
                (Some(stretch), Some((exchange, spread))) if stretch.first == number => {
                    let bytes = spread.bytes / away.len() as u64;
                    let range = stretch.first as usize..stretch.end as usize;
                    let last = filters[range.clone()].last().map_or(output, |last| &last.output);
                    let filter = Away::new(stretch, bytes, last, spread.on_error, exchange);
                    let names: Vec<&str> =
                        filters[range].iter().map(|f| f.spec.name.as_str()).collect();
                    chain.add(Box::new(filter), &names.join("+"));
                }
                (Some(_), _) => {}
                (None, _) => {
                    let built: Result<Box<dyn Filter>> = match (spec.name.as_str(), parts.exchange)
                    {
                        (FILTER, Some(exchange)) => {
                            CeleryFilter::build(&params, &format, number, exchange)
                        }
                        ("faces" | "objects" | REGIONS, _) => parts
                            .boxes(at, spec, &params, &chain.notes)
                            .and_then(|boxes| Paint::new(&params, &format, frame_place, boxes))
                            .map(|paint| Box::new(paint) as Box<dyn Filter>),
                        ("motion", _) => {
                            let notes = parts.notes(at, &chain.notes);
                            Motion::new(&params, &format, frame_place, notes)
                                .map(|motion| Box::new(motion) as Box<dyn Filter>)
                        }
                        _ => (row.build)(&params, &format),
                    };
                    chain.add(built.map_err(place)?, &spec.name);
                }
            }
            let pixel = PixelFormat::from_name(&output.pixel_format)?;
            let from = format.clone();
            format = FrameFormat {
                width: output.width,
                height: output.height,
                pixel,
                sample_aspect_ratio: output.sample_aspect_ratio,
                field_order: output.field_order.clone(),
                color: output.color.clone(),
                ..format
            };
            frame_place = frame_place.behind(spec, &params, &from, &format).map_err(place)?;
        }
        chain.output = format;
        Ok(chain)
    }

    fn add(&mut self, filter: Box<dyn Filter>, name: &str) {
        let name = format!("filter.{name}");
        let numbered = |before: &&String| {
            before.strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let name = match self.names.iter().filter(numbered).count() {
            0 => name,
            before => format!("{name}.{}", before + 1),
        };
        self.filters.push(filter);
        self.names.push(name);
        self.spent.push(0.0);
    }

    /// Frames that could not be done since this was last asked.
    pub(crate) fn lost(&mut self) -> Vec<Lost> {
        self.filters.iter_mut().map(|filter| filter.lost()).collect()
    }

    /// What the steps are called: `filter.blur`, and `filter.blur.2` for a second one; `filter.blur+edges`
    /// for filters that are one task.
    pub(crate) fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    /// What filters find on the way.
    pub(crate) fn notes(&self) -> Notes {
        self.notes.clone()
    }

    /// The format of the frames that come out.
    pub(crate) fn output(&self) -> &FrameFormat {
        &self.output
    }

    /// Takes the next frame and appends those that are ready.
    ///
    /// # Errors
    /// Of the filters.
    pub(crate) fn push(&mut self, frame: Frame, out: &mut Vec<(Frame, FilterTimes)>) -> Result<()> {
        self.run(0, vec![(frame, Vec::new())], out)
    }

    /// No further frame comes: appends those that are left.
    ///
    /// # Errors
    /// Of the filters.
    pub(crate) fn finish(&mut self, out: &mut Vec<(Frame, FilterTimes)>) -> Result<()> {
        for first in 0..self.filters.len() {
            let mut made = Vec::new();
            let start = Instant::now();
            self.filters[first].finish(&mut made)?;
            self.spent[first] += start.elapsed().as_secs_f32() * 1e3;
            // What the filters before this one spent on these frames was told already.
            let mut frames = Vec::new();
            for frame in made {
                let mut times = vec![0.0; first];
                times.push(self.spent(first));
                frames.push((frame, times));
            }
            self.run(first + 1, frames, out)?;
        }
        Ok(())
    }

    /// What a filter has spent on the frame that came out of it.
    fn spent(&mut self, at: usize) -> f32 {
        let spent = std::mem::take(&mut self.spent[at]);
        self.filters[at].worked().unwrap_or(spent)
    }

    /// Sends frames through the filters from number `first` on.
    fn run(
        &mut self,
        first: usize,
        mut frames: Vec<(Frame, FilterTimes)>,
        out: &mut Vec<(Frame, FilterTimes)>,
    ) -> Result<()> {
        for at in first..self.filters.len() {
            let mut next = Vec::new();
            for (frame, times) in frames {
                let mut made = Vec::new();
                let start = Instant::now();
                self.filters[at].push(frame, &mut made)?;
                self.spent[at] += start.elapsed().as_secs_f32() * 1e3;
                for frame in made {
                    let mut times = times.clone();
                    times.push(self.spent(at));
                    next.push((frame, times));
                }
            }
            frames = next;
        }
        out.extend(frames);
        Ok(())
    }
}
