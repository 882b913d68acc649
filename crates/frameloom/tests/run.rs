//! `frameloom run` as a user runs it: results, bad input, conflicts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{Watched, clip, frameloom, frames, real_clip, run, run_ok, said, segment_is, text};

#[test]
fn a_lossless_run_keeps_every_frame_its_time_and_the_sound() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 6);
    let (out, metrics) = (text(&dir.path().join("out.mp4")), text(&dir.path().join("m.json")));
    let lines = text(&dir.path().join("frames.jsonl"));
    run_ok(&[
        "run",
        &source,
        "-o",
        &out,
        "--lossless",
        "--metrics",
        &metrics,
        "--frame-metrics",
        &lines,
    ]);
    assert_eq!(frames(&out), frames(&source));
    assert!(!dir.path().join(".out.mp4.frameloom").exists(), "the work directory is left");

    let sound = |path: &str| {
        let mut command = std::process::Command::new("ffmpeg");
        command.args(["-v", "error", "-i", path, "-map", "0:a", "-c", "copy", "-f", "md5", "-"]);
        command.output().unwrap().stdout
    };
    assert_eq!(sound(&out), sound(&source));

    let again = Watched::start(&["run", &source, "-o", &out, "--overwrite", "--segment", "1"]);
    let (code, words, events) = again.end();
    assert_eq!(code, 0, "{words}");
    let told = events.iter().filter(|event| event["event"] == "progress");
    let most = told.map(|event| event["frames"].as_u64().unwrap()).max();
    assert!(most <= Some(150), "{most:?} frames of 150 were told");
    for state in ["started", "accepted"] {
        let segments = events.iter().filter(|event| segment_is(event, state));
        assert_eq!(segments.filter(|e| e["slot_pid"].as_u64() > Some(0)).count(), 6, "{state}");
    }

    let metrics: Value = serde_json::from_slice(&fs::read(&metrics).unwrap()).unwrap();
    assert_eq!(metrics["version"], 1);
    assert_eq!(metrics["frames"]["in"], 150);
    assert_eq!(metrics["frames"]["out"], 150);
    assert_eq!(metrics["frames"]["retried"], 0);
    assert_eq!(metrics["tasks"]["retried"], 0);
    let segments = metrics["job"]["segments"].as_u64().unwrap();
    assert!(segments > 1);
    assert_eq!(metrics["tasks"]["total"].as_u64().unwrap(), segments + 2);
    for step in ["decode", "encode", "total"] {
        let times = &metrics["time_per_frame_ms"][step];
        let at = |key: &str| times[key].as_f64().unwrap();
        assert!(
            at("p50") <= at("p95") && at("p95") <= at("p99") && at("p99") <= at("max"),
            "{step}"
        );
    }
    assert!(metrics["effective_fps"].as_f64().unwrap() > 0.0);
    assert!(metrics["slots"].as_array().unwrap().iter().any(|s| s["peak_rss"].as_u64() > Some(0)));

    let lines = fs::read_to_string(&lines).unwrap();
    let lines: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 150);
    assert!(lines.windows(2).all(|w| w[0]["pts"].as_i64() < w[1]["pts"].as_i64()));
}

#[test]
fn slots_and_segments_change_no_byte_and_no_frame() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 8);
    let make = |name: &str, args: &[&str]| {
        let out = text(&dir.path().join(name));
        let mut all = vec!["run", &source, "-o", &out, "-f", "denoise", "-f", "blur:sigma=2"];
        all.extend(args);
        run_ok(&all);
        out
    };
    let one = make("one.mp4", &["--slots", "1"]);
    let three = make("three.mp4", &["--slots", "3"]);
    assert!(fs::read(&one).unwrap() == fs::read(&three).unwrap(), "slots changed the bytes");
    let cut = make("cut.mp4", &["--lossless", "--segment", "1"]);
    let whole = make("whole.mp4", &["--lossless", "--segment", "3600"]);
    assert_eq!(frames(&cut), frames(&whole));
}

#[test]
fn a_part_of_a_video_begins_at_zero_and_holds_the_right_frames() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 6);
    let out = text(&dir.path().join("out.mp4"));
    run_ok(&["run", &source, "-o", &out, "--lossless", "--from", "0:01.5", "--to", "4.2"]);
    let md5 = |frames: Vec<String>| -> Vec<String> {
        frames.into_iter().map(|f| f.split(',').nth(1).unwrap().to_owned()).collect()
    };
    let all = md5(frames(&source));
    let part = frames(&out);
    assert!(part[0].starts_with("0,"), "{}", part[0]);
    assert_eq!(md5(part), all[38..105]);
}

