//! `frameloom serve` as clients use it: results, uploads, restarts, bad requests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/server.rs"]
mod server;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use server::{Server, agent, answer, process};
use support::{clip, frameloom, run, run_bytes, run_ok, said, text};

#[expect(clippy::disallowed_methods, reason = "kills come at any moment, and a beat has no event")]
fn moment(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

fn job(filters: &[&str]) -> Value {
    json!({ "source": { "upload": true, "name": "in.mp4" }, "filters": filters })
}

#[test]
fn every_way_in_gives_the_bytes_of_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 4);
    let expected = run_bytes(dir.path(), &source, "blur:sigma=2");
    let server = Server::start(&dir.path().join("data"), &[]);
    let out = dir.path().join("out.mp4");
    for url in &server.urls {
        let (status, said) = process(url, "f=blur:sigma=2&segment=1", &source, &out);
        assert_eq!(status, 200, "{url}: {said}");
        assert!(fs::read(&out).unwrap() == expected, "{url}: other bytes than run");
    }
    let out = text(&out);
    let metrics = text(&dir.path().join("metrics.json"));
    let args =
        ["submit", &source, "-o", &out, "--overwrite", "-f", "blur:sigma=2", "--segment", "1"];
    let more = ["--server", server.url(), "--metrics", &metrics];
    run_ok(&[&args[..], &more].concat());
    assert!(fs::read(&out).unwrap() == expected, "submit: other bytes than run");
    let metrics: Value = serde_json::from_slice(&fs::read(metrics).unwrap()).unwrap();
    assert_eq!((&metrics["version"], &metrics["frames"]["out"]), (&json!(1), &json!(100)));
    assert_eq!(server.terminate(), Some(143));
}

#[test]
fn an_upload_goes_on_where_it_was_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 2);
    let bytes = fs::read(&source).unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let mut request = job(&["invert"]);
    request["source"]["size"] = json!(bytes.len());
    let key = [("idempotency-key", "one")];
    let (status, made) = server.post("/v1/jobs", &request, &key);
    assert_eq!(status, 201, "{made}");
    let upload = made["upload_url"].as_str().unwrap().to_owned();
    let half = bytes.len() / 2;
    assert_eq!(server.patch(&upload, 0, &bytes[..half]).0, 204);

    let server = Server::start(&server.kill(), &[]);
    // The same request with the same key is the same job, and another one is refused.
    let (status, again) = server.post("/v1/jobs", &request, &key);
    assert_eq!((status, &again["id"]), (200, &made["id"]));
    assert_eq!(server.post("/v1/jobs", &job(&["gray"]), &key).0, 422);
    let head = agent().head(format!("{}{upload}", server.url())).call().unwrap();
    let offset = head.headers()["upload-offset"].to_str().unwrap().to_owned();
    assert_eq!(offset, half.to_string());
    // A length that is less than what has come is no length.
    let short = agent()
        .patch(format!("{}{upload}", server.url()))
        .header("content-type", "application/offset+octet-stream")
        .header("upload-offset", half.to_string())
        .header("upload-length", "7");
    assert_eq!(answer(short.send(&bytes[half..])).0, 413);
    let (status, problem) = server.patch(&upload, 7, &bytes[7..]);
    assert_eq!(status, 409, "{problem}");
    assert_eq!(server.patch(&upload, half, &bytes[half..]).0, 204);
    let ended = server.wait(made["id"].as_str().unwrap());
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(server.patch(&upload, half, &bytes[half..]).0, 409);
    // More than the sockets hold: the answer comes before the body is sent, and is read all the same.
    let large = vec![0; 32 << 20];
    let (status, problem) = server.patch(&upload, half, &large);
    assert_eq!((status, &problem["kind"]), (409, &json!("conflict")));
    assert_eq!(server.patch("/v1/uploads/nobody", 0, &large).0, 404);
}

