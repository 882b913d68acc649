//! Frameloom: heavy per-frame video processing, spread over processes, frame for frame exact.

mod cli;
mod cmd;
mod node;
mod progress;
mod random;
mod slot;
mod work_dir;

use std::process::ExitCode;

use clap::Parser;
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
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match cli.run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("frameloom: error: {error}");
            ExitCode::from(error.kind().exit_code())
        }
    }
}
