//! `test-fault`: a filter that misbehaves on purpose, for trying how slots are supervised.

use std::time::Duration;

use frameloom_core::catalogue::Params;
use frameloom_core::{Error, Result};

use super::{Filter, PerFrame};
use crate::frame::{Frame, FrameFormat};

/// Misbehaves at the first frame whose pts is `at` or later.
pub(super) struct Fault {
    kind: String,
    at: i64,
    eaten: Vec<Vec<u8>>,
}

impl Fault {
    pub(super) fn build(params: &Params, _: &FrameFormat) -> Result<Box<dyn Filter>> {
        let (kind, at) = (params.text("kind")?.to_owned(), params.integer("at")?);
        Ok(Box::new(Self { kind, at, eaten: Vec::new() }))
    }
}

impl PerFrame for Fault {
    fn apply(&mut self, frame: Frame) -> Result<Frame> {
        if frame.pts() < self.at {
            return Ok(frame);
        }
        match self.kind.as_str() {
            "hang" => loop {
                std::thread::park_timeout(Duration::from_secs(3600));
            },
            "eat" => loop {
                // Touched, so that it counts.
                self.eaten.push(vec![1; 16 << 20]);
            },
            "crash" => std::process::abort(),
            "slow" => {
                std::thread::park_timeout(Duration::from_millis(20));
                Ok(frame)
            }
            "miss" if frame.pts() > self.at => Ok(frame),
            "peek" => peek().map(|()| frame),
            _ => Err(Error::internal("a fault that was asked for")),
        }
    }
}

/// Opens what a slot must not: an error where it can.
fn peek() -> Result<()> {
    let written = std::env::temp_dir().join(format!("frameloom-peek-{}", std::process::id()));
    let tries = [
        ("read /etc/passwd", std::fs::read("/etc/passwd").map(drop)),
        ("read its environment", std::fs::read("/proc/self/environ").map(drop)),
        ("list /", std::fs::read_dir("/").map(drop)),
        ("write a file", std::fs::write(written, "")),
        ("connect", std::net::TcpStream::connect("127.0.0.1:9").map(drop)),
        ("send", std::net::UdpSocket::bind("127.0.0.1:0").map(drop)),
        ("talk to a process", std::os::unix::net::UnixDatagram::unbound().map(drop)),
        ("run a program", std::process::Command::new("/usr/bin/true").status().map(drop)),
        ("change a mode", change_mode(&std::env::temp_dir())),
        ("signal its node", signal_parent()),
    ];
    for (what, tried) in tries {
        match tried {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
            other => return Err(Error::internal(format!("a slot could {what}: {other:?}"))),
        }
    }
    Ok(())
}

/// Gives a directory the mode that it has.
fn change_mode(path: &std::path::Path) -> std::io::Result<()> {
    std::fs::set_permissions(path, std::fs::metadata(path)?.permissions())
}

fn signal_parent() -> std::io::Result<()> {
    let parent = rustix::process::getppid();
    let parent = parent.ok_or_else(|| std::io::Error::other("a slot without a parent"))?;
    Ok(rustix::process::test_kill_process(parent)?)
}