#[test]
fn a_killed_server_loses_no_job_and_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 6);
    let filters = ["invert", "blur:sigma=2", "median:size=5", "edges"];
    let mut expected = Vec::new();
    for filter in filters {
        expected.push(run_bytes(dir.path(), &source, filter));
    }
    let mut server = Server::start(&dir.path().join("data"), &[]);
    let mut ids = Vec::new();
    for i in 0..8 {
        let mut request = job(&[filters[i % 4]]);
        request["segment"] = json!(1);
        ids.push(server.submit(&source, &request));
    }
    let mut wait = 37;
    let mut restarts = 0;
    loop {
        let open = |server: &Server| {
            ids.iter().any(|id| server.get(&format!("/v1/jobs/{id}")).1["ended_at"].is_null())
        };
        if !open(&server) || restarts == 20 {
            break;
        }
        // Moments spread by a step that has no common divisor with anything here.
        wait = (wait * 7 + 61) % 401;
        moment(wait);
        server = Server::start(&server.kill(), &[]);
        restarts += 1;
    }
    assert!(restarts >= 3, "the jobs were over after {restarts} restarts");
    for (i, id) in ids.iter().enumerate() {
        let ended = server.wait(id);
        assert_eq!(ended["state"], "succeeded", "{ended}");
        assert!(server.output(id) == expected[i % 4], "job {i}: other bytes than run");
        // What the journal has accepted, it has accepted once.
        let journal =
            fs::read_to_string(dir.path().join("data/jobs").join(id).join("journal")).unwrap();
        for k in 0..6 {
            let wanted = format!("\"task\":{{\"segment\":{k}}}");
            let accepted =
                journal.lines().filter(|l| l.contains("\"accepted\"") && l.contains(&wanted));
            assert_eq!(accepted.count(), 1, "segment {k} of job {i}");
        }
    }
}

#[test]
fn a_second_server_on_a_live_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data, &[]);
    let (code, words) = run(&["serve", "--listen", "127.0.0.1:0", "--data", &text(&data)]);
    assert_eq!(code, 4, "{words}");
    assert!(words.contains("another server"), "{words}");
    assert_eq!(server.get("/healthz").0, 200);
}

