//! Hosts with addresses of their own on one bridge, all of them network namespaces. The bench itself is where the bridge is:
//! it was started in namespaces of its own, which take hosts, cables and mounts with them when it ends.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Child, Command, Stdio};

use frameloom_core::{Error, Result};

use crate::call;

/// A host: a namespace that a process holds open, and its cable.
#[derive(Debug)]
pub struct Host {
    number: u8,
    anchor: Child,
    link: String,
}

/// Waits for a cable, takes the addresses, and stays.
const HOST: &str = "echo ready && read go && ip link set lo up && ip address add 10.77.0.$0/24 dev cable \
    && ip -6 address add fd77::$1/64 dev cable nodad && ip link set cable up && echo up && exec cat";

/// A program that ends when the bench does.
pub fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(name).stdin(Stdio::null());
    command
}

fn ip(args: &[&str]) -> Result<()> {
    call(Command::new("ip").args(args)).map(drop)
}

/// Makes the bridge where this process is, with the addresses of number 1.
///
/// # Errors
/// Unavailable where this is not allowed.
pub fn bridge() -> Result<()> {
    ip(&["link", "set", "lo", "up"])?;
    ip(&["link", "add", "bridge", "type", "bridge"])?;
    ip(&["address", "add", "10.77.0.1/24", "dev", "bridge"])?;
    ip(&["-6", "address", "add", "fd77::1/64", "dev", "bridge", "nodad"])?;
    ip(&["link", "set", "bridge", "up"])
}

/// The address of a number.
pub fn address(number: u8, six: bool) -> IpAddr {
    if six {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number)).into()
    } else {
        Ipv4Addr::new(10, 77, 0, number).into()
    }
}

impl Host {
    /// Makes the host of a number.
    ///
    /// # Errors
    /// Unavailable where this is not allowed.
    pub fn new(number: u8) -> Result<Self> {
        let failed = |e: std::io::Error| Error::io(format!("cannot make host {number}"), &e);
        let mut anchor = program("unshare")
            .args(["-n", "sh", "-c", HOST, &number.to_string(), &format!("{number:x}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let silent = || Error::unavailable(format!("host {number} does not come up"));
        let mut said = BufReader::new(anchor.stdout.take().ok_or_else(silent)?).lines();
        let mut says = |what: &str| match said.next() {
            Some(Ok(line)) if line == what => Ok(()),
            _ => Err(silent()),
        };
        says("ready")?;
        let (link, pid) = (format!("host{number}"), anchor.id().to_string());
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "cable", "netns", &pid])?;
        ip(&["link", "set", &link, "master", "bridge", "up"])?;
        let stdin = anchor.stdin.as_mut().ok_or_else(silent)?;
        stdin.write_all(b"go\n").map_err(failed)?;
        says("up")?;
        Ok(Self { number, anchor, link })
    }

    /// Its address.
    pub fn address(&self, six: bool) -> IpAddr {
        address(self.number, six)
    }

    /// A program on it.
    pub fn program(&self, name: impl AsRef<OsStr>) -> Command {
        let mut command = program("nsenter");
        command.args(["-n", "-t", &self.anchor.id().to_string()]).arg(name);
        command
    }

    /// Pulls its cable, or plugs it in again.
    ///
    /// # Errors
    /// Unavailable where `ip` fails.
    pub fn cable(&self, plugged: bool) -> Result<()> {
        ip(&["link", "set", &self.link, if plugged { "up" } else { "down" }])
    }

    /// Has the kernel delay or lose what goes over its cable, both ways, or nothing any more.
    ///
    /// # Errors
    /// Unavailable where the kernel has no netem.
    pub fn netem(&self, how: Option<&[&str]>) -> Result<()> {
        let Some(how) = how else {
            call(Command::new("tc").args(["qdisc", "del", "dev", &self.link, "root"]))?;
            return call(self.program("tc").args(["qdisc", "del", "dev", "cable", "root"]))
                .map(drop);
        };
        let mut here = Command::new("tc");
        call(here.args(["qdisc", "add", "dev", &self.link, "root", "netem"]).args(how))?;
        let mut there = self.program("tc");
        call(there.args(["qdisc", "add", "dev", "cable", "root", "netem"]).args(how)).map(drop)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.anchor.kill());
        drop(self.anchor.wait());
    }
}
