//! Cut = whole over clips, segment lengths and thread counts that nobody chose.
//!
//! What ever failed is kept beside this file by proptest, and tried first.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use proptest::prelude::*;
use support::{ffmpeg, frames, hashes, lossless, run};

/// How a clip is made.
#[derive(Debug, Clone)]
struct Clip {
    codec: usize,
    container: usize,
    rate: usize,
    frames: u32,
    gop: u32,
    b_frames: u32,
    open: bool,
    /// Keeps every frame of the first ones, and each so-many-th of the rest.
    thinned: Option<u32>,
}

const RATES: [&str; 5] = ["10", "24", "25", "30000/1001", "60"];
const CONTAINERS: [&str; 4] = ["mp4", "mkv", "ts", "mov"];

fn clip() -> impl Strategy<Value = Clip> {
    (
        0usize..3,
        0..CONTAINERS.len(),
        0..RATES.len(),
        2u32..110,
        1u32..40,
        0u32..4,
        any::<bool>(),
        proptest::option::of(2u32..9),
    )
        .prop_map(|(codec, container, rate, frames, gop, b_frames, open, thinned)| Clip {
            codec,
            container,
            rate,
            frames,
            gop,
            b_frames,
            open,
            thinned,
        })
}

fn args(clip: &Clip) -> Vec<String> {
    let source = format!("testsrc2=s=64x48:r={}", RATES[clip.rate]);
    let (gop, b_frames) = (clip.gop.to_string(), clip.b_frames.to_string());
    let mut args: Vec<String> =
        ["-f", "lavfi", "-i", &source, "-frames:v", &clip.frames.to_string()]
            .map(str::to_owned)
            .into();
    if let Some(each) = clip.thinned {
        let select = format!("select='lt(n,20)+not(mod(n,{each}))'");
        args.extend(["-vf", &select, "-vsync", "vfr"].map(str::to_owned));
    }
    let open = if clip.open { "open-gop=1" } else { "open-gop=0" };
    let codec: &[&str] = match clip.codec {
        0 => &["-c:v", "libx264", "-preset", "veryfast", "-x264-params", open],
        1 => &["-c:v", "mpeg4", "-q:v", "5"],
        _ => &["-c:v", "mpeg2video", "-q:v", "5", "-r", "25"],
    };
    args.extend(codec.iter().map(|arg| (*arg).to_owned()));
    args.extend(["-g", &gop, "-bf", &b_frames, "-pix_fmt", "yuv420p"].map(str::to_owned));
    args
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_cut_job_gives_the_frames_of_a_whole_one(
        clip in clip(),
        segment_us in 50_000i64..2_500_000,
        threads in 1u32..5,
        window in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join(format!("clip.{}", CONTAINERS[clip.container]));
        let mut args = args(&clip);
        args.push(source.to_str().unwrap().to_owned());
        ffmpeg(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let filters: &[&str] = if window { &["denoise:frames=5", "blur"] } else { &[] };
        let whole = run(&source, &lossless(filters, Some(1_000_000_000)), dir.path(), 1).unwrap();
        let whole_frames = frames(&whole.output, &[], &[]);
        if !window {
            let expected = frames(&source, &[], &[]);
            prop_assert!(hashes(&whole_frames) == hashes(&expected), "not ffmpeg's frames");
        }
        let cut = run(&source, &lossless(filters, Some(segment_us)), dir.path(), threads).unwrap();
        let segments = cut.plan.segments.len();
        prop_assert!(frames(&cut.output, &[], &[]) == whole_frames, "{segments} segments differ");
    }
}
