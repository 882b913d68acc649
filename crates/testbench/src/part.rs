//! A process of the cluster, that is started again where it ends by itself, as whatever deploys it would do.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use frameloom_core::{Error, Result};
use rustix::process::{Pid, Signal, kill_process};

/// How long after its end one is started again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A process, or the place for one.
pub struct Part {
    name: String,
    log: PathBuf,
    make: Box<dyn Fn() -> Command>,
    child: Option<Child>,
    /// What was told to end, and has perhaps not yet, with how.
    ending: Vec<(Child, Signal)>,
    wanted: bool,
    again: Instant,
}

/// How a process ended by itself, or when it was asked to.
#[derive(Debug)]
pub struct Fallen {
    /// Whose process it was.
    pub name: String,
    /// Whether it was asked to.
    pub asked: bool,
    /// How it ended.
    pub status: ExitStatus,
    /// The last thing it said.
    pub words: String,
}

/// Sends a signal; answers whether there is somebody that it comes to.
pub fn signal(pid: u32, signal: Signal) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// The last line of a log.
pub fn last_words(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
}

impl Part {
    /// One that is not started yet; what it says goes into `log`.
    pub fn new(name: &str, log: PathBuf, make: Box<dyn Fn() -> Command>) -> Self {
        Self {
            name: name.to_owned(),
            log,
            make,
            child: None,
            ending: Vec::new(),
            wanted: false,
            again: Instant::now(),
        }
    }

    /// Wants it to run from now on.
    ///
    /// # Errors
    /// Unavailable where it cannot be started.
    pub fn start(&mut self) -> Result<()> {
        self.wanted = true;
        self.again = Instant::now();
        self.tend().map(drop)
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Asks it to end.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    fn end(&mut self, how: Signal) {
        self.wanted = false;
        if let Some(child) = self.child.take() {
            signal(child.id(), how);
            self.ending.push((child, how));
        }
    }

    /// Freezes it with its children, or lets them go on.
    pub fn freeze(&self, frozen: bool) {
        let Some(pid) = self.pid() else { return };
        let how = if frozen { Signal::STOP } else { Signal::CONT };
        signal(pid, how);
        for child in children(pid) {
            signal(child, how);
        }
    }

    /// Starts it where it is wanted and not there. What was told to end has to be gone before.
    ///
    /// # Errors
    /// Unavailable where it cannot be started.
    pub fn tend(&mut self) -> Result<Vec<Fallen>> {
        let failed = |e: std::io::Error| Error::io(format!("cannot start {}", self.name), &e);
        let (name, log) = (&self.name, &self.log);
        let fell =
            |asked, status| Fallen { name: name.clone(), asked, status, words: last_words(log) };
        let mut fallen = Vec::new();
        self.ending.retain_mut(|(child, how)| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                fallen.extend((*how == Signal::TERM).then(|| fell(true, status)));
                false
            }
            Err(_) => false,
        });
        let over = match &mut self.child {
            Some(child) => child.try_wait().map_err(failed)?,
            None => None,
        };
        if let Some(status) = over {
            fallen.push(fell(false, status));
            self.child = None;
            self.again = Instant::now() + AGAIN_AFTER;
        }
        let due = self.wanted && self.child.is_none() && self.ending.is_empty();
        if due && Instant::now() >= self.again {
            let open = || OpenOptions::new().create(true).append(true).open(&self.log);
            let log: File = open().map_err(failed)?;
            let errors = log.try_clone().map_err(failed)?;
            let child = (self.make)().stdout(log).stderr(errors).spawn().map_err(failed)?;
            self.child = Some(child);
        }
        Ok(fallen)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.kill();
        for (child, _) in &mut self.ending {
            // One that is frozen dies, too.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The processes that a process has started.
pub fn children(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}
