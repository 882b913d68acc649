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

use base64::Engine as _;
use nodes::{Worker, serve, until, until_live};
use redis_server::Redis;
use serde_json::{Value, json};
use server::{Server, agent, answer};
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
fn what_is_found_is_that_of_segments_beside_the_tasks_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 3);
    let told = text(&dir.path().join("found.jsonl"));
    let filters = ["-f", "blur", "-f", "crop:w=160:h=120", "-f", "motion:method=diff:action=boxes"];
    let more = ["-f", "pixelate", "--detections", &told];
    let out = text(&dir.path().join("by-segments.mp4"));
    run_ok(&[&["run", &source, "-o", &out, "--segment", "1"][..], &filters, &more].concat());
    let found = fs::read_to_string(&told).unwrap();
    assert!(found.matches("\"class\":\"motion\"").count() > 100, "little moves in '{told}'");
    fs::remove_file(&told).unwrap();
    let (bytes, metrics) = by_frames(dir.path(), &source, &[&filters[..], &more].concat());
    assert!(bytes == fs::read(out).unwrap(), "other bytes than by segments");
    assert!(fs::read_to_string(&told).unwrap() == found, "other detections than by segments");
    // Blur and crop are one task, pixelate is another; segments but the first have a frame of halo.
    assert_eq!(frame_tasks(&metrics), 2 * (75 + 2));
    let said = metrics["messages"].to_string();
    assert!(said.contains("action=boxes' goes by what is found"), "{said}");
    assert_eq!(said.matches("filter_in_order").count(), 1, "{said}");
    // To look for things only is no matter of frames.
    let only = ["--detections-only", "--granularity", "frame", "--overwrite"];
    let metrics = text(&dir.path().join("metrics.json"));
    let source = ["run", &source, "--detections", &told, "--segment", "1", "--metrics", &metrics];
    run_ok(&[&source[..], &filters, &only].concat());
    let metrics: Value = serde_json::from_slice(&fs::read(&metrics).unwrap()).unwrap();
    assert_eq!(frame_tasks(&metrics), 0);
    assert!(metrics["messages"].to_string().contains("no_frame_tasks"), "{metrics}");
}

#[test]
fn frames_that_are_left_out_leave_their_boxes_out() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 2);
    let told = text(&dir.path().join("found.jsonl"));
    // In the middle, and the last one; a tick is 1/12800 s.
    let fault = |at: i64| format!("test-fault:kind=miss:at={at}");
    let (middle, last) = (fault(5120), fault(25088));
    let filters = ["-f", "faces:action=fill", "-f", &middle, "-f", "motion", "-f", &last];
    let more = ["--on-error", "skip", "--detections", &told];
    let (_, metrics) = by_frames(dir.path(), &source, &[&filters[..], &more].concat());
    assert_eq!(metrics["frames"]["skipped"], 2, "{}", metrics["frames"]);
    let lines = fs::read_to_string(&told).unwrap();
    let pts = |line: &str| serde_json::from_str::<Value>(line).unwrap()["pts"].as_i64().unwrap();
    let told: Vec<i64> = lines.lines().skip(1).map(pts).collect();
    let expected: Vec<i64> = (0..49).filter(|n| *n != 10).map(|n| n * 512).collect();
    assert_eq!(told, expected);
}

#[test]
fn frames_that_fail_never_show_what_a_filter_hides() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 1);
    let out = text(&dir.path().join("out.mp4"));
    let run_by_frames = ["run", &source, "-o", &out, "--granularity", "frame", "--on-error"];
    let celery = |on_error: &str| format!("celery:task=t:queue=q:on_error={on_error}");
    let (original, hold) = (celery("original"), celery("hold"));
    let hides = format!("{original}:hides=true");
    for args in [
        &[&run_by_frames[..], &["original", "-f", "blur", "-f", "faces:action=fill"]].concat(),
        &[&run_by_frames[..], &["hold", "-f", "blur", "-f", "faces:action=fill"]].concat(),
        &vec!["plan", &source, "-f", "faces:action=fill", "-f", &original],
        &vec!["plan", &source, "-f", &hides],
        &vec!["plan", &source, "-f", &hold, "-f", "faces:action=fill"],
    ] {
        let (code, said) = run(args);
        assert_eq!(code, 2, "{args:?}: {said}");
        let hider = said.contains("faces:action=fill") || said.contains("hides=true");
        assert!(hider && said.contains("take 'fail' or 'skip'"), "{said}");
    }
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

/// A message as a Celery client sends it, its body as plain text.
fn strange(tag: &str, kwargs: &Value) -> String {
    json!({
        "body": json!([[], kwargs, {}]).to_string(), "content-type": "application/json",
        "headers": { "lang": "py", "task": "frameloom.frame", "id": tag, "root_id": tag },
        "properties": {
            "delivery_tag": tag, "priority": 0, "delivery_mode": 2, "correlation_id": tag,
            "delivery_info": { "exchange": "", "routing_key": "frameloom.frame" },
        },
    })
    .to_string()
}

