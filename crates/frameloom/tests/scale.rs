//! What a server tells whatever adds and removes nodes, and whatever watches over containers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/nodes.rs"]
mod nodes;
#[path = "../../broker/tests/support/mod.rs"]
mod redis_server;
#[path = "support/server.rs"]
mod server;
mod support;

use std::fs;

use nodes::{Worker, serve, until};
use redis_server::Redis;
use serde_json::{Value, json};
use server::Server;
use support::{clip, run, text};

fn scale(server: &Server) -> Value {
    let (status, scale) = server.get("/v1/scale");
    assert_eq!(status, 200, "{scale}");
    scale
}

#[test]
fn slots_are_wanted_for_what_is_to_be_done_and_for_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 6);
    let (redis, data) = (Redis::start(&[]), dir.path().join("data"));
    let server = serve(&redis, &data);
    let idle = json!({ "slots_wanted": 0, "slots": 0, "jobs": 0 });
    assert_eq!(scale(&server), idle);
    let request = json!({
        "source": { "upload": true, "name": "in.mp4" }, "filters": ["invert"], "segment": 1
    });
    let (status, made) = server.post("/v1/jobs", &request, &[]);
    assert_eq!(status, 201, "{made}");
    assert_eq!(scale(&server), idle, "a job without its source wants nothing");
    let id = server.submit(&source, &request);
    server.until_event(&id, |name, _| name == "planned");
    let six = json!({ "slots_wanted": 6, "slots": 0, "jobs": 1 });
    until("one slot is wanted for each segment", 10, || scale(&server) == six);
    let _worker = Worker::start(&redis, &data, "one", &["--slots", "2"]);
    until("the node's slots are counted", 20, || scale(&server)["slots"] == 2);
    assert_eq!(server.wait(&id)["state"], "succeeded");
    assert_eq!(scale(&server), json!({ "slots_wanted": 0, "slots": 2, "jobs": 0 }));
}

#[test]
fn the_number_needs_a_token_and_is_the_same_for_all_owners() {
    let dir = tempfile::tempdir().unwrap();
    let (ann, bob) = ("aaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbb");
    let tokens = dir.path().join("tokens");
    fs::write(&tokens, format!("ann:{ann}\nbob:{bob}\n")).unwrap();
    let (redis, data) = (Redis::start(&[]), dir.path().join("data"));
    let url = redis.url();
    let args = ["--broker", &url, "--no-local-slots", "--tokens", &text(&tokens)];
    let server = Server::start(&data, &args);
    assert_eq!(server.get("/v1/scale").0, 401);
    let source = clip(dir.path(), "in.mp4", 1);
    let by = |token: &str| format!("Bearer {token}");
    let query = format!("{}/v1/process?f=invert", server.url());
    let sending = std::thread::spawn({
        let bearer = by(ann);
        // It waits for a node for as long as the server lives.
        move || {
            server::agent()
                .put(query)
                .header("authorization", bearer)
                .send(fs::File::open(source).unwrap())
        }
    });
    let asked = |token: &str| {
        let url = format!("{}/v1/scale", server.url());
        server::answer(server::agent().get(url).header("authorization", by(token)).call()).1
    };
    until("another owner's job is counted", 10, || asked(bob)["slots_wanted"] == 1);
    assert_eq!(asked(ann), asked(bob));
    drop(server);
    drop(sending.join());
}

#[test]
fn health_tells_whether_somebody_answers() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    for url in &server.urls {
        assert_eq!(run(&["health", "--server", url]).0, 0, "{url}");
        assert_eq!(run(&["health", "--ready", "--server", url]).0, 0, "{url}");
    }
    let url = server.url().to_owned();
    drop(server);
    let (code, said) = run(&["health", "--server", &url]);
    assert_eq!(code, 6, "{said}");
    assert!(said.contains("does not answer"), "{said}");
}
