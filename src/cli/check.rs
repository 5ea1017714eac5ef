//! `ttrl check`: whether a device computes what the CPU does.

mod gaps;
mod sequences;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::{Context as _, ensure};
use candle_core::{Device, Tensor, Var};
use clap::Args;
use serde_json::{Value, json};

use self::{
    gaps::{Gaps, agreed, norm, within},
    sequences::{Case, Laid, cases},
};
use super::{
    ModelFlags,
    bench::{Numbers, adapters, name_of},
    model::{progress_bar, show},
    print,
};
use crate::{
    app::{OpenModel, StandIns, open_model},
    config::{self, Dtype, Flag, Settings},
    engine::{
        handle::{GenerateRequest, Group, Lease, Priority, Report, Sampling},
        model::{
            device::in_words,
            lora::{Adapter, Lora},
            training::{Pass, Score, ScoreGradient},
        },
    },
};

/// Compare what a device computes of a model with what the CPU does
#[derive(Args, Debug)]
#[command(after_help = "\
The model is loaded twice. Fixed sequences go through both: what the training pass says of them, what answering says of
them and draws, and the gradients of an adapter. Prints one JSON object; the exit code is 1 if a difference is larger than
`allowed`.

Examples:
  ttrl check --device cuda:0
  ttrl check --device cuda:0 --dtype f32 --model ./my-model")]
pub struct CheckArgs {
    /// A GGUF file whose tokenizer is used if the model has none
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Leave out the operations by themselves, which are the same for every model
    #[arg(long)]
    no_operations: bool,
    #[command(flatten)]
    model: ModelFlags,
}

impl CheckArgs {
    pub(super) fn flags(&self) -> Vec<Flag> {
        self.model.flags()
    }
}

/// The adapter that is put beside the model: it changes what a projection makes by about a tenth.
const RANK: usize = 8;
const LARGEST_ENTRY: f32 = 0.05;

/// Tokens of a greedy continuation.
const GREEDY_TOKENS: usize = 32;

/// A model with fewer weights is a tiny one, in which few roundings add up.
const TINY_PARAMETERS: usize = 1_000_000;

/// The largest differences that pass. In f32 the same sums are made in another order: what that does to a
/// log-probability is some 1e-4 in a model of thirty layers. bf16 has eight bits, so each number that goes into a
/// product, and each weight, is off by up to 0.4%. What that comes to is bounded relative to the log-probabilities: the tiny
/// models' weights are large, and theirs are -5 in the mean. In SmolLM2, products of such
/// numbers, imitated with PyTorch, move log-probabilities by 0.034 in the root mean square and by 0.12 at most, and
/// gradients by 2.4%; keys and values that are rounded in the cache do as much again (0.037 and 0.22). What passes is twice
/// to four times that: what is wrong is off by more than 1.
struct Allowed {
    /// Of log-probabilities, in nats.
    largest: f64,
    root_mean_square: f64,
    /// Of all log-probabilities together, `|a - b| / |a|`.
    relative: f64,
    /// Of all gradients together, relative.
    gradients: f64,
    /// Relative, of operations by themselves, which are in f32.
    operations: f64,
    /// The least share of drawn tokens before the first that is drawn otherwise: one small difference is enough to draw another token,
    /// and with it everything that follows. In a deep model in bf16 that is soon, so it is only shown.
    drawn_alike: f64,
}

impl Allowed {
    fn of(exact: bool, parameters: usize) -> Self {
        let (largest, root_mean_square, relative, gradients, drawn_alike) = match (exact, parameters < TINY_PARAMETERS)
        {
            (true, _) => (1e-3, 3e-4, 1e-3, 1e-3, 0.9),
            (false, true) => (0.5, 0.1, 2e-2, 5e-2, 0.1),
            (false, false) => (0.5, 0.1, 5e-2, 0.1, 0.1),
        };
        Self { largest, root_mean_square, relative, gradients, operations: 1e-3, drawn_alike }
    }

    fn json(&self) -> Value {
        json!({
            "largest": self.largest, "root_mean_square": self.root_mean_square, "relative": self.relative, "gradients": self.gradients,
            "operations": self.operations, "drawn_alike": self.drawn_alike,
        })
    }
}

/// A model on a device, with an adapter for it.
struct Side {
    model: OpenModel,
    /// The base version and the adapted one.
    leases: [Lease; 2],
    vars: BTreeMap<String, Var>,
    lora: Lora,
}

