//! A real server on a store in which somebody puts links, pipes and rubbish where it reads and writes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/server.rs"]
mod server;
mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use server::{Server, agent, answer};
use support::{Place, run_bytes};

/// A file of the server's user that nobody may touch by way of the store.
struct Precious(PathBuf);

impl Precious {
    fn new(place: &Place) -> Self {
        let path = place.dir.path().join("precious");
        fs::write(&path, "precious").unwrap();
        Self(path)
    }

    fn link(&self, at: PathBuf) {
        symlink(&self.0, at).unwrap();
    }

    fn is_untouched(&self) {
        assert_eq!(fs::read_to_string(&self.0).unwrap(), "precious");
    }
}

fn pipe(at: &Path) {
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, at, kind, mode, 0).unwrap();
}

fn refused(server: &Server, what: &str) -> u64 {
    let (status, text) = answer(agent().get(format!("{}/metrics", server.url())).call());
    assert_eq!(status, 200);
    let text = text.as_str().unwrap().to_owned();
    let name = format!("frameloom_refused_total{{what=\"{what}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("no {name}in {text}")).parse().unwrap()
}

fn create(server: &Server, more: &Value) -> (String, String) {
    let mut request = json!({
        "source": { "upload": true, "name": "in.mp4" }, "filters": ["invert"], "segment": 1,
    });
    for (key, value) in more.as_object().unwrap() {
        request[key] = value.clone();
    }
    let (status, made) = server.post("/v1/jobs", &request, &[]);
    assert_eq!(status, 201, "{made}");
    let text = |key: &str| made[key].as_str().unwrap().to_owned();
    (text("id"), text("upload_url"))
}

fn send(server: &Server, url: &str, source: &str) -> (u16, Value) {
    let url = format!("{}{url}", server.url());
    answer(agent().put(url).send(fs::File::open(source).unwrap()))
}

#[test]
fn a_job_among_links_pipes_and_rubbish_ends_with_the_same_bytes() {
    let place = Place::new(4);
    let expected = run_bytes(place.dir.path(), &place.source, "invert");
    let precious = Precious::new(&place);
    let (data, out) = (place.dir.path().join("data"), place.dir.path().join("outputs"));
    fs::create_dir(&out).unwrap();
    let write = format!("{}:rw", out.display());
    let server = Server::start(&data, &["--open-metrics", "--allow-path", &write]);
    let to = out.join("out.mp4");
    let (id, url) = create(&server, &json!({ "output": { "path": to } }));
    let job = data.join("jobs").join(&id);
    precious.link(job.join("metrics.tmp"));
    precious.link(job.join("delivered"));
    precious.link(out.join(".out.mp4.frameloom-copy"));
    pipe(&job.join("output.new"));
    fs::create_dir_all(job.join("results/full/of")).unwrap();
    fs::create_dir_all(job.join(format!("inbox/{}.json/full", "7".repeat(32)))).unwrap();
    pipe(&job.join("previews/latest"));
    for (name, put) in [("1", pipe as fn(&Path)), ("2", |at| fs::write(at, "[").unwrap())] {
        let node = data.join("nodes").join(name.repeat(32));
        fs::create_dir(&node).unwrap();
        put(&node.join("beat"));
    }
    let (status, said) =
        answer(agent().get(format!("{}/v1/jobs/{id}/frames/latest.jpg", server.url())).call());
    assert_eq!(status, 404, "{said}");
    assert_eq!(send(&server, &url, &place.source).0, 204);
    let ended = server.wait(&id);
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert!(server.output(&id) == expected, "other bytes than run");
    assert!(fs::read(&to).unwrap() == expected && !to.is_symlink(), "other bytes beside the store");
    assert_eq!(server.get(&format!("/v1/jobs/{id}/metrics")).0, 200);
    assert_eq!(refused(&server, "beat"), 2);
    assert_eq!(refused(&server, "preview"), 1);
    precious.is_untouched();
    // What it has made may be exchanged afterwards: it is not handed out.
    fs::remove_file(job.join("output")).unwrap();
    precious.link(job.join("output"));
    let (status, said) =
        answer(agent().get(format!("{}/v1/jobs/{id}/output", server.url())).call());
    assert_eq!(status, 500, "{said}");
    // The next server starts on all that.
    let data = server.kill();
    let server = Server::start(&data, &[]);
    assert_eq!(server.get(&format!("/v1/jobs/{id}")).1["state"], "succeeded");
    precious.is_untouched();
}

#[test]
fn an_upload_goes_through_no_link_and_its_job_is_refused_in_words() {
    let place = Place::new(1);
    let precious = Precious::new(&place);
    let server = Server::start(&place.dir.path().join("data"), &[]);
    for name in ["source.part", "journal"] {
        for put in [
            (|precious: &Precious, at: &Path| precious.link(at.to_owned())) as fn(&Precious, &Path),
            |_, at| pipe(at),
        ] {
            let (id, url) = create(&server, &json!({}));
            put(&precious, &place.dir.path().join("data/jobs").join(&id).join(name));
            let (status, said) = send(&server, &url, &place.source);
            assert_eq!(status, 500, "{said}");
            assert!(said.to_string().contains("it is not a regular file"), "{said}");
        }
    }
    precious.is_untouched();
}

#[test]
fn a_segment_that_is_changed_after_it_was_accepted_fails_its_job_in_words() {
    let place = Place::new(6);
    let data = place.dir.path().join("data");
    let server = Server::start(&data, &["--slots", "1"]);
    let (id, url) = create(&server, &json!({ "filters": ["test-fault:kind=slow"] }));
    assert_eq!(send(&server, &url, &place.source).0, 204);
    let first = std::cell::RefCell::new(String::new());
    server.until_event(&id, |name, event| {
        let accepted = name == "task" && event["task"] == "segment" && event["state"] == "accepted";
        if accepted {
            let k = event["segment"].as_u64().unwrap();
            *first.borrow_mut() = format!("{k}.{}", event["attempt"].as_str().unwrap());
        }
        accepted
    });
    let path = data.join("jobs").join(&id).join("results").join(first.into_inner());
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let ended = server.wait(&id);
    assert_eq!(ended["state"], "failed", "{ended}");
    let said = ended["error"]["detail"].as_str().unwrap();
    assert!(said.contains("its file was changed after it was accepted"), "{said}");
}
