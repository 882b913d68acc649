//! `frameloom man`: the man page, from the same definition as the help.

use clap::CommandFactory;
use frameloom_core::{Error, Result};

/// Prints the man page with all subcommands.
pub(crate) fn run() -> Result<()> {
    let failed = |e: std::io::Error| Error::io("cannot write the man page", &e);
    let command = crate::cli::Cli::command();
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text).map_err(failed)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let man = clap_mangen::Man::new(sub.clone());
        let title = format!(".SH \"FRAMELOOM {}\"\n", sub.get_name().to_uppercase());
        text.extend(title.bytes());
        man.render_description_section(&mut text).map_err(failed)?;
        man.render_options_section(&mut text).map_err(failed)?;
    }
    super::print(&String::from_utf8_lossy(&text))
}
