//! A round as a person reads it who has to decide about it.

use serde_json::Value;

use super::{super::client::text, line};

/// The columns of the table of steps: what they are called, and where a step has them.
const STEP: [(&str, &str); 13] = [
    ("step", "/step"),
    ("agreement", "/metrics/votes/majority_ratio"),
    ("held back", "/metrics/held_back/majority_ratio"),
    ("answered", "/metrics/votes/answer_rate"),
    ("length", "/metrics/votes/mean_tokens"),
    ("reward", "/metrics/votes/reward"),
    ("KL", "/metrics/update/kl"),
    ("entropy", "/metrics/update/entropy"),
    ("gradient", "/metrics/update/gradient_norm"),
    ("clipped", "/metrics/update/clip_fraction"),
    ("rate", "/metrics/update/learning_rate"),
    ("rows", "/metrics/update/trained_rows"),
    ("seconds", "/metrics/seconds"),
];

/// What the gate compares without labels.
const SHOWN: [(&str, &str); 3] =
    [("agreement", "majority_ratio"), ("answered", "answer_rate"), ("length in tokens", "mean_tokens")];

/// How much of a question is shown, in characters.
const MAX_QUESTION_CHARS: usize = 60;

/// All of what the server tells of a round.
pub(super) fn page(detail: &Value) -> String {
    let round = &detail["round"];
    let sections = [
        ("Settings that differ from the defaults", settings(&detail["settings"])),
        ("Steps", steps(&detail["steps"])),
        ("Questions", questions(&detail["questions"])),
        ("Gate", gate(round)),
        ("Watch", watch(&round["watch"])),
    ];
    let mut page = head(round);
    for (title, body) in sections.iter().filter(|(_, body)| !body.is_empty()) {
        page.push_str(&format!("\n\n{title}\n{body}"));
    }
    page
}

fn head(round: &Value) -> String {
    let field = |name: &str| text(round, &format!("/{name}"));
    let mut head = format!("{}\nstarted by {} at {}", line(round), field("trigger"), field("created_at"));
    if !field("finished_at").is_empty() {
        head.push_str(&format!(", ended at {}", field("finished_at")));
    }
    head.push_str(&format!("\nfrom version {}", field("parent_version")));
    if round["stale"] == true {
        head.push_str(", which is not live any more: this round can only be rejected");
    }
    head
}

fn settings(changed: &Value) -> String {
    let fields = changed.as_object().into_iter().flatten();
    let rows: Vec<_> = fields.map(|(name, value)| vec![format!("learning.{name}"), value.to_string()]).collect();
    table(&rows, &[0, 1])
}

fn steps(steps: &Value) -> String {
    let steps = steps.as_array().map(Vec::as_slice).unwrap_or_default();
    if steps.is_empty() {
        return String::new();
    }
    let head = STEP.iter().map(|(name, _)| (*name).to_owned()).collect();
    let row = |step: &Value| STEP.iter().map(|(_, place)| figure(step.pointer(place))).collect();
    table(&[head].into_iter().chain(steps.iter().map(row)).collect::<Vec<_>>(), &[])
}

fn questions(questions: &Value) -> String {
    let questions = questions.as_array().map(Vec::as_slice).unwrap_or_default();
    if questions.is_empty() {
        return String::new();
    }
    let head = ["", "before", "share", "after", "share", "question"].map(String::from).to_vec();
    let row = |question: &Value| {
        let kind = match question["set_aside"].as_str() {
            Some(why) => why,
            None if question["held_back"] == true => "held back",
            None => "",
        };
        let folded = text(question, "/text").split_whitespace().collect::<Vec<_>>().join(" ");
        let answer = |name: &str| match question[name].as_str() {
            Some(answer) => answer.to_owned(),
            None => "-".into(),
        };
        vec![
            kind.into(),
            answer("before_answer"),
            figure(question.get("before_ratio")),
            answer("after_answer"),
            figure(question.get("after_ratio")),
            folded.chars().take(MAX_QUESTION_CHARS).collect(),
        ]
    };
    table(&[head].into_iter().chain(questions.iter().map(row)).collect::<Vec<_>>(), &[0, 5])
}

