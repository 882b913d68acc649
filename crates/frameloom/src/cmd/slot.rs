//! `frameloom slot`: a slot's process; nodes start it.

use clap::Args;
use frameloom_core::{Error, Result};

/// How the slot runs.
#[derive(Debug, Args)]
pub(crate) struct SlotArgs {
    /// Added to the process's niceness.
    #[arg(long, default_value_t = 0)]
    nice: i32,
}

/// Runs the slot until its node closes its socket.
pub(crate) fn run(args: SlotArgs) -> Result<()> {
    if args.nice != 0 {
        // A lower priority is a courtesy: where it is refused the work goes on.
        if let Err(error) = rustix::process::nice(args.nice) {
            tracing::debug!(%error, "cannot lower the priority");
        }
    }
    let is_socket = rustix::net::sockopt::socket_type(std::io::stdin()).is_ok();
    if !is_socket {
        return Err(Error::invalid(
            "'slot' is for nodes, which start it; you want 'frameloom run'",
        ));
    }
    crate::slot::child::run()
}
