//! Nodes of their own around a server, over a real Redis and one store.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/nodes.rs"]
mod nodes;
#[path = "../../broker/tests/support/mod.rs"]
mod redis_server;
#[path = "support/server.rs"]
mod server;
mod support;

use std::cell::Cell;
use std::fs;
use std::process::Command;

use nodes::{Worker, serve, until, until_live, workers};
use redis_server::Redis;
use serde_json::{Value, json};
use server::Server;
use support::{clip, frameloom, real_clip, run_bytes, run_ok, said, text, told};

fn submit(server: &Server, source: &str, filter: &str) -> String {
    let request = json!({
        "source": { "upload": true, "name": "in.mp4" }, "filters": [filter], "segment": 1
    });
    server.submit(source, &request)
}

/// What was decided about a job, a line each.
fn logs(server: &Server, id: &str) -> String {
    let (status, logs) = server.get(&format!("/v1/jobs/{id}/logs"));
    assert_eq!(status, 200);
    logs.as_str().unwrap().to_owned()
}

#[test]
fn nodes_give_the_bytes_of_a_run_and_a_drain_retries_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 12);
    let expected = run_bytes(dir.path(), &source, "test-fault:kind=slow");
    let (redis, data) = (Redis::start(&[]), dir.path().join("data"));
    let server = serve(&redis, &data);
    let mut one = Worker::start(&redis, &data, "one", &["--slots", "1"]);
    let two = Worker::start(&redis, &data, "two", &["--slots", "1"]);
    until_live(&server, 2);
    let nodes: Vec<Value> =
        workers(&server).into_iter().filter(|node| node["slots"] != 0).collect();
    let id = submit(&server, &source, "test-fault:kind=slow");
    server.until_event(&id, |_, data| data["task"] == "segment" && data["state"] == "accepted");
    one.signal("-TERM");
    assert_eq!(one.end(), Some(0), "a drained node ends well");
    let job = server.wait(&id);
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(server.output(&id) == expected, "other bytes than run");
    assert_eq!(job["progress"]["retried"], 0, "{job}");
    let logs = logs(&server, &id);
    for node in [&nodes[0], &nodes[1]] {
        let by = format!("slot {}/", node["id"].as_str().unwrap());
        assert!(logs.contains(&by), "{} did nothing:\n{logs}", node["name"]);
    }
    until("a node that has left is not listed", 5, || {
        workers(&server).iter().all(|w| w["name"] != "one")
    });
    drop(two);
}

#[test]
fn whatever_dies_the_job_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 24);
    let expected = run_bytes(dir.path(), &source, "test-fault:kind=slow");
    let (redis, data) = (Redis::start(&[]), dir.path().join("data"));
    let server = serve(&redis, &data);
    let killed = Worker::start(&redis, &data, "killed", &["--slots", "2"]);
    let frozen = Worker::start(&redis, &data, "frozen", &["--slots", "1"]);
    let _stays = Worker::start(&redis, &data, "stays", &["--slots", "1"]);
    until_live(&server, 3);
    let id = submit(&server, &source, "test-fault:kind=slow");
    let accepted = |data: &Value| data["task"] == "segment" && data["state"] == "accepted";
    server.until_event(&id, |_, data| accepted(data));
    // A node with two tasks dies, one freezes, and Redis forgets everything.
    killed.signal("-KILL");
    frozen.signal("-STOP");
    let _: () = redis::cmd("FLUSHALL").query(&mut redis.connection()).unwrap();
    // The server itself dies, too, and another goes on.
    let server = Server::start(&server.kill(), &["--broker", &redis.url(), "--no-local-slots"]);
    let job = server.wait(&id);
    frozen.signal("-CONT");
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(server.output(&id) == expected, "other bytes than run");
    let logs = logs(&server, &id);
    for k in 0..24 {
        let accepted = logs.matches(&format!("segment {k} accepted,")).count();
        assert_eq!(accepted, 1, "segment {k}:\n{logs}");
    }
    assert!(!logs.contains("failed"), "a failure was counted:\n{logs}");
    // A woken node is as good as any other.
    until_live(&server, 2);
}

#[test]
fn redis_may_go_and_come_back_empty() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 16);
    let expected = run_bytes(dir.path(), &source, "test-fault:kind=slow");
    let (mut redis, data) = (Redis::start(&[]), dir.path().join("data"));
    let server = serve(&redis, &data);
    let _worker = Worker::start(&redis, &data, "one", &["--slots", "2"]);
    until_live(&server, 1);
    let id = submit(&server, &source, "test-fault:kind=slow");
    server.until_event(&id, |_, data| data["task"] == "segment" && data["state"] == "accepted");
    redis.stop();
    until("the server says that the broker is gone", 10, || server.get("/readyz").0 == 503);
    until("the job says so, too", 10, || {
        server.get(&format!("/v1/jobs/{id}")).1["waiting"] == "broker gone"
    });
    redis.restart();
    let job = server.wait(&id);
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(server.output(&id) == expected, "other bytes than run");
    assert_eq!(server.get("/readyz").0, 200);
    assert_eq!(job["progress"]["retried"], 0, "nothing was tried again: {job}");
}

