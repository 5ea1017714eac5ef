//! `ttrl learn`

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context as _;
use async_trait::async_trait;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    ModelFlags, given,
    model::{progress_bar, show},
    print,
    questions::QuestionSet,
};
use crate::{
    adaptation::{
        learner::{self, LearnError, VoteMetrics, Voted},
        recipe::Recipe,
        round::{self, Control, Observer, Plan, Workbench},
        trainer::UpdateMetrics,
    },
    adapters::format,
    app::open_workbench,
    config::{Flag, Settings},
    grading::{Accuracy, Answer, AnswerKind, Mark, Tally},
};

/// Learn from a file of questions, without a server
#[derive(Args, Debug)]
#[command(after_help = "\
A file of questions has one JSON object a line: {\"question\": \"38 + 9 =\", \"answer\": \"47\"}. Answers are optional;
with --labels they are compared in the table, and learnt from only with `--control labels`.

Examples:
  ttrl learn --questions sums.jsonl --steps 5
  ttrl learn --questions train.jsonl --heldout test.jsonl --labels --prompt-template additions-8shot --seed 1
  ttrl learn --questions train.jsonl --preset ttrl --votes 32
  ttrl learn --questions train.jsonl --json --output adapters/sums > rows.jsonl")]
pub struct LearnArgs {
    /// The questions to learn from (JSON lines)
    #[arg(long, value_name = "FILE")]
    pub questions: PathBuf,
    /// Questions that are only measured, before and after (JSON lines)
    #[arg(long, value_name = "FILE")]
    pub heldout: Option<PathBuf>,
    /// Compare with the answers in the files
    #[arg(long)]
    pub labels: bool,
    /// Reward something else than votes, to compare with: `labels` (the answers in the file), or `random`
    #[arg(long, value_name = "REWARD")]
    control: Option<ControlReward>,
    /// Everything random follows from it
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON object a step instead of a table
    #[arg(long)]
    pub json: bool,
    /// A folder to keep the adapter in, as a PEFT folder that is named by its version
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// What settings are where nothing else is said: `default`, or `ttrl`, the paper's
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// How many steps of sampling and updating [default: 10]
    #[arg(long, value_name = "K")]
    steps: Option<u32>,
    /// Samples of each question in each step [default: 16, or the preset's]
    #[arg(long)]
    votes: Option<u32>,
    /// AdamW's learning rate where it is highest [default: 0.00016, or the preset's]
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Sampling temperature [default: 0.8, or the preset's]
    #[arg(long)]
    temperature: Option<f32>,
    /// The most tokens of a sample [default: the prompt template's]
    #[arg(long)]
    max_tokens: Option<usize>,
    #[command(flatten)]
    model: ModelFlags,
}

/// What is rewarded instead of votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ControlReward {
    Labels,
    Random,
}

impl LearnArgs {
    pub(super) fn flags(&self) -> Vec<Flag> {
        let mut flags = given([
            ("--preset", "learning.preset", self.preset.clone()),
            ("--steps", "learning.steps", self.steps.map(|n| n.to_string())),
            ("--votes", "learning.votes", self.votes.map(|n| n.to_string())),
            ("--learning-rate", "learning.learning_rate", self.learning_rate.map(|n| n.to_string())),
            ("--temperature", "learning.temperature", self.temperature.map(|n| n.to_string())),
            ("--max-tokens", "learning.max_tokens", self.max_tokens.map(|n| n.to_string())),
        ]);
        flags.extend(self.model.flags());
        flags
    }
}

/// What is rewarded instead of votes.
fn control_of(set: &QuestionSet, reward: ControlReward, kind: AnswerKind) -> anyhow::Result<Control> {
    if reward == ControlReward::Random {
        return Ok(Control::Random);
    }
    let gold = set.gold.as_ref().context("--control labels needs --labels, and answers in the file")?;
    let one_vote = |answer: &String| Tally::count_as(kind, [Some(answer.clone())]);
    Ok(Control::Labels(gold.texts.iter().map(one_vote).collect()))
}

/// What a sampling of a set of questions shows.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    /// Only with labels.
    #[serde(flatten)]
    accuracy: Option<Accuracy>,
    #[serde(flatten)]
    votes: VoteMetrics,
}

