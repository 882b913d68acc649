//! Decoding against the numbers of the models' reference decoders, and models that are wrong.
//! `tests/detect/make.py` makes what is compared with.

use std::ffi::c_int;
use std::ptr;

use ffmpeg_next::ffi::{self, AVPixelFormat as F};
use frameloom_core::ErrorKind;

use super::*;
use crate::convert::{Scaler, Shape};
use crate::frame::PixelFormat;

const FACE_256: &[u8] = include_bytes!("../../tests/detect/face_256.rgb");
const FACE_128: &[u8] = include_bytes!("../../tests/detect/face_128.rgb");
const THINGS_300: &[u8] = include_bytes!("../../tests/detect/things_300.rgb");
const YOLOX: &[u8] = include_bytes!("../../tests/detect/yolox.onnx");
const NAN: &[u8] = include_bytes!("../../tests/detect/nan.onnx");
const CLASSIFIER: &[u8] = include_bytes!("../../tests/detect/classifier.onnx");

fn spec(model: Model) -> DetectorSpec {
    DetectorSpec {
        model,
        size: None,
        floor: 0.2,
        sure: 0.5,
        device: Device::Auto,
        classes: Vec::new(),
    }
}

fn file(bytes: &[u8], labels: Option<&[&str]>) -> DetectorSpec {
    spec(Model::File {
        name: "own.onnx".into(),
        bytes: bytes.into(),
        labels: labels.map(|labels| labels.iter().map(|label| (*label).into()).collect()),
    })
}

/// The models, with their names and a square picture of their size.
fn cases() -> [(Model, &'static str, &'static [u8], u32); 4] {
    [
        (Model::CenterFace, "centerface", FACE_256, 256),
        (Model::BlazeFaceFront, "blazeface-front", FACE_128, 128),
        (Model::BlazeFaceBack, "blazeface-back", FACE_256, 256),
        (Model::SsdLite, "ssdlite", THINGS_300, 300),
    ]
}

/// What the reference decoder of a model found: corners, score and class.
fn reference(name: &str) -> Vec<[f32; 6]> {
    let text = include_str!("../../tests/detect/reference.json");
    let all: serde_json::Value = serde_json::from_str(text).unwrap();
    let boxes: Vec<[f32; 6]> = serde_json::from_value(all["boxes"][name].clone()).unwrap();
    assert!(!boxes.is_empty());
    boxes
}

fn assert_found(found: &[Found], wanted: &[[f32; 6]], within: f32, score_within: f32) {
    assert_eq!(found.len(), wanted.len(), "{found:?}");
    for (found, wanted) in found.iter().zip(wanted) {
        let rect = found.rect;
        let corners = [rect.x, rect.y, rect.x + rect.w, rect.y + rect.h];
        assert_eq!(f32::from(found.class), wanted[5]);
        assert!((found.score - wanted[4]).abs() <= score_within, "{found:?} is not {wanted:?}");
        for (is, wanted) in corners.iter().zip(wanted) {
            assert!((is - wanted).abs() <= within, "{found:?} is not {wanted:?}");
        }
    }
}

/// A frame of a square picture of RGB, scaled to a side.
fn frame(rgb: &[u8], side: u32, to: u32, pixel: PixelFormat) -> Frame {
    let number = |v: u32| c_int::try_from(v).unwrap();
    let mut frame = Frame::new(pixel, to, to).unwrap();
    let shape = |side, format: F, full| Shape {
        width: side,
        height: side,
        format: format as c_int,
        full,
        matrix: ffi::SWS_CS_DEFAULT as c_int,
    };
    let from = shape(number(side), F::AV_PIX_FMT_RGB24, true);
    let into = shape(number(to), pixel.ffmpeg(), false);
    let mut scaler =
        Scaler::new(from, into, ffi::SWS_CS_DEFAULT as c_int, ffi::SWS_BICUBIC as c_int).unwrap();
    let mut padded = rgb.to_vec();
    padded.resize(rgb.len() + 64, 0);
    let planes = [padded.as_ptr(), ptr::null(), ptr::null(), ptr::null()];
    let raw = frame.raw_mut();
    // SAFETY: both hold pictures of the scaler's shapes.
    unsafe {
        scaler
            .scale(
                (planes.as_ptr(), [number(side) * 3, 0, 0, 0].as_ptr()),
                number(side),
                (raw.data.as_ptr().cast(), raw.linesize.as_ptr()),
            )
            .unwrap();
    }
    frame
}

#[test]
fn each_model_finds_what_its_reference_decoder_does() {
    for (model, name, rgb, side) in cases() {
        let mut looker = Looker::open(&spec(model)).unwrap();
        looker.inputs[Zoom::Own as usize].take_rgb(rgb, (side, side));
        let found = looker.look(Zoom::Own).unwrap();
        assert_found(&found, &reference(name), 1e-3, 1e-3);
        // The same again, to the last bit.
        assert_eq!(looker.look(Zoom::Own).unwrap(), found);
    }
}

