//! Pulls every plug of a cluster while jobs go through it, and requires that nothing is lost.
//!
//! A server, a Redis and four nodes run on hosts of their own (network namespaces), each with its own view of the store
//! (FUSE, as a network file system would be). What is done to them follows from a seed ([`schedule`]); each job's output
//! must have the bytes that an undisturbed `frameloom run` makes. It knows the product by its command line and by what lies
//! on the store, never by its insides. How it is used: `make chaos`, and CONTRIBUTING.md.

pub mod acts;
pub mod bench;
pub mod cluster;
pub mod disk;
pub mod fault;
pub mod journals;
pub mod net;
pub mod part;
pub mod relay;
pub mod report;
pub mod schedule;
pub mod seed;
pub mod verdict;
pub mod work;

use std::process::{Command, Stdio};
use std::time::Duration;

use frameloom_core::{Error, Result};

/// Runs a program to its end.
///
/// # Errors
/// Unavailable where it cannot be run, or fails: with its last words.
pub fn call(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::io(format!("cannot run {shown} (scripts/setup.sh test)"), &e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::unavailable(format!("{shown} ends with {}: {words}", output.status)))
}

/// Waits.
#[expect(clippy::disallowed_methods, reason = "what is disturbed is looked at again and again")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
