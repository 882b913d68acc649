//! What the detecting filters ask for, read from their parameters.

use frameloom_core::catalogue::Params;
use frameloom_core::frame_task::{FILTER, FrameTaskSpec};
use frameloom_core::pipeline::FilterSpec;
use frameloom_core::plan::{PlannedDetection, PlannedDetector, PlannedTracking};
use frameloom_core::spec::DetectionsFormat;
use frameloom_core::{Error, Result};

use super::glances::Ways;
use crate::detect::{self, DetectorSpec, Device, Model};
use crate::filter::{Files, PlannedRegions, REGIONS, catalogue};

/// The filters that look for things in frames by a model.
const BY_MODEL: [&str; 2] = [FACES, "objects"];

/// The one of them that looks for faces.
const FACES: &str = "faces";

/// The filter that looks for motion.
const MOTION: &str = "motion";

/// Seconds from look to look at most, where what is found is to be hidden: tracks are carried on for twice as long.
const LOOK_SECONDS: f64 = 1.0;

/// Scores of this share of the threshold continue a track.
pub(super) const LOW: f32 = 0.5;

/// The same for faces, where several that are fainter bear each other out; several of these make a track.
pub(super) const LOW_OF_FACES: f32 = 0.8;

/// Scores of this share continue a track of faces where several agree.
const FAINT: f32 = 0.32;

/// What is done where something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// It is blurred beyond recognition.
    Blur,
    /// It is shown as a few squares.
    Pixelate,
    /// It is black.
    Fill,
    /// A box is drawn around it.
    Boxes,
    /// Nothing.
    None,
}

impl Action {
    /// Reads the parameter `action`.
    ///
    /// # Errors
    /// Internal where the table row has others.
    pub(crate) fn of(params: &Params) -> Result<Self> {
        let name = params.text("action")?;
        Self::named(name).ok_or_else(|| Error::internal(format!("no action '{name}'")))
    }

    /// The action of this name; `motion` has others.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "blur" => Some(Self::Blur),
            "pixelate" => Some(Self::Pixelate),
            "fill" => Some(Self::Fill),
            "boxes" => Some(Self::Boxes),
            "none" => Some(Self::None),
            _ => None,
        }
    }

    /// Whether it hides what was found.
    pub(crate) fn hides(self) -> bool {
        matches!(self, Self::Blur | Self::Pixelate | Self::Fill)
    }
}

/// Whether what is done with a box hides it, by the action's name: `blur`, `pixelate` and `fill` do.
pub fn action_hides(name: &str) -> bool {
    Action::named(name).is_some_and(Action::hides)
}

/// The form of what is hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// An ellipse within the box.
    Ellipse,
    /// All of the box.
    Box,
}

impl Shape {
    /// Reads the parameter `shape`.
    ///
    /// # Errors
    /// Internal where the table row has none.
    pub(crate) fn of(params: &Params) -> Result<Self> {
        Ok(if params.text("shape")? == "ellipse" { Self::Ellipse } else { Self::Box })
    }
}

/// What becomes of a frame on which a detector fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnError {
    /// All of it is hidden.
    Hide,
    /// The job fails.
    Fail,
}

/// What a filter that detects by a model asks for.
pub(crate) struct DetectorParams {
    /// The detector itself.
    pub(crate) detector: DetectorSpec,
    /// A detection counts that is at least this sure.
    pub(crate) threshold: f32,
    /// It looks at the first frame of each so many frame durations.
    pub(crate) every: u32,
    /// How it looks.
    pub(super) ways: Ways,
    /// What becomes of a frame on which it fails.
    pub(crate) on_error: OnError,
    /// Whether what is found is followed over time.
    pub(crate) track: bool,
}

impl DetectorParams {
    /// What `spec` asks for, a filter that [`is_detector`].
    ///
    /// # Errors
    /// Invalid for parameters.
    pub(crate) fn of(spec: &FilterSpec, files: &Files) -> Result<Self> {
        let params = catalogue().check(spec)?;
        let place = |e: Error| e.at(format!("filter '{spec}'"));
        Self::read(spec, &params, files).map_err(place)
    }