fn gate(round: &Value) -> String {
    let verdict = &round["verdict"];
    if verdict.is_null() {
        return String::new();
    }
    let kind = if verdict["held_back"] == true { "held-back questions" } else { "questions that were trained on" };
    let mut rows = vec![vec![format!("{} {kind}", text(verdict, "/questions")), "live".into(), "candidate".into()]];
    rows.extend(SHOWN.iter().map(|(title, name)| {
        let of = |version: &str| figure(verdict.pointer(&format!("/{version}/{name}")));
        vec![(*title).into(), of("live"), of("candidate")]
    }));
    rows.push(vec!["divergence from the base model, nats a token".into(), String::new(), figure(verdict.get("kl"))]);
    let mut lines = vec![format!("{}: {}", text(verdict, "/outcome"), text(verdict, "/decision")), table(&rows, &[0])];
    let rules = round.pointer("/recipe/gate").unwrap_or(&Value::Null);
    let evaluations = verdict["evaluations"].as_array().into_iter().flatten();
    lines.extend(evaluations.map(|tested| evaluation(tested, rules)));
    lines.join("\n")
}

/// What came of one evaluation set.
fn evaluation(tested: &Value, rules: &Value) -> String {
    let counts = ["both", "only_live", "only_candidate", "neither"]
        .map(|name| tested.pointer(&format!("/counts/{name}")).and_then(Value::as_u64).unwrap_or_default());
    let [both, live, candidate, neither] = counts;
    let items = counts.iter().sum::<u64>().max(1) as f64;
    let signed = |place: &str| format!("{:+.3}", tested.pointer(place).and_then(Value::as_f64).unwrap_or_default());
    format!(
        "set {}: {}. Right: both {both}, only live {live}, only candidate {candidate}, neither {neither}, skipped {}\n  \
         accuracy {:.3} -> {:.3}, difference {}, from {} to {} ({} sure of each end), a fall by {} is allowed",
        text(tested, "/set"),
        text(tested, "/outcome"),
        text(tested, "/skipped"),
        (both + live) as f64 / items,
        (both + candidate) as f64 / items,
        signed("/difference"),
        signed("/interval/low"),
        signed("/interval/high"),
        text(rules, "/confidence"),
        text(rules, "/max_accuracy_drop"),
    ) + &figures_of_set(tested)
}

/// What decides nothing; rounds of older programs have none of it.
fn figures_of_set(tested: &Value) -> String {
    let change = |(title, name): (&str, &str)| {
        let of = |version: &str| tested.pointer(&format!("/{version}/{name}")).filter(|figure| figure.is_number());
        Some(format!("{title} {} -> {}", figure(Some(of("live")?)), figure(Some(of("candidate")?))))
    };
    let figures = [("pass@1", "pass_at_1"), ("pass@N", "pass_at_n"), ("rewards right", "reward_accuracy")];
    let changes: Vec<String> = figures.into_iter().filter_map(change).collect();
    if changes.is_empty() { String::new() } else { format!("\n  {}", changes.join(", ")) }
}

/// What the version has shown to clients, beside the one before it.
fn watch(watch: &Value) -> String {
    if watch.is_null() {
        return String::new();
    }
    let field = |name: &str| text(watch, &format!("/{name}"));
    let mut head =
        format!("{}: {} looks, {} answers", field("state").replace('_', " "), field("looks"), field("answers"));
    for (name, words) in [("looked_at", ", the last at"), ("ended_at", ", ended at"), ("reason", "\n ")] {
        if !field(name).is_empty() {
            head.push_str(&format!("{words} {}", field(name)));
        }
    }
    let compared = watch["compared"].as_array().map(Vec::as_slice).unwrap_or_default();
    if compared.is_empty() {
        return head;
    }
    let titles = ["", "before", "answers", "since", "answers", "difference", "at least", "at most", "allowed"];
    let places = [
        "/before/mean",
        "/before/answers",
        "/after/mean",
        "/after/answers",
        "/difference",
        "/interval/low",
        "/interval/high",
    ];
    let row = |compared: &Value| {
        let mut row = vec![text(compared, "/rule")];
        row.extend(places.iter().map(|place| figure(compared.pointer(place))));
        row.push(format!("-{}", text(compared, "/max_drop")));
        row
    };
    let rows: Vec<_> = [titles.map(String::from).to_vec()].into_iter().chain(compared.iter().map(row)).collect();
    format!("{head}\n{}", table(&rows, &[0]))
}

/// A number in three digits behind the point; whole ones and tiny ones as they are.
fn figure(value: Option<&Value>) -> String {
    match value.and_then(Value::as_f64) {
        None => "-".into(),
        Some(number) if value.is_some_and(Value::is_u64) => format!("{number}"),
        Some(number) if number != 0.0 && number.abs() < 0.001 => format!("{number:.1e}"),
        Some(number) => format!("{number:.3}"),
    }
}