#[test]
fn bad_requests_are_told_in_words_with_their_status() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 1);
    let videos = dir.path().join("videos");
    fs::create_dir(&videos).unwrap();
    fs::copy(&source, videos.join("in.mp4")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", videos.join("link.mp4")).unwrap();
    let allow = text(&videos);
    let server = Server::start(
        &dir.path().join("data"),
        &["--max-upload", "1M", "--allow-path", &format!("{allow}:rw")],
    );
    let path = |path: &str| json!({ "source": { "path": path } });
    let over = |to: &str| json!({ "source": { "path": format!("{allow}/in.mp4") }, "output": { "path": to } });
    let cases: Vec<(Value, u16, &str)> = vec![
        (job(&["blurr"]), 400, "did you mean 'blur'"),
        (job(&["blur:sigma=-3"]), 400, "usage: blur:sigma"),
        (json!({ "filtres": [] }), 400, "filtres"),
        (json!({ "source": {} }), 400, "upload"),
        (json!({ "source": { "upload": true }, "priority": 10 }), 400, "0 to 9"),
        (json!({ "source": { "upload": true, "size": 2_000_000 } }), 413, "--max-upload"),
        (json!({ "source": { "upload": true }, "container": "avi" }), 400, "mkv"),
        (path("/etc/passwd"), 403, "--allow-path"),
        (path(&format!("{allow}/../in.mp4")), 403, "--allow-path"),
        (path(&format!("{allow}/link.mp4")), 403, "--allow-path"),
        (path(&format!("{allow}/none.mp4")), 404, "does not exist"),
        (path("in.mp4"), 400, "absolute"),
        (over(&format!("{allow}/in.mp4")), 409, "exists"),
        (over("/etc/out.mp4"), 403, "--allow-path"),
        (json!([]), 400, "no JSON object"),
    ];
    for (request, status, words) in cases {
        let (got, problem) = server.post("/v1/jobs", &request, &[]);
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert_eq!(got, status, "{request}: {problem}");
        assert!(detail.contains(words), "{request}: {detail}");
    }
    let (status, made) = server.post("/v1/jobs", &path(&format!("{allow}/in.mp4")), &[]);
    assert_eq!(status, 201, "{made}");
    let id = made["id"].as_str().unwrap();
    assert_eq!(server.wait(id)["state"], "succeeded");
    let url = |path: &str| format!("{}{path}", server.url());
    assert_eq!(answer(agent().delete(url(&format!("/v1/jobs/{id}"))).call()).0, 409);
    assert_eq!(server.get("/v1/jobs/none").0, 404);
    assert_eq!(server.get("/nothing").0, 404);
    assert_eq!(answer(agent().delete(url("/v1/filters")).call()).0, 405);
    assert_eq!(answer(agent().post(url("/v1/jobs")).content_type("text/plain").send("x")).0, 415);
    let range =
        agent().get(url(&format!("/v1/jobs/{id}/output"))).header("range", "bytes=99999999-");
    assert_eq!(answer(range.call()).0, 416);
    assert_eq!(answer(agent().get(url("/healthz")).header("host", "evil.example").call()).0, 421);
    let foreign = agent().post(url("/v1/jobs")).header("origin", "http://evil.example");
    assert_eq!(answer(foreign.send_json(job(&[]))).0, 403);

    // A description that comes behind its source is not passed over.
    let part = |name: &str, text: &str| {
        format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
    };
    let form = part("source", "x") + &part("spec", "{}") + "--b--\r\n";
    let sent = agent().post(url("/v1/jobs")).content_type("multipart/form-data; boundary=b");
    let (status, problem) = answer(sent.send(&form));
    assert_eq!(status, 400, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("'spec' comes after"), "{problem}");

    let bad = dir.path().join("text.mp4");
    fs::write(&bad, "this is no video\n".repeat(10)).unwrap();
    let (status, said) = server.process("f=blur", &text(&bad), &dir.path().join("out.mp4"));
    assert_eq!(status, 422, "{said}");
    let (status, said) = server.process("f=blurr", &text(&bad), &dir.path().join("out.mp4"));
    assert_eq!(status, 400, "{said}");
    assert_eq!(answer(agent().delete(url(&format!("/v1/jobs/{id}?purge=true"))).call()).0, 204);
    assert_eq!(server.get(&format!("/v1/jobs/{id}")).0, 404);
    assert!(!dir.path().join("data/jobs").join(id).exists(), "a purged job is left on the store");
}

#[test]
fn a_slot_that_has_worked_for_one_does_not_work_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&dir.path().join(name));
    let source = clip(dir.path(), "in.mp4", 2);
    fs::write(at("tokens"), "ann:aaaaaaaaaaaaaaaaaaaa\nbob:bbbbbbbbbbbbbbbbbbbb\n").unwrap();
    let server =
        Server::start(&dir.path().join("data"), &["--tokens", &at("tokens"), "--slots", "1"]);
    let pids = |token: &str| {
        fs::write(at("token"), token).unwrap();
        let submit = ["submit", &source, "--server", server.url(), "--token", &at("token")];
        run_ok(&[&submit[..], &["-o", &at("out.mp4"), "--overwrite", "-f", "invert"]].concat());
        let get = |path: &str| {
            let url = format!("{}{path}", server.url());
            agent().get(url).header("authorization", format!("Bearer {token}")).call().unwrap()
        };
        // The last one stands first.
        let jobs: Value =
            serde_json::from_reader(get("/v1/jobs").into_body().into_reader()).unwrap();
        let id = jobs["jobs"][0]["id"].as_str().unwrap();
        let events = get(&format!("/v1/jobs/{id}/events")).into_body().read_to_string().unwrap();
        let data = events.lines().filter_map(|line| line.strip_prefix("data: "));
        let data = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
        data.filter_map(|event| event["slot_pid"].as_u64()).collect::<BTreeSet<u64>>()
    };
    let (ann, bob) = ("aaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbb");
    let first = pids(ann);
    assert!(!first.is_empty());
    assert_eq!(pids(ann), first, "slots are kept for one's own");
    assert!(pids(bob).is_disjoint(&first), "bob's video went to a slot that ann's was in");
}