    fn read(spec: &FilterSpec, params: &Params, files: &Files) -> Result<Self> {
        let action = Action::of(params)?;
        let on_error = match params.text("on_error")? {
            "hide" => OnError::Hide,
            _ => OnError::Fail,
        };
        if on_error == OnError::Hide && !action.hides() {
            return Err(Error::invalid(
                "'on_error=hide' goes with an action that hides: blur, pixelate or fill",
            ));
        }
        #[expect(clippy::cast_possible_truncation, reason = "0..=1")]
        let threshold = params.number("threshold")? as f32;
        let every = u32::try_from(params.integer("every")?).unwrap_or(1);
        let track = params.boolean("track")?;
        if every > 1 && !track && action.hides() {
            return Err(Error::invalid(format!(
                "'every={every}' with 'track=false' would hide things in one frame of {every} only: leave out one of them"
            )));
        }
        let size = params.text("size").ok().map(size).transpose()?;
        let device = match params.text("device")? {
            "cpu" => Device::Cpu,
            "cuda" => Device::Cuda,
            _ => Device::Auto,
        };
        let model = model(spec, params, files)?;
        let cascade = params.boolean("cascade").unwrap_or(false);
        if cascade && !matches!(model, Model::CenterFace | Model::CenterFaceInt8) {
            return Err(Error::invalid(
                "'cascade=true' goes with model=centerface-int8 or centerface: the others see pictures of one size",
            ));
        }
        let floor = threshold * if spec.name == FACES { FAINT } else { LOW };
        let classes = match params.text("classes") {
            Ok(classes) => classes.split(',').map(|class| class.trim().to_owned()).collect(),
            Err(_) => Vec::new(),
        };
        Ok(Self {
            detector: DetectorSpec { model, size, floor, sure: threshold, device, classes },
            threshold,
            every,
            ways: Ways {
                zoomed: params.boolean("zoomed").unwrap_or(false),
                turned: params.boolean("turned").unwrap_or(false),
                cascade,
            },
            on_error,
            track,
        })
    }
}

/// `WxH`, both multiples of 32.
fn size(text: &str) -> Result<(u32, u32)> {
    let wrong = || {
        Error::invalid(format!(
            "'size={text}' is not WIDTHxHEIGHT, both from 32 to 4096 and multiples of 32, like '640x480'"
        ))
    };
    let (w, h) = text.split_once('x').ok_or_else(wrong)?;
    let side = |text: &str| {
        let side: u32 = text.parse().map_err(|_| wrong())?;
        if (32..=4096).contains(&side) && side.is_multiple_of(32) { Ok(side) } else { Err(wrong()) }
    };
    Ok((side(w)?, side(h)?))
}

fn model(spec: &FilterSpec, params: &Params, files: &Files) -> Result<Model> {
    let built_in = match (spec.name.as_str(), params.text("model")?) {
        ("faces", "centerface") => Some(Model::CenterFace),
        ("faces", "centerface-int8") => Some(Model::CenterFaceInt8),
        ("faces", "blazeface") => Some(Model::BlazeFaceBack),
        ("faces", "blazeface-front") => Some(Model::BlazeFaceFront),
        ("objects", "ssdlite") => Some(Model::SsdLite),
        _ => None,
    };
    let labels = params.text("labels").ok();
    if let Some(model) = built_in {
        if labels.is_some() {
            return Err(Error::invalid("'labels' goes with a model of your own (model=FILE)"));
        }
        return Ok(model);
    }
    let name = params.text("model")?;
    let bytes = files.read(name)?;
    let labels = labels.map(|file| files.read(file)).transpose()?;
    let labels = labels.map(|bytes| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let text = text.trim_start_matches('\u{feff}');
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    });
    Ok(Model::File { name: name.to_owned(), bytes, labels })
}

/// Whether a filter detects by a model: in a phase of its own, before any frame is processed.
pub fn is_detector(spec: &FilterSpec) -> bool {
    BY_MODEL.contains(&spec.name.as_str())
}

/// Whether a filter looks for things in frames.
fn looks_for_things(spec: &FilterSpec) -> bool {
    is_detector(spec) || spec.name == MOTION
}

/// Whether a filter tells of things in frames, so that there are detections to write down: it looks for them, or
/// a file tells of them.
pub fn tells_of_things(spec: &FilterSpec) -> bool {
    looks_for_things(spec) || spec.name == REGIONS
}

/// Whether a filter hides what is found, or a function does that is told to. Of one whose parameters are wrong it
/// is said that it does.
pub fn hides_things(spec: &FilterSpec) -> bool {
    if spec.name == FILTER {
        let params = catalogue().check(spec).and_then(|params| FrameTaskSpec::of(&params));
        return params.map_or(true, |asked| asked.hides);
    }
    hides_by_time(spec)
}

