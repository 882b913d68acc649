//! Detectors: networks that find faces and things in a frame, on ONNX Runtime.
//!
//! Five models are part of the program (`models/README.md`); a user may bring a YOLO. A detector knows nothing of time:
//! what is followed, hidden or drawn is decided elsewhere. It fails closed: what is no number never comes out as a box.

pub(crate) mod classes;
mod decode;
pub(crate) mod file;
mod input;
mod models;
mod net;
mod runtime;
#[cfg(test)]
mod tests;
mod yolo;

use std::sync::Arc;

use frameloom_core::detection::{Found, Rect};
use frameloom_core::{Error, Result};

use crate::frame::Frame;
use input::{Input, Recipe};
use net::Net;

pub(crate) use models::digest;
pub use models::{ModelInfo, models};
pub use runtime::{RuntimeInfo, cuda, runtime, runtime_or_advice};

/// Sides that a detector's input may have, in pixels.
const SIDES: std::ops::RangeInclusive<u32> = 32..=4096;

/// Longest side of CenterFace's input where none is asked for.
const LONGEST: u32 = 960;

/// The picture that a network of any input runs on once.
const WARMING: (u32, u32) = (64, 64);

/// Which network.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Model {
    /// Faces, of any size; its input has any size, too.
    CenterFace,
    /// The same with whole numbers of 8 bits: twice as fast on a processor.
    CenterFaceInt8,
    /// Faces near the camera, at 128×128.
    BlazeFaceFront,
    /// Faces, at 256×256.
    BlazeFaceBack,
    /// The 80 classes of COCO, at 300×300.
    SsdLite,
    /// A user's YOLOX, YOLOv5, YOLOv8 or YOLO11, told apart by the shapes of their outputs.
    File {
        /// What it is called in messages and in the audit.
        name: String,
        /// The file's content; see [`file::read_model`].
        bytes: Arc<[u8]>,
        /// Names of its classes, in order; COCO's where it has 80 of them, else their numbers.
        labels: Option<Vec<String>>,
    },
}

/// What it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Device {
    /// CUDA where there is some, else the processor.
    #[default]
    Auto,
    /// One thread of the processor.
    Cpu,
    /// An NVIDIA card, or nothing.
    Cuda,
}

/// A detector as asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DetectorSpec {
    /// Which network.
    pub(crate) model: Model,
    /// Width and height of its input, multiples of 32 from 32 to 4096. By default that of the model; CenterFace takes
    /// the frame's shape, its long side 960 at most, sides rounded up to 32.
    pub(crate) size: Option<(u32, u32)>,
    /// Lowest score that is given back, 0..=1.
    pub(crate) floor: f32,
    /// From this score on a box that has no size is an error.
    pub(crate) sure: f32,
    /// What it runs on.
    pub(crate) device: Device,
    /// The classes to look for, by name; all where none is named.
    pub(crate) classes: Vec<String>,
}

/// How large a network sees a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zoom {
    /// A quarter as large, by means of pixels: all noise goes.
    Quarter,
    /// Half as large, by means of pixels: noise goes, and what is blurred gets edges.
    Half,
    /// As large as its input.
    Own,
    /// Larger by a third: what is small is found.
    Close,
}

impl Zoom {
    pub(crate) const ALL: [Self; 4] = [Self::Quarter, Self::Half, Self::Own, Self::Close];

    /// The size of an input, so changed, in multiples of 32.
    fn of(self, (width, height): (u32, u32)) -> (u32, u32) {
        let side = |side: u32| match self {
            Self::Own => side,
            Self::Quarter => (side / 4).next_multiple_of(32).max(*SIDES.start()),
            Self::Half => (side / 2).next_multiple_of(32),
            Self::Close => (side * 4 / 3).next_multiple_of(32).min(*SIDES.end()),
        };
        (side(width), side(height))
    }
}

/// How a network sees a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct View {
    /// How large.
    pub(crate) zoom: Zoom,
    /// How many times as bright as it is, 1 or more.
    pub(crate) gain: f32,
}

impl View {
    /// As it is.
    #[cfg(test)]
    pub(crate) const OWN: Self = Self { zoom: Zoom::Own, gain: 1.0 };
}

/// What says which network looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Its name, e.g. `centerface`, or what the user's file is called.
    pub(crate) name: String,
    /// SHA-256 of the model's file, hexadecimal.
    pub(crate) sha256: String,
}

/// A network at work.
pub(crate) trait Detector: Send {
    /// What it finds in a frame, by falling score. Boxes are in pixels of the frame; those of CenterFace
    /// end at its edges, others may reach over them. A network that does not [zoom](Self::zooms) sees it as ever.
    ///
    /// # Errors
    /// Corrupt where the network gives what is no number; Unsupported where it fails or the frame cannot be converted.
    fn detect(&mut self, frame: &Frame, view: View) -> Result<Vec<Found>>;

