//! The most valuable test of the project: a job cut into segments gives the same frames, at the
//! same times, as the job run whole, and as `ffmpeg` decodes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};

use support::{complaints, ffmpeg, ffprobe, frames, hashes, lossless, run};

/// A generated clip: its file's name, and how ffmpeg makes it from `SOURCE`.
struct Clip {
    file: &'static str,
    args: &'static [&'static str],
    /// Whether it must be cut.
    cut: bool,
}

const CLIPS: &[Clip] = &[
    Clip { file: "closed.mp4", args: &["-c:v", "libx264", "-g", "25", "-bf", "3"], cut: true },
    Clip {
        file: "open.mp4",
        args: &[
            "-c:v",
            "libx264",
            "-g",
            "25",
            "-bf",
            "3",
            "-x264-params",
            "open-gop=1:b-pyramid=strict",
        ],
        cut: true,
    },
    Clip {
        file: "open.mkv",
        args: &["-c:v", "libx264", "-g", "25", "-x264-params", "open-gop=1"],
        cut: true,
    },
    Clip { file: "closed.ts", args: &["-c:v", "libx264", "-g", "25"], cut: true },
    Clip {
        file: "high.ts",
        args: &["-c:v", "libx264", "-g", "25", "-output_ts_offset", "95443"],
        cut: true,
    },
    Clip {
        file: "open.ts",
        args: &["-c:v", "libx264", "-g", "25", "-x264-params", "open-gop=1"],
        cut: true,
    },
    Clip {
        file: "mpeg2.ts",
        args: &["-c:v", "mpeg2video", "-g", "12", "-bf", "2", "-q:v", "4"],
        cut: true,
    },
    Clip {
        file: "mpeg2.mkv",
        args: &["-c:v", "mpeg2video", "-g", "12", "-bf", "2", "-q:v", "4"],
        cut: true,
    },
    Clip {
        file: "mpeg2.mpg",
        args: &["-c:v", "mpeg2video", "-g", "12", "-bf", "2", "-q:v", "4"],
        cut: true,
    },
    Clip {
        file: "hevc.mp4",
        args: &[
            "-c:v",
            "libx265",
            "-preset",
            "ultrafast",
            "-g",
            "25",
            "-x265-params",
            "log-level=none",
        ],
        cut: true,
    },
    Clip {
        file: "hevc.mkv",
        args: &[
            "-c:v",
            "libx265",
            "-preset",
            "ultrafast",
            "-g",
            "25",
            "-x265-params",
            "log-level=none:open-gop=1",
        ],
        cut: true,
    },
    Clip {
        file: "hevc.ts",
        args: &[
            "-c:v",
            "libx265",
            "-preset",
            "ultrafast",
            "-g",
            "25",
            "-x265-params",
            "log-level=none",
        ],
        cut: true,
    },
    Clip {
        file: "vp9.webm",
        args: &["-c:v", "libvpx-vp9", "-g", "25", "-deadline", "realtime", "-cpu-used", "8"],
        cut: true,
    },
    Clip {
        file: "vp8.webm",
        args: &["-c:v", "libvpx", "-g", "25", "-deadline", "realtime", "-cpu-used", "8"],
        cut: true,
    },
    Clip { file: "av1.mkv", args: &["-c:v", "libsvtav1", "-preset", "12", "-g", "25"], cut: true },
    Clip { file: "av1.mp4", args: &["-c:v", "libsvtav1", "-preset", "12", "-g", "25"], cut: true },
    Clip { file: "mpeg4.mp4", args: &["-c:v", "mpeg4", "-g", "25", "-bf", "2"], cut: true },
    Clip { file: "mpeg4.avi", args: &["-c:v", "mpeg4", "-g", "25", "-bf", "2"], cut: true },
    Clip { file: "mpeg4.mkv", args: &["-c:v", "mpeg4", "-g", "25", "-bf", "2"], cut: true },
    Clip { file: "h264.avi", args: &["-c:v", "libx264", "-g", "25", "-bf", "2"], cut: true },
    Clip { file: "mjpeg.avi", args: &["-c:v", "mjpeg", "-q:v", "4"], cut: true },
    Clip { file: "intra.mp4", args: &["-c:v", "libx264", "-g", "1"], cut: true },
    Clip {
        file: "refresh.mp4",
        args: &["-c:v", "libx264", "-g", "25", "-x264-params", "intra-refresh=1"],
        cut: false,
    },
    Clip {
        file: "onegop.mp4",
        args: &["-c:v", "libx264", "-g", "9999", "-sc_threshold", "0"],
        cut: false,
    },
    Clip {
        file: "fragmented.mp4",
        args: &["-c:v", "libx264", "-g", "25", "-movflags", "frag_keyframe+empty_moov"],
        cut: true,
    },
    Clip {
        file: "editlist.mp4",
        args: &["-c:v", "libx264", "-g", "25", "-bf", "3", "-output_ts_offset", "0.7"],
        cut: true,
    },
    Clip {
        file: "negative.mkv",
        args: &[
            "-c:v",
            "libx264",
            "-g",
            "25",
            "-output_ts_offset",
            "-0.5",
            "-avoid_negative_ts",
            "disabled",
        ],
        cut: true,
    },
    Clip {
        file: "vfr.mp4",
        args: &["-vf", "select='lt(n,50)+not(mod(n,10))'", "-vsync", "vfr", "-g", "5"],
        cut: true,
    },
    Clip {
        file: "ntsc.mov",
        args: &["-r", "30000/1001", "-c:v", "libx264", "-g", "25"],
        cut: true,
    },
    Clip {
        file: "interlaced.ts",
        args: &[
            "-vf",
            "tinterlace=interleave_top",
            "-c:v",
            "libx264",
            "-flags",
            "+ilme+ildct",
            "-x264-params",
            "tff=1",
            "-g",
            "15",
        ],
        cut: true,
    },
    Clip {
        file: "bottom.mp4",
        args: &[
            "-vf",
            "tinterlace=interleave_bottom",
            "-c:v",
            "libx264",
            "-flags",
            "+ilme+ildct",
            "-x264-params",
            "bff=1",
            "-g",
            "15",
        ],
        cut: true,
    },
    Clip {
        file: "timeless.mkv",
        args: &[
            "-c:v",
            "libx264",
            "-g",
            "25",
            "-output_ts_offset",
            "-3",
            "-avoid_negative_ts",
            "disabled",
        ],
        cut: false,
    },
];

