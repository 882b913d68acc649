//! A store whose disk is full: jobs wait, nothing is lost, and all goes on when there is room. A run ends, and goes on when it is
//! started again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/server.rs"]
mod server;
mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use server::Server;
use support::{clip, run_bytes, text};

/// Starts a server on a small disk of its own; answers it and where that disk lies.
fn on_small_disk(dir: &tempfile::TempDir) -> (Server, PathBuf) {
    let data = dir.path().join("data");
    fs::create_dir_all(&data).unwrap();
    // The disk is in memory, and there for this process alone: anybody may make such a one where the
    // kernel lets people have namespaces.
    let mut command = Command::new("unshare");
    command
        .args(["-rm", "sh", "-c", "mount -t tmpfs -o size=96m disk \"$0\" && exec \"$@\""])
        .arg(&data)
        .arg(env!("CARGO_BIN_EXE_frameloom"))
        .stdin(Stdio::null())
        .env("FRAMELOOM_TEST_FAULTS", "1");
    let server = Server::start_by(command, &data, &["--min-free", "24M"]);
    let inside = format!("/proc/{}/root{}", server.pid(), text(&data));
    (server, PathBuf::from(inside))
}

/// Fills a disk to its last byte; answers the file that does.
fn fill(disk: &std::path::Path) -> PathBuf {
    let path = disk.join("filler");
    let mut file = File::options().create(true).append(true).open(&path).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    path
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// Whether slots write to something in a job's results.
fn at_work(disk: &std::path::Path, id: &str) -> bool {
    let results = disk.join("jobs").join(id).join("results");
    let names = fs::read_dir(results).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().ends_with(".tmp")).count() > 0
}

#[test]
fn a_full_disk_is_waited_out() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 12);
    let expected = run_bytes(dir.path(), &source, "test-fault:kind=slow");
    let (server, disk) = on_small_disk(&dir);
    let reserve = disk.join("reserve");
    assert_eq!(fs::metadata(&reserve).unwrap().len(), 16 << 20);
    let upload = json!({ "upload": true, "name": "in.mp4" });
    let request = json!({ "source": upload, "filters": ["test-fault:kind=slow"], "segment": 1 });
    let id = server.submit(&source, &request);
    let path = format!("/v1/jobs/{id}");
    let done = |k: u32| {
        server.until_event(&id, |_, event| event["segment"] == k && event["state"] == "accepted");
    };
    let waits = || server.get(&path).1["waiting"] == "store full";

    // Others take all there is: what was set aside is given up, so that signs of life and results go on.
    done(0);
    let filler = fill(&disk);
    until("the reserve is given up", || !reserve.exists());
    until("the job says why it waits", waits);
    until("slots end what they are at", || server.get("/v1/workers").1[0]["held"] == 0);
    assert_eq!(server.get("/readyz").0, 503);
    let (status, refused) = server.post("/v1/jobs", &request, &[]);
    assert_eq!((status, &refused["kind"]), (507, &json!("exhausted")));
    let logs = server.get(&format!("{path}/logs")).1.to_string();
    assert!(!logs.contains("failed"), "{logs}");
    fs::remove_file(filler).unwrap();
    until("room is set aside again", || reserve.exists());

    // Others take that, too: nothing can be written any more, and the job stays.
    done(5);
    fill(&disk);
    until("the reserve is given up", || !reserve.exists());
    let filler = fill(&disk);
    until("the job says why it waits", waits);
    until("slots run into it", || !at_work(&disk, &id));
    assert!(server.get(&path).1["ended_at"].is_null());
    fs::remove_file(filler).unwrap();

    let ended = server.wait(&id);
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert!(server.output(&id) == expected, "other bytes than run");
    until("room is set aside again", || reserve.exists());
}

#[test]
fn frames_on_a_full_disk_are_waited_for_and_none_has_failed() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 6);
    let expected = run_bytes(dir.path(), &source, "test-fault:kind=slow");
    let (server, disk) = on_small_disk(&dir);
    let reserve = disk.join("reserve");
    let upload = json!({ "upload": true, "name": "in.mp4" });
    let filters = ["test-fault:kind=slow"];
    let request =
        json!({ "source": upload, "filters": filters, "segment": 1, "granularity": "frame" });
    let id = server.submit(&source, &request);
    let path = format!("/v1/jobs/{id}");
    server.until_event(&id, |_, event| event["segment"] == 0 && event["state"] == "accepted");
    fill(&disk);
    until("the reserve is given up", || !reserve.exists());
    let filler = fill(&disk);
    until("the job says why it waits", || server.get(&path).1["waiting"] == "store full");
    // Segments wait for their frames, or give up and are sent again: either way none of it counts.
    let job = server.get(&path).1;
    assert!(job["ended_at"].is_null(), "{job}");
    fs::remove_file(filler).unwrap();
    let ended = server.wait(&id);
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert!(server.output(&id) == expected, "other bytes than run");
    let logs = server.get(&format!("{path}/logs")).1.to_string();
    assert!(!logs.contains("failed 3 times"), "{logs}");
}

/// On a disk of 2 MiB of which others have taken `$3` KiB: runs `"$@"` within it, tells the exit code and what is left there;
/// then the same with room.
const TWICE: &str = r#"
set -e
mount -t tmpfs -o size=2m disk "$1"; cd "$1"; made=$2; taken=$3; shift 3
dd if=/dev/zero of=filler bs=1k count="$taken" 2>/dev/null
set +e
timeout 30 "$@"; echo "first $?"
test -e "$made" && echo "half-written"
rm filler
timeout 60 "$@"; echo "second $?"
test -s "$made" && test "$(ls -A)" = "$made" && echo "made alone"
"#;

#[test]
fn a_run_on_a_full_disk_ends_and_goes_on_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path(), "in.mp4", 6);
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let cases: [(&str, &str, &[&str]); 4] = [
        ("2030", "out.mp4", &["-o", "out.mp4", "-f", "blur"]),
        ("1980", "out.mp4", &["-o", "out.mp4", "-f", "blur"]),
        ("2030", "out.mp4", &["-o", "out.mp4", "-f", "motion"]),
        ("2030", "k.csv", &["-f", "motion", "--detections-only", "--detections", "k.csv"]),
    ];
    for (taken, made, args) in cases {
        let output = Command::new("unshare")
            .args(["-rm", "sh", "-c", TWICE, "sh", &text(&disk), made, taken])
            .args([env!("CARGO_BIN_EXE_frameloom"), "run", &source, "-q", "--segment", "1"])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(told, "first 6\nsecond 0\nmade alone\n", "{taken} {args:?}: {said}");
        assert!(said.contains("make room"), "{said}");
    }
}