    /// Whether it can see pictures smaller and larger.
    fn zooms(&self) -> bool;

    /// Names of the classes, by a [`Found`]'s class.
    fn classes(&self) -> &[String];
}

/// Loads a network and runs it once, so that the first frame is as fast as the next.
///
/// # Errors
/// Unavailable without ONNX Runtime; Invalid for a size, labels or classes that do not fit; Unsupported or Corrupt for a model that
/// cannot be used, and for `cuda` where there is none.
pub(crate) fn open(spec: &DetectorSpec) -> Result<Box<dyn Detector>> {
    Ok(Box::new(Looker::open(spec)?))
}

/// The names of the classes of a network as [`open`] would load it, once what may be wrong is known not to be: the
/// program's own networks are not loaded for that, a user's is.
///
/// # Errors
/// As [`open`].
pub(crate) fn check(spec: &DetectorSpec) -> Result<Vec<String>> {
    if spec.device == Device::Cuda || matches!(spec.model, Model::File { .. }) {
        return Ok(open(spec)?.classes().to_vec());
    }
    check_asked(spec)?;
    runtime::environment()?;
    let classes = built_in_classes(&spec.model);
    spec.classes.iter().try_for_each(|class| classes::class_index(&classes, class).map(drop))?;
    Ok(classes)
}

/// Refuses what no network can do, or not the one asked for.
fn check_asked(spec: &DetectorSpec) -> Result<()> {
    if !(0.0..=1.0).contains(&spec.floor) {
        return Err(Error::invalid(format!("score '{}' is not from 0 to 1", spec.floor)));
    }
    let Some(asked) = spec.size else { return Ok(()) };
    check_size(asked)?;
    match models::built_in(&spec.model) {
        Ok(models::BuiltIn { info, size: Some(fixed), .. }) if fixed != asked => {
            Err(Error::invalid(format!(
                "size '{}x{}': {} looks at {}x{} only; leave size out",
                asked.0, asked.1, info.name, fixed.0, fixed.1
            )))
        }
        _ => Ok(()),
    }
}

/// Names of the classes of the program's own networks.
fn built_in_classes(model: &Model) -> Vec<String> {
    match model {
        Model::SsdLite => classes::coco(),
        _ => vec!["face".into()],
    }
}

/// What says which network a spec names.
pub(crate) fn identity(spec: &DetectorSpec) -> Identity {
    match models::built_in(&spec.model) {
        Ok(built_in) => {
            Identity { name: built_in.info.name.into(), sha256: built_in.info.sha256.into() }
        }
        Err((name, bytes)) => Identity { name: name.into(), sha256: file::sha256(bytes) },
    }
}

/// How a network's outputs are read.
enum Reading {
    CenterFace,
    Blaze(Vec<(f32, f32)>),
    Ssd,
    Yolo(yolo::Yolo),
}

/// A detector of any model.
struct Looker {
    net: Net,
    name: String,
    reading: Reading,
    /// One for each zoom, so that none is made anew when they take turns.
    inputs: [Input; Zoom::ALL.len()],
    /// The input's size; none where it follows the frame's.
    size: Option<(u32, u32)>,
    floor: f32,
    sure: f32,
    classes: Vec<String>,
    /// The classes that count; all where there are none.
    wanted: Vec<u16>,
}

impl Looker {
    fn open(spec: &DetectorSpec) -> Result<Self> {
        check_asked(spec)?;
        let mut looker = match models::built_in(&spec.model) {
            Ok(built_in) => Self::of_built_in(spec, &built_in)?,
            Err((name, bytes)) => Self::of_file(spec, name, bytes)?,
        };
        let index = |class: &String| classes::class_index(&looker.classes, class);
        looker.wanted = spec.classes.iter().map(index).collect::<Result<_>>()?;
        looker.warm()?;
        Ok(looker)
    }

    fn of_built_in(spec: &DetectorSpec, built_in: &models::BuiltIn) -> Result<Self> {
        let name = built_in.info.name;
        let net = Net::open(name, built_in.bytes, spec.device)?;
        let (reading, recipe) = match spec.model {
            Model::CenterFace | Model::CenterFaceInt8 => (Reading::CenterFace, Recipe::CENTERFACE),
            Model::BlazeFaceFront | Model::BlazeFaceBack => {
                (Reading::Blaze(decode::blaze_anchors()), Recipe::BLAZE)
            }
            _ => (Reading::Ssd, Recipe::SSD),
        };
        Ok(Self {
            net,
            name: name.into(),
            reading,
            inputs: Zoom::ALL.map(|_| Input::new(recipe)),
            size: spec.size.or(built_in.size),
            floor: spec.floor,
            sure: spec.sure,
            classes: built_in_classes(&spec.model),
            wanted: Vec::new(),
        })
    }