/// The same of filters that go by what was found at a frame's time, whatever its picture.
pub(crate) fn hides_by_time(spec: &FilterSpec) -> bool {
    let paints = is_detector(spec) || spec.name == REGIONS;
    let action = catalogue().check(spec).and_then(|params| Action::of(&params));
    paints && action.map_or(true, Action::hides)
}

/// Refuses looks that are too far apart for what is found to be hidden between them.
///
/// # Errors
/// Invalid, with the most that would do.
pub(crate) fn looks_often_enough(filters: &[FilterSpec], frames_a_second: f64) -> Result<()> {
    for spec in filters.iter().filter(|spec| is_detector(spec) && hides_things(spec)) {
        let every = catalogue().check(spec)?.integer("every")?;
        let most = (frames_a_second * LOOK_SECONDS).floor().max(1.0);
        #[expect(clippy::cast_precision_loss, reason = "1 to 1000")]
        let asked = every as f64;
        if asked > most {
            return Err(Error::invalid(format!(
                "filter '{spec}': 'every={every}' looks each {:.1} s at {frames_a_second:.2} frames a second, and what comes between two looks \
                 would not be hidden: at most every={most}",
                asked / frames_a_second
            )));
        }
    }
    Ok(())
}

/// Whether things are looked for in the whole video before any segment is processed.
pub(crate) fn looks_first(filters: &[FilterSpec], only: Option<DetectionsFormat>) -> bool {
    only.is_some() || filters.iter().any(is_detector)
}

/// What is looked for in a job's frames, but for the pieces in which it is, and what files tell of, `regions`; `None`
/// where no filter does either.
///
/// # Errors
/// Invalid for parameters; of the models.
pub(crate) fn plan_detection(
    filters: &[FilterSpec],
    files: &Files,
    regions: &[PlannedRegions],
    only: Option<DetectionsFormat>,
) -> Result<Option<PlannedDetection>> {
    let mut detectors = Vec::new();
    for (at, spec) in filters.iter().enumerate().filter(|(_, spec)| looks_for_things(spec)) {
        let filter = u32::try_from(at).unwrap_or(u32::MAX);
        let place = |e: Error| e.at(format!("filter '{spec}'"));
        if !is_detector(spec) {
            let params = catalogue().check(spec)?;
            detectors.push(PlannedDetector {
                filter,
                name: params.text("method")?.to_owned(),
                sha256: String::new(),
                classes: vec!["motion".into()],
                action: params.text("action")?.to_owned(),
                tracking: None,
            });
            continue;
        }
        let params = DetectorParams::of(spec, files)?;
        // What is wrong with it is told before any work begins.
        let classes = detect::check(&params.detector).map_err(place)?;
        let known = detect::identity(&params.detector);
        detectors.push(PlannedDetector {
            filter,
            name: known.name,
            sha256: known.sha256,
            classes,
            action: catalogue().check(spec)?.text("action")?.to_owned(),
            tracking: params.track.then_some(PlannedTracking {
                threshold: params.threshold,
                low: params.detector.floor,
            }),
        });
    }
    match only {
        // Nothing is painted then, and what a file tells is known.
        Some(_) if detectors.is_empty() => {
            return Err(Error::invalid(
                "--detections-only needs a filter that looks for something: faces, objects or motion",
            ));
        }
        Some(_) => {}
        None => {
            detectors.extend(regions.iter().map(|planned| planned.detector.clone()));
            detectors.sort_by_key(|detector| detector.filter);
        }
    }
    if detectors.is_empty() {
        return Ok(None);
    }
    Ok(Some(PlannedDetection { detectors, pieces: Vec::new(), only }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_wrong_ones_quoted() {
        assert_eq!(size("640x480").unwrap(), (640, 480));
        for bad in ["", "640", "640x", "x480", "640x481", "0x0", "-32x32", "640X480", "8192x32"] {
            let error = size(bad).unwrap_err();
            assert!(error.message().contains(&format!("'size={bad}'")), "{error}");
        }
    }

    #[test]
    fn what_hides_is_known_by_its_action() {
        let spec = |text: &str| text.parse::<FilterSpec>().unwrap();
        for hiding in [
            "faces",
            "faces:action=fill",
            "objects:action=pixelate:classes=person",
            "objects:action=blurr",
            "celery:task=t:queue=q:hides=true",
        ] {
            assert!(hides_things(&spec(hiding)), "{hiding}");
        }
        for open in [
            "faces:action=boxes",
            "objects",
            "motion",
            "blur",
            "faces:action=none",
            "celery:task=t:queue=q",
        ] {
            assert!(!hides_things(&spec(open)), "{open}");
        }
    }
}
