//! What a server tells of its jobs: pictures, Prometheus metrics, webhooks, traces.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/receptor.rs"]
mod receptor;
#[path = "support/server.rs"]
mod server;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::Command;

use receptor::Receptor;
use serde_json::{Value, json};
use server::{Server, agent};
use support::{clip, text};

/// What the server answers to a request for `path`.
fn bytes(server: &Server, path: &str) -> Vec<u8> {
    let response = agent().get(format!("{}{path}", server.url())).call().unwrap();
    assert_eq!(response.status().as_u16(), 200, "{path}");
    response.into_body().read_to_vec().unwrap()
}

/// The mean of red, green and blue that ffmpeg finds in a picture, and how many it holds.
fn mean(picture: &[u8], dir: &std::path::Path) -> (usize, [u8; 3]) {
    let path = dir.join("picture");
    fs::write(&path, picture).unwrap();
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i", &text(&path), "-vf", "scale=1:1:flags=area,format=rgb24"])
        .args(["-f", "rawvideo", "-"])
        .output()
        .unwrap();
    assert!(output.status.success());
    let pixels: Vec<[u8; 3]> =
        output.stdout.chunks_exact(3).map(|p| p.try_into().unwrap()).collect();
    (pixels.len(), pixels[0])
}

#[test]
fn a_finished_job_shows_any_frame_and_a_moving_preview() {
    let dir = tempfile::tempdir().unwrap();
    let source = text(&dir.path().join("in.mp4"));
    // Each second has its own colour: a frame is known by it.
    let picture =
        "color=red:s=320x180:d=1:r=25[a];color=0x00ff00:s=320x180:d=1:r=25[b];[a][b]concat";
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", picture, "-pix_fmt", "yuv420p", "-g", "10"])
        .args(["-c:v", "libx264", &source])
        .status();
    assert!(made.unwrap().success());
    let server = Server::start(&dir.path().join("data"), &[]);
    let request = json!({ "source": { "upload": true, "name": "in.mp4" }, "filters": ["invert"] });
    let id = server.submit(&source, &request);
    let path = |rest: &str| format!("/v1/jobs/{id}/{rest}");
    assert_eq!(server.wait(&id)["state"], "succeeded");
    let near = |picture: &str, wanted: [u8; 3]| {
        let (count, found) = mean(&bytes(&server, &path(picture)), dir.path());
        assert_eq!(count, 1, "{picture}");
        let close = found.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) < 12);
        assert!(close, "{picture} is {found:?}, not {wanted:?}");
    };
    near("frames/24.jpg?side=before", [255, 0, 0]);
    near("frames/25.jpg?side=before", [0, 255, 0]);
    let (_, after) = mean(&bytes(&server, &path("frames/24.jpg")), dir.path());
    assert!(after[0] < 60 && after[1] > 150, "inverted red is {after:?}");
    for (name, kind) in
        [("preview.gif", "GIF8"), ("preview.webp", "WEBPVP8X"), ("preview.mp4", "ftyp")]
    {
        let made = bytes(&server, &path(name));
        assert!(String::from_utf8_lossy(&made[..16]).contains(kind), "{name}");
        if kind == "WEBPVP8X" {
            // FFmpeg 5.1 does not read these. Frames that repeat are one that is shown for longer.
            let durations = made.windows(23).filter(|part| part.starts_with(b"ANMF")).map(|part| {
                u32::from(part[20]) + (u32::from(part[21]) << 8) + (u32::from(part[22]) << 16)
            });
            let durations: Vec<u32> = durations.collect();
            assert!(durations.len() == 2 && durations[0] == 2000, "{durations:?}");
            assert!((1990..=2000).contains(&durations[1]), "{durations:?}");
        } else {
            assert_eq!(mean(&made, dir.path()).0, 24, "{name}");
        }
        assert!(bytes(&server, &path(name)) == made, "{name} changes");
    }
    for (name, status) in
        [("frames/50.jpg", 404), ("frames/-1.jpg", 404), ("frames/1.jpg?side=x", 400)]
    {
        assert_eq!(server.get(&path(name)).0, status, "{name}");
    }
    let (_, waiting) = server.post("/v1/jobs", &request, &[]);
    let open = format!("/v1/jobs/{}/preview.gif", waiting["id"].as_str().unwrap());
    assert_eq!(server.get(&open).0, 409);
}

