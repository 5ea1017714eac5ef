//! What grading costs: time and memory of the slowest inputs, and of the largest tallies.
//!
//!     cargo run --release --manifest-path fuzz/Cargo.toml --example cost -- [MUTATIONS [SEED]]
//!
//! Fails if an input takes more than grading promises.

#![allow(dead_code, unused_imports, reason = "the benchmark uses a part of the room")]

use std::{
    fs,
    hint::black_box,
    path::PathBuf,
    time::{Duration, Instant},
};

use peak_alloc::PeakAlloc;

#[path = "../../src/grading/mod.rs"]
mod grading;

use grading::{Answer, AnswerKind, Extraction, Reading, Tally, Verdict, extract};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const READING: Reading = Reading { kind: AnswerKind::Auto, last_number: true };
/// What no input may exceed.
const MOST_TIME: Duration = Duration::from_millis(5);
const MOST_BYTES: usize = 16 << 20;
const DEFAULT_MUTATIONS: u64 = 100_000;
/// An input is tried as often, and its least time counts: the others are of a machine that does something else too.
const TRIES: usize = 20;
/// What takes less is not tried again.
const SLOW: Duration = Duration::from_micros(1500);

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let (mutations, seed) = (arguments.next().unwrap_or(DEFAULT_MUTATIONS), arguments.next().unwrap_or(1));
    let pairs: Vec<(String, String)> =
        ["decisions", "math_verify_pairs", "hendrycks_is_equiv"].into_iter().flat_map(pairs).collect();
    let hostile: Vec<String> = table("hostile.txt").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    println!("{:38} {:>8}  {:>9}  {:>9}  slowest", "inputs", "number", "most us", "most KiB");
    median(&pairs);
    let texts: Vec<String> = pairs.into_iter().flat_map(|(gold, pred)| [gold, pred]).collect();
    let mut costs = vec![
        Cost::of("tables", texts.iter().cloned()),
        Cost::of("hostile", hostile.iter().cloned()),
        Cost::of("built to be hostile", built()),
    ];
    let mut mutator = Mutator { random: Random(seed), seeds: [texts, hostile].concat() };
    costs.push(Cost::of("mutated", (0..mutations).map(|_| mutator.next())));
    costs.iter().for_each(Cost::print);
    for (name, votes) in tallies() {
        tally(name, &votes);
    }
    for cost in costs.iter().filter(|cost| !cost.is_bounded()) {
        panic!("an input takes more than {MOST_TIME:?} or {MOST_BYTES} bytes: {}", serde_json::json!(cost.slowest));
    }
}

fn table(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../tests/fixtures/grading", name].iter().collect();
    fs::read_to_string(path).unwrap()
}

fn pairs(name: &str) -> Vec<(String, String)> {
    let row = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        (row["gold"].as_str().unwrap().to_owned(), row["pred"].as_str().unwrap().to_owned())
    };
    table(&format!("{name}.jsonl")).lines().map(row).collect()
}

fn read(text: &str) -> Option<Answer> {
    Answer::read(&extract(text, Extraction::Auto, READING)?, READING.kind)
}

/// Prints the median time of a pair.
fn median(pairs: &[(String, String)]) {
    let mut nanos: Vec<u128> = pairs
        .iter()
        .map(|(gold, pred)| {
            let pair = || Verdict::of(read(gold).as_ref(), read(pred).as_ref());
            (0..TRIES).map(|_| time_of(pair)).min().unwrap_or_default().as_nanos()
        })
        .collect();
    nanos.sort_unstable();
    println!("{:38} {:>8}  {:>9.1}  (median)", "pairs", pairs.len(), nanos[nanos.len() / 2] as f64 / 1000.0);
}

/// The most that one of some inputs takes.
struct Cost {
    name: &'static str,
    number: usize,
    time: Duration,
    bytes: usize,
    slowest: String,
}

impl Cost {
    fn of(name: &'static str, texts: impl Iterator<Item = String>) -> Self {
        let mut cost = Self { name, number: 0, time: Duration::ZERO, bytes: 0, slowest: String::new() };
        for text in texts {
            cost.number += 1;
            let before = MEMORY.current_usage();
            MEMORY.reset_peak_usage();
            let mut time = timed(&text);
            cost.bytes = cost.bytes.max(MEMORY.peak_usage() - before);
            for _ in 1..if time > SLOW { TRIES } else { 1 } {
                time = time.min(timed(&text));
            }
            if time > cost.time {
                (cost.time, cost.slowest) = (time, text);
            }
        }
        cost
    }