impl Side {
    async fn new(model: OpenModel, adapter: &Adapter) -> anyhow::Result<Self> {
        let (engine, decoder) = (&model.engine, &model.decoder);
        let leases = [engine.base(), engine.load_adapter(Arc::new(adapter.clone())).await?];
        let var = |(name, tensor): (&String, &Tensor)| {
            Ok((name.clone(), Var::from_tensor(&tensor.to_device(decoder.device())?)?))
        };
        let vars: BTreeMap<String, Var> = adapter.tensors.iter().map(var).collect::<candle_core::Result<_>>()?;
        let tensors = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let shape = |projection| decoder.projection_shape(projection);
        let lora = Lora::new(&adapter.config, &tensors, decoder.config().layers.len(), shape);
        let lora = lora.map_err(anyhow::Error::msg)?;
        Ok(Self { model, leases, vars, lora })
    }

    /// What the training pass says of every token after the first of each sequence, one after another.
    fn trained(&self, laid: &Laid, lora: Option<&Lora>) -> anyhow::Result<Vec<Score>> {
        let pass = Pass::new(&self.model.decoder, lora, (&laid.forest, &laid.targets), 1.0, &at_once)?;
        let scores = pass.score()?;
        Ok(laid.walks.iter().flatten().map(|&target| scores[target]).collect())
    }

    /// What answering says of the same tokens, with both versions, whose rows take turns in its steps.
    async fn served(&self, laid: &Laid) -> anyhow::Result<[Vec<f32>; 2]> {
        let score = |sequence: &Vec<u32>, lease: &Lease| GenerateRequest {
            sampling: Sampling { max_tokens: 0, ..Sampling::default() },
            report: Report { prompt: Some(0), ..Report::default() },
            ..request(lease, sequence.clone(), 0)
        };
        let requests =
            laid.sequences.iter().flat_map(|sequence| self.leases.iter().map(|lease| score(sequence, lease)));
        let groups = self.model.engine.generate(requests.collect()).await?;
        let of_version = |version: usize| -> Vec<f32> {
            let groups = groups.iter().skip(version).step_by(2);
            groups.flat_map(|group| &group.prompt_scores).map(|score| score.log_prob).collect()
        };
        Ok([of_version(0), of_version(1)])
    }

    /// Samples after each prompt, at temperature 1, in turn with the base version and the adapted one.
    async fn drawn(&self, cases: &[Case]) -> anyhow::Result<Vec<Group>> {
        let draw = |(index, case): (usize, &Case)| GenerateRequest {
            samples: case.samples,
            sampling: Sampling { max_tokens: case.tokens, ignore_eos: true, ..Sampling::default() },
            ..request(&self.leases[index % 2], case.prompt.clone(), index as u64)
        };
        Ok(self.model.engine.generate(cases.iter().enumerate().map(draw).collect()).await?)
    }

    /// The likeliest continuation of each prompt.
    async fn greedy(&self, cases: &[Case]) -> anyhow::Result<Vec<Group>> {
        let context = self.model.engine.info().context_tokens;
        let go_on = |case: &Case| GenerateRequest {
            sampling: Sampling {
                temperature: 0.0,
                max_tokens: GREEDY_TOKENS.min(context - case.prompt.len()),
                ignore_eos: true,
                ..Sampling::default()
            },
            report: Report { tokens: Some(2), ..Report::default() },
            ..request(&self.leases[0], case.prompt.clone(), 0)
        };
        Ok(self.model.engine.generate(cases.iter().map(go_on).collect()).await?)
    }

    /// The gradient of a fixed loss, on the CPU, by the names of the adapter's tensors.
    fn gradients(&self, laid: &Laid) -> anyhow::Result<Vec<Tensor>> {
        let pass = Pass::new(&self.model.decoder, Some(&self.lora), (&laid.forest, &laid.targets), 1.0, &at_once)?;
        let vars: Vec<Var> = self.vars.values().cloned().collect();
        let count = laid.targets.len();
        let loss = |first: usize, scores: &[Score]| (first..first + scores.len()).map(|i| slope(i, count)).collect();
        let gradients = pass.backward(&vars, loss)?;
        gradients.iter().map(|gradient| Ok(gradient.to_device(&Device::Cpu)?)).collect()
    }
}

