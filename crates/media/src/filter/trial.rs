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

/// The number of a descriptor that is not to come to a slot.
const LEFT_OPEN: usize = 200;

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
        ("make a pair of sockets", std::os::unix::net::UnixStream::pair().map(drop)),
        ("empty a file", by_number(libc::SYS_truncate, [c"/nothing".as_ptr().addr(), 0, 0])),
        ("watch for files", by_number(libc::SYS_inotify_init1, [0; 3])),
        ("have signals sent", by_number(libc::SYS_fcntl, [0, 8, 1])),
        #[cfg(target_arch = "x86_64")]
        ("use x32's numbers", by_number(0x4000_0000 | libc::SYS_getppid, [0; 3])),
        ("do so by its socket", by_number(libc::SYS_ioctl, [0, 0x8901, 0])),
        ("run a program", std::process::Command::new("/usr/bin/true").status().map(drop)),
        ("read what was left open", read_left_open()),
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

/// Asks the kernel by a call's number: there is no such file, and what is asked for does nothing.
fn by_number(number: libc::c_long, [a, b, c]: [usize; 3]) -> std::io::Result<()> {
    // SAFETY: none of these writes to memory; the path lives as long as the program.
    match unsafe { libc::syscall(number, a, b, c) } {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Looks for a descriptor that whoever tries this leaves open, by a number that no slot comes to.
fn read_left_open() -> std::io::Result<()> {
    let found = by_number(libc::SYS_fcntl, [LEFT_OPEN, 1, 0]);
    found.map_err(|_| std::io::ErrorKind::PermissionDenied.into())
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