fn measure(voted: &[Voted], gold: Option<&[Answer]>, kind: AnswerKind, recipe: &Recipe) -> Measured {
    let marks = |gold: &[Answer]| -> Vec<Mark> {
        voted.iter().zip(gold).map(|(voted, gold)| Mark::of(&voted.tally, voted.label(), gold, kind)).collect()
    };
    Measured {
        accuracy: gold.map(|gold| Accuracy::of(&marks(gold))),
        votes: learner::vote_metrics(voted, recipe.reward_rule()),
    }
}

/// The state after `step` updates.
#[derive(Clone, Debug, Serialize)]
struct Row {
    step: u32,
    train: Measured,
    #[serde(skip_serializing_if = "Option::is_none")]
    heldout: Option<Measured>,
    /// What the update that led here saw; none at step 0, or if there was nothing to learn.
    update: Option<UpdateMetrics>,
    /// From the start of the run, the loading of the model left out.
    seconds: f64,
}

/// Prints a row a step. Measuring uses random numbers of its own, so it does not change the run.
struct Reporter<'a> {
    bench: &'a Workbench,
    recipe: &'a Recipe,
    train: &'a QuestionSet,
    heldout: Option<&'a QuestionSet>,
    json: bool,
    bar: ProgressBar,
    started: Instant,
    update: Option<UpdateMetrics>,
    rows: Vec<Row>,
}

impl Reporter<'_> {
    fn kind(&self) -> AnswerKind {
        self.bench.prompter.reading().kind
    }

    fn report(&mut self, step: u32, voted: &[Voted], held_back: &[Voted]) -> Result<(), LearnError> {
        let measured = |set: &QuestionSet, voted| measure(voted, set.answers(), self.kind(), self.recipe);
        let (train, heldout) = (measured(self.train, voted), self.heldout.map(|set| measured(set, held_back)));
        let row =
            Row { step, train, heldout, update: self.update.take(), seconds: self.started.elapsed().as_secs_f64() };
        let printed = if self.json {
            serde_json::to_string(&row).map_err(|error| LearnError::Observer(error.to_string()))?
        } else if step == 0 {
            format!("{}\n{}", header(&row), table_row(&row))
        } else {
            table_row(&row)
        };
        self.bar.suspend(|| print(&printed)).map_err(|error| LearnError::Observer(error.to_string()))?;
        self.rows.push(row);
        Ok(())
    }
}

#[async_trait]
impl Observer for Reporter<'_> {
    async fn sampled(&mut self, updates: u32, voted: &[Voted], held_back: &[Voted]) -> Result<(), LearnError> {
        self.report(updates, voted, held_back)
    }

    async fn updated(&mut self, updates: u32, metrics: Option<&UpdateMetrics>) -> Result<(), LearnError> {
        self.update = metrics.copied();
        self.bar.set_position(u64::from(updates));
        Ok(())
    }
}

/// How a cell of a row reads; `None` where the row has no such figure.
type Cell = fn(&Row) -> Option<String>;

/// The columns of the table; one is left out where rows have no such figure.
const COLUMNS: [(&str, Cell); 15] = [
    ("step", |row| Some(row.step.to_string())),
    ("pass@1", |row| Some(three(row.train.accuracy?.pass_at_1))),
    ("maj@N", |row| Some(three(row.train.accuracy?.maj_at_n))),
    ("pass@N", |row| Some(three(row.train.accuracy?.pass_at_n))),
    ("held pass@1", |row| Some(three(row.heldout.as_ref()?.accuracy?.pass_at_1))),
    ("held maj@N", |row| Some(three(row.heldout.as_ref()?.accuracy?.maj_at_n))),
    ("reward right", |row| row.train.accuracy?.reward_accuracy.map(three)),
    ("reward", |row| Some(three(row.train.votes.reward))),
    ("majority", |row| Some(three(row.train.votes.majority_ratio))),
    ("answered", |row| Some(three(row.train.votes.answer_rate))),
    ("entropy", |row| Some(row.update.map_or("-".into(), |update| three(update.entropy)))),
    ("KL", |row| Some(row.update.map_or("-".into(), |update| three(update.kl)))),
    ("tokens", |row| Some(row.train.votes.tokens.to_string())),
    ("trained rows", |row| Some(row.update.map_or("-".into(), |update| update.trained_rows.to_string()))),
    ("seconds", |row| Some(format!("{:.1}", row.seconds))),
];

fn three(value: f64) -> String {
    format!("{value:.3}")
}

