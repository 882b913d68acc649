//! Nodes on hosts of their own, with addresses of both families: cables are pulled, hosts die and freeze.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/late.rs"]
mod late;
#[path = "support/net.rs"]
mod net;
#[path = "support/nodes.rs"]
mod nodes;
#[path = "../../broker/tests/support/mod.rs"]
mod redis_server;
#[path = "support/server.rs"]
mod server;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use late::LateView;
use net::{Host, Hub};
use nodes::{Worker, serve, until, until_live, workers};
use redis_server::Redis;
use serde_json::{Value, json};
use server::Server;
use support::{clip, run_bytes, text};

/// Redis where the bridge is; the server, which is elsewhere, reaches it by a socket.
struct RedisOnBridge {
    child: Child,
    socket: PathBuf,
}

impl RedisOnBridge {
    fn start(hub: &Hub, dir: &Path) -> Self {
        let socket = dir.join("redis.sock");
        let child = hub
            .command()
            .args(["redis-server", "--port", "6379", "--bind", "10.77.0.1", "fd77::1"])
            .args(["--protected-mode", "no", "--save", "", "--unixsocket"])
            .arg(&socket)
            .current_dir(dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        until("Redis answers", 20, || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        Self { child, socket }
    }

    fn url(&self) -> String {
        format!("unix://{}", text(&self.socket))
    }
}

impl Drop for RedisOnBridge {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn node(hub: &Hub, number: u8, redis: &str, data: &Path, name: &str, slots: &str) -> Host {
    let (broker, data) = (format!("redis://{redis}:6379/0"), text(data));
    let args = ["worker", "--broker", &broker, "--data", &data, "--name", name, "--slots", slots];
    hub.host(number, Path::new(env!("CARGO_BIN_EXE_frameloom")), &args)
}

fn submit(server: &Server, source: &str) -> String {
    let filters = ["test-fault:kind=slow"];
    let source_of = json!({ "upload": true, "name": "in.mp4" });
    server.submit(source, &json!({ "source": source_of, "filters": filters, "segment": 1 }))
}

fn logs(server: &Server, id: &str) -> String {
    let (status, logs) = server.get(&format!("/v1/jobs/{id}/logs"));
    assert_eq!(status, 200);
    logs.as_str().unwrap().to_owned()
}

fn accepted(data: &Value) -> bool {
    data["task"] == "segment" && data["state"] == "accepted"
}

#[test]
fn a_host_that_is_cut_off_one_that_dies_and_one_that_freezes_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 24);
    let expected = run_bytes(dir.path(), &source, "test-fault:kind=slow");
    let hub = Hub::start();
    let redis = RedisOnBridge::start(&hub, dir.path());
    let data = dir.path().join("data");
    let server = Server::start(&data, &["--broker", &redis.url(), "--no-local-slots"]);
    let cut = node(&hub, 2, "10.77.0.1", &data, "cut", "1");
    let mut killed = node(&hub, 3, "[fd77::1]", &data, "killed", "2");
    let frozen = node(&hub, 4, "10.77.0.1", &data, "frozen", "1");
    let stays = node(&hub, 5, "[fd77::1]", &data, "stays", "1");
    until_live(&server, 4);
    let id = submit(&server, &source);
    server.until_event(&id, |_, data| accepted(data));
    cut.cable(false);
    frozen.signal("-STOP");
    killed.signal("-KILL");
    let died = Instant::now();
    assert_eq!(killed.end(), None);
    until("what the dead had is begun again", 10, || {
        let logs = logs(&server, &id);
        (0..24).any(|k| logs.matches(&format!("segment {k} sent,")).count() > 1)
    });
    assert!(died.elapsed() < Duration::from_secs(10), "{:?}", died.elapsed());
    let job = server.wait(&id);
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(server.output(&id) == expected, "other bytes than run");
    let logs = logs(&server, &id);
    for k in 0..24 {
        let times = logs.matches(&format!("segment {k} accepted,")).count();
        assert_eq!(times, 1, "segment {k}:\n{logs}");
    }
    assert!(!logs.contains("failed"), "a failure was counted:\n{logs}");

    // Plugged in again it does what there is to do, alone, and so does the one that wakes.
    stays.signal("-TERM");
    frozen.signal("-CONT");
    cut.cable(true);
    until_live(&server, 2);
    let again = submit(&server, &source);
    let job = server.wait(&again);
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(server.output(&again) == expected, "other bytes than run");
    let logs = self::logs(&server, &again);
    for name in ["cut", "frozen"] {
        let node = workers(&server).into_iter().find(|w| w["name"] == name).unwrap();
        let by = format!("slot {}/", node["id"].as_str().unwrap());
        assert!(logs.contains(&by), "{name} did nothing:\n{logs}");
    }
}

#[test]
fn a_view_of_the_store_that_keeps_what_was_absent_costs_nothing_but_time() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 8);
    let expected = run_bytes(dir.path(), &source, "test-fault:kind=slow");
    let (redis, data) = (Redis::start(&[]), dir.path().join("data"));
    std::fs::create_dir(&data).unwrap();
    let view = |name: &str| LateView::of(&data, &dir.path().join(name));
    let (at_server, at_one, at_two) = (view("server"), view("one"), view("two"));
    let server = serve(&redis, at_server.path());
    let one = Worker::start(&redis, at_one.path(), "one", &["--slots", "1"]);
    let two = Worker::start(&redis, at_two.path(), "two", &["--slots", "1"]);
    until_live(&server, 2);
    let id = submit(&server, &source);
    server.until_event(&id, |_, data| accepted(data));
    one.signal("-KILL");
    let job = server.wait(&id);
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(server.output(&id) == expected, "other bytes than run");
    assert!(!logs(&server, &id).contains("failed"), "a failure was counted");

    // What is cancelled is let go of at once, though its name was not there when it was last looked for.
    let source_of = json!({ "upload": true, "name": "in.mp4" });
    let request = json!({ "source": source_of, "filters": ["test-fault:kind=hang"] });
    let id = server.submit(&source, &request);
    server.until_event(&id, |_, data| data["task"] == "segment" && data["state"] == "started");
    let cancelled =
        server::agent().delete(format!("{}/v1/jobs/{id}", server.url())).call().unwrap();
    assert!(cancelled.status().is_success(), "{}", cancelled.status());
    until("the slot is free again", 10, || {
        let is_free = |w: &Value| w["name"] == "two" && w["free_slots"] == 1 && w["held"] == 0;
        workers(&server).iter().any(is_free)
    });
    drop((server, two));
}

