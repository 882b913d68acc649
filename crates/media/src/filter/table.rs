//! The table of filters: one row each. Help, API, documentation and tests follow from it.

use std::sync::LazyLock;

use frameloom_core::catalogue::{Catalogue, FilterInfo, Footprint, ParamInfo, ParamKind, Params};
use frameloom_core::frame_task::{FILTER, FrameTaskSpec};
use frameloom_core::{Error, Result};

use super::arithmetic::{Gray, Invert, Levels};
use super::crop::Crop;
use super::denoise::Denoise;
use super::edges::Edges;
use super::graph::GraphFilter;
use super::overlay_time::OverlayTime;
use super::pixelate::Pixelate;
use super::scale::Scale;
use super::smooth::Smooth;
use super::table_detecting::DETECTING;
use super::trial::Fault;
use super::{Filter, graph_rules};
use crate::frame::FrameFormat;

/// A filter: what users see of it, and how it is made.
pub(super) struct Row {
    /// What users see.
    pub(super) info: FilterInfo,
    /// Which frames it needs.
    pub(super) footprint: fn(&Params) -> Result<Footprint>,
    /// The format of what comes out.
    pub(super) output: fn(&Params, &FrameFormat) -> Result<FrameFormat>,
    /// Makes it for frames of a format. The chain makes the filter `celery` itself.
    pub(super) build: fn(&Params, &FrameFormat) -> Result<Box<dyn Filter>>,
    /// Whether it takes more than 8 bits a sample.
    pub(super) deep: bool,
}

/// What stands in for `celery` where frames cannot go elsewhere, as in planning.
struct Nowhere;

impl super::PerFrame for Nowhere {
    fn apply(&mut self, _: crate::frame::Frame) -> Result<crate::frame::Frame> {
        Err(Error::unsupported("the filter 'celery' needs --broker redis:// and Celery workers"))
    }
}

/// The environment variable that offers the filters that misbehave on purpose.
const TRIAL_VARIABLE: &str = "FRAMELOOM_TEST_FAULTS";

/// The filters there are. Those that misbehave on purpose are among them where the environment
/// asks for them, which whoever sends a job cannot.
pub fn catalogue() -> Catalogue {
    static INFOS: LazyLock<Vec<FilterInfo>> = LazyLock::new(|| {
        let trial = std::env::var_os(TRIAL_VARIABLE).is_some();
        rows()
            .map(|row| row.info.clone())
            .filter(|info| trial || !info.name.starts_with("test-"))
            .collect()
    });
    Catalogue(&INFOS)
}

/// The rows of all filters.
pub(super) fn rows() -> impl Iterator<Item = &'static Row> + Clone {
    FILTERS.iter().chain(DETECTING)
}

/// The row of a filter.
pub(super) fn row(name: &str) -> Result<&'static Row> {
    rows()
        .find(|row| row.info.name == name)
        .ok_or_else(|| Error::internal(format!("filter '{name}' has no table row")))
}

const ROI: ParamInfo = ParamInfo {
    name: "roi",
    kind: ParamKind::Region,
    default: None,
    required: false,
    help: "work on this region only, in pixels or percent of the picture; without it on all of it",
};

const fn text(name: &'static str, default: Option<&'static str>, help: &'static str) -> ParamInfo {
    ParamInfo { name, kind: ParamKind::Text, default, required: default.is_none(), help }
}

pub(super) const fn number(
    name: &'static str,
    min: f64,
    max: f64,
    default: &'static str,
    help: &'static str,
) -> ParamInfo {
    let kind = ParamKind::Number { min, max };
    ParamInfo { name, kind, default: Some(default), required: false, help }
}

pub(super) const fn integer(
    name: &'static str,
    min: i64,
    max: i64,
    default: &'static str,
    help: &'static str,
) -> ParamInfo {
    let kind = ParamKind::Integer { min, max, odd: false };
    ParamInfo { name, kind, default: Some(default), required: false, help }
}

const fn odd(
    name: &'static str,
    min: i64,
    max: i64,
    default: &'static str,
    help: &'static str,
) -> ParamInfo {
    let kind = ParamKind::Integer { min, max, odd: true };
    ParamInfo { name, kind, default: Some(default), required: false, help }
}

const fn optional(name: &'static str, max: i64, min: i64, help: &'static str) -> ParamInfo {
    let kind = ParamKind::Integer { min, max, odd: false };
    ParamInfo { name, kind, default: None, required: false, help }
}

