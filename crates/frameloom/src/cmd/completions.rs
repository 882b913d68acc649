//! `frameloom completions SHELL`: a completion script, from the same definition as the help.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use frameloom_core::Result;

/// For which shell.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: CompletionsArgs) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut crate::cli::Cli::command(), "frameloom", &mut text);
    super::print(&String::from_utf8_lossy(&text))
}