/// A file's name behind two levels of quotes.
const HIDDEN_FILE: &str = r"ffmpeg:drawtext=font=Sans\\:text=hi:fontsize='30:textfile=/etc/passwd'";

/// A graph whose pictures change their size.
const GROWING: &str = r"ffmpeg:scale=w='if(lt(t,1),320,32)':h=180:eval=frame";

#[test]
fn bad_input_is_told_in_words_with_its_exit_code_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&dir.path().join(name));
    let source = clip(dir.path(), "in.mp4", 2);
    let out = at("out.mp4");
    fs::write(at("empty.mp4"), "").unwrap();
    fs::write(at("text.mp4"), "this is no video\n".repeat(100)).unwrap();
    fs::write(at("list.m3u8"), "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n").unwrap();
    fs::write(at("concat.txt"), "ffconcat version 1.0\nfile in.mp4\n").unwrap();
    let whole = fs::read(&source).unwrap();
    fs::write(at("cut.mp4"), &whole[..300]).unwrap();
    let sound = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-i", &source, "-vn", "-c", "copy", &at("sound.mp4")])
        .status();
    assert!(sound.unwrap().success());
    fs::write(at("there.mp4"), "precious").unwrap();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["run", &at("none.mp4"), "-o", &out], 3, "does not exist"),
        (&["run", &at("empty.mp4"), "-o", &out], 5, "is empty"),
        (&["run", &at("text.mp4"), "-o", &out], 5, "text.mp4"),
        (&["run", &at("cut.mp4"), "-o", &out], 5, "cut.mp4"),
        (&["run", &at("sound.mp4"), "-o", &out], 5, "no video"),
        (&["run", &at("list.m3u8"), "-o", &out], 5, "other files"),
        (&["run", &at("concat.txt"), "-o", &out], 5, "other files"),
        (&["run", &text(dir.path()), "-o", &out], 2, "directory"),
        (&["run", &source, "-o", &at("out.avi")], 2, ".mp4, .mov, .mkv or .webm"),
        (&["run", &source, "-o", &at("there.mp4")], 4, "--overwrite"),
        (&["run", &source, "-o", &at("no/dir.mp4")], 3, "directory"),
        (&["run", &source, "-o", &source, "--overwrite"], 2, "source itself"),
        (&["run", &source, "-o", &out, "-f", "blurr"], 2, "did you mean 'blur'"),
        (&["run", &source, "-o", &out, "-f", "blur:sgma=1"], 2, "did you mean 'sigma'"),
        (&["run", &source, "-o", &out, "-f", "blur:sigma=-3"], 2, "usage: blur:sigma=0.1..=64"),
        (&["run", &source, "-o", &out, "-f", "ffmpeg:fps=5"], 2, "how many frames"),
        (&["run", &source, "-o", &out, "-f", "ffmpeg:movie=/etc/passwd"], 2, "not on the list"),
        (&["run", &source, "-o", &out, "-f", "ffmpeg:asr=logfn=/tmp/x"], 2, "not on the list"),
        (&["run", &source, "-o", &out, "-f", HIDDEN_FILE], 2, "textfile"),
        (&["run", &source, "-o", &out, "-f", GROWING], 5, "change from 320x180 to 32x180"),
        (
            &["run", &source, "-o", &out, "-f", "ffmpeg:drawtext=textfile=/etc/passwd"],
            2,
            "textfile",
        ),
        (&["run", &source, "-o", &out, "-f", "crop:w=9999"], 2, "larger than the picture"),
        (&["run", &source, "-o", &out, "-f", "blur:roi=300,0,100,10"], 2, "outside"),
        (&["run", &source, "-o", &out, "--codec", "h265"], 2, "hevc"),
        (&["run", &source, "-o", &at("out.webm"), "--codec", "h264"], 2, "does not hold h264"),
        (&["run", &source, "-o", &out, "--encoder", "libx265x"], 2, "did you mean 'libx265'"),
        (&["run", &source, "-o", &out, "--crf", "77"], 2, "0..=51"),
        (&["run", &source, "-o", &out, "--preset", "speedy"], 2, "ultrafast"),
        (&["run", &source, "-o", &out, "--encoder-opt", "x264-params=dump-yuv=x"], 2, "dump-yuv"),
        (&["run", &source, "-o", &out, "--encoder-opt", "stats=x"], 2, "stats=x"),
        (&["run", &source, "-o", &out, "--slots", "0"], 2, "0"),
        (&["run", &source, "-o", &out, "--from", "3", "--to", "2"], 2, "not behind"),
        (&["run", &source, "-o", &out, "--from", "99"], 2, "behind the end"),
        (&["run", &source, "-o", &out, "--from", "-1"], 2, "'-1' is not a time"),
        (&["run", &source, "-o", &out, "--segment", "0"], 2, "above 0"),
        (&["run", &source, "-o", &out, "--stream", "7"], 2, "no video stream 7"),
        (&["run", &source], 2, "--output"),
    ];
    for (args, code, words) in cases {
        let (got, said) = run(args);
        assert_eq!(got, *code, "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
        assert!(!Path::new(&out).exists(), "{args:?} left an output");
        assert!(!dir.path().join(".out.mp4.frameloom").exists(), "{args:?} left its work");
    }
    assert_eq!(fs::read(at("there.mp4")).unwrap(), b"precious");
}

