//! The rows of the filters that look for things, and of those that paint over them.

use frameloom_core::catalogue::{FilterInfo, ParamInfo};

use super::motion::{self, Motion};
use super::paint::Paint;
use super::place::Place;
use super::table::{
    Row, choice, file, flag, integer, number, optional_number, optional_text, per_frame, same,
};

const SHAPE: ParamInfo = choice(
    "shape",
    &["ellipse", "box"],
    "ellipse",
    "what of the box is hidden: an ellipse within it, or all of it",
);
const EVERY: ParamInfo = integer(
    "every",
    1,
    1000,
    "1",
    "look at the first frame of each so many frame durations; between them boxes are interpolated",
);
const TRACK: ParamInfo = flag(
    "track",
    "true",
    "follow what is found over time, both ways: gaps are filled, and nothing flickers",
);
const DEVICE: ParamInfo = choice(
    "device",
    &["auto", "cpu", "cuda"],
    "auto",
    "what the model runs on; auto takes CUDA where the library offers it",
);
const ON_ERROR: ParamInfo = choice(
    "on_error",
    &["fail", "hide"],
    "fail",
    "what becomes of a frame on which the model fails: the job fails, or all of the frame is hidden",
);
const SIZE: ParamInfo = optional_text(
    "size",
    "WIDTHxHEIGHT of what the model sees, multiples of 32; without it the model's own, for centerface the picture's shape with 960 pixels at most along its longer side",
);
const LABELS: ParamInfo = file(
    "labels",
    &[],
    None,
    false,
    "a text file with a class name a line, for a model of your own",
);

const fn margin(default: &'static str) -> ParamInfo {
    number(
        "margin",
        0.0,
        200.0,
        default,
        "how much more than its box is hidden at each side, in percent of the box",
    )
}

const fn threshold(default: &'static str) -> ParamInfo {
    number(
        "threshold",
        0.01,
        1.0,
        default,
        "how sure the model must be, 0..=1, for a track to begin; less sure ones continue it",
    )
}