pub(super) const fn optional_number(
    name: &'static str,
    min: f64,
    max: f64,
    help: &'static str,
) -> ParamInfo {
    ParamInfo { name, kind: ParamKind::Number { min, max }, default: None, required: false, help }
}

pub(super) const fn choice(
    name: &'static str,
    values: &'static [&'static str],
    default: &'static str,
    help: &'static str,
) -> ParamInfo {
    let kind = ParamKind::Choice { values };
    ParamInfo { name, kind, default: Some(default), required: false, help }
}

pub(super) const fn flag(
    name: &'static str,
    default: &'static str,
    help: &'static str,
) -> ParamInfo {
    ParamInfo { name, kind: ParamKind::Boolean, default: Some(default), required: false, help }
}

/// A file, or one of `words`; one that has neither words nor a default must be given where `required`.
pub(super) const fn file(
    name: &'static str,
    words: &'static [&'static str],
    default: Option<&'static str>,
    required: bool,
    help: &'static str,
) -> ParamInfo {
    ParamInfo { name, kind: ParamKind::File { words }, default, required, help }
}

pub(super) const fn optional_text(name: &'static str, help: &'static str) -> ParamInfo {
    ParamInfo { name, kind: ParamKind::Text, default: None, required: false, help }
}

pub(super) fn same(_: &Params, format: &FrameFormat) -> Result<FrameFormat> {
    Ok(format.clone())
}

pub(super) fn per_frame(_: &Params) -> Result<Footprint> {
    Ok(Footprint::PerFrame)
}

