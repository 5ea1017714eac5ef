//! `ttrl config`

use clap::Args;

use super::{print, serve::ServeArgs};
use crate::config::{self, Flag, Settings};

/// Print the settings in effect
#[derive(Args, Debug)]
#[command(after_help = "\
Takes the flags of `ttrl serve`. Secrets are not printed.

Examples:
  ttrl config > ttrl.toml
  ttrl config --config ttrl.toml --json
  TTRL_ANSWER__VOTES=16 ttrl config --bind 0.0.0.0:8000")]
pub struct ConfigArgs {
    /// Print JSON instead of TOML
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    serve: ServeArgs,
}

impl ConfigArgs {
    pub(super) fn flags(&self) -> Vec<Flag> {
        self.serve.flags()
    }
}

pub(super) async fn run(args: ConfigArgs, settings: Settings) -> anyhow::Result<()> {
    let text = if args.json { config::json(&settings) } else { config::toml(&settings) };
    print(text.trim_end())?;
    Ok(())
}
