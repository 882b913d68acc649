//! Nodes of their own, on a server's store and over a real Redis.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::redis_server::Redis;
use crate::server::Server;
use crate::support::{frameloom, kill};

/// A worker node that ends with the test.
pub struct Worker(Child);

impl Worker {
    pub fn start(redis: &Redis, data: &Path, name: &str, more: &[&str]) -> Self {
        Self::start_by(&redis.url(), data, name, more)
    }

    /// The same by a broker's address.
    pub fn start_by(broker: &str, data: &Path, name: &str, more: &[&str]) -> Self {
        Self::start_with(broker, data, name, more, &[])
    }

    /// The same with variables in its environment.
    pub fn start_with(
        broker: &str,
        data: &Path,
        name: &str,
        more: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let child = frameloom()
            .envs(variables.iter().copied())
            .args(["worker", "--broker", broker, "--name", name, "--data"])
            .arg(data)
            .args(more)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    pub fn signal(&self, signal: &str) {
        kill(self.0.id(), signal);
    }

    pub fn end(&mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already, or be stopped.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub fn serve(redis: &Redis, data: &Path) -> Server {
    Server::start(data, &["--broker", &redis.url(), "--no-local-slots"])
}

/// Asks until `wanted` is so.
pub fn until(what: &str, seconds: u64, mut wanted: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !wanted() {
        assert!(Instant::now() < end, "not within {seconds} s: {what}");
        std::thread::yield_now();
    }
}

pub fn workers(server: &Server) -> Vec<Value> {
    server.get("/v1/workers").1.as_array().unwrap().clone()
}

/// Waits until so many nodes with slots live.
pub fn until_live(server: &Server, count: usize) {
    until("nodes live", 20, || {
        let slots = |w: &&Value| w["lives"] == true && w["slots"].as_u64().unwrap_or(0) > 0;
        workers(server).iter().filter(slots).count() == count
    });
}