#[test]
fn what_is_no_file_of_a_filter_is_told_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 1);
    let at = |name: &str| text(&dir.path().join(name));
    assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    std::os::unix::fs::symlink("loop", at("loop")).unwrap();
    for (name, words) in [("pipe", "not a regular file"), ("loop", "leads to no file")] {
        for filter in ["regions:file=", "faces:model="] {
            let filter = format!("{filter}{}", at(name));
            let (code, said) = run(&["run", &source, "-o", &at("out.mp4"), "-f", &filter]);
            assert_eq!(code, 2, "{filter}: {said}");
            assert!(said.contains(words) && !said.contains("'-'"), "{filter}: {said}");
        }
    }
    let (code, said) = run(&["run", &at("pipe"), "-o", &at("out.mp4")]);
    assert!(code == 2 && said.contains("a pipe is taken as '-'"), "{said}");
}

#[test]
fn unlucky_sources_work() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&dir.path().join(name));
    let make = |args: &[&str], name: &str| {
        let mut command = std::process::Command::new("ffmpeg");
        command.args(["-v", "error", "-y", "-nostdin"]).args(args).arg(at(name));
        assert!(command.status().unwrap().success(), "{name}");
        at(name)
    };
    let tiny = make(
        &["-f", "lavfi", "-i", "testsrc2=d=0.2", "-vf", "format=yuv444p,crop=1:1", "-c:v", "ffv1"],
        "tiny.mkv",
    );
    run_ok(&["run", &tiny, "-o", &at("tiny.webm"), "-f", "blur", "-f", "edges"]);
    assert_eq!(frames(&at("tiny.webm")).len(), 5);
    // No line can be cut off this one, so that is not advised; what is, helps.
    let tiny = make(&["-i", &tiny, "-pix_fmt", "yuv420p", "-c:v", "ffv1"], "halved.mkv");
    let (code, said) = run(&["run", &tiny, "-o", &at("tiny.mp4")]);
    assert_eq!(code, 5, "{said}");
    assert!(!said.contains("crop") && said.contains("vp9"), "{said}");
    let larger = said.split(" -f ").nth(1).unwrap().trim();
    run_ok(&["run", &tiny, "-o", &at("tiny.mp4"), "-f", larger]);

    let one = make(
        &["-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=0.04", "-pix_fmt", "yuv420p"],
        "one.mp4",
    );
    run_ok(&["run", &one, "-o", &at("one-out.mp4"), "-f", "denoise:frames=5"]);
    assert_eq!(frames(&at("one-out.mp4")).len(), 1);

    let whole = clip(dir.path(), "whole.mp4", 2);
    let turned = make(&["-i", &whole, "-c", "copy", "-metadata:s:v", "rotate=90"], "turned.mp4");
    run_ok(&["run", &turned, "-o", &at("turned-out.mp4"), "--lossless"]);
    // What ffmpeg shows of the source is turned already.
    let md5 = |frames: Vec<String>| -> Vec<String> {
        frames.into_iter().map(|f| f.split(',').nth(1).unwrap().to_owned()).collect()
    };
    assert_eq!(md5(frames(&at("turned-out.mp4"))), md5(frames(&turned)));

    let odd = make(
        &[
            "-f",
            "lavfi",
            "-i",
            "testsrc2=d=0.5",
            "-vf",
            "format=yuv420p,crop=99:51:exact=1",
            "-c:v",
            "ffv1",
        ],
        "odd.mkv",
    );
    let (code, said) = run(&["run", &odd, "-o", &at("odd.mp4")]);
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("crop") && said.contains("vp9"), "{said}");

    // A file that is cut off at its end: what is there, and a word.
    let stream = make(&["-i", &whole, "-c", "copy"], "cut.ts");
    let bytes = fs::read(&stream).unwrap();
    fs::write(&stream, &bytes[..bytes.len() / 2]).unwrap();
    run_ok(&["run", &stream, "-o", &at("cut-out.mp4")]);
    assert!(frames(&at("cut-out.mp4")).len() > 10);
    // Sound that cannot be copied, for want of a header: what helps is told, and helps.
    let damaged = make(&["-i", &whole, "-c", "copy"], "damaged.ts");
    let mut bytes = fs::read(&damaged).unwrap();
    let headers: Vec<usize> =
        (0..bytes.len() - 3).filter(|at| bytes[*at..*at + 3] == [0xff, 0xf1, 0x50]).collect();
    let header = headers[headers.len() / 2];
    bytes[header..header + 2].fill(0);
    fs::write(&damaged, bytes).unwrap();
    let out = at("damaged.mp4");
    let (code, said) = run(&["run", &damaged, "-o", &out]);
    assert_eq!(code, 5, "{said}");
    assert!(
        said.contains("output stream 1") && said.contains("--no-audio leaves it out"),
        "{said}"
    );
    run_ok(&["run", &damaged, "-o", &out, "--no-audio"]);
    for cues in ["0", "10000"] {
        let name = format!("cut{cues}.mkv");
        let stream = make(&["-i", &whole, "-c", "copy", "-reserve_index_space", cues], &name);
        let out = at(&format!("out{cues}.mp4"));
        let (code, said) = run(&["run", &stream, "-o", &out, "--overwrite"]);
        assert!(code == 0 && !said.contains("cut off"), "{cues}: {said}");
        let bytes = fs::read(&stream).unwrap();
        fs::write(&stream, &bytes[..bytes.len() / 2]).unwrap();
        let (code, said) = run(&["run", &stream, "-o", &out, "--overwrite"]);
        assert_eq!(code, 0, "{cues}: {said}");
        let told = format!("note: the source is cut off: {} of its", bytes.len() / 2);
        assert!(said.contains(&told), "{cues}: {said}");
        assert!((10..50).contains(&frames(&out).len()), "{cues}: {}", frames(&out).len());
    }
}

