//! Frameloom: heavy per-frame video processing, spread over processes, frame for frame exact.

mod cli;
mod client;
mod cmd;
mod frames;
mod node;
mod outputs;
mod patience;
mod progress;
mod random;
mod slot;
mod work_dir;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser;
use frameloom_core::Error;
use tracing_subscriber::EnvFilter;

use crate::cli::Cli;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are asked for; anything else is the user's mistake.
            let code = if error.use_stderr() { 2 } else { 0 };
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    let filter =
        EnvFilter::try_from_env("FRAMELOOM_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if cli.logs_json() {
        logs.json().init();
    } else {
        logs.init();
    }
    // A panic is a bug: it is told like any other error, and has its exit code.
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cli.run()))
        .unwrap_or_else(|_| Err(Error::internal("this is a bug of frameloom's; please report it")));
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("frameloom: error: {}", printable(error.message()));
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// Text for a terminal: what names and files hold must not steer it.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(super::printable("a\u{1b}[31mb\nc"), "a\\u{1b}[31mb\nc");
    }
}
