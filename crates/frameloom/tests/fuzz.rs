//! Whatever a client asks for ends in a job or an error in words, and whatever is in a video in an output or an error.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::cell::Cell;
use std::fs;
use std::process::Command;
use std::time::Duration;

use frameloom_core::wire::JobFile;
use frameloom_fuzz::Target;
use frameloom_media::{catalogue, init, validate};
use frameloom_server::serve::JobRequest;
use serde_json::{Value, json};
use support::{frameloom, said};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");

#[test]
fn fuzz_job_json() {
    init();
    let mut target = Target::new("job-json", CORPUS, 2000);
    (target.longest, target.time) = (256 << 10, Duration::from_secs(2));
    target.words = &[
        "blur:sigma=3",
        "edges",
        "ffmpeg:hflip,eq=gamma=2",
        "faces:action=blur",
        "regions:detections=x",
        "motion:action=box",
        "celery:task=a.b:queue=q",
        "mp4",
        "mov",
        "mkv",
        "webm",
        "h264",
        "hevc",
        "vp9",
        "av1",
        "ffv1",
        "libx264",
        "preset",
        "x264-params",
        "crf",
        "00:01:30.25",
        "frame",
        "original",
        "jsonl",
        "covers",
        "1e308",
        "-1",
    ];
    let request = json!({
        "source": { "upload": true, "name": "in.mp4", "size": 7 },
        "filters": ["blur:sigma=3", "ffmpeg:hflip"],
        "files": [{ "name": "m.onnx", "sha256": "0".repeat(64), "size": 1 }],
        "encoder": { "codec": "h264", "crf": 20.5, "preset": "fast", "options": { "tune": "film" } },
        "container": "mp4", "segment": 2.5, "from": "1:30", "to": "00:02:00.5", "stream": 0,
        "granularity": "frame", "on_error": "skip", "keep_metadata": ["covers"], "priority": 5,
        "output": { "path": "/out.mp4" }, "webhook": "https://host/hook",
    });
    target.seeds = vec![
        request.to_string().into_bytes(),
        json!({ "source": { "path": "/in.mp4" }, "filters": ["faces:action=pixelate"], "encoder": {
            "encoder": "libx265", "lossless": true, "options": { "x265-params": "log-level=1" } } })
        .to_string()
        .into_bytes(),
        json!({ "source": { "upload": true }, "filters": ["motion:action=box"], "detections_only": "coco" })
            .to_string()
            .into_bytes(),
    ];
    let said = |error: frameloom_core::Error| {
        assert!(!error.message().is_empty());
        error.message().to_owned()
    };
    target.fuzz(|input| {
        let request: JobRequest = match serde_json::from_slice(input) {
            Ok(request) => request,
            // It may be a job's file on the store.
            Err(error) => {
                drop(serde_json::from_slice::<JobFile>(input));
                return error.to_string();
            }
        };
        let made = request.spec(&catalogue()).and_then(|spec| {
            // What is asked for is written down, and read again as it was.
            let text = serde_json::to_vec(&spec).unwrap();
            assert_eq!(
                serde_json::from_slice::<frameloom_core::spec::JobSpec>(&text).unwrap(),
                spec
            );
            validate(&spec)
        });
        made.map_or_else(said, |()| "a job".into())
    });
}

/// The crate `media` reads such files in process; here slots do, which the kernel ends for what no slot may do. None may end so,
/// nor by a crash: a task that ends a slot is tried again, so that its output alone would not tell.
#[test]
fn fuzz_media_slots() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut target = Target::new("media-slots", CORPUS, 40);
    (target.longest, target.time) = (1 << 20, Duration::from_secs(20));
    target.words = &["moov", "mdat", "stts", "ctts", "stss", "trak", "avcC", "esds", "\u{1a}E"];
    let clips: [(&str, &[&str]); 4] = [
        ("a.mp4", &["-c:v", "libx264", "-g", "5", "-c:a", "aac"]),
        ("b.mkv", &["-c:v", "libx265", "-x265-params", "keyint=5:log-level=none", "-c:a", "flac"]),
        ("c.ts", &["-c:v", "mpeg2video", "-g", "5", "-c:a", "mp2"]),
        ("d.webm", &["-c:v", "libvpx-vp9", "-g", "5", "-deadline", "realtime", "-c:a", "libopus"]),
    ];
    for (name, args) in clips {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-nostdin", "-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=2"]);
        ffmpeg.args(["-f", "lavfi", "-i", "sine=d=2", "-pix_fmt", "yuv420p"]);
        assert!(ffmpeg.args(args).arg(at(name)).status().unwrap().success());
        target.seeds.push(fs::read(at(name)).unwrap());
    }
    let (done, refused) = (Cell::new(0), Cell::new(0));
    target.fuzz(|input| {
        // No name tells what it is: it is probed.
        fs::write(at("mutated"), input).unwrap();
        let mut run = frameloom();
        run.args(["run", "-f", "denoise", "-f", "faces", "--segment", "0.5", "--slots", "2", "-q"]);
        run.args(["--overwrite", "-o"]).arg(at("out.mkv")).arg("--metrics").arg(at("metrics.json"));
        let (code, words) = said(&run.arg(at("mutated")).output().unwrap());
        // The sources of what is refused, and nothing else, are unfit.
        assert!(matches!(code, 0 | 5 | 6), "{code}: {words}");
        assert!(!words.contains("signal "), "{words}");
        if code == 0 {
            let metrics: Value =
                serde_json::from_slice(&fs::read(at("metrics.json")).unwrap()).unwrap();
            assert_eq!(metrics["tasks"]["failed_attempts"], json!([]));
        }
        let count = if code == 0 { &done } else { &refused };
        count.set(count.get() + 1);
        words
    });
    // Both happen, or the mutations are too weak or too strong to find anything.
    assert!(done.get() > 0 && refused.get() > 0, "{done:?} done, {refused:?} refused");
}
