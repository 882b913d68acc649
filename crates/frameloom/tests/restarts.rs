//! What outlives a server: jobs whose server dies at any commit or is frozen, traces, webhooks.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/receptor.rs"]
mod receptor;
#[path = "support/server.rs"]
mod server;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use receptor::Receptor;
use serde_json::{Value, json};
use server::{Server, agent};
use support::{clip, frameloom, run_bytes, text};

/// A filter that finds something, whose boxes lie beside the video.
const MOVES: &str = "motion:method=diff:action=boxes";

fn job(filter: &str) -> Value {
    let source = json!({ "upload": true, "name": "in.mp4" });
    json!({ "source": source, "filters": [filter], "segment": 1, "frame_metrics": true })
}

fn journal(data: &Path, id: &str) -> String {
    fs::read_to_string(data.join("jobs").join(id).join("journal")).unwrap()
}

/// Sees to it that every task of a job was accepted once, and that the job ended once.
fn accepted_once(data: &Path, id: &str, segments: u32) {
    let journal = journal(data, id);
    let count = |wanted: &str| {
        journal
            .lines()
            .filter(|line| line.contains("\"accepted\"") && line.contains(wanted))
            .count()
    };
    for k in 0..segments {
        assert_eq!(count(&format!("\"task\":{{\"segment\":{k}}}")), 1, "{k}: {journal}");
    }
    assert_eq!(count("\"task\":\"plan\""), 1, "{journal}");
    assert_eq!(count("\"task\":\"concat\""), 1, "{journal}");
    assert_eq!(journal.matches("{\"ended\":").count(), 1, "{journal}");
}

#[test]
fn a_server_that_dies_at_any_commit_loses_and_repeats_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 3);
    let expected = ["invert", MOVES].map(|filter| run_bytes(dir.path(), &source, filter));
    let steps = [
        "before uploaded",
        "within uploaded",
        "after uploaded",
        "before accept:1",
        "after accept:1",
        "before accept:3",
        "after accept:3",
        "before publish",
        "within publish",
        "after publish",
        "after ended",
    ];
    for step in steps {
        let data = dir.path().join(step.replace([' ', ':'], "-"));
        let mut server = Server::start(&data, &["--fault", step]);
        // What is handed out at the end is more than a video.
        let (filter, expected) = match step.ends_with("publish") {
            true => (MOVES, &expected[1]),
            false => ("invert", &expected[0]),
        };
        let (status, made) = server.post("/v1/jobs", &job(filter), &[]);
        assert_eq!(status, 201, "{step}: {made}");
        let id = made["id"].as_str().unwrap();
        let url = format!("{}{}", server.url(), made["upload_url"].as_str().unwrap());
        let bytes = fs::read(&source).unwrap();
        // No answer comes where the server dies with the last byte.
        drop(agent().put(url).send(&bytes[..]));
        let asked = Instant::now();
        while !server.is_over() {
            assert!(asked.elapsed() < Duration::from_secs(60), "{step} never comes");
            std::thread::yield_now();
        }
        let server = Server::start(&data, &[]);
        if step == "before uploaded" {
            let upload = made["upload_url"].as_str().unwrap();
            assert_eq!(server.patch(upload, bytes.len(), &[]).0, 204);
            // What has come is kept; the client says once more that this is all.
            let length = bytes.len().to_string();
            let head = agent().patch(format!("{}{upload}", server.url()));
            let head = head.header("content-type", "application/offset+octet-stream");
            let head = head.header("upload-offset", &length).header("upload-length", &length);
            assert_eq!(head.send_empty().unwrap().status().as_u16(), 204);
        }
        let ended = server.wait(id);
        assert_eq!(ended["state"], "succeeded", "{step}: {ended}");
        assert!(server.output(id) == *expected, "{step}: other bytes than run");
        accepted_once(&data, id, 3);
        let beside = ["frames.jsonl", "detections.jsonl"];
        for name in &beside[..1 + usize::from(filter == MOVES)] {
            let text = fs::read_to_string(data.join("jobs").join(id).join(name)).unwrap();
            assert!(text.lines().count() >= 75, "{step}: {name}");
        }
    }
}

