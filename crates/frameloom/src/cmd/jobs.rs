//! Looking after jobs on a server: `jobs`, `status`, `cancel`, `retry`, `rm`, `fetch`, `logs`.

use std::path::{Path, PathBuf};

use clap::Args;
use frameloom_core::{Error, Result};
use frameloom_server::publish;
use serde_json::Value;

use super::submit::{Shown, fetch, outcome};
use crate::client::{Client, ServerArgs};
use crate::patience::PatienceArgs;

/// A server.
#[derive(Debug, Args)]
pub(crate) struct JobsArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// Only jobs in this state: queued, planning, running, assembling, succeeded, failed, cancelled.
    #[arg(long, value_name = "STATE")]
    state: Option<String>,

    /// Print the server's answer as JSON.
    #[arg(long)]
    json: bool,
}

/// A job of a server.
#[derive(Debug, Args)]
pub(crate) struct JobIdArgs {
    /// The job's id.
    #[arg(value_name = "ID")]
    id: String,

    #[command(flatten)]
    server: ServerArgs,
}

/// How to try a job again.
#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    job: JobIdArgs,

    /// Have a job that waits for a node ('no node for engine …') planned anew for nodes that are there, which do it
    /// from its beginning.
    #[arg(long)]
    replan: bool,
}

/// How to show a job.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    job: JobIdArgs,

    /// Follow it until it is over; then the exit code is the job's.
    #[arg(long)]
    watch: bool,

    /// Print the server's answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Where to put a job's output.
#[derive(Debug, Args)]
pub(crate) struct FetchArgs {
    #[command(flatten)]
    job: JobIdArgs,

    #[command(flatten)]
    patience: PatienceArgs,

    /// The output file.
    #[arg(short, long, value_name = "OUT", required_unless_present = "detections")]
    output: Option<PathBuf>,

    /// Write what 'faces', 'objects' and 'motion' found to this file: a line of JSON a frame.
    #[arg(long, value_name = "FILE")]
    detections: Option<PathBuf>,

    /// Replace files that exist.
    #[arg(long)]
    overwrite: bool,
}

/// Text of a server for a terminal: it must not steer it.
pub(crate) fn plain(value: &Value) -> String {
    // Marks that turn the direction of writing would make a line read otherwise than it is.
    let turns = |c: char| matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let shown = |c: &char| !c.is_control() && !turns(*c);
    value.as_str().unwrap_or_default().chars().filter(shown).collect()
}

fn row(job: &Value) -> String {
    let percent =
        job["progress"]["percent"].as_f64().map_or(String::from("-"), |p| format!("{p:.0}%"));
    let filters: Vec<String> = job["filters"].as_array().into_iter().flatten().map(plain).collect();
    format!(
        "{}  {:<10} {:>5}  {}  {}  {}\n",
        plain(&job["id"]),
        plain(&job["state"]),
        percent,
        plain(&job["created_at"]),
        plain(&job["name"]),
        filters.join(" "),
    )
}

/// Lists jobs.
pub(crate) fn list(args: JobsArgs) -> Result<()> {
    let client = Client::new(&args.server)?;
    let filter = args.state.as_ref().map(|state| format!("&state={state}")).unwrap_or_default();
    let (mut after, mut all) = (String::new(), Vec::new());
    loop {
        let page = client.json(&format!("/v1/jobs?limit=200{filter}{after}"))?;
        all.extend(page["jobs"].as_array().cloned().unwrap_or_default());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    if args.json {
        return super::print(&super::pretty(&all)?);
    }
    super::print(&all.iter().map(row).collect::<String>())
}

/// Shows a job.
pub(crate) fn status(args: StatusArgs) -> Result<()> {
    let client = Client::new(&args.job.server)?;
    let mut job = client.json(&format!("/v1/jobs/{}", args.job.id))?;
    if args.watch {
        let shown = Shown::new(false);
        job = client.follow(&args.job.id, &mut |name, data| shown.event(name, data))?;
        shown.end();
    }
    if args.json {
        super::print(&super::pretty(&job)?)?;
    } else {
        let mut text = row(&job);
        if let Some(waiting) = job.get("waiting") {
            text += &format!("waiting: {}\n", plain(waiting));
        }
        for message in job["messages"].as_array().into_iter().flatten() {
            text += &format!("note: {}\n", plain(message));
        }
        super::print(&text)?;
    }
    if args.watch || job["state"] == "failed" { outcome(&job) } else { Ok(()) }
}

/// Stops a job.
pub(crate) fn cancel(args: JobIdArgs) -> Result<()> {
    Client::new(&args.server)?.delete(&format!("/v1/jobs/{}", args.id))
}

/// Tries a failed job again, or has one that waits for a node planned anew.
pub(crate) fn retry(args: &RetryArgs) -> Result<()> {
    let what = if args.replan { "replan" } else { "retry" };
    let path = format!("/v1/jobs/{}/{what}", args.job.id);
    Client::new(&args.job.server)?.post(&path, None, None).map(drop)
}

/// Prints what was decided about a job's tasks.
pub(crate) fn logs(args: JobIdArgs) -> Result<()> {
    let client = Client::new(&args.server)?;
    let logs = client.get(&format!("/v1/jobs/{}/logs", args.id), &[])?;
    let text = logs.into_body().read_to_string();
    let text = text.map_err(|e| Error::unavailable("the logs break off").with_source(e))?;
    super::print(&text.chars().filter(|c| *c == '\n' || !c.is_control()).collect::<String>())
}

/// Erases a job.
pub(crate) fn remove(args: JobIdArgs) -> Result<()> {
    Client::new(&args.server)?.delete(&format!("/v1/jobs/{}?purge=true", args.id))
}

/// Reads a finished job's output, and what was found in it.
pub(crate) fn fetch_output(args: FetchArgs) -> Result<()> {
    let wanted = [("output", &args.output), ("detections.jsonl", &args.detections)];
    let wanted = wanted.into_iter().filter_map(|(what, to)| Some((what, to.as_deref()?)));
    let wanted: Vec<(&str, &Path)> = wanted.collect();
    if let Some((_, to)) = wanted.iter().find(|(_, to)| to.exists() && !args.overwrite) {
        return Err(publish::exists(to));
    }
    let client = Client::new(&args.job.server)?.patient(&args.patience);
    wanted.iter().try_for_each(|(what, to)| fetch(&client, &args.job.id, what, to, args.overwrite))
}