/// Rows in columns; those in `left` are aligned to the left, and the others to the right.
fn table(rows: &[Vec<String>], left: &[usize]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let cell = |((column, text), width): ((usize, &String), &usize)| match left.contains(&column) {
        true => format!("{text:<width$}"),
        false => format!("{text:>width$}"),
    };
    let line = |row: &Vec<String>| row.iter().enumerate().zip(&widths).map(cell).collect::<Vec<_>>().join("  ");
    rows.iter().map(|row| format!("  {}", line(row).trim_end())).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_has_what_a_decision_needs() {
        let figures = json!({"majority_ratio": 0.6, "answer_rate": 1.0, "mean_tokens": 4.5});
        let interval = json!({"low": -0.0735, "high": 0.0912});
        let counts = json!({"both": 40, "only_live": 5, "only_candidate": 6, "neither": 49});
        let accuracy = |pass_at_1: f64| json!({"pass_at_1": pass_at_1, "pass_at_n": 0.75, "reward_accuracy": 1.0});
        let tested = json!({"set": "sums", "counts": counts, "skipped": 2, "difference": 0.01, "interval": interval,
                            "outcome": "unsure", "live": accuracy(0.375), "candidate": accuracy(0.5)});
        let verdict = json!({"decision": "hold", "outcome": "unsure", "questions": 8, "held_back": true, "kl": 0.25,
                             "live": figures, "candidate": figures, "evaluations": [tested]});
        let round = json!({"id": "x", "state": "held", "stale": true, "step": 1, "steps": 10, "questions": 40,
                           "trigger": "operator", "created_at": "now", "parent_version": "base", "verdict": verdict,
                           "recipe": {"gate": {"confidence": 0.95, "max_accuracy_drop": 0.05}}, "watch": {
                               "state": "rolled_back", "looks": 2, "answers": 64, "reason": "it is worse",
                               "looked_at": "today", "ended_at": null, "compared": [{
                                   "rule": "answer-rate", "before": {"answers": 480, "mean": 0.75},
                                   "after": {"answers": 60, "mean": 0.5}, "difference": -0.25,
                                   "interval": {"low": -0.5, "high": -0.125}, "max_drop": 0.1}]}});
        let update = json!({"kl": 0.01, "entropy": 0.5, "gradient_norm": 0.25, "clip_fraction": 0.0,
                            "learning_rate": 0.00004, "trained_rows": 700});
        let metrics = json!({"votes": {"majority_ratio": 0.5}, "held_back": null, "update": update, "seconds": 9.25});
        let question = json!({"text": "38 +\n9 =", "held_back": true, "before_answer": "47", "before_ratio": 0.5,
                              "after_answer": null, "after_ratio": null});
        let page = page(&json!({
            "round": round,
            "settings": {"gate.held_back": 0.5, "steps": 2},
            "steps": [{"step": 1, "metrics": metrics}],
            "questions": [question],
        }));
        for expected in [
            "x  stale       step 1 of 10, 40 questions",
            "from version base, which is not live any more",
            "learning.gate.held_back  0.5\n  learning.steps           2",
            "step  agreement  held back  answered",
            "   1      0.500          -         -",
            "0.010    0.500     0.250    0.000  4.0e-5   700    9.250",
            "held back      47  0.500      -      -  38 + 9 =",
            "unsure: hold",
            "8 held-back questions",
            "rolled back: 2 looks, 64 answers, the last at today\n  it is worse\n",
            "             before  answers  since  answers  difference  at least  at most  allowed\n",
            "answer-rate   0.750      480  0.500       60      -0.250    -0.500   -0.125     -0.1",
            "set sums: unsure. Right: both 40, only live 5, only candidate 6, neither 49, skipped 2",
            "accuracy 0.450 -> 0.460, difference +0.010, from -0.073 to +0.091 (0.95 sure of each end), a fall by 0.05",
            "pass@1 0.375 -> 0.500, pass@N 0.750 -> 0.750, rewards right 1.000 -> 1.000",
        ] {
            assert!(page.contains(expected), "{expected}\n\n{page}");
        }
    }

    #[test]
    fn a_round_that_has_just_begun_is_its_head_only() {
        let round = json!({"id": "x", "state": "queued", "step": 0, "steps": 10, "questions": 40, "trigger": "schedule",
                           "created_at": "now", "parent_version": "base", "verdict": null});
        let page = page(&json!({"round": round, "settings": {}, "steps": [], "questions": []}));
        assert_eq!(page, "x  queued      step 0 of 10, 40 questions\nstarted by schedule at now\nfrom version base");
    }
}