    fn is_bounded(&self) -> bool {
        self.time <= MOST_TIME && self.bytes <= MOST_BYTES
    }

    fn print(&self) {
        let slowest: String = self.slowest.chars().take(60).collect();
        let micros = self.time.as_micros();
        println!("{:38} {:>8}  {micros:>9}  {:>9}  {slowest:?}", self.name, self.number, self.bytes / 1024);
    }
}

/// The time of reading an answer, and of comparing it with itself.
fn timed(text: &str) -> Duration {
    time_of(|| read(text).map(|answer| Verdict::of(Some(&answer), Some(&answer))))
}

fn time_of<T>(work: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    black_box(work());
    started.elapsed()
}

/// The time that this thread computes, without that in which others do (Linux). It is only exact to milliseconds.
fn long_time_of<T>(work: impl FnOnce() -> T) -> Duration {
    let so_far = || {
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    };
    let started = so_far();
    black_box(work());
    so_far() - started
}

/// Inputs that fill a bound.
fn built() -> impl Iterator<Item = String> {
    let list = |term: &dyn Fn(usize) -> String| {
        let mut text = term(1);
        for n in 2.. {
            let next = term(n);
            if text.len() + next.len() > 1998 {
                break;
            }
            text = format!("{text},{next}");
        }
        text
    };
    let digits = |n: usize| (0..n).map(|at| char::from(b'1' + (at * at % 7) as u8)).collect::<String>();
    let terms: [&dyn Fn(usize) -> String; 12] = [
        &|n| format!("{n}e-399"),
        &|n| format!("1e-{n}"),
        &|n| format!("{n}e399+1"),
        &|n| format!("0.{n}e-395+x"),
        &|n| format!("0.3333{n:03}"),
        &|n| format!("{n}/{}", n + 1),
        &|n| format!("2^{{{}}}", 3000 + n),
        &|n| format!("({n}/7)^{{200}}"),
        &|n| format!("\\sqrt{{{n}}}"),
        &|n| format!("x_{n}"),
        &|n| format!("{n} cm"),
        &|n| format!("a={n}"),
    ];
    let lists = terms.into_iter().map(list).collect::<Vec<_>>();
    let fractions = [
        format!("{}/{}", digits(998), digits(997)),
        format!("\\{{{}/{}, {}/{}\\}}", digits(480), digits(479), digits(481), digits(478)),
        format!("0.{}", digits(1190)),
        format!("0.{}, 0.{}", digits(900), digits(901)),
        "\\{(3/2)^{2400}, (3/2)^{2400}+1\\}".to_owned(),
        "\\{(\\frac{89}{55})^{600}, (\\frac{89}{55})^{600}+10^{-300}\\}".to_owned(),
        "1, 2, ..., 200".to_owned(),
    ];
    let wrapped = lists.iter().flat_map(|list| [format!("({list})"), format!("[{list}]")]).collect::<Vec<_>>();
    lists.into_iter().chain(wrapped).chain(fractions)
}

