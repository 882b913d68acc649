//! `frameloom probe IN`: what a file holds. A slot looks; this process parses no media.

use std::path::PathBuf;

use clap::Args;
use frameloom_core::Result;
use frameloom_core::probe::ProbeReport;
use frameloom_core::slot::{ProbeTask, SlotCommand};

/// What to look at.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// A video file.
    #[arg(value_name = "IN")]
    input: PathBuf,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints what the file holds.
pub(crate) fn run(args: ProbeArgs) -> Result<()> {
    let source = super::open_source(&args.input)?;
    let name = args.input.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let report: ProbeReport = super::in_slot(&source, &[], SlotCommand::Probe(ProbeTask { name }))?;
    let text = if args.json { super::pretty(&report)? } else { format!("{report}\n") };
    super::print(&text)
}