#[test]
fn a_job_that_no_node_can_do_says_so_and_goes_on_when_one_comes() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 2);
    let (redis, data) = (Redis::start(&[]), dir.path().join("data"));
    let server = serve(&redis, &data);
    let id = submit(&server, &source, "invert");
    until("the job says what it waits for", 20, || {
        let (_, job) = server.get(&format!("/v1/jobs/{id}"));
        job["waiting"].as_str().is_some_and(|waits| waits.starts_with("no node for engine "))
    });
    let _worker = Worker::start(&redis, &data, "late", &["--slots", "1"]);
    let job = server.wait(&id);
    assert_eq!((&job["state"], &job["waiting"]), (&json!("succeeded"), &Value::Null), "{job}");
}

#[test]
fn what_does_not_fit_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (redis, data) = (Redis::start(&[]), dir.path().join("data"));
    let server = serve(&redis, &data);
    let refused = |args: &[&str]| said(&frameloom().args(args).output().unwrap());
    let (url, here) = (redis.url(), text(&data));
    let elsewhere = text(&dir.path().join("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    let other = dir.path().join("other");
    Server::start(&other, &[]).terminate();
    let other = text(&other);
    let eager = ["--visibility-timeout", "0s"];
    let (code, said_then) =
        refused(&[&["worker", "--broker", &url, "--data", &here][..], &eager].concat());
    assert!(code == 2 && said_then.contains("10s or more"), "{said_then}");
    let cases: [(&[&str], i32, &str); 7] = [
        (&["worker", "--broker", "memory", "--data", &here], 2, "within the server's process"),
        (&["worker", "--broker", "nonsense", "--data", &here], 2, "redis://HOST:6379/0"),
        (&["worker", "--broker", &url, "--data", "/nowhere/at/all"], 3, "does not exist"),
        (&["worker", "--broker", &url, "--data", &elsewhere], 4, "no store.json"),
        (&["worker", "--broker", &url, "--data", &other], 4, "mount its --data there"),
        (&["worker", "--broker", "redis://127.0.0.1:1/0", "--data", &here], 6, "does not answer"),
        // Two servers with stores of their own would take each other's tasks.
        (
            &["serve", "--broker", &url, "--data", &other, "--listen", "127.0.0.1:0"],
            4,
            "another server",
        ),
    ];
    for (args, code, words) in cases {
        let (got, said) = refused(args);
        assert_eq!(got, code, "{args:?}: {said}");
        assert!(said.contains(words) && said.lines().count() == 1, "{args:?}: {said}");
    }
    drop(server);
}

#[test]
fn what_is_hidden_and_told_is_that_of_a_run_though_a_node_dies_while_it_detects() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&dir.path().join(name));
    let (source, real) = (at("in.mp4"), text(&real_clip("vtest.avi")));
    let cut =
        ["-v", "error", "-nostdin", "-i", &real, "-t", "8", "-g", "10", "-preset", "veryfast"];
    assert!(Command::new("ffmpeg").args(cut).arg(&source).status().unwrap().success());
    let filter = "objects:classes=person:action=pixelate";
    let (out, found) = (at("run.mp4"), at("run.jsonl"));
    let written = ["-o", &out, "--detections", &found, "--segment", "1", "-f", filter];
    run_ok(&[&["run", &source][..], &written].concat());

    let (redis, data) = (Redis::start(&[]), dir.path().join("data"));
    let server = serve(&redis, &data);
    let killed = Worker::start(&redis, &data, "killed", &["--slots", "1"]);
    let _stays = Worker::start(&redis, &data, "stays", &["--slots", "1"]);
    until_live(&server, 2);
    let id = submit(&server, &source, filter);
    // Both look through a segment by then.
    let begun = Cell::new(0);
    server.until_event(&id, |_, data| {
        let begins = data["task"] == "detect" && data["state"] == "started";
        begun.set(begun.get() + u32::from(begins));
        begun.get() == 2
    });
    killed.signal("-KILL");
    let job = server.wait(&id);
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(server.output(&id) == fs::read(&out).unwrap(), "other bytes than run");
    let (status, by_nodes) = server.get(&format!("/v1/jobs/{id}/detections.jsonl"));
    let found = told(&fs::read(&found).unwrap());
    assert!(found.matches("\"class\":\"person\"").count() > 100, "hardly anybody was found");
    assert_eq!(status, 200);
    assert!(told(by_nodes.as_str().unwrap().as_bytes()) == found, "other detections than run");
    let logs = logs(&server, &id);
    let again = (0..8).filter(|k| logs.matches(&format!("detect {k} sent,")).count() > 1).count();
    assert!(again >= 1, "the node that died had nothing to look through:\n{logs}");
}