/// All filters, in the order of the help.
static FILTERS: &[Row] = &[
    Row {
        info: FilterInfo {
            name: "gray",
            summary: "Takes the colour away.",
            details: "Chroma becomes 128, luma stays as it is. Equals FFmpeg's hue=s=0.",
            example: "gray",
            params: &[ROI],
        },
        footprint: per_frame,
        output: same,
        build: Gray::build,
        deep: false,
    },
    Row {
        info: FilterInfo {
            name: "invert",
            summary: "Turns the picture into its negative.",
            details: "Each sample v of each plane becomes 255 - v. Equals FFmpeg's negate.",
            example: "invert",
            params: &[ROI],
        },
        footprint: per_frame,
        output: same,
        build: Invert::build,
        deep: false,
    },
    Row {
        info: FilterInfo {
            name: "levels",
            summary: "Changes brightness, contrast and gamma.",
            details: "On luma, by a table. Equals FFmpeg's eq with the same values.",
            example: "levels:contrast=1.2:gamma=1.1",
            params: &[
                number("brightness", -1.0, 1.0, "0", "added to each level; 1 is white"),
                number("contrast", 0.0, 10.0, "1", "times the distance from middle grey"),
                number("gamma", 0.1, 10.0, "1", "above 1 lightens the dark parts"),
                ROI,
            ],
        },
        footprint: per_frame,
        output: same,
        build: Levels::build,
        deep: false,
    },
    Row {
        info: FilterInfo {
            name: "blur",
            summary: "Blurs by a Gaussian.",
            details: "On each plane with the same sigma, in that plane's samples, as FFmpeg's gblur \
                      does. Equals cv::GaussianBlur(plane, Size(), sigma).",
            example: "blur:sigma=3",
            params: &[
                number("sigma", 0.1, 64.0, "1.5", "standard deviation in samples of the plane"),
                ROI,
            ],
        },
        footprint: per_frame,
        output: same,
        build: Smooth::gaussian,
        deep: false,
    },
    Row {
        info: FilterInfo {
            name: "box",
            summary: "Blurs by the mean of a square.",
            details: "On each plane. Equals cv::blur(plane, Size(size, size)).",
            example: "box:size=7",
            params: &[integer("size", 1, 255, "5", "side of the square in samples"), ROI],
        },
        footprint: per_frame,
        output: same,
        build: Smooth::mean,
        deep: false,
    },
    Row {
        info: FilterInfo {
            name: "median",
            summary: "Takes the median of a square: removes specks, keeps edges.",
            details: "On each plane. Equals cv::medianBlur(plane, size).",
            example: "median:size=5",
            params: &[odd("size", 1, 99, "3", "side of the square in samples"), ROI],
        },
        footprint: per_frame,
        output: same,
        build: Smooth::median,
        deep: false,
    },
    Row {
        info: FilterInfo {
            name: "bilateral",
            summary: "Smooths areas and keeps edges.",
            details: "On each plane. Equals cv::bilateralFilter(plane, d, color, space). Slow.",
            example: "bilateral:d=5:color=40:space=3",
            params: &[
                integer("d", 1, 25, "5", "diameter of the neighbourhood in samples"),
                number("color", 0.1, 255.0, "30", "how far levels may differ to be mixed"),
                number("space", 0.1, 50.0, "3", "how far samples may be apart to be mixed"),
                ROI,
            ],
        },
        footprint: per_frame,
        output: same,
        build: Smooth::bilateral,
        deep: false,
    },
    Row {
        info: FilterInfo {
            name: "sharpen",
            summary: "Sharpens by an unsharp mask.",
            details: "On luma: the picture plus amount times its difference from its Gaussian blur. \
                      Equals cv::addWeighted(luma, 1 + amount, cv::GaussianBlur(luma, sigma), -amount, 0).",
            example: "sharpen:amount=1",
            params: &[
                number("amount", 0.0, 10.0, "0.8", "how much; 0 changes nothing"),
                number("sigma", 0.1, 64.0, "1.5", "size of the details, in samples"),
                ROI,
            ],
        },
        footprint: per_frame,
        output: same,
        build: Smooth::unsharp,
        deep: false,
    },
    Row {
        info: FilterInfo {
            name: "edges",
            summary: "Shows edges: white on black, or over the picture.",
            details: "Canny on luma. Equals cv::Canny(luma, low, high, aperture).",
            example: "edges:low=50:high=150",
            params: &[
                number("low", 0.0, 10000.0, "100", "weaker gradients are never an edge"),
                number("high", 0.0, 10000.0, "200", "stronger gradients always are"),
                ParamInfo {
                    name: "aperture",
                    kind: ParamKind::Integer { min: 3, max: 7, odd: true },
                    default: Some("3"),
                    required: false,
                    help: "size of the Sobel operator",
                },
                ParamInfo {
                    name: "overlay",
                    kind: ParamKind::Boolean,
                    default: Some("false"),
                    required: false,
                    help: "draw the edges over the picture",
                },
                ROI,
            ],
        },
        footprint: per_frame,
        output: same,
        build: Edges::build,
        deep: false,
    },
    Row {
        info: FilterInfo {
            name: "pixelate",
            summary: "Makes blocks of one colour each.",
            details: "Each block becomes its mean; blocks count from the picture's corner, also \
                      within a region. Equals cv::resize by INTER_AREA and back by INTER_NEAREST.",
            example: "pixelate:size=16:roi=25%,25%,50%,50%",
            params: &[integer("size", 2, 512, "16", "side of a block in pixels"), ROI],
        },
        footprint: per_frame,
        output: same,
        build: Pixelate::build,
        deep: false,
    },
    Row {
        info: FilterInfo {
            name: "denoise",
            summary: "Takes the median of each sample over time: removes noise and flicker.",
            details: "Over 3 or 5 frames around each one; at the ends of the video the first and \
                      last frames are repeated. Equals numpy.median over the same frames.",
            example: "denoise:frames=3",
            params: &[
                ParamInfo {
                    name: "frames",
                    kind: ParamKind::Integer { min: 3, max: 5, odd: true },
                    default: Some("3"),
                    required: false,
                    help: "how many frames: 3 or 5",
                },
                ROI,
            ],
        },
        footprint: |params| {
            let half = u32::try_from(params.integer("frames")? / 2).unwrap_or(1);
            Ok(Footprint::Window { before: half, after: half })
        },
        output: same,
        build: Denoise::build,
        deep: false,
    },
    Row {
        info: FilterInfo {
            name: "crop",
            summary: "Keeps a part of the picture.",
            details: "Equals FFmpeg's crop: the middle where no corner is given; corners are rounded \
                      down to whole chroma samples.",
            example: "crop:w=640:h=360",
            params: &[
                optional("w", 16384, 1, "width in pixels; the picture's where not given"),
                optional("h", 16384, 1, "height in pixels; the picture's where not given"),
                optional("x", 16384, 0, "left edge in pixels; centred where not given"),
                optional("y", 16384, 0, "upper edge in pixels; centred where not given"),
            ],
        },
        footprint: per_frame,
        output: Crop::output,
        build: Crop::build,
        deep: true,
    },
    Row {
        info: FilterInfo {
            name: "scale",
            summary: "Changes the picture's size.",
            details: "Bicubic, as FFmpeg's scale with flags=bicubic+accurate_rnd+full_chroma_int. A \
                      side that is not given keeps the picture's shape.",
            example: "scale:w=320",
            params: &[
                optional("w", 16384, 2, "width in pixels"),
                optional("h", 16384, 2, "height in pixels"),
            ],
        },
        footprint: per_frame,
        output: Scale::output,
        build: Scale::build,
        deep: true,
    },
    Row {
        info: FilterInfo {
            name: "overlay-time",
            summary: "Burns time and pts into the picture.",
            details: "In the upper left corner: H:MM:SS.mmm and the pts in ticks, as in the source.",
            example: "overlay-time:size=2",
            params: &[integer("size", 1, 16, "2", "pixels a dot of the digits")],
        },
        footprint: per_frame,
        output: same,
        build: OverlayTime::build,
        deep: false,
    },
    Row {
        info: FilterInfo {
            name: "ffmpeg",
            summary: "Runs a libavfilter graph.",
            details: "The rest of the argument is the graph, as after ffmpeg's -vf. Graphs that keep \
                      one frame in, one frame out can be used; frames are those of the ffmpeg command \
                      line. What names a file, a device or a URL is refused.",
            example: "ffmpeg:hflip,eq=contrast=1.2",
            params: &[ParamInfo {
                name: "graph",
                kind: ParamKind::Text,
                default: None,
                required: true,
                help: "filters with their options, separated by commas",
            }],
        },
        footprint: |params| graph_rules::footprint(params.text("graph")?),
        output: GraphFilter::output,
        build: GraphFilter::build,
        deep: true,
    },
    Row {
        info: FilterInfo {
            name: FILTER,
            summary: "Has ordinary Celery workers process each frame, as RGB, in Python.",
            details: "Each frame is a task of its own (or `batch` of them): a function with the decorator \
                      frameloom.celery.frame_task gets it as an array of height x width x 3 bytes and \
                      gives one of the same shape back. Only tasks that the server's operator has allowed \
                      (--allow-task) can be asked for, on a server with --broker redis://. Going to RGB \
                      and back costs up to two levels of colour.",
            example: "celery:task=mytasks.anonymise:queue=python",
            params: &[
                text("task", None, "the Celery task's name"),
                text("queue", None, "the queue that its workers consume"),
                integer(
                    "window",
                    1,
                    1024,
                    "32",
                    "frames under way at most, of one slot; fewer where frames are large",
                ),
                integer(
                    "batch",
                    1,
                    64,
                    "1",
                    "frames a task, for functions that take several at a time",
                ),
                optional(
                    "timeout",
                    86_400,
                    1,
                    "seconds that a worker may take for a task, instead of what its code says",
                ),
                ParamInfo {
                    name: "on_error",
                    kind: ParamKind::Choice { values: &["fail", "skip", "hold", "original"] },
                    default: Some("fail"),
                    required: false,
                    help: "what becomes of a frame whose task failed three times: the job fails, the frame is left \
                           out, the frame before is shown again (for the first ones of a segment the next that is done), or \
                           the frame stays as it is",
                },
                ParamInfo {
                    name: "hides",
                    kind: ParamKind::Boolean,
                    default: Some("false"),
                    required: false,
                    help: "whether the function hides what must not be seen: then no frame stays as it is, and pictures of \
                           the source are kept from clients, as with faces",
                },
                ParamInfo {
                    name: "moves",
                    kind: ParamKind::Boolean,
                    default: Some("true"),
                    required: false,
                    help: "whether the function may show at another place what is in a frame, as one that mirrors or steadies does: \
                           then faces, objects and regions have to come before it",
                },
                text("params", Some("{}"), "what the function gets as params, a JSON object"),
            ],
        },
        footprint: |params| FrameTaskSpec::of(params).map(|_| Footprint::PerFrame),
        output: same,
        build: |_, _| Ok(Box::new(Nowhere)),
        deep: false,
    },
    Row {
        info: FilterInfo {
            name: "test-fault",
            summary: "Misbehaves on purpose, to try how slots are supervised.",
            details: "For tests of Frameloom itself.",
            example: "test-fault:kind=slow",
            params: &[
                ParamInfo {
                    name: "kind",
                    kind: ParamKind::Choice {
                        values: &["hang", "eat", "crash", "fail", "miss", "slow", "peek"],
                    },
                    default: None,
                    required: true,
                    help: "hang for ever, allocate without end, abort, fail, fail at that frame alone, take 20 ms a frame, or open files",
                },
                integer(
                    "at",
                    -1_000_000_000_000,
                    1_000_000_000_000,
                    "0",
                    "from this pts on, in ticks",
                ),
            ],
        },
        footprint: per_frame,
        output: same,
        build: Fault::build,
        deep: false,
    },
];
