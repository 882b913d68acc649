//! Ways to Redis: with TLS, and by sentinels that give the master's place to another.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/nodes.rs"]
mod nodes;
#[path = "../../broker/tests/support/mod.rs"]
mod redis_server;
#[path = "support/server.rs"]
mod server;
mod support;

use nodes::{Worker, until_live};
use redis_server::sentinel::Watched;
use redis_server::tls::{Authority, RedisWithTls};
use serde_json::{Value, json};
use server::Server;
use support::{clip, run, run_bytes, text};

fn submit(server: &Server, source: &str) -> String {
    let source_of = json!({ "upload": true, "name": "in.mp4" });
    let filters = ["test-fault:kind=slow"];
    server.submit(source, &json!({ "source": source_of, "filters": filters, "segment": 1 }))
}

fn accepted(data: &Value) -> bool {
    data["task"] == "segment" && data["state"] == "accepted"
}

#[test]
fn a_job_goes_through_a_redis_with_tls_and_a_wrong_authority_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 4);
    let expected = run_bytes(dir.path(), &source, "test-fault:kind=slow");
    let (authority, other) = (Authority::new(), Authority::new());
    let (redis, data) =
        (RedisWithTls::start(&authority, "127.0.0.1", "yes"), dir.path().join("data"));
    let (cert, key) = authority.signs("127.0.0.1");
    let [ca, wrong, cert, key] = [authority.file(), other.file(), cert, key].map(|p| text(&p));
    let own = ["--broker-cacert", &ca, "--broker-cert", &cert, "--broker-key", &key];
    let url = redis.url();
    let server =
        Server::start(&data, &[&["--broker", &url, "--no-local-slots"], &own[..]].concat());
    let _worker = Worker::start_by(&url, &data, "one", &[&["--slots", "2"], &own[..]].concat());
    until_live(&server, 1);
    let id = submit(&server, &source);
    let job = server.wait(&id);
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(server.output(&id) == expected, "other bytes than run");

    let data = text(&data);
    let (code, said) =
        run(&["worker", "--broker", &url, "--data", &data, "--broker-cacert", &wrong]);
    assert_eq!((code, said.lines().count()), (2, 1), "{said}");
    assert!(said.contains(&format!("not signed by --broker-cacert '{wrong}'")), "{said}");
    let (code, said) = run(&["worker", "--broker", &url, "--data", &data, "--broker-cert", &cert]);
    assert!(code == 2 && said.contains("--broker-key"), "{said}");
}

#[test]
fn a_master_that_dies_in_a_job_is_replaced_by_its_replica_and_the_bytes_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 16);
    let expected = run_bytes(dir.path(), &source, "test-fault:kind=slow");
    let (mut watched, data) = (Watched::start(), dir.path().join("data"));
    let url = watched.url();
    let server = Server::start(&data, &["--broker", &url, "--no-local-slots"]);
    let _one = Worker::start_by(&url, &data, "one", &["--slots", "1"]);
    let _two = Worker::start_by(&url, &data, "two", &["--slots", "1"]);
    until_live(&server, 2);
    let id = submit(&server, &source);
    server.until_event(&id, |_, data| accepted(data));
    watched.master.stop();
    let job = server.wait(&id);
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(server.output(&id) == expected, "other bytes than run");
    assert_eq!(job["progress"]["retried"], 0, "nothing was tried again: {job}");
    assert_eq!(server.get("/readyz").0, 200);
    // The replica has carried messages since.
    let told: String =
        redis::cmd("INFO").arg("replication").query(&mut watched.replica.connection()).unwrap();
    assert!(told.contains("role:master"), "{told}");
}
