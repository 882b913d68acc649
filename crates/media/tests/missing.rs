//! Sources in which something is missing: chunks, whole pictures, presentation times.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};

use frameloom_core::spec::{Container, JobSpec};
use support::{ffmpeg, ffprobe, frames, hashes, lossless, run};

/// A clip of ten seconds, each frame unlike the others.
fn clip(dir: &Path, name: &str, args: &[&str]) -> PathBuf {
    let path = dir.join(name);
    let input = ["-f", "lavfi", "-i", "testsrc2=s=320x240:r=25:d=10,noise=alls=12"];
    ffmpeg(&[&input[..], &["-pix_fmt", "yuv420p"], args, &[path.to_str().unwrap()]].concat());
    path
}

#[test]
fn avi_that_has_lost_chunks_is_cut_as_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    for (name, args) in [
        ("simple.avi", &["-c:v", "mpeg4", "-g", "25", "-bf", "0", "-q:v", "6"][..]),
        ("reordered.avi", &["-c:v", "mpeg4", "-g", "25", "-bf", "2", "-q:v", "6"][..]),
    ] {
        let source = clip(dir.path(), name, args);
        let mut bytes = std::fs::read(&source).unwrap();
        let hole = bytes.len() * 2 / 5;
        // So long that several chunks' names are lost with it.
        bytes[hole..hole + 12_000].fill(0);
        std::fs::write(&source, bytes).unwrap();
        let whole = run(&source, &lossless(&[], Some(60_000_000)), dir.path(), 1).unwrap();
        let expected = frames(&whole.output, &[], &[]);
        let decoded = frames(&source, &[], &[]);
        assert!(decoded.len() < 250, "nothing was lost of {name}");
        assert_eq!(hashes(&expected), hashes(&decoded), "{name}");
        // What comes behind the damage comes when it did before.
        let last: f64 = expected.last().unwrap().0.parse::<f64>().unwrap() / 1e9;
        assert!((last - 9.96).abs() < 0.041, "the last frame of {name} is at {last} s");
        let cut = run(&source, &lossless(&[], Some(1_000_000)), dir.path(), 1).unwrap();
        assert!(cut.plan.segments.len() > 3, "{name} is not cut");
        assert_eq!(frames(&cut.output, &[], &[]), expected, "{name}");
    }
}

#[test]
fn what_stands_in_for_missing_pictures_does_not_depend_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let quiet = ["-x265-params", "log-level=none"];
    let hevc = [&["-c:v", "libx265", "-preset", "ultrafast"][..], &quiet].concat();
    let avc = ["-c:v", "libx264", "-g", "60", "-bf", "2"];
    let vp9 = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"];
    // A keyframe and its neighbours, or some that others refer to.
    for (name, args, drop) in [
        ("avc.mp4", &avc[..], "between(n,58,62)"),
        ("avc.ts", &avc, "between(n,58,62)"),
        ("hevc.mp4", &hevc, "eq(mod(n,17),5)"),
        ("vp9.mkv", &vp9, "between(n,70,72)"),
    ] {
        let source = clip(dir.path(), name, args);
        let lossy = dir.path().join(format!("lossy-{name}"));
        let gone = ["-bsf:v", &format!("noise=drop='{drop}'")];
        let copy = ["-i", source.to_str().unwrap(), "-c", "copy"];
        ffmpeg(&[&copy[..], &gone, &[lossy.to_str().unwrap()]].concat());
        let one = run(&lossy, &lossless(&[], Some(60_000_000)), dir.path(), 1).unwrap();
        let expected = frames(&one.output, &[], &[]);
        assert_eq!(hashes(&expected), hashes(&frames(&lossy, &[], &[])), "{name}");
        for threads in [2, 4] {
            let made = run(&lossy, &lossless(&[], Some(60_000_000)), dir.path(), threads).unwrap();
            assert_eq!(frames(&made.output, &[], &[]), expected, "{name} with {threads} threads");
        }
    }
}

#[test]
fn a_part_is_told_from_the_first_frame_where_frames_have_decoding_times_only() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "b.avi", &["-c:v", "mpeg4", "-g", "25", "-bf", "2", "-q:v", "4"]);
    let all = frames(&source, &[], &[]);
    let part = JobSpec { from_us: Some(2_000_000), to_us: Some(4_000_000), ..lossless(&[], None) };
    let made = run(&source, &part, dir.path(), 1).unwrap();
    assert_eq!(hashes(&frames(&made.output, &[], &[])), hashes(&all[50..100]));
}

#[test]
fn matroska_keeps_sound_that_it_has_no_name_of_its_own_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("phone.mkv");
    let picture = ["-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=1"];
    let sound = ["-f", "lavfi", "-i", "sine=r=8000:d=1"];
    let codecs = ["-pix_fmt", "yuv420p", "-c:a", "pcm_alaw", path.to_str().unwrap()];
    ffmpeg(&[&picture[..], &sound, &codecs].concat());
    let spec = JobSpec { container: Container::Mkv, ..lossless(&[], None) };
    let made = run(&path, &spec, dir.path(), 1).unwrap();
    let args = ["-select_streams", "a", "-show_entries", "stream=codec_name", "-of", "csv=p=0"];
    assert_eq!(ffprobe(&made.output, &args).trim(), "pcm_alaw");
    let both = |path: &Path| frames(path, &[], &["-map", "0:a", "-c:a", "copy"]);
    assert_eq!(hashes(&both(&made.output)), hashes(&both(&path)));
}
