//! `ttrl serve`

use clap::Args;

use super::{
    ModelFlags, given,
    model::{progress_bar, show},
    print,
};
use crate::{
    app::Server,
    config::{Flag, Settings},
    shutdown,
};

/// Answer questions over HTTP, and learn from them
#[derive(Args, Debug)]
#[command(after_help = "\
The first start fetches the model and makes the data directory. It prints where the operator's key is.

Examples:
  ttrl serve
  ttrl serve --bind 0.0.0.0:8000 --data-dir /var/lib/ttrl
  ttrl serve --model ./my-model.gguf --prompt-template additions-8shot
  ttrl serve --database-url postgres://ttrl:secret@db/ttrl")]
pub struct ServeArgs {
    /// The address to listen on; port 0 takes any free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR:PORT")]
    bind: Option<String>,
    /// postgres://USER:PASSWORD@HOST/DATABASE or sqlite:PATH [default: ttrl.sqlite in the data directory]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    #[command(flatten)]
    model: ModelFlags,
}

impl ServeArgs {
    pub(super) fn flags(&self) -> Vec<Flag> {
        let mut flags = given([
            ("--bind", "server.bind", self.bind.clone()),
            ("--database-url", "database_url", self.database_url.clone()),
        ]);
        flags.extend(self.model.flags());
        flags
    }
}

pub(super) async fn run(_args: ServeArgs, settings: Settings) -> anyhow::Result<()> {
    let shutdown = shutdown::on_signal()?;
    let key = match &settings.operator_key {
        Some(_) => "as set in the configuration".into(),
        None => format!("in {}", settings.operator_key_path().display()),
    };
    let (model, template) = (settings.model.clone(), settings.prompt_template.clone());
    let bar = progress_bar();
    let shown = bar.clone();
    let start = Server::start(settings, move |stage, done, total| show(&shown, stage, done, total));
    // Fetching a model may take minutes, in which one may change one's mind.
    let Some(server) = shutdown.run_until_cancelled(start).await.transpose()? else { return Ok(()) };
    bar.finish_and_clear();
    let address = server.address()?;
    let greeting = format!(
        "ttrl {} serves {model} (prompt template {template}, live adapter {})\n\
         listening on  http://{address}\n\
         operator key  {key}\n\
         try           curl -d '{{\"question\":\"What is 2 + 3?\"}}' http://{address}/v1/answer",
        env!("CARGO_PKG_VERSION"),
        server.live(),
    );
    // Whoever reads this may stop reading; that is no reason to stop serving.
    let _ = print(&greeting);
    Ok(server.run(shutdown).await?)
}
