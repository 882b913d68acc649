#![allow(unreachable_pub, dead_code, reason = "each test file takes what it needs")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
//! A Redis with a replica, and a sentinel that watches over both.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Redis;

/// The name that the sentinel has for its master.
pub const NAME: &str = "mine";

/// It ends with the test.
pub struct Watched {
    pub master: Redis,
    pub replica: Redis,
    sentinel: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Watched {
    /// Starts them, and waits until the sentinel would give the master's place to the replica.
    pub fn start() -> Self {
        let master = Redis::start(&["--repl-diskless-sync-delay", "0"]);
        let at = master.port().to_string();
        let replica = Redis::start(&["--replicaof", "127.0.0.1", &at]);
        until("the replica follows", || {
            let told: String =
                redis::cmd("INFO").arg("replication").query(&mut replica.connection()).unwrap();
            told.contains("master_link_status:up")
        });
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sentinel.conf");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor {NAME} 127.0.0.1 {at} 1\n\
             sentinel down-after-milliseconds {NAME} 500\nsentinel failover-timeout {NAME} 2000\n"
        );
        std::fs::write(&file, settings).unwrap();
        // It is the program that Debian's package redis-sentinel calls by another name.
        let sentinel = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed: make setup, and scripts/setup.sh test");
        let watched = Self { master, replica, sentinel, port, _dir: dir };
        until("the sentinel sees both", || {
            let told = watched.ask(&["REPLICAS", NAME]);
            let linked = told.contains("master-link-status") && !told.contains("'err'");
            linked && !told.contains("s_down") && !told.contains("disconnected")
        });
        watched
    }

    /// What the sentinel says; nothing while it is not there.
    fn ask(&self, words: &[&str]) -> String {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        let Ok(mut connection) = client.get_connection() else { return String::new() };
        let told: redis::RedisResult<redis::Value> =
            redis::cmd("SENTINEL").arg(words).query(&mut connection);
        told.map(|told| format!("{told:?}")).unwrap_or_default()
    }

    /// Its address, as Celery's users write it.
    pub fn url(&self) -> String {
        format!("sentinel://127.0.0.1:{}/0?master_name={NAME}", self.port)
    }

    /// The sentinel's port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.sentinel.kill());
        drop(self.sentinel.wait());
    }
}

fn until(what: &str, mut wanted: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !wanted() {
        assert!(Instant::now() < end, "not within 30 s: {what}");
        std::thread::yield_now();
    }
}