pub(super) const DETECTING: &[Row] = &[
    Row {
        info: FilterInfo {
            name: "faces",
            summary: "Finds faces, follows them, and hides or shows them.",
            details: "Three phases: a model (CenterFace; BlazeFace is faster and finds large faces only) looks at the frames, what it \
                      finds is followed over the whole video in both directions, and then the frames are painted on \
                      their planes. Several looks that agree count as much as a sure one. The picture is decoded twice. A frame on which the model fails is never shown as it is. With an \
                      action that hides, cover pictures, data streams, subtitles (drones write their places there) and tags of place \
                      and device are left out of the output, and the summary names them (--keep-metadata keeps them). See also --detections, which tells of every box.",
            example: "faces:action=blur",
            params: &[
                choice(
                    "action",
                    &["blur", "pixelate", "fill", "boxes", "none"],
                    "blur",
                    "what is done with a face: hidden by blots, squares or black; a box around it; nothing",
                ),
                file(
                    "model",
                    &["centerface-int8", "centerface", "blazeface", "blazeface-front"],
                    Some("centerface-int8"),
                    false,
                    "the model: one of these (centerface-int8 is centerface in whole numbers, half the time on a processor; on a \
                     graphics card take centerface), or an ONNX file of your own (YOLOX, YOLOv5, YOLOv8 or YOLO11)",
                ),
                threshold("0.25"),
                integer(
                    "every",
                    1,
                    1000,
                    "1",
                    "look at the first frame of each so many frame durations, more often where it is dark or noisy (unless turned and \
                     zoomed are off); between them boxes are interpolated",
                ),
                flag(
                    "turned",
                    "true",
                    "look each sixth time at the picture turned by 50 degrees as well, two of three times where it is dark or \
                     noisy: faces that lean or lie are found",
                ),
                flag(
                    "zoomed",
                    "true",
                    "look now and then at the picture enlarged and at half its size as well, and more often where it is dark (at a quarter, too) or \
                     noisy: faces that are small or blurred are found; for centerface only",
                ),
                flag(
                    "cascade",
                    "false",
                    "look at five of six pictures at half their size only, where it is neither dark nor noisy: twice as fast, and \
                     small faces are looked for less often; for centerface only",
                ),
                SIZE,
                margin("14"),
                SHAPE,
                TRACK,
                ON_ERROR,
                DEVICE,
                LABELS,
            ],
        },
        footprint: per_frame,
        output: same,
        build: Paint::build,
        deep: false,
    },
    Row {
        info: FilterInfo {
            name: "objects",
            summary: "Finds people, cars and other things, follows them, and shows or hides them.",
            details: "As faces, with SSDLite MobileNet v2 on the 80 classes of COCO, or a model of your own.",
            example: "objects:classes=person,car:action=boxes",
            params: &[
                choice(
                    "action",
                    &["blur", "pixelate", "fill", "boxes", "none"],
                    "boxes",
                    "what is done with a thing: hidden by blots, squares or black; a box around it; nothing",
                ),
                optional_text(
                    "classes",
                    "names of the classes that count, with commas between; without it all",
                ),
                file(
                    "model",
                    &["ssdlite"],
                    Some("ssdlite"),
                    false,
                    "the model: this one, or an ONNX file of your own (YOLOX, YOLOv5, YOLOv8 or YOLO11)",
                ),
                threshold("0.4"),
                EVERY,
                SIZE,
                margin("5"),
                choice(
                    "shape",
                    &["ellipse", "box"],
                    "box",
                    "what of the box is hidden: an ellipse within it, or all of it",
                ),
                TRACK,
                ON_ERROR,
                DEVICE,
                LABELS,
            ],
        },
        footprint: per_frame,
        output: same,
        build: Paint::build,
        deep: false,
    },
    Row {
        info: FilterInfo {
            name: "regions",
            summary: "Hides or shows the boxes of a detections file, which a person may have corrected.",
            details: "The file is one that --detections has written, with boxes added, moved or taken away; each frame needs its \
                      line. A box needs its place only; one of the class frame hides its place without a margin. Boxes are in pixels of the source as displayed. A file that was made from another video is refused; trust=true scales the boxes of a picture of another size. What it hides \
                      is told by --detections again, so that verify can look at the result.",
            example: "regions:file=detections.jsonl:action=blur",
            params: &[
                file("file", &[], None, true, "the detections file (.jsonl)"),
                choice(
                    "action",
                    &["blur", "pixelate", "fill", "boxes"],
                    "blur",
                    "what is done with a box: hidden by blots, squares or black; drawn",
                ),
                margin("20"),
                SHAPE,
                flag("trust", "false", "take a file without a header, or of another video"),
            ],
        },
        footprint: per_frame,
        output: same,
        build: Paint::build,
        deep: false,
    },
    Row {
        info: FilterInfo {
            name: "motion",
            summary: "Finds what moves, and shows it.",
            details: "On a small grey picture. mog2: OpenCV's background model (BackgroundSubtractorMOG2, history 500, no \
                      shadows), for a fixed camera; it has to see some frames before it knows the background, so a video cut into \
                      segments gives nearly, not exactly, what the whole gives (see warmup). diff: what differs from the frame \
                      before. flow: what moves by more than a pixel, by OpenCV's DIS optical flow, for a moving camera, too.",
            example: "motion:method=diff:action=heatmap",
            params: &[
                choice("method", &["mog2", "diff", "flow"], "mog2", "how motion is found"),
                choice(
                    "action",
                    &["boxes", "mask", "heatmap", "highlight", "none"],
                    "boxes",
                    "what is shown: boxes, what moves in white, how much moves in colours, what moves and the rest dark",
                ),
                number(
                    "min_area",
                    0.0,
                    100.0,
                    "0.05",
                    "least area that counts, in percent of the picture",
                ),
                optional_number(
                    "threshold",
                    0.01,
                    10_000.0,
                    "mog2: squared distance from the background in standard deviations (16); diff: levels (15); flow: pixels of the small picture a frame (1)",
                ),
                number(
                    "sensitivity",
                    0.01,
                    100.0,
                    "1",
                    "divides the threshold: 2 finds fainter motion, 0.5 only stronger one",
                ),
                integer("width", 16, 4096, "640", "width of the small picture in pixels"),
                integer(
                    "warmup",
                    0,
                    100_000,
                    "50",
                    "mog2: frames before a segment from which it learns the background",
                ),
            ],
        },
        footprint: motion::footprint,
        output: same,
        build: |params, format| Ok(Box::new(Motion::new(params, format, Place::default(), None)?)),
        deep: false,
    },
];