fn make(clip: &Clip, dir: &Path) -> PathBuf {
    let path = dir.join(clip.file);
    let source = "testsrc2=s=160x120:r=25:d=6,noise=alls=8:allf=t:all_seed=7";
    let mut args = vec!["-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p"];
    args.extend(clip.args);
    let out = path.to_str().unwrap();
    args.push(out);
    ffmpeg(&args);
    path
}

fn check(clip: &Clip) {
    let dir = tempfile::tempdir().unwrap();
    let source = make(clip, dir.path());
    let expected = frames(&source, &[], &[]);
    let whole = run(&source, &lossless(&[], Some(1_000_000_000)), dir.path(), 1).unwrap();
    assert_eq!(whole.plan.segments.len(), 1);
    let whole_frames = frames(&whole.output, &[], &[]);
    assert!(hashes(&whole_frames) == hashes(&expected), "{}: not ffmpeg's frames", clip.file);
    for (segment_us, threads) in [(None, 2), (Some(1_000_000), 1), (Some(300_000), 3)] {
        let cut = run(&source, &lossless(&[], segment_us), dir.path(), threads).unwrap();
        let count = cut.plan.segments.len();
        let why = cut.plan.reason.as_deref().unwrap_or("");
        if segment_us == Some(1_000_000) {
            assert_eq!(count > 1, clip.cut, "{}: {count} segments, {why}", clip.file);
        }
        assert_eq!(cut.plan.reason.is_some(), count == 1, "{}", clip.file);
        let same = frames(&cut.output, &[], &[]) == whole_frames;
        assert!(same, "{} at {segment_us:?}, {count} segments", clip.file);
        // ffmpeg's null output counts frames by their average rate, and complains of any other.
        if complaints(&source).is_empty() {
            assert_eq!(complaints(&cut.output), "", "{}", clip.file);
        }
    }
    // A window filter needs its halo at both ends of a segment.
    let denoise = |us| run(&source, &lossless(&["denoise:frames=5"], us), dir.path(), 1).unwrap();
    let whole = frames(&denoise(Some(1_000_000_000)).output, &[], &[]);
    assert!(frames(&denoise(Some(700_000)).output, &[], &[]) == whole, "{} denoised", clip.file);
}

