//! What a server tells of what is seen in videos, what it keeps from being seen, and the files that
//! filters take there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/server.rs"]
mod server;
mod support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use server::{Server, agent, answer};
use support::{clip, real_clip, run, run_ok, text, told};

/// A clip with a face in it, two seconds long.
fn face(dir: &Path) -> String {
    let out = dir.join("face.mp4");
    let source = text(&real_clip("carphone_pristine.mp4"));
    let status = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-nostdin", "-i", &source, "-t", "2", "-an"])
        .args(["-c:v", "libx264", "-preset", "veryfast", "-g", "12", "-pix_fmt", "yuv420p"])
        .arg(&out)
        .status()
        .unwrap();
    assert!(status.success());
    text(&out)
}

fn asked(filter: &str, more: Value) -> Value {
    let mut request = json!({
        "source": { "upload": true, "name": "in.mp4" }, "filters": [filter], "segment": 0.5
    });
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

#[test]
fn a_server_finds_and_hides_what_a_run_does_and_shows_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let source = face(dir.path());
    let at = |name: &str| text(&dir.path().join(name));
    let filter = "faces:action=pixelate:every=2";
    let job = ["-f", filter, "--segment", "0.5"];
    let out = |name: &str| {
        [at(&format!("{name}.mp4")), at(&format!("{name}.jsonl")), at(&format!("{name}.json"))]
    };
    let [by_run, found_by_run, metrics] = out("run");
    let more = ["-o", &by_run, "--detections", &found_by_run, "--metrics", &metrics];
    run_ok(&[&["run", &source][..], &job, &more].concat());
    let audit: Value = serde_json::from_slice(&read(Path::new(&metrics))).unwrap();
    assert_eq!(
        audit["detections"]["source_kept"],
        json!({ "until": null, "words": "kept by its owner" })
    );

    let server = Server::start(&dir.path().join("data"), &["--keep", "3d"]);
    let [by_submit, found_by_submit, metrics] = out("submit");
    let more = ["-o", &by_submit, "--detections", &found_by_submit, "--metrics", &metrics];
    run_ok(&[&["submit", &source, "--server", server.url()][..], &job, &more].concat());
    assert!(read(Path::new(&by_submit)) == read(Path::new(&by_run)), "other bytes than run");
    let found = read(Path::new(&found_by_run));
    assert!(told(&read(Path::new(&found_by_submit))) == told(&found), "other detections than run");
    let found = read(Path::new(&found_by_submit));
    let lines = told(&found);
    assert!(lines.matches("\"class\":\"face\"").count() > 30, "hardly a face was found:\n{lines}");

    let (_, list) = server.get("/v1/jobs");
    let id = list["jobs"][0]["id"].as_str().unwrap();
    let (_, job) = server.get(&format!("/v1/jobs/{id}"));
    let url = job["detections_url"].as_str().unwrap();
    assert_eq!(job["source_hidden"], true);
    let audit: Value = serde_json::from_slice(&read(Path::new(&metrics))).unwrap();
    assert_eq!(audit["detections"]["source_kept"]["until"], job["source_expires_at"]);

    let ask = |headers: &[(&str, &str)]| {
        let mut request = agent().get(format!("{}{url}", server.url()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.call().unwrap()
    };
    let whole = ask(&[]);
    assert_eq!(whole.headers()["content-type"], "application/x-ndjson");
    let tag = whole.headers()["etag"].to_str().unwrap().to_owned();
    assert!(whole.into_body().read_to_vec().unwrap() == found);
    let part = ask(&[("range", "bytes=10-29")]);
    assert_eq!(part.status().as_u16(), 206);
    assert_eq!(part.into_body().read_to_vec().unwrap(), &found[10..30]);
    assert_eq!(ask(&[("if-none-match", &tag)]).status().as_u16(), 304);

    // A pair that an older attempt has left is not shown either.
    let previews = dir.path().join("data/jobs").join(id).join("previews/latest");
    let (before, after) = (b"\xff\xd8BEFORE", b"\xff\xd8AFTER");
    fs::write(previews, [&8u32.to_le_bytes()[..], before, after].concat()).unwrap();
    let picture = |id: &str, picture: &str, side: &str| {
        server.get(&format!("/v1/jobs/{id}/frames/{picture}.jpg?side={side}"))
    };
    for name in ["latest", "0", "12"] {
        let (status, problem) = picture(id, name, "before");
        assert_eq!(status, 403, "{name}: {problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("hidden") && detail.contains("reveal_previews"), "{detail}");
    }
    let shown = format!("{}/v1/jobs/{id}/frames/latest.jpg?side=after", server.url());
    let shown = agent().get(shown).call().unwrap();
    assert_eq!(shown.into_body().read_to_vec().unwrap(), after);
    // While it runs as well.
    let (status, made) = server.post("/v1/jobs", &asked(filter, json!({})), &[]);
    assert_eq!(status, 201, "{made}");
    assert_eq!(picture(made["id"].as_str().unwrap(), "latest", "before").0, 403);
    assert_eq!(picture(made["id"].as_str().unwrap(), "0", "before").0, 403);

    let shown = server.submit(&source, &asked(filter, json!({ "reveal_previews": true })));
    let open = server.submit(&source, &asked("faces:action=boxes:every=4", json!({})));
    for id in [&shown, &open] {
        let job = server.wait(id);
        assert_eq!((&job["state"], &job["source_hidden"]), (&json!("succeeded"), &json!(false)));
        let picture =
            agent().get(format!("{}/v1/jobs/{id}/frames/0.jpg?side=before", server.url()));
        assert_eq!(picture.call().unwrap().status().as_u16(), 200);
    }
}

#[test]
fn detections_alone_are_the_output_and_a_job_that_looks_for_nothing_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 2);
    let at = |name: &str| text(&dir.path().join(name));
    let filter = "motion:method=diff:action=none";
    let server = Server::start(&dir.path().join("data"), &[]);
    for name in ["found.csv", "found.jsonl", "found.json"] {
        let (by_run, by_submit) = (at(&format!("run-{name}")), at(&format!("submit-{name}")));
        let job = ["-f", filter, "--segment", "1", "--detections-only", "--detections"];
        run_ok(&[&["run", &source][..], &job, &[&by_run]].concat());
        run_ok(&[&["submit", &source, "--server", server.url()][..], &job, &[&by_submit]].concat());
        let (by_run, by_submit) = (read(Path::new(&by_run)), read(Path::new(&by_submit)));
        assert!(by_run.len() > 500, "{name}: hardly anything was found");
        assert!(told(&by_run) == told(&by_submit), "{name}: other detections than run");
    }
    let csv = server.submit(&source, &asked(filter, json!({ "detections_only": "csv" })));
    assert_eq!(server.wait(&csv)["state"], "succeeded");
    for path in ["output", "detections.jsonl"] {
        let made = agent().get(format!("{}/v1/jobs/{csv}/{path}", server.url())).call().unwrap();
        assert_eq!(made.headers()["content-type"], "text/csv", "{path}");
    }
    let (status, problem) = server.get(&format!("/v1/jobs/{csv}/frames/0.jpg"));
    assert_eq!(status, 404, "it has no video: {problem}");

    let blind = server.submit(&source, &asked("invert", json!({})));
    let job = server.wait(&blind);
    assert_eq!((&job["state"], &job["detections_url"]), (&json!("succeeded"), &Value::Null));
    let (status, problem) = server.get(&format!("/v1/jobs/{blind}/detections.jsonl"));
    assert_eq!(status, 404);
    assert!(problem["detail"].as_str().unwrap().contains("looks for something"), "{problem}");
    let only = asked("invert", json!({ "detections_only": "csv" }));
    let (status, problem) = server.post("/v1/jobs", &only, &[]);
    assert_eq!(status, 400, "{problem}");
    let (code, words) =
        run(&["submit", &source, "--server", server.url(), "--detections-only", "-f", filter]);
    assert_eq!(code, 2, "{words}");
    assert!(words.contains("--detections"), "{words}");
}

fn put(server: &Server, sha256: &str, content: &[u8], token: &str) -> (u16, Value) {
    let request = agent().put(format!("{}/v1/files/{sha256}", server.url()));
    answer(request.header("authorization", format!("Bearer {token}")).send(content))
}

#[test]
fn files_of_filters_are_names_of_the_catalogue_or_what_was_sent_and_never_paths() {
    const ME: &str = "mine-0123456789abcdef";
    const OTHER: &str = "other-0123456789abcdef";
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 2);
    let at = |name: &str| text(&dir.path().join(name));
    let (found, expected) = (at("found.jsonl"), at("expected.mp4"));
    let looks =
        ["-f", "motion:method=diff:action=none", "--detections-only", "--detections", &found];
    run_ok(&[&["run", &source][..], &looks].concat());
    let filter = |file: &str| format!("regions:file={file}:action=fill");
    run_ok(&["run", &source, "-o", &expected, "--segment", "1", "-f", &filter(&found)]);
    let expected = read(Path::new(&expected));

    let (data, tokens) = (dir.path().join("data"), at("tokens"));
    fs::write(&tokens, format!("me:{ME}\nother:{OTHER}\n")).unwrap();
    let catalogue = data.join("catalogue");
    fs::create_dir_all(&catalogue).unwrap();
    fs::copy(&found, catalogue.join("corrected.jsonl")).unwrap();
    std::os::unix::fs::symlink(&found, catalogue.join("link.jsonl")).unwrap();
    let server =
        Server::start(&data, &["--tokens", &tokens, "--max-file", "1M", "--max-files", "1500K"]);
    let bearer = |token: &str| format!("Bearer {token}");
    let post = |request: &Value, token: &str| {
        server.post("/v1/jobs", request, &[("authorization", &bearer(token))])
    };
    let get = |path: &str, token: &str| {
        let request = agent().get(format!("{}{path}", server.url()));
        answer(request.header("authorization", bearer(token)).call())
    };
    let refused = |request: &Value, status: u16, words: &str| {
        let (got, problem) = post(request, ME);
        let detail = problem["detail"].as_str().unwrap_or_default().to_owned();
        assert!(got == status && detail.contains(words), "{request}: {got} {detail}");
    };

    // What is no name of the catalogue is refused, whatever lies there.
    for name in [&found, "/etc/passwd", "../store.json", "link.jsonl", "corected.jsonl"] {
        let name = name.to_owned();
        refused(&asked(&filter(&name), json!({})), 400, "catalogue, which holds corrected.jsonl");
    }
    refused(&asked(&filter("corected.jsonl"), json!({})), 400, "did you mean 'corrected.jsonl'");

    // By name, and sent along by `submit`, though it is a path there.
    let token = at("token");
    fs::write(&token, ME).unwrap();
    for file in ["corrected.jsonl", &found] {
        let out = at("out.mp4");
        let asked = ["submit", &source, "-o", &out, "--overwrite", "--segment", "1"];
        let to = ["--server", server.url(), "--token", &token, "-f", &filter(file)];
        run_ok(&[&asked[..], &to].concat());
        assert!(read(Path::new(&out)) == expected, "{file}: other bytes than run");
    }
    let (code, words) = run(&[
        "submit",
        &source,
        "-o",
        &at("none.mp4"),
        "--server",
        server.url(),
        "--token",
        &token,
        "-f",
        &filter("dir/none.jsonl"),
    ]);
    assert_eq!(code, 3, "{words}");

    // What was sent is its sender's alone.
    let (_, files) = get("/v1/files", ME);
    assert_eq!(files["catalogue"], json!(["corrected.jsonl"]));
    let sha256 = files["files"][0]["sha256"].as_str().unwrap().to_owned();
    let size = read(Path::new(&found)).len();
    assert_eq!(files["files"][0]["size"], size);
    assert_eq!(get("/v1/files", OTHER).1["files"], json!([]));
    let attached = |name: &str, sha256: &str, size: usize| {
        asked(&filter("x"), json!({ "files": [{ "name": name, "sha256": sha256, "size": size }] }))
    };
    let (status, problem) = post(&attached("x", &sha256, size), OTHER);
    assert_eq!(status, 409, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(&format!("PUT /v1/files/{sha256}")), "{detail}");
    let nobody = "0".repeat(64);
    refused(&attached("x", &nobody, size), 409, "has not come");
    refused(&attached("x", &sha256, size + 1), 400, "bytes");
    refused(&attached("x", "../x", size), 400, "64 hexadecimal digits");
    refused(&attached("y", &sha256, size), 400, "no filter takes a file 'y'");
    assert_eq!(post(&attached("x", &sha256, size), ME).0, 201);

    // Content that is another is not kept, and there is room for so much only.
    assert_eq!(put(&server, &nobody, b"other", ME).0, 400);
    assert_eq!(put(&server, "x", b"other", ME).0, 404);
    assert_eq!(put(&server, &sha256, b"whatever", ME).0, 204);
    assert_eq!(put(&server, &nobody, &vec![0; 2 << 20], ME).0, 413);
    let zeros = |n: usize| vec![0u8; n];
    let sha = |content: &[u8]| {
        use sha2::Digest;
        sha2::Sha256::digest(content).iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let (large, more) = (zeros(1_000_000), zeros(700_000));
    assert_eq!(put(&server, &sha(&large), &large, ME).0, 201);
    let (status, problem) = put(&server, &sha(&more), &more, ME);
    assert_eq!(status, 507, "{problem}");
    assert_eq!(put(&server, &sha(&more), &more, OTHER).0, 201);
    let gone = agent().delete(format!("{}/v1/files/{}", server.url(), sha(&large)));
    assert_eq!(answer(gone.header("authorization", bearer(ME)).call()).0, 204);
    assert_eq!(put(&server, &sha(&more), &more, ME).0, 201);
    assert_eq!(get("/v1/files", ME).1["files"].as_array().unwrap().len(), 2);
}