/// One sample, as a client's request.
fn request(lease: &Lease, prompt: Vec<u32>, seed: u64) -> GenerateRequest {
    GenerateRequest {
        lease: lease.clone(),
        prompt,
        samples: 1,
        sampling: Sampling::default(),
        seed,
        priority: Priority::Request,
        report: Report::default(),
        place: None,
    }
}

fn at_once(work: &mut (dyn FnMut() -> candle_core::Result<()> + Send)) -> candle_core::Result<()> {
    work()
}

/// The derivative of the loss by a target's score: of both signs, as advantages are.
fn slope(index: usize, count: usize) -> ScoreGradient {
    let wave = |step: usize, of: usize| (index * step % of) as f32 / (of - 1) as f32 - 0.5;
    ScoreGradient { log_prob: wave(5, 13) / count as f32, entropy: 0.1 * wave(2, 7) / count as f32 }
}

/// What was found: figures by the name of the part, and what is wrong in words.
#[derive(Default)]
struct Findings {
    parts: serde_json::Map<String, Value>,
    problems: Vec<String>,
}

impl Findings {
    /// Keeps the figures of a part; one that could not be computed is a problem, and the next are looked at all the same.
    fn add(&mut self, name: &str, part: anyhow::Result<(Value, Vec<String>)>) {
        match part {
            Ok((figures, problems)) => {
                self.parts.insert(name.into(), figures);
                self.problems.extend(problems.into_iter().map(|problem| format!("{name}: {problem}")));
            }
            Err(error) => {
                self.parts.insert(name.into(), Value::Null);
                self.problems.push(format!("{name} failed: {}", in_words(&format_args!("{error:#}"))));
            }
        }
    }
}

pub(super) async fn run(args: CheckArgs, settings: Settings) -> anyhow::Result<()> {
    let exact = settings.dtype == Dtype::F32;
    let of_cpu = Settings { device: config::Device::Cpu, ..settings.clone() };
    let stand_ins = StandIns { tokenizer: args.tokenizer, ..StandIns::default() };
    let reference = open(of_cpu, stand_ins.clone()).await?;
    let examined = open(settings, stand_ins).await?;
    let exact = exact || examined.decoder.device().is_cpu();
    let (report, problems) = compare(reference, examined, exact, !args.no_operations).await?;
    print(&report.to_string())?;
    ensure!(problems.is_empty(), "the device does not compute what the CPU does: {}", problems.join("; "));
    Ok(())
}