#[test]
fn frames_go_between_nodes_whose_views_keep_what_was_absent() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 4);
    let expected = run_bytes(dir.path(), &source, "blur:sigma=2");
    let (redis, data) = (Redis::start(&[]), dir.path().join("data"));
    std::fs::create_dir(&data).unwrap();
    let view = |name: &str| LateView::of(&data, &dir.path().join(name));
    let (at_server, at_one, at_two) = (view("server"), view("one"), view("two"));
    let server = serve(&redis, at_server.path());
    // One cuts the video into frames and joins them, the other filters them.
    let cuts = ["--slots", "2", "--queues", "frameloom.cpu,frameloom.control"];
    let filters = ["--slots", "2", "--queues", "frameloom.frame"];
    let _one = Worker::start(&redis, at_one.path(), "one", &cuts);
    let _two = Worker::start(&redis, at_two.path(), "two", &filters);
    until_live(&server, 1);
    let id = server.submit(
        &source,
        &json!({
            "source": { "upload": true, "name": "in.mp4" },
            "filters": ["blur:sigma=2"], "segment": 1, "granularity": "frame",
        }),
    );
    // A frame whose absence were believed would come half a minute late.
    until("all frames are there", 60, || {
        server.get(&format!("/v1/jobs/{id}")).1["state"] == "succeeded"
    });
    assert!(server.output(&id) == expected, "other bytes than run");
}
