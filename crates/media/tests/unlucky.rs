//! Sources that other tools made in haste: joined end to end, without times, with odd sound.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};

use frameloom_core::spec::{Container, EncoderSpec, JobSpec};
use support::{complaints, ffmpeg, ffprobe, frames, hashes, lossless, run};

const VIDEO: [&str; 9] =
    ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-shortest"];

/// A clip of two seconds with a tone, with these arguments behind it.
fn clip(dir: &Path, name: &str, sound: &str, args: &[&str]) -> PathBuf {
    let path = dir.join(name);
    let picture = format!("testsrc2=s=160x120:r=25:d=2,hue=h={}", name.len() * 40);
    let inputs = ["-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", sound];
    ffmpeg(&[&inputs[..], &VIDEO, args, &[path.to_str().unwrap()]].concat());
    path
}

fn sound_of(path: &Path, entries: &str) -> String {
    let entries = format!("stream={entries}");
    let args = ["-select_streams", "a", "-show_entries", &entries, "-of", "csv=p=0"];
    ffprobe(path, &args).trim().to_owned()
}

#[test]
fn joined_transport_streams_go_on_where_their_times_begin_anew() {
    let dir = tempfile::tempdir().unwrap();
    let tone = "sine=f=440:d=2";
    let a = clip(dir.path(), "a.ts", tone, &["-bf", "2", "-c:a", "aac"]);
    let b = clip(dir.path(), "bb.ts", tone, &["-bf", "2", "-c:a", "aac"]);
    let joined = dir.path().join("joined.ts");
    std::fs::write(&joined, [std::fs::read(a).unwrap(), std::fs::read(b).unwrap()].concat())
        .unwrap();
    let made = run(&joined, &lossless(&[], Some(1_000_000)), dir.path(), 1).unwrap();
    let (expected, got) = (frames(&joined, &[], &[]), frames(&made.output, &[], &[]));
    assert_eq!(expected.len(), 100);
    assert_eq!(hashes(&got), hashes(&expected));
    let from_first = |frames: &[(String, String)]| -> Vec<i64> {
        let times: Vec<i64> = frames.iter().map(|(ns, _)| ns.parse().unwrap()).collect();
        times.iter().map(|ns| (ns - times[0]) / 1_000_000).collect()
    };
    assert_eq!(from_first(&got), from_first(&expected));
    assert!(made.plan.reason.unwrap().contains("begin anew"));
    let length: f64 = sound_of(&made.output, "duration").parse().unwrap();
    assert!((length - 4.0).abs() < 0.1, "{length} s of sound");
    assert_eq!(complaints(&made.output), "");
}

#[test]
fn frames_with_decoding_times_only_are_not_cut() {
    let dir = tempfile::tempdir().unwrap();
    let clip = clip(dir.path(), "a.mxf", "sine=r=48000:d=2", &["-bf", "2", "-c:a", "pcm_s16le"]);
    let made = run(&clip, &lossless(&[], Some(500_000)), dir.path(), 1).unwrap();
    assert_eq!(hashes(&frames(&made.output, &[], &[])), hashes(&frames(&clip, &[], &[])));
    assert!(made.plan.reason.unwrap().contains("decoding times only"));
}

#[test]
fn matroska_that_is_not_as_long_as_it_says_is_not_cut() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "one.mkv", "sine=r=48000:d=2", &["-c:a", "aac"]);
    let bytes = std::fs::read(&source).unwrap();
    let middle = bytes.len() / 2;
    let twice = [&bytes[..], &bytes[..]].concat();
    let hole = [&bytes[..middle - 3001], &bytes[middle..]].concat();
    for (name, content) in [("twice.mkv", twice), ("hole.mkv", hole)] {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let spec = |us| JobSpec { no_audio: true, ..lossless(&[], Some(us)) };
        let whole = run(&path, &spec(1_000_000_000), dir.path(), 1).unwrap();
        let expected = frames(&whole.output, &[], &[]);
        let cut = run(&path, &spec(500_000), dir.path(), 1).unwrap();
        assert_eq!(frames(&cut.output, &[], &[]), expected, "{name}");
        assert!(cut.plan.reason.unwrap().contains("not as long as it says"), "{name}");
    }
    // The file by itself is cut.
    let cut = run(&source, &lossless(&[], Some(500_000)), dir.path(), 1).unwrap();
    assert!(cut.plan.segments.len() > 1);
}

#[test]
fn sound_is_made_to_fit_the_encoder() {
    let dir = tempfile::tempdir().unwrap();
    let fast = |rate| format!("sine=r={rate}:d=2");
    let pcm = ["-c:a", "pcm_s16le"];
    for (rate, expected) in [(192_000, "96000,1"), (6_000, "7350,1"), (44_100, "44100,1")] {
        let source = clip(dir.path(), "in.mkv", &fast(rate), &pcm);
        let made = run(&source, &lossless(&[], None), dir.path(), 1).unwrap();
        assert_eq!(sound_of(&made.output, "sample_rate,channels"), expected);
        let length: f64 = sound_of(&made.output, "duration").parse().unwrap();
        assert!((length - 2.0).abs() < 0.1, "{length} s of sound at {rate} Hz");
    }
    // Times in another base than the sample rate, and nothing to convert but the frames' size.
    let vorbis = clip(dir.path(), "in.mkv", &fast(48_000), &["-c:a", "libvorbis", "-ac", "2"]);
    let made = run(&vorbis, &lossless(&[], None), dir.path(), 1).unwrap();
    let length: f64 = sound_of(&made.output, "duration").parse().unwrap();
    assert!((length - 2.0).abs() < 0.1, "{length} s of sound");
}

