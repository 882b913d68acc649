//! Which nodes get a job's tasks: those with a GPU where one is needed, and those of another engine where a job is planned
//! anew. No GPU is needed for it: only where tasks go is looked at.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/nodes.rs"]
mod nodes;
#[path = "../../broker/tests/support/mod.rs"]
mod redis_server;
#[path = "support/server.rs"]
mod server;
mod support;

use std::path::Path;

use nodes::{Worker, serve, until, until_live, workers};
use redis_server::Redis;
use serde_json::{Value, json};
use server::Server;
use support::{clip, frameloom, run_bytes, said};

fn submit(server: &Server, source: &str, filters: &[&str], encoder: &Value) -> String {
    let request = json!({
        "source": { "upload": true, "name": "in.mp4" },
        "filters": filters, "segment": 1, "encoder": encoder,
    });
    server.submit(source, &request)
}

fn waits(server: &Server, id: &str) -> String {
    let (_, job) = server.get(&format!("/v1/jobs/{id}"));
    job["waiting"].as_str().unwrap_or_default().to_owned()
}

fn until_waits(server: &Server, id: &str, what: &str) {
    until(&format!("the job waits: {what}"), 30, || waits(server, id).contains(what));
}

fn logs(server: &Server, id: &str) -> String {
    let (status, logs) = server.get(&format!("/v1/jobs/{id}/logs"));
    assert_eq!(status, 200);
    logs.as_str().unwrap().to_owned()
}

/// Messages that wait in a queue whose name begins so.
fn depth(redis: &Redis, begin: &str) -> usize {
    let mut connection = redis.connection();
    let keys: Vec<String> =
        redis::cmd("KEYS").arg(format!("{begin}*")).query(&mut connection).unwrap();
    let length = |key| -> usize { redis::cmd("LLEN").arg(key).query(&mut connection).unwrap() };
    keys.into_iter().map(length).sum()
}

#[test]
fn what_needs_a_gpu_waits_for_a_node_that_listens_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 2);
    let (redis, data) = (Redis::start(&[]), dir.path().join("data"));
    let server = serve(&redis, &data);
    let queues = "frameloom.cpu,frameloom.frame,frameloom.control";
    let _plain = Worker::start(&redis, &data, "plain", &["--slots", "2", "--queues", queues]);
    until_live(&server, 1);
    // Plans try the model and the encoder once.
    let looks = submit(&server, &source, &["faces:device=cuda:action=blur"], &json!({}));
    let encodes = submit(&server, &source, &["invert"], &json!({ "encoder": "h264_nvenc" }));
    for id in [&looks, &encodes] {
        until_waits(&server, id, "with a GPU (queue frameloom.gpu)");
    }
    for id in [&looks, &encodes] {
        assert!(!logs(&server, id).contains("accepted"), "{}", logs(&server, id));
    }
    assert!(depth(&redis, "frameloom.gpu.") >= 2, "nothing waits for a GPU");
    assert_eq!(depth(&redis, "frameloom.cpu."), 0);
    // What needs none goes on beside them.
    let none = submit(&server, &source, &["invert"], &json!({}));
    assert_eq!(server.wait(&none)["state"], "succeeded");

    // A node that says to have one gets them, and here fails by having none.
    let gpu = ["--queues", "frameloom.gpu", "--gpu-slots", "1"];
    let _gpu = Worker::start(&redis, &data, "gpu", &gpu);
    for id in [&looks, &encodes] {
        assert_eq!(server.wait(id)["state"], "failed");
    }
    let node = workers(&server).into_iter().find(|w| w["name"] == "gpu").unwrap();
    assert_eq!((&node["slots"], &node["gpu_slots"]), (&json!(0), &json!(1)), "{node}");
    let text = logs(&server, &encodes);
    assert!(text.contains("h264_nvenc"), "{text}");
    assert!(logs(&server, &looks).contains("cuda"), "{}", logs(&server, &looks));
    assert_eq!(depth(&redis, "frameloom.gpu."), 0);

    let url = redis.url();
    let args = ["worker", "--broker", &url, "--data", "/nowhere", "--queues", "frameloom.gpus"];
    let (code, text) = said(&frameloom().args(args).output().unwrap());
    assert!(code == 2 && text.contains("frameloom.gpu"), "{text}");
}

/// A node of another engine: its ONNX Runtime has another name.
fn other_engine(redis: &Redis, data: &Path, dir: &Path, name: &str) -> Worker {
    let library = dir.join("libonnxruntime.so.0.0.1");
    std::fs::write(&library, "").unwrap();
    let with = [("FRAMELOOM_ONNXRUNTIME", library.to_str().unwrap())];
    Worker::start_with(&redis.url(), data, name, &["--slots", "2"], &with)
}

#[test]
fn a_job_whose_engine_is_gone_is_planned_anew_for_the_one_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 24);
    let expected = run_bytes(dir.path(), &source, "test-fault:kind=slow");
    let (redis, data) = (Redis::start(&[]), dir.path().join("data"));
    let server = serve(&redis, &data);
    let first = Worker::start(&redis, &data, "first", &["--slots", "1"]);
    until_live(&server, 1);
    let id = submit(&server, &source, &["test-fault:kind=slow"], &json!({}));
    server.until_event(&id, |_, data| data["task"] == "segment" && data["state"] == "accepted");
    let replan = |id: &str| server.post(&format!("/v1/jobs/{id}/replan"), &json!({}), &[]);
    let (status, said_then) = replan(&id);
    assert_eq!(status, 409, "it waits for nothing: {said_then}");
    first.signal("-KILL");
    until_waits(&server, &id, "no node for engine ");
    let (status, said_then) = replan(&id);
    assert_eq!(status, 409, "{said_then}");
    assert!(
        said_then["detail"].as_str().unwrap().contains("no node of another engine"),
        "{said_then}"
    );

    let _other = other_engine(&redis, &data, dir.path(), "other");
    until_live(&server, 1);
    // It does nothing of a job that another engine has planned, until it is asked to.
    assert!(waits(&server, &id).contains("no node for engine "));
    let asked =
        frameloom().args(["retry", &id, "--replan", "--server", server.url()]).output().unwrap();
    assert_eq!(said(&asked).0, 0, "{}", said(&asked).1);
    let anew = |text: &str| text.split_once("planned anew").map(|(_, after)| after.to_owned());
    until("a segment is done anew", 60, || {
        let after = anew(&logs(&server, &id)).unwrap_or_default();
        after.lines().any(|l| l.starts_with("segment ") && l.contains(" accepted,"))
    });
    // A server that dies then knows it still.
    let server = Server::start(&server.kill(), &["--broker", &redis.url(), "--no-local-slots"]);
    until("the job is done", 120, || {
        server.get(&format!("/v1/jobs/{id}")).1["state"] == "succeeded"
    });
    assert!(server.output(&id) == expected, "other bytes than run");
    let text = logs(&server, &id);
    let node = workers(&server).into_iter().find(|w| w["name"] == "other").unwrap();
    let by = format!("slot {}/", node["id"].as_str().unwrap());
    let (_, after) = text.split_once("planned anew for engine ").expect("it is in the logs");
    assert!(after.starts_with(node["engine"].as_str().unwrap()), "{text}");
    let accepted: Vec<&str> = after.lines().filter(|line| line.contains(" accepted,")).collect();
    assert_eq!(accepted.len(), 24 + 2, "plan, segments and join: {text}");
    assert!(accepted.iter().all(|line| line.contains(&by)), "by another node: {text}");
}