#[test]
fn jobs_belong_to_a_name_and_others_do_not_see_them() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    fs::write(&tokens, "ann:aaaaaaaaaaaaaaaaaaaa\nbob:bbbbbbbbbbbbbbbbbbbb\n").unwrap();
    let server = Server::start(&dir.path().join("data"), &["--tokens", &text(&tokens)]);
    let url = |path: &str| format!("{}{path}", server.url());
    assert_eq!(server.get("/v1/jobs").0, 401);
    assert_eq!(server.get("/metrics").0, 401);
    assert_eq!(server.get("/healthz").0, 200);
    let as_who = |token: &str, path: &str| {
        answer(agent().get(url(path)).header("authorization", format!("Bearer {token}")).call())
    };
    assert_eq!(as_who("wrong", "/v1/jobs").0, 401);
    let made = agent()
        .post(url("/v1/jobs"))
        .header("authorization", "Bearer aaaaaaaaaaaaaaaaaaaa")
        .send_json(job(&[]));
    let id = answer(made).1["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/jobs/{id}");
    assert_eq!(as_who("aaaaaaaaaaaaaaaaaaaa", &path).0, 200);
    assert_eq!(as_who("bbbbbbbbbbbbbbbbbbbb", &path).0, 404);
    assert_eq!(as_who("bbbbbbbbbbbbbbbbbbbb", "/v1/jobs").1["total"], 0);

    // A page logs in by a cookie that no script reads, and that no other page sends.
    let login = |token: &str| agent().post(url("/v1/session")).send(token).unwrap();
    assert_eq!(login("wrong").status().as_u16(), 401);
    let session = login("aaaaaaaaaaaaaaaaaaaa");
    let cookie = session.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("; HttpOnly; SameSite=Strict;"), "{cookie}");
    assert_eq!(session.headers()["x-content-type-options"], "nosniff");
    let cookie = cookie.split(';').next().unwrap();
    assert_eq!(answer(agent().get(url(&path)).header("cookie", cookie).call()).0, 200);

    let (code, words) =
        run(&["serve", "--listen", "0.0.0.0:0", "--data", &text(&dir.path().join("x"))]);
    assert_eq!(code, 2, "{words}");
    assert!(words.contains("--insecure"), "{words}");
}

#[test]
fn events_go_on_after_a_break_and_a_job_is_cancelled_within_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 3);
    let server = Server::start(&dir.path().join("data"), &[]);
    let id = server.submit(&source, &job(&["blur"]));
    server.wait(&id);
    let events = |last: u64| -> Vec<String> {
        let request = agent()
            .get(format!("{}/v1/jobs/{id}/events", server.url()))
            .header("last-event-id", last.to_string())
            .config()
            .timeout_global(Some(Duration::from_secs(30)))
            .build();
        let text = request.call().unwrap().into_body().read_to_string().unwrap();
        text.lines().filter_map(|line| line.strip_prefix("event: ").map(str::to_owned)).collect()
    };
    let all = events(0);
    assert_eq!(all.last().map(String::as_str), Some("end"));
    for name in ["state", "planned", "task", "progress"] {
        assert!(all.iter().any(|event| event == name), "{name} is missing: {all:?}");
    }
    assert_eq!(events(3)[..], all[3..]);
    // Another server's number of events, as after a restart: nothing would ever come after these.
    assert_eq!(events(all.len() as u64), all);
    assert_eq!(events(10_000), all);

    let id = server.submit(&source, &job(&["test-fault:kind=hang"]));
    server.until_event(&id, |name, task| name == "task" && task["segment"] == 0);
    let asked = Instant::now();
    let stop = agent().delete(format!("{}/v1/jobs/{id}", server.url()));
    assert_eq!(answer(stop.call()).0, 202);
    assert_eq!(server.wait(&id)["state"], "cancelled");
    while server.get("/v1/workers").1[0]["held"] != 0 {
        assert!(asked.elapsed() < Duration::from_secs(10), "its slot goes on");
        moment(20);
    }
}