    fn of_file(spec: &DetectorSpec, name: &str, bytes: &[u8]) -> Result<Self> {
        file::check(name, bytes)?;
        let mut net = Net::open(name, bytes, spec.device)?;
        let size = yolo::input_size(name, net.input_shape()?, spec.size)?;
        let mut shapes = Vec::new();
        let blank = vec![0.0; 3 * size.0 as usize * size.1 as usize];
        net.run(&[1, 3, size.1 as usize, size.0 as usize], &blank, |outputs| {
            shapes = outputs.iter().map(|o| (o.name.to_owned(), o.shape.clone())).collect();
            Ok(())
        })?;
        let yolo = yolo::Yolo::of_shapes(name, &shapes, size)?;
        let Model::File { labels, .. } = &spec.model else {
            return Err(Error::internal("a model file that is none"));
        };
        let classes = classes::named(name, yolo.classes(), labels.as_deref())?;
        Ok(Self {
            net,
            name: name.into(),
            inputs: Zoom::ALL.map(|_| Input::new(yolo.recipe())),
            reading: Reading::Yolo(yolo),
            size: Some(size),
            floor: spec.floor,
            sure: spec.sure,
            classes,
            wanted: Vec::new(),
        })
    }

    /// Runs on a blank frame: a small one where any does.
    fn warm(&mut self) -> Result<()> {
        let size = self.size.filter(|_| !self.zooms()).unwrap_or(WARMING);
        let mut frame = Frame::new(crate::frame::PixelFormat::Gray8, size.0, size.1)?;
        frame.plane_mut(0)?.bytes.fill(128);
        self.inputs[Zoom::Own as usize].take(&frame, size, false, 1.0)?;
        self.look(Zoom::Own).map(drop)
    }

    /// What the network finds in its input as it stands, in pixels of the input.
    fn look(&mut self, zoom: Zoom) -> Result<Vec<Found>> {
        let (reading, floor, name, wanted) = (&self.reading, self.floor, &self.name, &self.wanted);
        let sure = self.sure;
        let input = &self.inputs[zoom as usize];
        let (width, height) = input.size();
        self.net.run(&input.shape(), input.values(), |outputs| {
            match reading {
                Reading::CenterFace => decode::centerface(outputs, (width, height), floor),
                Reading::Blaze(anchors) => decode::blaze(outputs, anchors, width, floor),
                Reading::Ssd => decode::ssd(outputs, (width, height), floor, wanted),
                Reading::Yolo(yolo) => yolo.decode(outputs, floor, wanted),
            }
            .and_then(|found| decode::sized(found, sure))
            .map_err(|e| e.at(format!("model '{name}'")))
        })
    }
}

impl Detector for Looker {
    fn detect(&mut self, frame: &Frame, view: View) -> Result<Vec<Found>> {
        let zoom = if self.zooms() { view.zoom } else { Zoom::Own };
        let size = self.size.unwrap_or_else(|| {
            let (width, height) = frame.shown_size();
            centerface_size(width, height)
        });
        let averaged = matches!(zoom, Zoom::Quarter | Zoom::Half);
        let input = &mut self.inputs[zoom as usize];
        let (x, y) = input.take(frame, zoom.of(size), averaged, view.gain)?;
        let mut found = self.look(zoom)?;
        for found in &mut found {
            let rect = found.rect.bounded();
            found.rect = Rect { x: rect.x * x, y: rect.y * y, w: rect.w * x, h: rect.h * y };
        }
        Ok(found)
    }

    fn zooms(&self) -> bool {
        matches!(self.reading, Reading::CenterFace)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }
}

/// The size of CenterFace's input for a frame: its shape as it is shown, the long side 960 at most, sides rounded up to 32.
fn centerface_size(width: u32, height: u32) -> (u32, u32) {
    let longest = width.max(height).max(1);
    let side = |pixels: u32| {
        let scaled = u64::from(pixels) * u64::from(LONGEST.min(longest));
        let scaled = scaled.div_ceil(u64::from(longest));
        u32::try_from(scaled.div_ceil(32) * 32).unwrap_or(LONGEST).max(*SIDES.start())
    };
    (side(width), side(height))
}

/// Whether a detector's input may have this size.
fn check_size((width, height): (u32, u32)) -> Result<()> {
    let fits = |side: u32| SIDES.contains(&side) && side.is_multiple_of(32);
    if fits(width) && fits(height) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "size '{width}x{height}': both sides must be multiples of 32 from {} to {}",
        SIDES.start(),
        SIDES.end()
    )))
}