/// What there is to say of a model beside the one that it should equal, and what is wrong; `exact` if its matrices hold the
/// same numbers. With `all`, of the operations by themselves, too.
async fn compare(
    reference: OpenModel,
    examined: OpenModel,
    exact: bool,
    all: bool,
) -> anyhow::Result<(Value, Vec<String>)> {
    let device = examined.decoder.device().clone();
    let info = examined.engine.info().clone();
    let allowed = Allowed::of(exact, info.parameters);
    let adapter = adapters::random(&reference.decoder, (RANK, LARGEST_ENTRY), Numbers(1))?;
    let (reference, examined) = (Side::new(reference, &adapter).await?, Side::new(examined, &adapter).await?);

    let cases = cases(info.vocab_size, info.context_tokens);
    let drawn = reference.drawn(&cases).await?;
    let laid = Laid::new(&drawn)?;
    let mut findings = Findings::default();
    if all {
        findings.add("operations", operations(&device).map(|errors| of_operations(&errors, &allowed)));
    }
    for (name, adapted) in [("training", false), ("training_adapted", true)] {
        findings.add(name, training([&reference, &examined], &laid, adapted, &allowed));
    }
    findings.add("answering", answering([&reference, &examined], &laid, &allowed).await);
    findings.add("drawing", examined.drawn(&cases).await.map(|other| drawing(&drawn, &other, &allowed)));
    findings.add("greedy", greedy([&reference, &examined], &cases, &allowed).await);
    findings.add("gradients", gradients([&reference, &examined], &laid, &allowed));

    let report = json!({
        "check": "device",
        "model": info.name,
        "device": name_of(&device),
        "dtype": if exact { "f32" } else { "bf16" },
        "passed": findings.problems.is_empty(),
        "problems": findings.problems,
        "sequences": laid.sequences.len(),
        "rows": laid.forest.len(),
        "parts": findings.parts,
        "allowed": allowed.json(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    Ok((report, findings.problems))
}

async fn open(settings: Settings, stand_ins: StandIns) -> anyhow::Result<OpenModel> {
    let bar = progress_bar();
    let shown = bar.clone();
    let progress = move |stage, done, total| show(&shown, stage, done, total);
    let model = tokio::task::spawn_blocking(move || open_model(&settings, &stand_ins, &progress)).await??;
    bar.finish_and_clear();
    Ok(model)
}

/// Each operation by itself, where the device has its own: its name and its relative error.
#[cfg(feature = "cuda")]
fn operations(device: &Device) -> anyhow::Result<Vec<(String, f64)>> {
    if !device.is_cuda() {
        return Ok(vec![]);
    }
    let compared = crate::engine::model::cuda::check::check(device)?;
    Ok(compared.into_iter().map(|compared| (compared.name, compared.error)).collect())
}

#[cfg(not(feature = "cuda"))]
fn operations(_device: &Device) -> anyhow::Result<Vec<(String, f64)>> {
    Ok(vec![])
}

fn of_operations(errors: &[(String, f64)], allowed: &Allowed) -> (Value, Vec<String>) {
    // Matrices in bf16 are off by up to 0.4% in each number.
    let allowed = |name: &str| if name.contains("BF16") { 10.0 * allowed.operations } else { allowed.operations };
    let wrong = errors.iter().filter(|(name, error)| !within(*error, allowed(name)));
    let problems = wrong.map(|(name, error)| format!("{name} is off by {error:e}")).collect();
    let figures = errors.iter().map(|(name, error)| json!({"name": name, "relative_error": error})).collect();
    (Value::Array(figures), problems)
}

/// Log-probabilities and entropies of the training pass.
fn training(
    [reference, examined]: [&Side; 2],
    laid: &Laid,
    adapted: bool,
    allowed: &Allowed,
) -> anyhow::Result<(Value, Vec<String>)> {
    let scores = |side: &Side| side.trained(laid, adapted.then_some(&side.lora));
    let (expected, found) = (scores(reference)?, scores(examined)?);
    let of = |part: fn(&Score) -> f32| Gaps::of(expected.iter().map(part), found.iter().map(part));
    let (log_probs, entropies) = (of(|score| score.log_prob), of(|score| score.entropy));
    let problems = log_probs.problems("log-probabilities", allowed).into_iter();
    let problems = problems.chain(entropies.problems("entropies", allowed)).collect();
    Ok((json!({"log_probs": log_probs.json(), "entropies": entropies.json()}), problems))
}

/// Log-probabilities of prompts as answering computes them, beside the CPU's, and beside the device's own training pass.
async fn answering(
    [reference, examined]: [&Side; 2],
    laid: &Laid,
    allowed: &Allowed,
) -> anyhow::Result<(Value, Vec<String>)> {
    let (expected, found) = (reference.served(laid).await?, examined.served(laid).await?);
    let tokens: usize = laid.walks.iter().map(Vec::len).sum();
    let (mut figures, mut problems) = (serde_json::Map::new(), vec![]);
    for (version, name) in ["base", "adapted"].into_iter().enumerate() {
        ensure!(found[version].len() == tokens, "{} of {tokens} tokens were scored", found[version].len());
        let trained = examined.trained(laid, (version == 1).then_some(&examined.lora))?;
        let trained = trained.iter().map(|score| score.log_prob);
        let served = found[version].iter().copied();
        let beside = [
            (name.to_owned(), Gaps::of(expected[version].iter().copied(), served.clone())),
            (format!("{name}_beside_training"), Gaps::of(trained, served)),
        ];
        for (name, gaps) in beside {
            problems.extend(gaps.problems(&name, allowed));
            figures.insert(name, gaps.json());
        }
    }
    Ok((figures.into(), problems))
}

/// Log-probabilities of tokens that both drew after the same ones.
fn drawing(expected: &[Group], found: &[Group], allowed: &Allowed) -> (Value, Vec<String>) {
    let rollouts = |groups: &[Group]| -> Vec<_> { groups.iter().flat_map(|group| group.rollouts.clone()).collect() };
    let (expected, found) = (rollouts(expected), rollouts(found));
    let (mut before, mut after, mut tokens) = (vec![], vec![], 0);
    for (expected, found) in expected.iter().zip(&found) {
        let alike = agreed(&expected.tokens, &found.tokens);
        before.extend_from_slice(&expected.log_probs[..alike]);
        after.extend_from_slice(&found.log_probs[..alike]);
        tokens += expected.tokens.len();
    }
    let share = before.len() as f64 / tokens as f64;
    let gaps = Gaps::of(before.into_iter(), after.into_iter());
    let mut problems = gaps.problems("log-probabilities", allowed);
    if share < allowed.drawn_alike {
        problems.push(format!("only {share:.3} of the tokens are those that the CPU draws"));
    }
    (json!({"log_probs": gaps.json(), "drawn_alike": share}), problems)
}

/// Likeliest continuations. Where they part, the CPU must have found both tokens nearly as likely.
async fn greedy(
    [reference, examined]: [&Side; 2],
    cases: &[Case],
    allowed: &Allowed,
) -> anyhow::Result<(Value, Vec<String>)> {
    let (expected, found) = (reference.greedy(cases).await?, examined.greedy(cases).await?);
    let (mut same, mut close, mut problems) = (0, 0, vec![]);
    for (index, (expected, found)) in expected.iter().zip(&found).enumerate() {
        let (expected, found) = (expected.rollouts.first(), found.rollouts.first());
        let (expected, found) = expected.zip(found).context("a continuation is missing")?;
        let at = agreed(&expected.tokens, &found.tokens);
        let Some(token) = found.tokens.get(at) else {
            same += 1;
            continue;
        };
        let score = &expected.scores[at];
        let other = score.top.iter().find(|(other, _)| other == token);
        match other.map(|(_, log_prob)| f64::from(score.log_prob - log_prob)) {
            Some(gap) if gap <= 2.0 * allowed.largest => close += 1,
            _ => problems.push(format!("continuation {index} takes token {token} at {at}, which is not the likeliest")),
        }
    }
    Ok((json!({"continuations": expected.len(), "same": same, "part_at_a_tie": close}), problems))
}

/// Gradients of the adapter.
fn gradients(
    [reference, examined]: [&Side; 2],
    laid: &Laid,
    allowed: &Allowed,
) -> anyhow::Result<(Value, Vec<String>)> {
    let (expected, found) = (reference.gradients(laid)?, examined.gradients(laid)?);
    let (mut off, mut whole, mut worst) = (0.0, 0.0, (0.0, ""));
    for ((name, expected), found) in reference.vars.keys().zip(&expected).zip(&found) {
        let (of_tensor, size) = (norm(&(found - expected)?)?, norm(expected)?);
        off += of_tensor * of_tensor;
        whole += size * size;
        let relative = of_tensor / size;
        // What is no number is the worst.
        if !(f64::is_nan(worst.0) || within(relative, worst.0)) {
            worst = (relative, name);
        }
    }
    let relative = (off / whole).sqrt();
    let problems = match within(relative, allowed.gradients) {
        true => vec![],
        false => vec![format!("off by {relative:.2e} of their norm, most in {}", worst.1)],
    };
    Ok((json!({"relative_error": relative, "worst": {"tensor": worst.1, "relative_error": worst.0}}), problems))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
    }

    async fn tiny(random_weights: Option<PathBuf>) -> OpenModel {
        let model = fixture("tiny-llama").to_string_lossy().into_owned();
        let settings = Settings { model, device: config::Device::Cpu, ..Settings::default() };
        let stand_ins = StandIns { random_weights, tokenizer: Some(fixture("tiny-llama/tiny.gguf")) };
        open(settings, stand_ins).await.unwrap()
    }

    #[tokio::test]
    async fn a_model_equals_itself() {
        let (report, problems) = compare(tiny(None).await, tiny(None).await, true, true).await.unwrap();
        assert_eq!((problems, &report["passed"]), (vec![], &json!(true)));
        assert_eq!(report["parts"]["drawing"]["drawn_alike"], json!(1.0));
    }

    #[tokio::test]
    async fn other_weights_are_found_by_every_part() {
        let other = tiny(Some(fixture("tiny-llama/config.json"))).await;
        let (_, problems) = compare(tiny(None).await, other, false, true).await.unwrap();
        for part in ["training", "training_adapted", "answering", "drawing", "greedy", "gradients"] {
            assert!(problems.iter().any(|problem| problem.starts_with(&format!("{part}: "))), "{part}: {problems:?}");
        }
    }
}