#[test]
fn a_failed_job_is_tried_again_and_a_short_one_does_not_wait_for_a_long_one() {
    let dir = tempfile::tempdir().unwrap();
    let long = clip(dir.path(), "long.mp4", 60);
    let medium = clip(dir.path(), "medium.mp4", 8);
    let short = clip(dir.path(), "short.mp4", 2);
    let server = Server::start(&dir.path().join("data"), &["--slots", "2"]);
    let mut request = job(&["test-fault:kind=slow"]);
    request["segment"] = json!(2);
    let slow = server.submit(&long, &request);
    let done = |server: &Server| {
        let (_, job) = server.get(&format!("/v1/jobs/{slow}"));
        assert_eq!(job["state"], "running", "the long job is not at work: {job}");
        let segments = job["segments"].as_array().unwrap();
        segments.iter().filter(|state| *state == "done").count()
    };
    server.until_event(&slow, |_, data| data["task"] == "segment" && data["state"] == "accepted");
    let before = done(&server);
    let mut request = job(&["invert"]);
    request["segment"] = json!(1);
    let quick = server.submit(&medium, &request);
    assert_eq!(server.wait(&quick)["state"], "succeeded");
    // Those that the two slots were at, and two more at most: not one for each of the eight.
    let meanwhile = done(&server) - before;
    assert!(meanwhile <= 4, "{meanwhile} long segments were done before a short job");

    let broken = server.submit(&short, &self::job(&["test-fault:kind=fail"]));
    assert_eq!(server.wait(&broken)["state"], "failed");
    let (status, job) = server.post(&format!("/v1/jobs/{broken}/retry"), &Value::Null, &[]);
    assert_eq!(status, 202, "{job}");
    assert_eq!(server.wait(&broken)["state"], "failed");
    assert_eq!(server.post(&format!("/v1/jobs/{quick}/retry"), &Value::Null, &[]).0, 409);
}

#[test]
fn fifty_clients_at_once_get_their_own_results() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 1);
    let server = Server::start(&dir.path().join("data"), &[]);
    let expected: Vec<Vec<u8>> = (0..5)
        .map(|i| {
            let out = text(&dir.path().join(format!("{i}.mp4")));
            run_ok(&["run", &source, "-o", &out, "-f", &format!("blur:sigma={}", i + 1)]);
            fs::read(out).unwrap()
        })
        .collect();
    std::thread::scope(|scope| {
        for client in 0..50 {
            let (server, source, expected, dir) = (&server, &source, &expected, dir.path());
            scope.spawn(move || {
                let out = dir.join(format!("client-{client}.mp4"));
                let query = format!("f=blur:sigma={}", client % 5 + 1);
                let (status, said) = server.process(&query, source, &out);
                assert_eq!(status, 200, "{said}");
                assert!(fs::read(&out).unwrap() == expected[client % 5], "client {client}");
            });
        }
    });
}

#[test]
fn a_client_that_reaches_nobody_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 1);
    let out = text(&dir.path().join("out.mp4"));
    let output = frameloom()
        .args(["submit", &source, "-o", &out, "--server", "http://127.0.0.1:9", "--patience", "0"])
        .output()
        .unwrap();
    let (code, words) = said(&output);
    assert_eq!(code, 6, "{words}");
    assert!(words.contains("http://127.0.0.1:9"), "{words}");
}
