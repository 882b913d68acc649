//! Hosts with addresses of their own, on one bridge: network namespaces, which anybody may make where the kernel lets people have
//! user namespaces.
#![allow(unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::kill;

/// The bridge, and the host on it that has its addresses: 10.77.0.1 and fd77::1.
pub struct Hub(Child);

/// A process on a host of its own.
pub struct Host {
    child: Child,
    link: String,
    hub: u32,
}

/// Has a shell set up a host and wait for its cable before it becomes the program that follows.
const WAITS: &str = "echo ready && read go && ip link set lo up && ip address add 10.77.0.$0/24 dev cable \
    && ip -6 address add fd77::$0/64 dev cable nodad && ip link set cable up && exec \"$@\"";

const BRIDGE: &str = "ip link set lo up && ip link add bridge type bridge && ip address add 10.77.0.1/24 dev bridge \
    && ip -6 address add fd77::1/64 dev bridge nodad && ip link set bridge up && echo ready && exec cat";

fn until_ready(child: &mut Child) {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(
        line, "ready\n",
        "no network namespace of its own: are user namespaces allowed, and is iproute2 there?"
    );
}

impl Hub {
    pub fn start() -> Self {
        let mut child = Command::new("unshare")
            .args(["-rn", "sh", "-c", BRIDGE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        until_ready(&mut child);
        Self(child)
    }

    /// A command that runs where the bridge is.
    pub fn command(&self) -> Command {
        within(self.0.id())
    }

    /// Starts a program on a host with the addresses 10.77.0.`number` and fd77::`number`.
    pub fn host(&self, number: u8, program: &Path, args: &[&str]) -> Host {
        let mut child = self
            .command()
            .args(["unshare", "-n", "sh", "-c", WAITS, &number.to_string()])
            .arg(program)
            .args(args)
            .env("FRAMELOOM_TEST_FAULTS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        until_ready(&mut child);
        let link = format!("host{number}");
        let host = child.id().to_string();
        self.ip(&["link", "add", &link, "type", "veth", "peer", "name", "cable", "netns", &host]);
        self.ip(&["link", "set", &link, "master", "bridge", "up"]);
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        Host { child, link, hub: self.0.id() }
    }

    fn ip(&self, args: &[&str]) {
        assert!(self.command().arg("ip").args(args).status().unwrap().success(), "ip {args:?}");
    }
}

fn within(hub: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--preserve-credentials", "-U", "-n", "-t", &hub.to_string()]);
    command
}

impl Host {
    pub fn signal(&self, signal: &str) {
        kill(self.child.id(), signal);
    }

    pub fn end(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Pulls its cable, or plugs it in again.
    pub fn cable(&self, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        let mut ip = within(self.hub);
        assert!(ip.args(["ip", "link", "set", &self.link, state]).status().unwrap().success());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may have ended already, or be stopped.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
