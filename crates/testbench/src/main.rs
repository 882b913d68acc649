//! `testbench`: pulls every plug of a cluster, from a seed.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use frameloom_core::{Error, Result};
use testbench::bench::{Config, run};
use testbench::call;
use testbench::schedule::Schedule;

/// Seeds that have found something, and one that holds all kinds of faults: `NUMBER WHY` a line.
const KEPT: &str = include_str!("../seeds.txt");

/// Pulls every plug of a cluster while jobs go through it, and requires the bytes of an undisturbed run.
///
/// A server, a Redis and four nodes are started on hosts of their own (network namespaces; anybody may make them where the
/// kernel lets people have user namespaces). What is done to them follows from the seeds. Exits 1 where a frame is lost or
/// differs, a job does not end, or anything else is wrong, and says which seeds to try again.
#[derive(Debug, Parser)]
#[command(name = "testbench", max_term_width = 100)]
struct Args {
    /// The program to try.
    #[arg(long, value_name = "FILE", default_value = "target/release/frameloom")]
    binary: PathBuf,

    /// Where the real clips are ('make clips').
    #[arg(long, value_name = "DIR", env = "FRAMELOOM_CLIPS", default_value = ".cache/clips")]
    clips: PathBuf,

    /// What the faults follow from; several share the time.
    #[arg(long, value_name = "N", default_values_t = [1])]
    seed: Vec<u64>,

    /// The seeds that are kept, instead of --seed.
    #[arg(long)]
    kept: bool,

    /// How long faults are done.
    #[arg(long, value_name = "MINUTES", default_value_t = 2.0)]
    minutes: f64,

    /// Write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Where logs stay; without it they go, but where something is wrong.
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,

    /// Print so many steps of the seeds, and do nothing.
    #[arg(long, value_name = "STEPS")]
    list: Option<usize>,

    /// Within namespaces of its own.
    #[arg(long, hide = true)]
    inside: bool,
}

fn print(text: &str) {
    // Nobody is left to hear it where this fails.
    drop(std::io::stdout().write_all(text.as_bytes()));
}

fn kept() -> Vec<u64> {
    let numbers = KEPT.lines().filter_map(|line| line.split(' ').next()?.parse().ok());
    numbers.collect()
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds = if args.kept { kept() } else { args.seed.clone() };
    let done = match args.list {
        Some(steps) => {
            list(&seeds, steps);
            Ok(true)
        }
        None if args.inside => inside(&args, seeds),
        None => Err(apart()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("testbench: {error}");
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn list(seeds: &[u64], steps: usize) {
    for seed in seeds {
        for step in Schedule::new(*seed).take(steps) {
            let faults: Vec<String> = step
                .faults
                .iter()
                .map(|(after, fault)| format!("{fault}, after {:.1} s", after.as_secs_f64()))
                .collect();
            print(&format!("seed {seed}: {}\n", faults.join(" + ")));
        }
    }
}

/// Becomes the same program in namespaces of its own; comes back where that fails.
fn apart() -> Error {
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(e) => return Error::io("cannot find this program", &e),
    };
    let mut command = Command::new("unshare");
    command.arg(if rustix::process::geteuid().is_root() { "-nm" } else { "-rnm" });
    let failed = command.arg(own).args(std::env::args_os().skip(1)).arg("--inside").exec();
    Error::io("cannot run unshare", &failed)
}

fn inside(args: &Args, seeds: Vec<u64>) -> Result<bool> {
    for tool in ["ip", "bindfs", "redis-server", "nsenter", "setpriv", "ffmpeg"] {
        call(Command::new("sh").args(["-c", "command -v \"$0\"", tool]))
            .map_err(|_| Error::not_found(format!("'{tool}' is needed: scripts/setup.sh test")))?;
    }
    let whole = |path: &Path| {
        std::fs::canonicalize(path)
            .map_err(|e| Error::io(format!("cannot use '{}'", path.display()), &e))
    };
    let dir = tempfile::Builder::new()
        .prefix("frameloom-bench-")
        .tempdir()
        .map_err(|e| Error::io("cannot make a directory", &e))?;
    if !(0.0..=10_000.0).contains(&args.minutes) {
        return Err(Error::invalid(format!("--minutes {} is not 0 to 10000", args.minutes)));
    }
    let config = Config {
        binary: whole(&args.binary)?,
        clips: whole(&args.clips)?,
        seeds,
        time: Duration::from_secs_f64(args.minutes * 60.0),
        place: dir.path().to_owned(),
    };
    let begun = Instant::now();
    let mut say = |words: &str| {
        print(&format!("{:7.1} s  {words}\n", begun.elapsed().as_secs_f64()));
    };
    let ran = run(&config, &mut say);
    let good = ran.as_ref().is_ok_and(testbench::report::Report::is_good);
    let logs = match &args.logs {
        Some(logs) => Some(logs.clone()),
        None if good => None,
        None => {
            Some(std::env::temp_dir().join(format!("frameloom-bench-logs-{}", std::process::id())))
        }
    };
    if let Some(logs) = &logs {
        testbench::disk::make_dir(logs)?;
        let mut copy = Command::new("cp");
        let parts = ["logs", "out"].map(|part| config.place.join(part));
        call(copy.arg("-r").args(parts.iter().filter(|part| part.exists())).arg(logs))?;
    }
    let report = ran?;
    print(&report.text());
    if let Some(path) = &args.report {
        let json = serde_json::to_vec_pretty(&report)
            .map_err(|e| Error::internal("cannot write JSON").with_source(e))?;
        std::fs::write(path, json)
            .map_err(|e| Error::io(format!("cannot write '{}'", path.display()), &e))?;
    }
    if let Some(logs) = logs {
        print(&format!("logs: {}\n", logs.display()));
    }
    if !good {
        let seeds: Vec<String> = config.seeds.iter().map(|seed| format!("--seed {seed}")).collect();
        print(&format!("again: testbench {} --minutes {}\n", seeds.join(" "), args.minutes));
    }
    Ok(good)
}
