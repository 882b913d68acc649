#![allow(unreachable_pub, dead_code, reason = "each test file takes what it needs")]
//! A Redis of a test's own.

pub mod sentinel;
pub mod tls;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A redis-server that ends with the test. Tests fail where there is none to start.
pub struct Redis {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
}

impl Redis {
    /// Starts one on a free port, with further arguments.
    pub fn start(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut redis = Self {
                child: spawn(dir.path(), port, more),
                dir: tempfile::tempdir().unwrap(),
                port,
            };
            if redis.answers() {
                redis.dir = dir;
                return redis;
            }
        }
        panic!("no redis-server comes up");
    }

    /// Starts it anew after [`Redis::stop`], empty, on the same port.
    pub fn restart(&mut self) {
        self.child = spawn(self.dir.path(), self.port, &[]);
        assert!(self.answers(), "redis-server does not come up again");
    }

    /// Kills it.
    pub fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether it answers before it ends.
    fn answers(&mut self) -> bool {
        let end = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "redis-server does not answer");
            let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
            if let Err(e) = client.get_connection_with_timeout(Duration::from_millis(200)) {
                if e.kind() == redis::ErrorKind::AuthenticationFailed {
                    return true;
                }
                std::thread::yield_now();
                continue;
            }
            return true;
        }
        false
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// A connection of the test's own.
    pub fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }
}

fn spawn(dir: &Path, port: u16, more: &[&str]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(dir)
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is needed: make setup, and scripts/setup.sh test")
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