#[test]
fn a_pipe_on_standard_input_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 2);
    let out = text(&dir.path().join("out.mp4"));
    let output = frameloom()
        .args(["run", "-", "-o", &out, "--lossless"])
        .stdin(fs::File::open(&source).unwrap())
        .output()
        .unwrap();
    let (code, said_) = said(&output);
    assert_eq!(code, 0, "{said_}");
    assert_eq!(frames(&out), frames(&source));
}

#[test]
fn every_stream_tag_and_chapter_reaches_the_output() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&dir.path().join(name));
    fs::write(at("s.srt"), "1\n00:00:00,500 --> 00:00:01,500\nhello\n").unwrap();
    fs::write(at("meta"), ";FFMETADATA1\ntitle=A title\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=1000\ntitle=first\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=1000\nEND=3000\ntitle=second\n").unwrap();
    let status = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=s=64x64:d=3", "-f", "lavfi", "-i"])
        .args(["sine=f=440:d=3", "-f", "lavfi", "-i", "sine=f=880:d=3", "-i", &at("s.srt"), "-i"])
        .args([
            &at("meta"),
            "-map",
            "0",
            "-map",
            "1",
            "-map",
            "2",
            "-map",
            "3",
            "-map_metadata",
            "4",
        ])
        .args(["-map_chapters", "4", "-c:a:0", "flac", "-c:a:1", "libvorbis", "-c:s", "srt"])
        .args(["-metadata:s:a:0", "language=ger", "-disposition:a:1", "default"])
        .args([
            "-color_primaries",
            "bt709",
            "-colorspace",
            "bt709",
            "-color_trc",
            "bt709",
            "-pix_fmt",
            "yuv420p",
        ])
        .arg(at("in.mkv"))
        .status();
    assert!(status.unwrap().success());
    let probe = |path: &str| -> Value {
        let output = std::process::Command::new("ffprobe")
            .args([
                "-v",
                "error",
                "-of",
                "json",
                "-show_streams",
                "-show_chapters",
                "-show_format",
                path,
            ])
            .output();
        serde_json::from_slice(&output.unwrap().stdout).unwrap()
    };
    let kinds = |report: &Value| -> Vec<String> {
        let streams = report["streams"].as_array().unwrap();
        streams.iter().map(|s| s["codec_name"].as_str().unwrap().to_owned()).collect()
    };
    let (code, words) = run(&["run", &at("in.mkv"), "-o", &at("out.mkv")]);
    assert_eq!(code, 0, "{words}");
    let mkv = probe(&at("out.mkv"));
    assert_eq!(kinds(&mkv), ["h264", "flac", "vorbis", "subrip"]);
    assert_eq!(mkv["format"]["tags"]["title"], "A title");
    assert_eq!(mkv["chapters"].as_array().unwrap().len(), 2);
    assert_eq!(mkv["streams"][1]["tags"]["language"], "ger");
    assert_eq!(mkv["streams"][2]["disposition"]["default"], 1);
    assert_eq!(mkv["streams"][0]["color_primaries"], "bt709");

    let (code, words) = run(&["run", &at("in.mkv"), "-o", &at("out.mp4")]);
    assert_eq!(code, 0, "{words}");
    assert!(words.contains("audio stream 2 (vorbis) is converted"), "{words}");
    let mp4 = probe(&at("out.mp4"));
    assert_eq!(kinds(&mp4)[..4], ["h264", "flac", "aac", "mov_text"]);
    assert_eq!(mp4["chapters"].as_array().unwrap().len(), 2);
    // The source's sound begins a little earlier than its picture, and so does the output's.
    let number = |v: &Value| v.as_str().unwrap().parse::<f64>().unwrap();
    let source = probe(&at("in.mkv"));
    let early =
        number(&source["streams"][0]["start_time"]) - number(&source["format"]["start_time"]);
    assert!((number(&mp4["streams"][0]["start_time"]) - early).abs() < 0.0005);

    let (code, words) = run(&["run", &at("in.mkv"), "-o", &at("strict.mp4"), "--strict-streams"]);
    assert_eq!(code, 5, "{words}");
    assert!(words.contains("vorbis") && words.contains("--strict-streams"), "{words}");
}

