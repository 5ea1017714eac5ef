//! The command line: one file a command.

mod adapter;
mod ask;
mod bench;
mod check;
mod client;
mod config;
mod eval;
mod grade;
mod learn;
mod model;
mod questions;
mod round;
mod serve;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{Flag, Settings, load, process_environment},
    telemetry,
};

/// An inference server that gets better at the questions it is asked.
#[derive(Debug, Parser)]
#[command(
    name = "ttrl",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  ttrl serve                               Serve the default model on 127.0.0.1:8080
  ttrl ask \"What is 38 + 9?\"               Put a question to that server
  ttrl round start                         Learn from the questions it was asked
  ttrl learn --questions sums.jsonl        Learn from a file, without a server

Settings come from defaults, then --config FILE, then TTRL_... variables, then flags; `ttrl config` prints the result."
)]
struct Cli {
    /// A settings file (TOML)
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Learn(learn::LearnArgs),
    Ask(ask::AskArgs),
    Grade(grade::GradeArgs),
    Round(round::RoundArgs),
    Eval(eval::EvalArgs),
    Adapter(adapter::AdapterArgs),
    Config(config::ConfigArgs),
    Model(model::ModelArgs),
    Bench(bench::BenchArgs),
    Check(check::CheckArgs),
}

/// Flags that say which model is used, and where files are.
#[derive(Args, Debug)]
pub struct ModelFlags {
    /// A known model's name, a GGUF file or a folder with safetensors [default: smollm2-135m-instruct]
    #[arg(long, value_name = "NAME|PATH")]
    model: Option<String>,
    /// Where the model runs: auto, cpu, cuda:N or metal [default: auto]
    #[arg(long)]
    device: Option<String>,
    /// The numbers of the model's matrices on a GPU: auto (bf16), bf16 or f32 [default: auto]
    #[arg(long)]
    dtype: Option<String>,
    /// Where models, adapters, the database and the operator's key are kept [default: ttrl-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How questions are put to the model: boxed, additions-8shot or a file [default: boxed]
    #[arg(long, value_name = "FILE")]
    prompt_template: Option<String>,
}

impl ModelFlags {
    fn flags(&self) -> Vec<Flag> {
        let data_dir = path_text(self.data_dir.as_ref());
        given([
            ("--model", "model", self.model.clone()),
            ("--device", "device", self.device.clone()),
            ("--dtype", "dtype", self.dtype.clone()),
            ("--data-dir", "data_dir", data_dir),
            ("--prompt-template", "prompt_template", self.prompt_template.clone()),
        ])
    }
}

/// The settings among flags that were given.
fn given<const N: usize>(flags: [(&'static str, &'static str, Option<String>); N]) -> Vec<Flag> {
    let flag = |(name, key, value): (_, _, Option<String>)| Some(Flag { name, key, value: value? });
    flags.into_iter().filter_map(flag).collect()
}

fn path_text(path: Option<&PathBuf>) -> Option<String> {
    path.map(|path| path.to_string_lossy().into_owned())
}

impl Command {
    /// The settings that the flags of the command change.
    fn flags(&self) -> Vec<Flag> {
        match self {
            Self::Serve(args) => args.flags(),
            Self::Learn(args) => args.flags(),
            Self::Round(args) => args.flags(),
            Self::Eval(args) => args.flags(),
            Self::Adapter(args) => args.flags(),
            Self::Config(args) => args.flags(),
            Self::Model(args) => args.flags(),
            Self::Bench(args) => args.flags(),
            Self::Check(args) => args.flags(),
            Self::Ask(_) | Self::Grade(_) => vec![],
        }
    }

    async fn run(self, settings: Settings) -> anyhow::Result<()> {
        match self {
            Self::Serve(args) => serve::run(args, settings).await,
            Self::Learn(args) => learn::run(args, settings).await,
            Self::Ask(args) => ask::run(args, settings).await,
            Self::Grade(args) => grade::run(&args),
            Self::Round(args) => round::run(args, settings).await,
            Self::Eval(args) => eval::run(args, settings).await,
            Self::Adapter(args) => adapter::run(args, settings).await,
            Self::Config(args) => config::run(args, settings).await,
            Self::Model(args) => model::run(args, settings).await,
            Self::Bench(args) => bench::run(args, settings).await,
            Self::Check(args) => check::run(args, settings).await,
        }
    }
}

/// Does what the command line says: exit code 0, 1 after an error, 2 if the command line is not understood.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // If this cannot be written either, the exit code is all that is left.
            let _ = io::stderr().write_all(report(&error).as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let settings = load(cli.config.as_deref(), process_environment(), &cli.command.flags())?;
    telemetry::init(&settings.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(cli.command.run(settings));
    // A download that nobody waits for any more must not hold the end up.
    runtime.shutdown_background();
    outcome
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.chain().filter_map(|cause| cause.downcast_ref()).any(is)
}

/// The error and, a line each, the causes that it does not already tell.
fn report(error: &anyhow::Error) -> String {
    let mut told = error.to_string();
    let mut text = format!("error: {told}\n");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told.contains(&cause) {
            text.push_str(&format!("  because: {cause}\n"));
            told = cause;
        }
    }
    text
}

/// Writes to the standard output. Unlike `println!` it returns the error of a closed pipe.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["ttrl"], line].concat())
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        fn check(command: &clap::Command) {
            for inner in command.get_subcommands() {
                let help = inner.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example"), "{} has no examples", inner.get_name());
                check(inner);
            }
        }
        check(&Cli::command());
    }

    #[test]
    fn flags_become_settings() {
        let cli = parse(&["serve", "--bind", "[::1]:9", "--model", "m.gguf", "--data-dir", "d", "--database-url", "u"]);
        let settings = load(None, [], &cli.unwrap().command.flags()).unwrap();
        assert_eq!((settings.server.bind.port(), settings.model.as_str()), (9, "m.gguf"));
        assert_eq!(settings.data_dir, PathBuf::from("d"));
        let cli = parse(&["learn", "--questions", "q", "--steps", "3", "--learning-rate", "3e-4", "--votes", "4"]);
        let recipe = load(None, [], &cli.unwrap().command.flags()).unwrap().learning;
        assert_eq!((recipe.steps, recipe.votes, recipe.learning_rate), (3, 4, 3e-4));
    }

    #[test]
    fn a_question_may_begin_with_a_dash() {
        for line in [["ask", "-3 + 5 =", "--json"], ["ask", "--json", "-3 + 5 ="]] {
            let Command::Ask(args) = parse(&line).unwrap().command else { panic!("another command") };
            assert_eq!((args.question(), args.json()), ("-3 + 5 =", true));
        }
    }

    #[test]
    fn a_command_line_that_is_not_understood_has_exit_code_two() {
        for line in [&["serv"][..], &["ask"], &["learn"], &["serve", "--port", "1"], &["round", "show"]] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line:?}");
        }
    }

    #[test]
    fn causes_are_told_once() {
        let error = anyhow::anyhow!("no disk").context("cannot write a: no disk").context("cannot start");
        assert_eq!(report(&error), "error: cannot start\n  because: cannot write a: no disk\n");
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let closed = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("cannot print");
        assert!(is_broken_pipe(&closed) && !is_broken_pipe(&anyhow::anyhow!("other")));
    }
}
