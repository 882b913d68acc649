//! `frameloom health`: whether a server or a node answers, for what watches over containers.

use clap::Args;
use frameloom_core::{Error, Result};

use crate::client::{Client, ServerArgs};

/// Whom to ask.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  frameloom health --server http://127.0.0.1:8080\n  \
    frameloom health --server https://localhost:8080 --cacert cert.pem --ready\n\n\
    A server answers, and a node that was started with --listen. Exits 0 where it does, 6 where it does not.")]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// Ask a server whether it takes jobs: its store has room, and its broker answers.
    #[arg(long)]
    ready: bool,
}

/// Asks; prints the answer.
pub(crate) fn run(args: HealthArgs) -> Result<()> {
    let client = Client::new(&args.server)?;
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let answer = client.get(path, &[])?.into_body().read_to_string();
    super::print(&answer.map_err(|e| Error::unavailable("the answer breaks off").with_source(e))?)
}