#[test]
fn sound_that_changes_its_channels_on_the_way_is_converted_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let part = |name, channels| {
        let path = clip(dir.path(), name, "sine=d=2", &["-c:a", "aac", "-ac", channels]);
        std::fs::read(path).unwrap()
    };
    let joined = dir.path().join("joined.ts");
    std::fs::write(&joined, [part("a.ts", "1"), part("bb.ts", "2")].concat()).unwrap();
    let spec = JobSpec {
        container: Container::Webm,
        encoder: EncoderSpec { preset: Some("8".into()), ..Default::default() },
        ..Default::default()
    };
    let made = run(&joined, &spec, dir.path(), 1).unwrap();
    assert_eq!(sound_of(&made.output, "codec_name"), "opus");
    let args = ["-select_streams", "a", "-show_entries", "packet=pts_time", "-of", "csv=p=0"];
    let times = ffprobe(&made.output, &args);
    let times = times.lines().filter_map(|line| line.split(',').next()?.parse::<f64>().ok());
    let last = times.fold(0.0, f64::max);
    assert!(last > 3.9, "sound ends at {last} s");
}

#[test]
fn an_encoder_that_keeps_its_headers_in_packets_is_joined() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "a.mp4", "sine=d=2", &["-t", "0.5", "-s", "64x48"]);
    let spec = JobSpec {
        container: Container::Mkv,
        encoder: EncoderSpec { encoder: Some("librav1e".into()), ..Default::default() },
        ..Default::default()
    };
    let made = run(&source, &spec, dir.path(), 1).unwrap();
    assert_eq!(frames(&made.output, &[], &[]).len(), frames(&source, &[], &[]).len());
    assert_eq!(complaints(&made.output), "");
}

#[test]
fn a_turned_source_reaches_an_encoder_that_halves_chroma_one_way() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "a.mp4", "sine=d=2", &["-s", "1080x1920", "-t", "0.2"]);
    let turned = dir.path().join("turned.mp4");
    let input = source.to_str().unwrap();
    ffmpeg(&["-i", input, "-c", "copy", "-metadata:s:v", "rotate=90", turned.to_str().unwrap()]);
    let spec = JobSpec {
        container: Container::Mov,
        encoder: EncoderSpec {
            encoder: Some("dnxhd".into()),
            options: vec![("b".into(), "120M".into())],
            ..Default::default()
        },
        ..Default::default()
    };
    let made = run(&turned, &spec, dir.path(), 1).unwrap();
    let args = ["-select_streams", "v", "-show_entries", "stream=width,height", "-of", "csv=p=0"];
    assert_eq!(ffprobe(&made.output, &args).trim(), "1920,1080");
    assert_eq!(frames(&made.output, &[], &[]).len(), 5);
}

#[test]
fn opus_keeps_its_distance_from_the_picture_however_often_it_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    // Of the first packets: what is skipped of the sound is in none of them.
    let times = |path: &Path| {
        let first = |kind| -> f64 {
            let args = ["-select_streams", kind, "-show_entries", "packet=pts_time"];
            let text = ffprobe(path, &[&args[..], &["-of", "csv=p=0"]].concat());
            text.lines().next().unwrap().trim_end_matches(',').parse().unwrap()
        };
        first("v") - first("a")
    };
    for name in ["in.mkv", "in.mp4"] {
        let source = clip(dir.path(), name, "sine=r=48000:d=2", &["-c:a", "libopus"]);
        let before = times(&source);
        let spec = JobSpec { container: Container::Mkv, ..lossless(&[], None) };
        let first = run(&source, &spec, dir.path(), 1).unwrap().output;
        let again = dir.path().join("again.mkv");
        std::fs::rename(first, &again).unwrap();
        let second = run(&again, &spec, dir.path(), 1).unwrap().output;
        for made in [&again, &second] {
            // Matroska has milliseconds.
            assert!((times(made) - before).abs() < 0.0011, "{} s, {before} before", times(made));
        }
    }
}

#[test]
fn a_picture_that_begins_at_any_sample_is_cut_out_there() {
    let dir = tempfile::tempdir().unwrap();
    let whole = clip(dir.path(), "whole.mp4", "sine=d=2", &[]);
    let source = dir.path().join("cropped.mp4");
    let crop = "h264_metadata=crop_left=10:crop_right=6:crop_top=2";
    let [from, to] = [&whole, &source].map(|path| path.to_str().unwrap());
    ffmpeg(&["-i", from, "-c", "copy", "-bsf:v", crop, to]);
    for filters in [&[][..], &["ffmpeg:hflip,hflip"], &["invert", "invert"]] {
        let made = run(&source, &lossless(filters, None), dir.path(), 1).unwrap();
        let expected = frames(&whole, &[], &["-vf", "crop=144:118:10:2:exact=1"]);
        assert_eq!(hashes(&frames(&made.output, &[], &[])), hashes(&expected), "{filters:?}");
    }
}
