//! `frameloom filters`: what filters there are.

use clap::Args;
use frameloom_core::Result;
use frameloom_core::catalogue::FilterInfo;

/// Which filters.
#[derive(Debug, Args)]
pub(crate) struct FiltersArgs {
    /// Explain this one.
    name: Option<String>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the filters.
pub(crate) fn run(args: FiltersArgs) -> Result<()> {
    let catalogue = frameloom_media::catalogue();
    let listed = || catalogue.0.iter().filter(|info| !info.name.starts_with("test-"));
    let text = match (&args.name, args.json) {
        (Some(name), true) => super::pretty(catalogue.find(name)?)?,
        (Some(name), false) => explain(catalogue.find(name)?),
        (None, true) => super::pretty(&listed().collect::<Vec<_>>())?,
        (None, false) => {
            let mut text = String::new();
            for info in listed() {
                text += &format!("{:<14}{}\n", info.name, info.summary);
            }
            text + "\n'frameloom filters NAME' explains one.\n"
        }
    };
    super::print(&text)
}

/// All of one filter.
fn explain(info: &FilterInfo) -> String {
    let mut text = format!("{}: {}\n\n{}\n", info.name, info.summary, info.details);
    if !info.params.is_empty() {
        text += "\nparameters:\n";
    }
    for param in info.params {
        let default = match (param.default, param.required) {
            (Some(default), _) => format!(", default {default}"),
            (None, true) => ", must be given".into(),
            (None, false) => String::new(),
        };
        text +=
            &format!("  {} ({}{default})\n      {}\n", param.name, param.kind.range(), param.help);
    }
    text + &format!("\nexample:\n  -f {}\n", info.example)
}