fn line(row: &Row, cell: impl Fn(&str, String) -> String) -> String {
    let cells = COLUMNS.iter().filter_map(|(name, value)| Some((name, value(row)?)));
    cells
        .map(|(name, value)| format!("{:>width$}", cell(name, value), width = name.len().max(6)))
        .collect::<Vec<_>>()
        .join("  ")
}

fn header(row: &Row) -> String {
    line(row, |name, _| name.into())
}

fn table_row(row: &Row) -> String {
    line(row, |_, value| value)
}

pub(super) async fn run(args: LearnArgs, settings: Settings) -> anyhow::Result<()> {
    let read = |path: &Path| QuestionSet::read(path, args.labels, settings.grading.kind);
    let train = read(&args.questions)?;
    let heldout = args.heldout.as_deref().map(read).transpose()?;
    if let Some(folder) = &args.output {
        // Found out now, not after the run.
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let mut recipe = settings.learning.clone();
    let bar = progress_bar();
    let shown = bar.clone();
    let opening = move || open_workbench(&settings, &|stage, done, total| show(&shown, stage, done, total));
    let bench = tokio::task::spawn_blocking(opening).await??;
    bar.finish_and_clear();
    for (set, path) in [(Some(&train), Some(&args.questions)), (heldout.as_ref(), args.heldout.as_ref())] {
        if let (Some(set), Some(path)) = (set, path) {
            check_questions(&bench, set, path, &recipe)?;
        }
    }
    let texts = train.questions.iter().map(String::as_str);
    recipe.micro_batch_tokens = Some(round::rows_that_fit(&bench, &recipe, texts)?);
    let mut reporter = Reporter {
        bench: &bench,
        recipe: &recipe,
        train: &train,
        heldout: heldout.as_ref(),
        json: args.json,
        bar: step_bar(recipe.steps),
        started: Instant::now(),
        update: None,
        rows: Vec::new(),
    };
    let kind = bench.prompter.reading().kind;
    let control = args.control.map(|reward| control_of(&train, reward, kind)).transpose()?;
    let plan = Plan {
        questions: train.questions.clone(),
        held_back: heldout.as_ref().map(|set| set.questions.clone()).unwrap_or_default(),
        lease: bench.engine.base(),
        start: None,
        recipe: recipe.clone(),
        control,
        seed: args.seed,
        checkpoint: None,
    };
    let cancel = CancellationToken::new();
    let learnt = round::learn(&bench, plan, &mut reporter, &cancel).await?;
    let sets = (&train.questions[..], heldout.as_ref().map_or(&[][..], |set| &set.questions));
    let (mut last, held_back) = round::sample(&bench, sets, &learnt.lease, &recipe, (args.seed, recipe.steps)).await?;
    round::label(&mut last, learnt.labels.as_deref());
    reporter.report(recipe.steps, &last, &held_back)?;
    reporter.bar.finish_and_clear();
    let files = format::encode(&learnt.config, &learnt.tensors, &bench.engine.info().name)?;
    let version = files.version.clone();
    let saved = match &args.output {
        Some(folder) => {
            format::write(folder, &files)?;
            format!("The adapter is in {}.", folder.join(version.as_str()).display())
        }
        None => format!("The adapter {version} was not kept: name a folder with --output."),
    };
    if args.json {
        tracing::info!("{saved}");
        return Ok(());
    }
    print(&format!("\n{}\n\n{saved}", before_and_after(&reporter.rows)))?;
    Ok(())
}

/// Finds a question that cannot be sampled before the first step, not in the middle of it.
fn check_questions(bench: &Workbench, set: &QuestionSet, path: &Path, recipe: &Recipe) -> anyhow::Result<()> {
    for (index, question) in set.questions.iter().enumerate() {
        learner::check(&*bench.engine, &bench.prompter, question, recipe)
            .with_context(|| format!("question {} of {}", index + 1, path.display()))?;
    }
    Ok(())
}

fn step_bar(steps: u32) -> ProgressBar {
    let style = ProgressStyle::with_template("learning {wide_bar} step {pos} of {len}, {eta} left");
    ProgressBar::new(steps.into()).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// What the run has changed, a line a figure.
fn before_and_after(rows: &[Row]) -> String {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return String::new() };
    let mut lines = vec![format!("{:<28}{:>8}{:>8}", "", "before", "after")];
    for (name, value) in &COLUMNS[1..10] {
        if let (Some(before), Some(after)) = (value(first), value(last)) {
            lines.push(format!("{name:<28}{before:>8}{after:>8}"));
        }
    }
    lines.join("\n")
}