#[test]
fn what_a_good_try_says_replaces_what_a_failed_one_has_said() {
    let dir = tempfile::tempdir().unwrap();
    let (redis, data) = (Redis::start(&[]), dir.path().join("data"));
    let _server = Server::start(&data, &["--broker", &redis.url(), "--slots", "1"]);
    let mine = data.join("frames/mine");
    fs::create_dir_all(&mine).unwrap();
    let kwargs = json!({
        "filters": ["invert"], "frames": ["frames/mine/1.in"], "output": "frames/mine/1.out",
    });
    let outcome = |wanted: &str| {
        until(&format!("the outcome '{wanted}'"), 20, || {
            let said = fs::read(mine.join("1.out.json")).unwrap_or_default();
            let said: Value = serde_json::from_slice(&said).unwrap_or_default();
            said["outcome"] == wanted
        });
    };
    let send = |tag: &str| {
        let message = strange(tag, &kwargs);
        let mut raw = redis.connection();
        let () = redis::cmd("LPUSH").arg("frameloom.frame").arg(message).query(&mut raw).unwrap();
    };
    send("1");
    outcome("failed");
    let head = json!({ "width": 8, "height": 8, "pixel_format": "gray", "pts": 0 }).to_string();
    let mut file = head.into_bytes();
    file.resize(4096, b' ');
    file.extend([7; 64]);
    fs::write(mine.join("1.in"), file).unwrap();
    send("2");
    outcome("done");
    assert!(fs::read(mine.join("1.out")).unwrap().ends_with(&[248; 64]));
    // The other way round nothing is replaced.
    fs::remove_file(mine.join("1.in")).unwrap();
    send("3");
    until("all is done", 20, || {
        let left: u64 = redis::cmd("HLEN").arg("unacked").query(&mut redis.connection()).unwrap();
        let waiting: u64 =
            redis::cmd("LLEN").arg("frameloom.frame").query(&mut redis.connection()).unwrap();
        left + waiting == 0
    });
    outcome("done");
}

#[test]
fn workers_hear_which_frames_of_a_cancelled_job_not_to_begin() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 2);
    let (redis, data) = (Redis::start(&[]), dir.path().join("data"));
    let server = Server::start(
        &data,
        &["--broker", &redis.url(), "--slots", "1", "--allow-task", "mine.*@python"],
    );
    let request = json!({
        "source": { "upload": true, "name": "in.mp4" }, "priority": 9,
        "filters": ["celery:task=mine.none:queue=python:window=4"],
    });
    let id = server.submit(&source, &request);
    // A job of the highest priority goes to the most urgent list.
    let mut raw = redis.connection();
    until("frames wait", 30, || {
        redis::cmd("LLEN").arg("python").query::<u64>(&mut raw).unwrap() >= 4
    });
    let mut listener = redis.connection();
    listener.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let mut listener = listener.as_pubsub();
    listener.subscribe("/0.celery.pidbox").unwrap();
    let stop = agent().delete(format!("{}/v1/jobs/{id}", server.url())).call();
    assert_eq!(answer(stop).0, 202);
    let heard: String = listener.get_message().unwrap().get_payload().unwrap();
    let heard: Value = serde_json::from_str(&heard).unwrap();
    let base64 = base64::engine::general_purpose::STANDARD;
    let call = base64.decode(heard["body"].as_str().unwrap()).unwrap();
    let call: Value = serde_json::from_slice(&call).unwrap();
    assert_eq!((&call["method"], &call["destination"]), (&json!("revoke"), &Value::Null));
    let revoked = call["arguments"]["task_id"].as_array().unwrap();
    let sent: Vec<String> =
        redis::cmd("LRANGE").arg("python").arg(0).arg(-1).query(&mut raw).unwrap();
    assert!(sent.len() >= 4, "{sent:?}");
    for message in sent {
        let message: Value = serde_json::from_str(&message).unwrap();
        assert!(revoked.contains(&message["headers"]["id"]), "{message} is not in {revoked:?}");
    }
}

#[test]
fn a_held_first_frame_never_shows_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 2);
    let filters = ["-f", "pixelate:size=32", "-f", "test-fault:kind=miss:at=0"];
    let hold = ["--on-error", "hold", "--lossless"];
    let (_, metrics) = by_frames(dir.path(), &source, &[&filters[..], &hold].concat());
    assert_eq!(metrics["frames"]["held"], 1, "{}", metrics["frames"]);
    let shown = frames(&text(&dir.path().join("by-frames.mp4")));
    let picture = |at: usize| shown[at].split(',').nth(1).unwrap().to_owned();
    assert_eq!(shown.len(), 50);
    assert_eq!(picture(0), picture(1), "the first frame shows another picture than the next");
    // Where there is nothing to hold, the frame has failed.
    let out = text(&dir.path().join("out.mp4"));
    let all = ["run", &source, "-o", &out, "--granularity", "frame", "--on-error", "hold"];
    let (code, said) = run(&[&all[..], &["-f", "test-fault:kind=fail"]].concat());
    assert!(code != 0 && said.contains("the frame at pts 0 failed 3 times"), "{code}: {said}");
}

#[test]
fn originals_that_would_not_fit_are_refused_and_held_ones_do() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 1);
    let out = text(&dir.path().join("out.mp4"));
    let filters = ["-f", "scale:w=160", "-f", "test-fault:kind=miss:at=0"];
    let all = ["run", &source, "-o", &out, "--granularity", "frame", "--on-error", "original"];
    let (code, said) = run(&[&all[..], &filters].concat());
    assert!(code == 2 && said.contains("'scale:w=160'") && said.contains("'hold'"), "{said}");
    let (_, metrics) =
        by_frames(dir.path(), &source, &[&filters[..], &["--on-error", "hold"]].concat());
    assert_eq!(metrics["frames"]["held"], 1);
    assert_eq!(frames(&text(&dir.path().join("by-frames.mp4"))).len(), 25);
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
