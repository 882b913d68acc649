//! Frames as tasks: the same bytes as segments, whoever dies, and what becomes of frames that fail.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/nodes.rs"]
mod nodes;
#[path = "../../broker/tests/support/mod.rs"]
mod redis_server;
#[path = "support/server.rs"]
mod server;
mod support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use nodes::{Worker, serve, until, until_live};
use redis_server::Redis;
use serde_json::{Value, json};
use server::agent;
use support::{clip, frames, run, run_bytes, run_ok, text};

/// Runs with frames as tasks; answers the output's bytes and the metrics.
fn by_frames(dir: &Path, source: &str, args: &[&str]) -> (Vec<u8>, Value) {
    let (out, metrics) = (text(&dir.join("by-frames.mp4")), text(&dir.join("metrics.json")));
    let mut all = vec!["run", source, "-o", &out, "--overwrite", "--granularity", "frame"];
    all.extend(["--segment", "1", "--slots", "2", "--metrics", &metrics]);
    all.extend(args);
    run_ok(&all);
    let metrics = serde_json::from_slice(&fs::read(metrics).unwrap()).unwrap();
    (fs::read(out).unwrap(), metrics)
}

/// Tasks that frame slots have done.
fn frame_tasks(metrics: &Value) -> u64 {
    let slots = metrics["slots"].as_array().unwrap().iter();
    let frames = slots.filter(|slot| slot["name"].as_str().unwrap().starts_with("frame."));
    frames.map(|slot| slot["tasks"].as_u64().unwrap()).sum()
}

#[test]
fn the_bytes_are_those_of_segments() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 4);
    // Segments but the first have one frame of halo before them, those but the last one after.
    for (filter, tasks, in_order) in [
        ("blur:sigma=3", 100, false),
        ("denoise:frames=5", 100 + 2 * 2 * 3, false),
        ("ffmpeg:vflip,hue=s=0", 100, false),
        ("ffmpeg:yadif", 100 + 2 * 3, false),
        ("ffmpeg:hqdn3d", 0, true),
    ] {
        let expected = run_bytes(dir.path(), &source, filter);
        let (bytes, metrics) = by_frames(dir.path(), &source, &["-f", filter]);
        assert!(bytes == expected, "{filter}: other bytes than by segments");
        assert_eq!(frame_tasks(&metrics), tasks, "{filter}");
        let messages = metrics["messages"].to_string();
        assert_eq!(messages.contains("filter_in_order"), in_order, "{filter}: {messages}");
    }
}

#[test]
fn filters_that_keep_state_run_in_order_beside_the_tasks_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 3);
    let filters =
        ["-f", "blur", "-f", "ffmpeg:hqdn3d", "-f", "denoise", "-f", "edges:overlay=true"];
    let out = text(&dir.path().join("by-segments.mp4"));
    let mut args = vec!["run", &source, "-o", &out, "--segment", "1"];
    args.extend(filters);
    run_ok(&args);
    let (bytes, metrics) = by_frames(dir.path(), &source, &filters);
    assert!(bytes == fs::read(out).unwrap(), "other bytes than by segments");
    assert_eq!(frame_tasks(&metrics), 2 * 75);
    let steps = &metrics["time_per_frame_ms"];
    assert!(steps["filter.denoise+edges"]["mean"].as_f64().unwrap() > 0.0, "{steps}");
    let said = metrics["messages"].to_string();
    assert!(said.contains("filter 'ffmpeg:hqdn3d' keeps state"), "{said}");
}

#[test]
fn a_frame_that_fails_is_tried_three_times_and_then_goes_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 2);
    let out = text(&dir.path().join("out.mp4"));
    // The last frame; a tick is 1/12800 s.
    let filter = "test-fault:kind=fail:at=25088";
    let args = ["run", &source, "-o", &out, "--granularity", "frame", "-f", filter];
    let (code, said) = run(&args);
    assert_ne!(code, 0, "{said}");
    assert!(said.contains("the frame at pts 25088 failed 3 times"), "{said}");
    for (what, frames_left) in [("skip", 49), ("hold", 50), ("original", 50)] {
        let (_, metrics) =
            by_frames(dir.path(), &source, &["-f", filter, "--on-error", what, "--lossless"]);
        let counted = &metrics["frames"];
        let names = [("skip", "skipped"), ("hold", "held"), ("original", "original")];
        for (name, count) in names {
            assert_eq!(counted[count], u64::from(name == what), "{what}: {counted}");
        }
        assert_eq!((&counted["in"], &counted["out"]), (&json!(50), &json!(frames_left)), "{what}");
        let shown = frames(&text(&dir.path().join("by-frames.mp4")));
        assert_eq!(shown.len(), frames_left, "{what}");
        let picture = |at: usize| shown[at].split(',').nth(1).unwrap().to_owned();
        assert_eq!(picture(48) == picture(frames_left - 1), what != "original", "{what}");
    }
    let (code, said) = run(&["run", &source, "-o", &out, "-f", "blur", "--on-error", "skip"]);
    assert!(code == 2 && said.contains("--granularity frame"), "{said}");
}

/// A port that is free now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Frames that a node has done, by its own metrics.
fn frames_done(port: u16) -> u64 {
    let Ok(answer) = agent().get(format!("http://127.0.0.1:{port}/metrics")).call() else {
        return 0;
    };
    let text = answer.into_body().read_to_string().unwrap();
    let line =
        text.lines().find(|l| l.starts_with("frameloom_node_frames_total{outcome=\"done\"}"));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[test]
fn frames_go_to_all_nodes_and_whatever_dies_the_bytes_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 8);
    let (redis, data) = (Redis::start(&[]), dir.path().join("data"));
    let server = serve(&redis, &data);
    let _segments = Worker::start(&redis, &data, "segments", &["--slots", "1"]);
    until_live(&server, 1);
    let ports = [free_port(), free_port()];
    let only_frames = |name: &str, port: u16| {
        let listen = format!("127.0.0.1:{port}");
        let more = ["--slots", "1", "--queues", "frameloom.frame", "--listen", &listen];
        Worker::start(&redis, &data, name, &more)
    };
    let killed = only_frames("killed", ports[0]);
    let _stays = only_frames("stays", ports[1]);
    let submit = |filters: &[&str]| {
        let request = json!({
            "source": { "upload": true, "name": "in.mp4" }, "filters": filters, "segment": 1,
            "granularity": "frame",
        });
        server.submit(&source, &request)
    };

    // Neighbours come from another node.
    let expected = run_bytes(dir.path(), &source, "denoise");
    let id = submit(&["denoise"]);
    assert_eq!(server.wait(&id)["state"], "succeeded");
    assert!(server.output(&id) == expected, "denoise: other bytes than by segments");
    until("both nodes have done frames", 20, || ports.iter().all(|port| frames_done(*port) > 0));

    // A node dies with a frame, and Redis forgets the messages of others.
    let expected = run_bytes(dir.path(), &source, "test-fault:kind=slow");
    let before = frames_done(ports[0]);
    let id = submit(&["test-fault:kind=slow"]);
    until("the node that is to die works", 20, || frames_done(ports[0]) > before + 3);
    killed.signal("-KILL");
    let _: () = redis::cmd("FLUSHALL").query(&mut redis.connection()).unwrap();
    let job = server.wait(&id);
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(server.output(&id) == expected, "other bytes than by segments");
    assert_eq!(job["progress"]["retried"], 0, "a segment was tried again: {job}");
    let left = fs::read_dir(data.join("frames")).unwrap().count();
    assert_eq!(left, 0, "frames are left behind");
}