#[test]
fn real_clips_keep_every_frame() {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "bigbuckbunny.mp4",
        "bikes.mp4",
        "carphone_pristine.mp4",
        "vtest.avi",
        "box.mp4",
        "cup.mp4",
    ] {
        let source = text(&real_clip(name));
        let out = text(&dir.path().join(format!("{name}.mkv")));
        run_ok(&["run", &source, "-o", &out, "--codec", "ffv1", "--segment", "1"]);
        let md5 = |path: &str| -> Vec<String> {
            frames(path).into_iter().map(|f| f.split(',').nth(1).unwrap().to_owned()).collect()
        };
        assert!(md5(&out) == md5(&source), "{name}: not ffmpeg's frames");
        fs::remove_file(&out).unwrap();
    }
}

#[test]
fn what_there_is_to_say_is_said_without_progress_and_not_when_quiet() {
    let dir = tempfile::tempdir().unwrap();
    let source = text(&dir.path().join("in.mkv"));
    let made = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=1"])
        .args(["-pix_fmt", "yuv422p10le", "-c:v", "ffv1", &source])
        .status();
    assert!(made.unwrap().success());
    let out = text(&dir.path().join("out.mp4"));
    let said_with = |more: &[&str]| {
        let args = [&["run", &source, "-o", &out, "--overwrite"][..], more].concat();
        run(&args)
    };
    let (code, words) = said_with(&["--progress", "none"]);
    assert_eq!(code, 0, "{words}");
    assert!(words.contains("note: pixel format yuv422p10le is converted"), "{words}");
    assert!(words.contains("25 frames in"), "{words}");
    assert_eq!(said_with(&["--quiet"]), (0, String::new()));
}