#[test]
fn a_write_that_finds_no_room_costs_no_job() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 3);
    let expected = run_bytes(dir.path(), &source, "invert");
    for step in ["before accept:1", "before accept:2", "before publish", "within publish"] {
        let data = dir.path().join(step.replace([' ', ':'], "-"));
        let server = Server::start(&data, &["--fault", &format!("{step}=full")]);
        let id = server.submit(&source, &job("invert"));
        server.until_event(&id, |_, event| event["waiting"] == "store full");
        let ended = server.wait(&id);
        assert_eq!(ended["state"], "succeeded", "{step}: {ended}");
        assert!(server.output(&id) == expected, "{step}: other bytes than run");
        accepted_once(&data, &id, 3);
    }
}

#[test]
fn a_frozen_server_that_was_replaced_decides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 6);
    let expected = run_bytes(dir.path(), &source, "test-fault:kind=slow");
    let data = dir.path().join("data");
    let first = Server::start(&data, &[]);
    let id = first.submit(&source, &job("test-fault:kind=slow"));
    first.until_event(&id, |_, event| event["segment"] == 0 && event["state"] == "accepted");
    first.signal("-STOP");
    let second = Server::start(&data, &[]);
    first.signal("-CONT");
    assert_eq!(first.ended(), Some(6));
    let ended = second.wait(&id);
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert!(second.output(&id) == expected, "other bytes than run");
    accepted_once(&data, &id, 6);
}

#[test]
fn a_trace_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 5);
    let receptor = Receptor::start(&[503]);
    let endpoint = format!("http://127.0.0.1:{}", receptor.port);
    let data = dir.path().join("data");
    let start = || Server::start_with(&data, &[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    let server = start();
    let id = server.submit(&source, &job("test-fault:kind=slow"));
    server.until_event(&id, |_, event| event["segment"] == 1 && event["state"] == "accepted");
    server.kill();
    let server = start();
    assert_eq!(server.wait(&id)["state"], "succeeded");
    // The first time it is refused, and comes again.
    let refused = receptor.got.recv().unwrap().body;
    let body = receptor.got.recv().unwrap().body;
    assert_eq!(body, refused);
    let sent: Value = serde_json::from_str(&body).unwrap();
    let spans = sent["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    let done = |name: &str| -> Vec<&str> {
        let spans = spans.iter().filter(|s| s["name"] == name && s["status"]["code"] == 1);
        spans.map(|span| span["spanId"].as_str().unwrap()).collect()
    };
    for (name, count) in
        [("job", 1), ("upload", 1), ("plan", 1), ("segment", 5), ("slot.segment", 5), ("concat", 1)]
    {
        assert_eq!(done(name).len(), count, "{name}: {body}");
    }
    let ids: BTreeSet<&str> = spans.iter().map(|s| s["spanId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), spans.len());
    for span in spans {
        assert_eq!(span["traceId"], json!(id));
        let parent = span["parentSpanId"].as_str().unwrap();
        assert!(parent.is_empty() == (span["name"] == "job"));
        assert!(parent.is_empty() || ids.contains(parent), "{span} has no parent");
    }
    // The segments that the first server was at are told as lost with it.
    let lost = spans.iter().filter(|span| span["status"]["code"] == 2);
    assert!(lost.clone().count() > 0, "{body}");
    lost.for_each(|span| assert_eq!(span["status"]["message"], "its server ended before"));
    let place = data.join("jobs").join(&id);
    let left = || {
        let entries = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name());
        entries.filter(|name| name.to_str().unwrap().starts_with("trace")).count()
    };
    while left() > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_webhook_is_sent_by_the_next_server_and_given_up_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 1);
    let receptor = Receptor::start(&[503, 503, 500]);
    let host = format!("127.0.0.1:{}", receptor.port);
    let data = dir.path().join("data");
    let hook = |path: &str| {
        let mut request = job("invert");
        request["webhook"] = json!(format!("http://{host}{path}"));
        request
    };
    let server = Server::start(&data, &["--webhook-host", &host]);
    server.submit(&source, &hook("/first"));
    assert_eq!(receptor.got.recv().unwrap().path, "/first");
    server.kill();
    // The next one goes on, and gives up what is refused for too long.
    let args = ["--webhook-host", &host, "--webhook-for", "0s"];
    let server = Server::start(&data, &args);
    assert_eq!(receptor.got.recv().unwrap().path, "/first");
    let second = server.submit(&source, &hook("/second"));
    assert_eq!(receptor.got.recv().unwrap().path, "/second");
    let told = |server: &Server, wanted: &str| {
        let metrics = server.get("/metrics").1;
        let metrics = metrics.as_str().unwrap().to_owned();
        metrics.lines().any(|line| line == wanted)
    };
    while !told(&server, "frameloom_webhooks_total{result=\"given_up\"} 2") {
        std::thread::yield_now();
    }
    assert!(told(&server, "frameloom_webhooks_total{result=\"refused\"} 2"));
    while !told(&server, "frameloom_webhooks_waiting 0") {
        std::thread::yield_now();
    }
    let logs = server.get(&format!("/v1/jobs/{second}/logs")).1;
    assert!(logs.as_str().unwrap().contains("webhook given up"), "{logs}");
    server.kill();
    // What was given up is not begun anew: the next that comes is another job's.
    let server = Server::start(&data, &args);
    server.submit(&source, &hook("/third"));
    assert_eq!(receptor.got.recv().unwrap().path, "/third");
    while !told(&server, "frameloom_webhooks_total{result=\"taken\"} 1") {
        std::thread::yield_now();
    }
}

#[test]
fn a_job_that_is_cancelled_while_its_source_comes_stays_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let source = fs::read(clip(dir.path(), "in.mp4", 1)).unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let (_, made) = server.post("/v1/jobs", &job("invert"), &[]);
    let (id, upload) = (made["id"].as_str().unwrap(), made["upload_url"].as_str().unwrap());
    let path = format!("/v1/jobs/{id}");
    let half = source.len() / 2;
    // A body that goes on once the job is cancelled.
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let body = Halves { parts: vec![source[half..].to_vec(), source[..half].to_vec()], gone };
    let status = std::thread::scope(|scope| {
        let url = format!("{}{upload}", server.url());
        let sending = scope.spawn(move || {
            let body = ureq::SendBody::from_owned_reader(body);
            agent().put(url).send(body).unwrap().status().as_u16()
        });
        while server.get(&path).1["uploaded"] != json!(half) {
            std::thread::yield_now();
        }
        let deleted = agent().delete(format!("{}{path}", server.url())).call().unwrap();
        assert_eq!(deleted.status().as_u16(), 202);
        go.send(()).unwrap();
        sending.join().unwrap()
    });
    assert_eq!(status, 409);
    assert_eq!(server.get(&path).1["state"], "cancelled");
}