#[test]
fn graphs_and_encoders_are_checked_before_a_job_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let upload = json!({ "upload": true });
    let cases = [
        (json!({ "source": upload, "filters": ["ffmpeg:eq=contrast=much"] }), "contrast=much"),
        (json!({ "source": upload, "filters": ["ffmpeg:movie=/etc/passwd"] }), "not on the list"),
        (json!({ "source": upload, "filters": ["ffmpeg:fps=5"] }), "how many frames"),
        (json!({ "source": upload, "encoder": { "encoder": "libx265x" } }), "did you mean"),
        (json!({ "source": upload, "encoder": { "options": { "stats": "x" } } }), "stats=x"),
        (json!({ "source": upload, "encoder": { "codec": "h264" }, "container": "webm" }), "vp9"),
    ];
    for (request, words) in cases {
        let (status, problem) = server.post("/v1/jobs", &request, &[]);
        assert_eq!(status, 400, "{request}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(words), "{problem}");
    }
    assert_eq!(server.get("/v1/jobs").1["total"], 0);
}

/// A sample of Prometheus' text format.
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads Prometheus' text format strictly: every sample belongs to the family above it, which has
/// a help and a type and comes once.
fn parse(text: &str) -> Vec<Sample> {
    let word = |s: &str| {
        s.chars().enumerate().all(|(i, c)| {
            c.is_ascii_alphabetic() || matches!(c, '_' | ':') || (i > 0 && c.is_ascii_digit())
        }) && !s.is_empty()
    };
    assert!(text.ends_with('\n'));
    let (mut families, mut samples) = (Vec::<(String, String)>::new(), Vec::new());
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest.split_once(' ').unwrap().0.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(help.as_deref(), Some(name), "{line}");
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            assert!(!families.iter().any(|(known, _)| known == name), "{name} comes twice");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            families.push((name.to_owned(), kind.to_owned()));
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
                None => (series, ""),
            };
            let labels: BTreeMap<String, String> = labels
                .split(',')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap();
                    assert!(word(key), "{line}");
                    let value = value.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
                    (key.to_owned(), value.to_owned())
                })
                .collect();
            let (family, kind) = families.last().unwrap();
            let part = name.strip_prefix(family.as_str()).unwrap();
            let fits = match kind.as_str() {
                "histogram" => matches!(part, "_bucket" | "_sum" | "_count"),
                _ => part.is_empty(),
            };
            assert!(word(name) && fits, "{line} is not of {family}");
            samples.push(Sample { name: name.to_owned(), labels, value: value.parse().unwrap() });
        }
    }
    samples
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 3);
    let server = Server::start(&dir.path().join("data"), &[]);
    let (status, said) = server.process("f=invert&segment=1", &source, &dir.path().join("out.mp4"));
    assert_eq!(status, 200, "{said}");
    let text = String::from_utf8(bytes(&server, "/metrics")).unwrap();
    let samples = parse(&text);
    let value = |name: &str, labels: &[(&str, &str)]| {
        let fits = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(k, v)| sample.labels.get(*k).map(String::as_str) == Some(v))
        };
        samples.iter().find(fits).unwrap_or_else(|| panic!("no {name} {labels:?}")).value
    };
    assert_eq!(value("frameloom_frames_total", &[]), 75.0);
    assert_eq!(value("frameloom_jobs", &[("state", "succeeded")]), 1.0);
    assert_eq!(value("frameloom_retries_total", &[]), 0.0);
    assert_eq!(value("frameloom_queue_depth", &[]), 0.0);
    assert!(value("frameloom_slots", &[("state", "free")]) >= 1.0);
    for (step, count) in [("plan", 1.0), ("segment", 3.0), ("concat", 1.0)] {
        let name = "frameloom_task_seconds";
        assert_eq!(value(&format!("{name}_count"), &[("step", step)]), count);
        assert!(value(&format!("{name}_sum"), &[("step", step)]) > 0.0);
        let buckets: Vec<f64> = samples
            .iter()
            .filter(|s| s.name == format!("{name}_bucket") && s.labels["step"] == step)
            .map(|s| s.value)
            .collect();
        assert!(buckets.is_sorted() && buckets.len() > 5, "{buckets:?}");
        assert_eq!(value(&format!("{name}_bucket"), &[("step", step), ("le", "+Inf")]), count);
    }
}