#[test]
fn frames_of_any_size_and_format_give_boxes_in_their_own_pixels() {
    for (model, name, rgb, side) in cases() {
        let mut detector = open(&DetectorSpec { floor: 0.6, ..spec(model) }).unwrap();
        let sure: Vec<[f32; 6]> = reference(name).into_iter().filter(|b| b[4] > 0.6).collect();
        for pixel in [PixelFormat::Yuv444p, PixelFormat::Yuv420p, PixelFormat::Yuv420p10] {
            for double in [1u8, 2] {
                let frame = frame(rgb, side, side * u32::from(double), pixel);
                let double = f32::from(double);
                let wanted: Vec<[f32; 6]> = sure
                    .iter()
                    .map(|b| {
                        [b[0] * double, b[1] * double, b[2] * double, b[3] * double, b[4], b[5]]
                    })
                    .collect();
                let found = detector.detect(&frame, View::OWN).unwrap();
                assert_found(&found, &wanted, 12.0 * double, 0.25);
            }
        }
    }
}

#[test]
fn frames_come_in_with_their_colours() {
    let mut wanted = Input::new(Recipe::CENTERFACE);
    wanted.take_rgb(THINGS_300, (300, 300));
    for (pixel, most) in
        [(PixelFormat::Yuv444p, 2.0), (PixelFormat::Yuv420p, 4.0), (PixelFormat::Yuv420p10, 4.0)]
    {
        for side in [300, 600] {
            let mut input = Input::new(Recipe::CENTERFACE);
            input.take(&frame(THINGS_300, 300, side, pixel), (300, 300), false, 1.0).unwrap();
            let pairs = input.values().iter().zip(wanted.values());
            let off: f32 = pairs.map(|(is, wanted)| (is - wanted).abs()).sum();
            let off = off / (300.0 * 300.0 * 3.0);
            assert!(off < most, "{pixel:?} of {side}: {off} levels off");
        }
    }
}

#[test]
fn centerface_in_whole_numbers_finds_the_same() {
    let mut looker =
        Looker::open(&DetectorSpec { floor: 0.6, ..spec(Model::CenterFaceInt8) }).unwrap();
    looker.inputs[Zoom::Own as usize].take_rgb(FACE_256, (256, 256));
    let found = looker.look(Zoom::Own).unwrap();
    let wanted: Vec<_> = reference("centerface").into_iter().filter(|f| f[4] >= 0.6).collect();
    assert_found(&found, &wanted, 4.0, 0.1);
}

#[test]
fn pixels_that_are_no_squares_are_looked_at_as_they_are_shown() {
    let mut frame = Frame::new(PixelFormat::Gray8, 1280, 240).unwrap();
    for ((num, den), shown) in [
        ((1, 4), (320, 240)),
        ((2, 1), (1280, 120)),
        ((1, 1), (1280, 240)),
        ((0, 1), (1280, 240)),
        ((1, 100_000), (1, 240)),
    ] {
        frame.raw_mut().sample_aspect_ratio = ffi::AVRational { num, den };
        assert_eq!(frame.shown_size(), shown);
    }
}

#[test]
fn centerface_looks_at_the_shape_of_the_frame() {
    for (frame, size) in [
        ((1920, 1080), (960, 544)),
        ((1080, 1920), (544, 960)),
        ((768, 576), (768, 576)),
        ((320, 256), (320, 256)),
        ((176, 144), (192, 160)),
        ((1, 1), (32, 32)),
        ((10_000, 1), (960, 32)),
    ] {
        assert_eq!(centerface_size(frame.0, frame.1), size);
    }
}

#[test]
fn what_is_found_smaller_and_larger_lies_where_it_is() {
    assert_eq!(Zoom::Half.of((960, 544)), (480, 288));
    assert_eq!(Zoom::Close.of((960, 544)), (1280, 736));
    assert_eq!(Zoom::Half.of((32, 32)), (32, 32));
    assert_eq!(Zoom::Quarter.of((960, 544)), (256, 160));
    assert_eq!(Zoom::Close.of((4096, 32)), (4096, 64));
    let mut detector = open(&DetectorSpec { floor: 0.6, ..spec(Model::CenterFace) }).unwrap();
    assert!(detector.zooms());
    let frame = frame(FACE_256, 256, 512, PixelFormat::Yuv420p);
    let own = detector.detect(&frame, View::OWN).unwrap();
    for zoom in [Zoom::Quarter, Zoom::Half, Zoom::Close] {
        let found = detector.detect(&frame, View { zoom, ..View::OWN }).unwrap();
        assert_eq!((own.len(), found.len()), (1, 1), "{zoom:?}");
        assert_ne!(found, own, "{zoom:?}");
        assert!(found[0].rect.iou(&own[0].rect) > 0.7, "{zoom:?}: {found:?} beside {own:?}");
    }
    let mut fixed = open(&spec(Model::BlazeFaceBack)).unwrap();
    assert!(!fixed.zooms());
    let seen = fixed.detect(&frame, View::OWN).unwrap();
    let close = View { zoom: Zoom::Close, ..View::OWN };
    assert_eq!(fixed.detect(&frame, close).unwrap(), seen);
}