/// Parts of a body, last one first; each but the first waits until it is told to come.
struct Halves {
    parts: Vec<Vec<u8>>,
    gone: std::sync::mpsc::Receiver<()>,
}

impl std::io::Read for Halves {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Some(part) = self.parts.last_mut() else { return Ok(0) };
        let count = part.len().min(buffer.len());
        buffer[..count].copy_from_slice(&part[..count]);
        part.drain(..count);
        if part.is_empty() {
            self.parts.pop();
            if count == 0 {
                // It was all sent: the next one waits.
                self.gone.recv().ok();
                return self.read(buffer);
            }
            if !self.parts.is_empty() {
                self.parts.push(Vec::new());
            }
        }
        Ok(count)
    }
}

#[test]
fn one_key_at_once_makes_one_job_and_too_many_jobs_are_told_to_wait() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &["--max-jobs", "25"]);
    for round in 0..24 {
        let key = round.to_string();
        let made: BTreeSet<String> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let key = [("idempotency-key", key.as_str())];
                        let (status, made) = server.post("/v1/jobs", &job("invert"), &key);
                        assert!(status == 200 || status == 201, "{made}");
                        made["id"].as_str().unwrap().to_owned()
                    })
                })
                .collect();
            all.into_iter().map(|sent| sent.join().unwrap()).collect()
        });
        assert_eq!(made.len(), 1, "{made:?}");
    }
    assert_eq!(server.post("/v1/jobs", &job("invert"), &[]).0, 201);
    let full = agent().post(format!("{}/v1/jobs", server.url())).send_json(job("invert")).unwrap();
    assert_eq!(full.status().as_u16(), 429);
    assert!(full.headers().contains_key("retry-after"));
}

#[test]
fn a_unix_socket_answers_and_a_client_that_never_asks_is_dropped() {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let address = format!("unix:{}", text(&socket));
    let server = Server::start_by(frameloom(), &dir.path().join("data"), &["--listen", &address]);
    let mut slow = TcpStream::connect(server.url().strip_prefix("http://").unwrap()).unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nhost: 127").unwrap();
    while !socket.exists() {
        std::thread::yield_now();
    }
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
    // Its headers never come whole: the server waits no longer than 15 s.
    slow.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut said = Vec::new();
    slow.read_to_end(&mut said).unwrap();
    assert_eq!(server.terminate(), Some(143));
    assert!(!socket.exists(), "the socket is left behind");
}