#[test]
fn a_webhook_is_signed_and_sent_until_it_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 1);
    let receptor = Receptor::start(&[503]);
    let host = format!("127.0.0.1:{}", receptor.port);
    let secret = dir.path().join("secret");
    fs::write(&secret, "a secret of many letters\n").unwrap();
    let secret = text(&secret);
    let data = dir.path().join("data");
    let args = ["--webhook-host", &host, "--webhook-secret", &secret];
    let server = Server::start(&data, &args);
    let job = |url: &str| json!({ "source": { "upload": true, "name": "in.mp4" }, "webhook": url });
    let (status, problem) = server.post("/v1/jobs", &job("http://169.254.169.254/"), &[]);
    assert_eq!(status, 403, "{problem}");
    let id = server.submit(&source, &job(&format!("http://{host}/hook?a=b")));
    let (refused, taken) = (receptor.got.recv().unwrap(), receptor.got.recv().unwrap());
    assert_eq!(refused.path, "/hook?a=b");
    assert_eq!(refused.headers["frameloom-event"], "job.ended");
    let told: Value = serde_json::from_str(&taken.body).unwrap();
    assert_eq!((&told["id"], &told["state"]), (&json!(id), &json!("succeeded")));
    // openssl makes the same signature of the time, a dot and the body.
    let signature = &taken.headers["frameloom-signature"];
    let (time, hex) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", "a secret of many letters"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    write!(openssl.stdin.take().unwrap(), "{time}.{}", taken.body).unwrap();
    let made = String::from_utf8(openssl.wait_with_output().unwrap().stdout).unwrap();
    assert!(made.trim().ends_with(hex), "{made} is not {hex}");
    // It is told once, also to a server that is started anew; another job's end comes next.
    while !String::from_utf8(bytes(&server, &format!("/v1/jobs/{id}/logs")))
        .unwrap()
        .contains("webhook")
    {
        std::thread::yield_now();
    }
    server.kill();
    let server = Server::start(&data, &args);
    let next = server.submit(&source, &job(&format!("http://{host}/next")));
    let told: Value = serde_json::from_str(&receptor.got.recv().unwrap().body).unwrap();
    assert_eq!(told["id"], json!(next));
}

#[test]
fn a_job_is_one_trace() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 3);
    let receptor = Receptor::start(&[]);
    let endpoint = format!("http://127.0.0.1:{}", receptor.port);
    let server = Server::start_with(
        &dir.path().join("data"),
        &[],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), ("OTEL_EXPORTER_OTLP_HEADERS", "key=value")],
    );
    let request = json!({ "source": { "upload": true, "name": "in.mp4" }, "segment": 1 });
    let id = server.submit(&source, &request);
    let got = receptor.got.recv().unwrap();
    assert_eq!((got.path.as_str(), got.headers["key"].as_str()), ("/v1/traces", "value"));
    let sent: Value = serde_json::from_str(&got.body).unwrap();
    let spans = sent["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    let mut names: Vec<&str> = spans.iter().map(|span| span["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    let segments =
        ["segment", "segment", "segment", "slot.segment", "slot.segment", "slot.segment"];
    assert_eq!(names, [&["concat", "job", "plan"][..], &segments, &["upload"]].concat());
    let ids: Vec<&Value> = spans.iter().map(|span| &span["spanId"]).collect();
    let number = |span: &Value, key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
    for span in spans {
        assert_eq!(span["traceId"], json!(id));
        let root = span["name"] == "job";
        assert_eq!(span["parentSpanId"] == "", root);
        assert!(root || ids.contains(&&span["parentSpanId"]), "{span} has no parent");
        assert!(number(span, "startTimeUnixNano") <= number(span, "endTimeUnixNano"), "{span}");
    }
    let unique: std::collections::BTreeSet<&str> =
        ids.iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!(unique.len(), spans.len());
}

#[test]
fn a_source_goes_before_its_output_and_a_failed_job_goes_whole() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 1);
    let data = dir.path().join("data");
    let server = Server::start(&data, &["--keep", "0s"]);
    let request =
        |filter| json!({ "source": { "upload": true, "name": "in.mp4" }, "filters": [filter] });
    let kept = server.submit(&source, &request("invert"));
    let failed = server.submit(&source, &request("crop:w=5000"));
    server.wait(&kept);
    let place = data.join("jobs");
    while place.join(&kept).join("source").exists() || place.join(&failed).exists() {
        std::thread::yield_now();
    }
    assert_eq!(server.get(&format!("/v1/jobs/{failed}")).0, 404);
    let (_, job) = server.get(&format!("/v1/jobs/{kept}"));
    assert_eq!((&job["state"], &job["expires_at"]), (&json!("succeeded"), &Value::Null));
    assert!(!server.output(&kept).is_empty());
    assert_eq!(server.get(&format!("/v1/jobs/{kept}/frames/0.jpg?side=before")).0, 404);
    server.kill();
    // Now outputs go, too.
    let server = Server::start(&data, &["--keep", "0s", "--keep-outputs", "0s"]);
    while place.join(&kept).exists() {
        std::thread::yield_now();
    }
    assert_eq!(server.get(&format!("/v1/jobs/{kept}")).0, 404);
}