#[test]
fn a_yolo_of_a_user_is_read() {
    let mut detector = open(&file(YOLOX, Some(&["cat", "dog"]))).unwrap();
    assert_eq!(detector.classes(), ["cat", "dog"]);
    let mut frame = Frame::new(PixelFormat::Gray8, 64, 32).unwrap();
    frame.plane_mut(0).unwrap().bytes.fill(90);
    // Cell 5 of stride 8 is in the second line, second column; a pixel of the input is two of the frame.
    let found = detector.detect(&frame, View::OWN).unwrap();
    assert_found(&found, &[[8.0, 8.0, 40.0, 40.0, 0.9, 1.0]], 1e-3, 1e-3);
    let identity = identity(&file(YOLOX, None));
    assert_eq!((identity.name.as_str(), identity.sha256.len()), ("own.onnx", 64));
}

#[test]
fn what_is_no_number_never_comes_out() {
    let error = open(&file(NAN, None)).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("model 'own.onnx' gave 1 values in 'output'"), "{error}");
}

#[test]
fn models_that_cannot_be_used_are_told_in_words() {
    let complaint = |spec: &DetectorSpec| open(spec).map(drop).unwrap_err();
    let error = complaint(&file(b"", None));
    assert!(error.message().contains("empty file"), "{error}");
    let error = complaint(&file(&YOLOX[..YOLOX.len() - 20], None));
    assert!(error.message().contains("cut off"), "{error}");
    let error = complaint(&file(b"#!/bin/sh\necho hello\n", None));
    assert!(error.message().contains("no ONNX file"), "{error}");
    // Whole by its outer fields, and nonsense inside.
    let mut nonsense = YOLOX.to_vec();
    nonsense[20..60].fill(0xff);
    let error = complaint(&file(&nonsense, None));
    assert!(error.message().contains("cannot be used"), "{error}");
    let error = complaint(&file(CLASSIFIER, None));
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("gives 1×10, which is none of YOLOX's"), "{error}");
    let front = include_bytes!("../../../../models/blazeface_front_128.onnx");
    let error = complaint(&file(front, None));
    assert!(error.message().contains("takes 1×128×128×3"), "{error}");
    let error = complaint(&file(YOLOX, Some(&["cat"])));
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("1 labels for the 2 classes"), "{error}");
}

#[test]
fn sizes_and_scores_that_cannot_be_are_refused() {
    let with = |model, size, floor| {
        open(&DetectorSpec { size, floor, ..spec(model) }).map(drop).unwrap_err()
    };
    for size in [(0, 32), (33, 64), (64, 4128)] {
        let error = with(Model::CenterFace, Some(size), 0.5);
        assert!(error.message().contains("multiples of 32"), "{error}");
    }
    let error = with(Model::SsdLite, Some((320, 320)), 0.5);
    assert!(error.message().contains("looks at 300x300 only"), "{error}");
    assert_eq!(with(Model::CenterFace, None, f32::NAN).kind(), ErrorKind::Invalid);
}

/// What is told of a network that is not loaded is what would be told of one that is.
#[test]
fn what_is_wrong_is_told_without_loading_the_programs_own_networks() {
    for (model, ..) in cases() {
        let fine = spec(model);
        assert_eq!(check(&fine).unwrap(), open(&fine).unwrap().classes());
        for wrong in [
            DetectorSpec { size: Some((33, 64)), ..fine.clone() },
            DetectorSpec { floor: f32::NAN, ..fine.clone() },
            DetectorSpec { classes: vec!["elefant".into()], ..fine.clone() },
        ] {
            let error = open(&wrong).map(drop).unwrap_err();
            assert_eq!(check(&wrong).unwrap_err(), error, "{wrong:?}");
        }
    }
    let fixed = DetectorSpec { size: Some((320, 320)), ..spec(Model::SsdLite) };
    assert_eq!(check(&fixed).unwrap_err(), open(&fixed).map(drop).unwrap_err());
    assert_eq!(check(&file(YOLOX, None)).unwrap(), ["0", "1"]);
    assert!(check(&file(NAN, None)).is_err());
}

#[test]
fn cuda_is_refused_where_the_library_has_none() {
    let cuda = DetectorSpec { device: Device::Cuda, ..spec(Model::BlazeFaceFront) };
    let offered = super::cuda().unwrap();
    match open(&cuda).map(drop) {
        Ok(()) => assert!(offered),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(error.message().contains("made without CUDA"), !offered, "{error}");
        }
    }
}
