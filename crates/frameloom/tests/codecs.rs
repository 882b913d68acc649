//! Every codec with defaults: the same bytes from any number of slots, and HDR's metadata kept.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{clip, frames, run, run_ok, text};

#[test]
fn slots_change_no_byte_with_any_codec() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 4);
    for (codec, extension) in [("hevc", "mp4"), ("vp9", "webm"), ("av1", "mp4"), ("ffv1", "mkv")] {
        let make = |slots: &str| {
            let out = text(&dir.path().join(format!("{codec}-{slots}.{extension}")));
            let preset: &[&str] = match codec {
                "hevc" => &["--preset", "ultrafast"],
                "av1" => &["--preset", "12"],
                _ => &[],
            };
            let mut args = vec!["run", &source, "-o", &out, "--codec", codec, "--segment", "1"];
            args.extend(["--slots", slots]);
            args.extend(preset);
            run_ok(&args);
            out
        };
        let (one, three) = (make("1"), make("3"));
        assert!(fs::read(&one).unwrap() == fs::read(&three).unwrap(), "{codec}");
        assert_eq!(frames(&one).len(), 100, "{codec}");
    }
}

/// An HDR10 clip whose metadata stands in the stream; a container may copy it.
fn hdr_clip(dir: &Path, name: &str) -> String {
    let path = dir.join(name);
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-nostdin", "-f", "lavfi", "-i", "testsrc2=s=128x64:d=3:r=24"])
        .args(["-pix_fmt", "yuv420p10le", "-c:v", "libx265", "-preset", "ultrafast"])
        .args(["-x265-params", "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=1000,400:repeat-headers=1:keyint=24:log-level=error"])
        .args(["-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    text(&path)
}

/// What ffprobe tells of the first frame, or with `-show_streams` of the video stream.
fn told(path: &str, what: &[&str]) -> String {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0"])
        .args(what)
        .arg(path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{path}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn hdr10_reaches_stream_and_container() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| text(&dir.path().join(name));
    // A transport stream has no place for it but the video's own messages.
    let source = hdr_clip(dir.path(), "in.ts");
    let (code, words) = run(&["run", &source, "-o", &out("eight.mp4"), "--codec", "hevc"]);
    assert_eq!(code, 5, "{words}");
    assert!(words.contains("--keep-depth"), "{words}");

    for (name, codec) in [("out.mp4", "hevc"), ("out.mkv", "hevc"), ("av1.mp4", "av1")] {
        let path = out(name);
        run_ok(&["run", &source, "-o", &path, "--codec", codec, "--keep-depth", "--segment", "1"]);
        let frame = told(&path, &["-show_frames", "-read_intervals", "%+#1"]);
        for wanted in [
            "pix_fmt=yuv420p10le",
            "color_transfer=smpte2084",
            "color_primaries=bt2020",
            "side_data_type=Mastering display metadata",
            "max_content=1000",
            "max_average=400",
        ] {
            assert!(frame.contains(wanted), "{name}, {wanted}: {frame}");
        }
        let stream = told(&path, &["-show_streams"]);
        for wanted in ["Mastering display metadata", "max_content=1000", "max_average=400"] {
            assert!(stream.contains(wanted), "{name}, {wanted}: {stream}");
        }
    }
    let stream = told(&out("out.mp4"), &["-show_streams"]);
    for wanted in [
        "red_x=34000/50000",
        "green_y=34500/50000",
        "blue_x=7500/50000",
        "white_point_y=16450/50000",
        "min_luminance=50/10000",
        "max_luminance=10000000/10000",
    ] {
        assert!(stream.contains(wanted), "{wanted}: {stream}");
    }
}
