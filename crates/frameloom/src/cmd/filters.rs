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
    let text = match (&args.name, args.json) {
        (Some(name), true) => super::pretty(catalogue.find(name)?)?,
        (Some(name), false) => explain(catalogue.find(name)?),
        (None, true) => super::pretty(&catalogue.0)?,
        (None, false) => {
            let mut text = String::new();
            for info in catalogue.0 {
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
    if info.name == "ffmpeg" {
        text += &graphs();
    }
    text + &format!("\nexample:\n  -f {}\n", info.example)
}

/// Which of FFmpeg's filters graphs may hold.
fn graphs() -> String {
    let filters = frameloom_media::graph_filters();
    let list = |names: &[&str]| {
        let mut lines = vec![String::from(" ")];
        for name in names {
            if lines.last().is_some_and(|line| line.len() + name.len() > 90) {
                lines.push(String::from(" "));
            }
            if let Some(line) = lines.last_mut() {
                line.push(' ');
                line.push_str(name);
            }
        }
        lines.join("\n")
    };
    let windows: Vec<String> = filters
        .window
        .iter()
        .map(|(name, before, after)| format!("{name} ({before} before, {after} after)"))
        .collect();
    let windows: Vec<&str> = windows.iter().map(String::as_str).collect();
    format!(
        "\nfilters of graphs that look at one frame, of which videos are cut anywhere:\n{}\n\
         \nat frames around it, too:\n{}\n\
         \nat all frames before it, so that the video is one segment (so does an expression with n):\n{}\n",
        list(filters.per_frame),
        list(&windows),
        list(filters.sequential),
    )
}
