//! Server and nodes as different users: of one group, and not. It takes root, or sudo without a password.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/nodes.rs"]
mod nodes;
#[path = "../../broker/tests/support/mod.rs"]
mod redis_server;
#[path = "support/server.rs"]
mod server;
mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nodes::until_live;
use redis_server::Redis;
use serde_json::json;
use server::Server;
use support::{clip, run_bytes, said, text};

/// The group to which the store belongs.
const GROUP: u32 = 62_000;

/// The program as a user whose own group has the same number, and who may be of [`GROUP`], too.
fn as_user(user: u32, member: bool) -> Command {
    let user = user.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user, "--regid", &user]);
    match member {
        true => command.args(["--groups", &GROUP.to_string()]),
        false => command.arg("--clear-groups"),
    };
    command.arg(env!("CARGO_BIN_EXE_frameloom")).env("FRAMELOOM_TEST_FAULTS", "1");
    command.stdin(Stdio::null());
    command
}

fn worker(by: Command, redis: &Redis, data: &Path) -> Command {
    let mut command = by;
    command.args(["worker", "--broker", &redis.url(), "--slots", "1", "--name", "tried", "--data"]);
    command.arg(data);
    command
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn users_of_one_group_share_a_store_and_others_are_refused_in_words() {
    assert!(rustix::process::geteuid().is_root(), "this test changes users: run it as root");
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let source = clip(dir.path(), "in.mp4", 4);
    let expected = run_bytes(dir.path(), &source, "invert");
    let (redis, data) = (Redis::start(&[]), dir.path().join("data"));
    fs::create_dir(&data).unwrap();
    chown(&data, Some(62_001), Some(GROUP)).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o2770)).unwrap();
    let more = ["--broker", &redis.url(), "--no-local-slots"];
    let server = Server::start_by(as_user(62_001, true), &data, &more);
    let node = Running(worker(as_user(62_002, true), &redis, &data).spawn().unwrap());
    until_live(&server, 1);
    for granularity in ["segment", "frame"] {
        let id = server.submit(
            &source,
            &json!({
                "source": { "upload": true, "name": "in.mp4" },
                "filters": ["invert"], "segment": 1, "granularity": granularity,
            }),
        );
        let job = server.wait(&id);
        assert_eq!(job["state"], "succeeded", "{job}");
        assert!(server.output(&id) == expected, "other bytes than run");
    }
    drop(node);

    let refused = |by: Command| -> Output { worker(by, &redis, &data).output().unwrap() };
    let (code, told) = said(&refused(as_user(62_003, false)));
    assert!(code != 0 && told.lines().count() == 1, "{told}");
    // Where what each makes belongs to a group of its own neither can use the other's.
    for part in ["nodes", "frames"] {
        fs::set_permissions(data.join(part), fs::Permissions::from_mode(0o770)).unwrap();
    }
    let (code, told) = said(&refused(as_user(62_002, true)));
    assert_eq!((code, told.lines().count()), (4, 1), "{told}");
    let what = "this node (user 62002, group 62002) cannot read a file that the server made";
    assert!(told.contains(what), "{told}");
    assert!(told.contains(&text(&data.join("nodes"))) && told.contains("chmod 2770"), "{told}");
}