/// Where ffprobe says that packet `number` of the video lies, and its size.
fn packet(path: &Path, number: usize) -> (usize, usize) {
    let args = ["-select_streams", "v", "-show_entries", "packet=size,pos", "-of", "csv=p=0"];
    let text = ffprobe(path, &args);
    let line = text.lines().nth(number).unwrap();
    let fields: Vec<usize> = line.split(',').take(2).map(|f| f.parse().unwrap()).collect();
    (fields[1], fields[0])
}

#[test]
fn a_stream_shorter_than_a_read_keeps_its_frames() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("short.ts");
    let video = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=24", "-frames:v", "5"];
    let codec = ["-c:v", "libx264", "-pix_fmt", "yuv420p", source.to_str().unwrap()];
    ffmpeg(&[&video[..], &codec].concat());
    assert!(source.metadata().unwrap().len() < 16_000);
    let made = run(&source, &lossless(&[], None), dir.path(), 1).unwrap();
    assert_eq!(hashes(&frames(&made.output, &[], &[])), hashes(&frames(&source, &[], &[])));
}

/// What FFmpeg's decoder conceals from depends on memory that it has used before, so that even two
/// of its own runs may differ where a whole picture is gone. Where a part of one is, they agree.
#[test]
fn damage_is_concealed_as_one_thread_of_ffmpeg_does_wherever_a_segment_begins() {
    let dir = tempfile::tempdir().unwrap();
    let clip = &CLIPS[0];
    let mut concealed = 0;
    for (name, number, from, length, exact) in [
        ("frames.mp4", 60, 40, 60, true),
        ("late.mp4", 130, 10, 30, true),
        ("keyframe.mp4", 75, 40, 2000, false),
    ] {
        let source = make(clip, dir.path());
        let (at, size) = packet(&source, number);
        let mut bytes = std::fs::read(&source).unwrap();
        bytes[at..at + size].iter_mut().skip(from).take(length).for_each(|byte| *byte ^= 0x5a);
        let source = dir.path().join(name);
        std::fs::write(&source, bytes).unwrap();
        let expected = frames(&source, &[], &[]);
        for segment_us in [1_000_000_000, 1_000_000, 300_000] {
            let made = run(&source, &lossless(&[], Some(segment_us)), dir.path(), 3).unwrap();
            let got = frames(&made.output, &[], &[]);
            let times = |frames: &[(String, String)]| -> Vec<String> {
                frames.iter().map(|(pts, _)| pts.clone()).collect()
            };
            assert_eq!(times(&got), times(&expected), "{name} at {segment_us}");
            let same = hashes(&got) == hashes(&expected);
            assert!(same || !exact, "{name} at {segment_us}: not what ffmpeg -threads 1 shows");
            // What comes before the damage, and after the next keyframe, is never touched.
            let before = number - number % 25;
            let after = (before + 50).min(expected.len());
            assert!(hashes(&got)[..before] == hashes(&expected)[..before], "{name}");
            assert!(hashes(&got)[after..] == hashes(&expected)[after..], "{name}");
            concealed += made.concealed;
        }
    }
    // Not every change is noticed: some bytes decode to another picture. But some are.
    assert!(concealed > 0, "nothing was said of damage");
}

macro_rules! clips {
    ($($name:ident $index:literal)*) => {
        $(#[test]
        fn $name() {
            check(&CLIPS[$index]);
        })*

        #[test]
        fn every_clip_is_tried() {
            assert_eq!([$($index),*].len(), CLIPS.len());
        }
    };
}

clips! {
    closed_mp4 0 open_mp4 1 open_mkv 2 closed_ts 3 high_ts 4 open_ts 5 mpeg2_ts 6 mpeg2_mkv 7
    mpeg2_mpg 8 hevc_mp4 9 hevc_mkv 10 hevc_ts 11 vp9_webm 12 vp8_webm 13 av1_mkv 14 av1_mp4 15
    mpeg4_mp4 16 mpeg4_avi 17 mpeg4_mkv 18 h264_avi 19 mjpeg_avi 20 intra_mp4 21 refresh_mp4 22
    onegop_mp4 23 fragmented_mp4 24 editlist_mp4 25 negative_mkv 26 vfr_mp4 27 ntsc_mov 28
    interlaced_ts 29 bottom_mp4 30 timeless_mkv 31
}
