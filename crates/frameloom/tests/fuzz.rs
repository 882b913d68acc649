//! Whatever a client asks for ends in a job or an error in words.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use frameloom_core::wire::JobFile;
use frameloom_fuzz::Target;
use frameloom_media::{catalogue, init, validate};
use frameloom_server::serve::JobRequest;
use serde_json::json;

#[test]
fn fuzz_job_json() {
    init();
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");
    let mut target = Target::new("job-json", corpus, 2000);
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