/// Votes that have to be compared with each other as far as the bounds allow.
fn tallies() -> Vec<(&'static str, Vec<String>)> {
    const VOTES: usize = 512;
    let long = |term: &dyn Fn(usize) -> String| (0..140).map(term).collect::<Vec<_>>().join(", ");
    let tuple = |last: String| format!("({}, {last})", long(&|n| format!("0.{}", 3333 + n)));
    let exact = |last: String| format!("({}, {last})", long(&|n| format!("{}/10001", 3334 + n)));
    let mixed = |n: usize| if n.is_multiple_of(2) { tuple(format!("0.{}", 1000 + n)) } else { exact(format!("{n}/3")) };
    let sine = |n: usize| format!("\\sin(\\cos(\\ln({n}+2)))");
    let sines = |n: usize| match n % 2 {
        0 => format!("(0.3333, {})", sine(n)),
        _ => format!("(1/3+10^{{-9}}/{n}1, {})", sine(n - 1)),
    };
    let all = |vote: &dyn Fn(usize) -> String| (0..VOTES).map(vote).collect();
    vec![
        ("integers", all(&|n| n.to_string())),
        ("roundings of fractions", all(&|n| if n < 256 { format!("0.{}", 1111 + n) } else { format!("{n}/2311") })),
        ("roundings of one", all(&|n| if n < 256 { format!("0.3333{}", "3".repeat(n)) } else { format!("{n}/768") })),
        ("roundings of one and a sine", all(&sines)),
        ("long tuples", all(&mixed)),
        ("long sets", all(&|n| format!("\\{{{}\\}}", mixed(n).trim_matches(['(', ')'])))),
        ("long decimals", all(&|n| format!("0.{}{n:03}", "3".repeat(1100)))),
        ("long lists with units", all(&|n| format!("{}, {n} cm", long(&|n| format!("{n} cm"))))),
        ("long names", all(&|n| format!("{}, z={n}", long(&|n| format!("x_{n}={n}"))))),
        (
            "lists in two orders",
            all(&|n| {
                format!(
                    "({}) = ({})",
                    long(&|k| format!("x_{{{}}}", (k + n) % 512)),
                    long(&|k| ((k + n) % 512).to_string())
                )
            }),
        ),
        ("roots", all(&|n| long(&|k| format!("\\sqrt{{{}}}", k + n)))),
    ]
}

/// Prints what counting some votes takes beyond reading each of them.
fn tally(name: &'static str, votes: &[String]) {
    let least = |work: &dyn Fn()| (0..3).map(|_| long_time_of(work)).min().unwrap_or_default();
    let read = || votes.iter().map(|vote| Answer::read(vote, READING.kind)).collect::<Vec<_>>();
    let count = || Tally::count(votes.iter().cloned().map(Some));
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let tally = count();
    let kib = (MEMORY.peak_usage() - before) / 1024;
    let reading = least(&|| drop(black_box(read())));
    let micros = least(&|| drop(black_box(count()))).saturating_sub(reading).as_micros();
    let (number, classes, millis) = (votes.len(), tally.classes.len(), reading.as_millis());
    println!(
        "{:38} {number:>8}  {micros:>9}  {kib:>9}  {classes} classes, {millis} ms of reading",
        format!("tally: {name}")
    );
}

/// Numbers that look random (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}

/// Pieces that answers are made of.
const PIECES: [&str; 48] = [
    "\\frac{",
    "}{",
    "}",
    "{",
    "(",
    ")",
    "[",
    "]",
    "\\sqrt{",
    "\\sqrt[3]{",
    "^",
    "^{",
    "_",
    "\\pm",
    ",",
    ";",
    "=",
    "<",
    "\\le",
    "\\cup",
    "|",
    "!",
    "%",
    "\\pi",
    "e^",
    "\\sin",
    "\\log_",
    "x",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "\\\\",
    "&",
    "\\text{ cm}",
    "99999999",
    "0.",
    "...",
    "\\overline{",
    "1/",
    "\\sum_{k=0}^{n}",
    "\\boxed{",
    "$",
    " and ",
    "-",
    "\\binom{",
    "\\ln",
    "e-399",
    "²",
    "°",
];

/// Makes inputs of others.
struct Mutator {
    random: Random,
    seeds: Vec<String>,
}

impl Mutator {
    fn next(&mut self) -> String {
        let mut text = self.seeds[self.random.below(self.seeds.len())].clone();
        for _ in 0..1 + self.random.below(8) {
            let (start, end) = self.part(&text);
            let part = text[start..end].to_owned();
            let piece = PIECES[self.random.below(PIECES.len())];
            let times = 1 + self.random.below(24);
            match self.random.below(5) {
                0 => text.replace_range(start..end, ""),
                1 => text.insert_str(start, piece),
                2 => text.insert_str(start, &piece.repeat(times)),
                3 => text.insert_str(end, &part.repeat(times)),
                _ => text.insert_str(start, &self.seeds[self.random.below(self.seeds.len())]),
            }
            text.truncate((0..=2200.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0));
        }
        text
    }

    /// The ends of a part of a text.
    fn part(&mut self, text: &str) -> (usize, usize) {
        let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let (a, b) = (ends[self.random.below(ends.len())], ends[self.random.below(ends.len())]);
        (a.min(b), a.max(b))
    }
}
