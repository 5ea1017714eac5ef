"use strict";

const at = (id) => document.getElementById(id);

/** Calls the server. Failures are thrown as errors that say what to do. */
async function call(method, path, body) {
  const headers = {};
  if (at("key").value) headers.Authorization = `Bearer ${at("key").value}`;
  const options = { method, headers };
  if (body) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer");
  }
  const value = await response.json();
  if (!response.ok) throw new Error(value.error.message);
  return value;
}

/** Runs an action with its button disabled, and shows what goes wrong. */
async function guarded(button, action) {
  at("problem").textContent = "";
  button.disabled = true;
  try {
    await action();
  } catch (error) {
    at("problem").textContent = error.message;
  } finally {
    button.disabled = false;
  }
}

/** A table row; texts are never read as markup. */
function row(cells) {
  const line = document.createElement("tr");
  for (const cell of cells) {
    const data = document.createElement("td");
    data.append(cell);
    line.append(data);
  }
  return line;
}

function share(value) {
  const meter = document.createElement("meter");
  meter.value = value;
  return meter;
}

const percent = (value) => `${Math.round(100 * value)} %`;
const short = (version) => version.slice(0, 12);

/** The id of the answer that is shown. */
let shown;

function showAnswer(result) {
  shown = result.id;
  at("said").textContent = "";
  at("answer").textContent = result.answer ?? "No answer had the most votes";
  const votes = result.votes.map((vote) => row([vote.answer, share(vote.share), `${vote.count} (${percent(vote.share)})`]));
  at("votes-table").tBodies[0].replaceChildren(...votes);
  at("text").textContent = result.text;
  const seconds = result.timings.total_seconds.toFixed(1);
  const tokens = result.usage.completion_tokens;
  at("facts").textContent =
    `${result.samples} samples, ${tokens} tokens, ${seconds} s, adapter version ${short(result.adapter_version)}`;
  at("result").hidden = false;
}

// Of these nothing moves by itself.
const ENDED = ["held", "promoted", "rejected", "cancelled", "failed"];
const REFRESH_MS = 2000;
let again;

/** The state of a round, and of the watch over what it promoted. */
function state(round) {
  const watched = { watching: ", watched", rolled_back: ", rolled back" }[round.watch?.state] ?? "";
  return round.state === "held" ? decision(round) : round.state + watched;
}

/** What a person may do about a round that is held. */
function decision(round) {
  const cell = document.createElement("span");
  cell.append(round.stale ? "held, stale " : "held ");
  for (const verb of round.stale ? ["reject"] : ["promote", "reject"]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = verb;
    button.addEventListener("click", () => {
      guarded(button, async () => {
        await call("POST", `v1/rounds/${round.id}/${verb}`);
        await showLearning();
      });
    });
    cell.append(button, " ");
  }
  return cell;
}

async function showLearning() {
  const [adapters, rounds] = await Promise.all([call("GET", "v1/adapters"), call("GET", "v1/rounds?limit=10")]);
  at("live").textContent = adapters.live;
  const lines = rounds.rounds.map((round) => {
    const undone = round.watch?.state === "rolled_back" ? round.watch.reason : null;
    const result = undone ?? round.reason ?? (round.candidate_version ? short(round.candidate_version) : "");
    const started = new Date(round.created_at).toLocaleString();
    return row([started, state(round), `${round.step} of ${round.steps}`, String(round.questions), result]);
  });
  at("rounds").replaceChildren(...(lines.length ? lines : [row(["No round yet", "", "", "", ""])]));
  at("learning").hidden = false;
  clearTimeout(again);
  if (rounds.rounds.some((round) => !ENDED.includes(round.state))) {
    // A round that runs moves on; what cannot be shown then is shown by the button.
    again = setTimeout(() => showLearning().catch(() => {}), REFRESH_MS);
  }
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(event.submitter, async () => {
    const ask = { question: at("question").value };
    if (at("votes").value) ask.votes = Number(at("votes").value);
    showAnswer(await call("POST", "v1/answer", ask));
  });
});

for (const [id, good] of [["good", true], ["bad", false]]) {
  at(id).addEventListener("click", (event) => {
    guarded(event.target, async () => {
      await call("POST", `v1/answers/${shown}/feedback`, { good });
      at("said").textContent = good ? "You found it good" : "You found it not good";
    });
  });
}

at("look").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(event.submitter, showLearning);
});

at("start").addEventListener("click", (event) => {
  guarded(event.target, async () => {
    await call("POST", "v1/rounds");
    await showLearning();
  });
});
