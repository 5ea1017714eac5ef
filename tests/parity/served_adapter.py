"""Compares an adapter that a server has learnt, as PEFT loads it, with what the server says of it.

    python tests/parity/served_adapter.py PATH/SmolLM2-135M-Instruct.Q4_1.gguf http://127.0.0.1:8080 DATA_DIR

The server runs the default model on this machine, and its live version is an adapter (not `base`). Fails if a
log-probability of a prompt's tokens differs by more than 1e-3, or if the adapter changes nothing.
"""

import json
import pathlib
import sys
import urllib.request

import torch
from peft import PeftModel

from smollm2_f32 import load, log_probs

PROMPTS = pathlib.Path(__file__).parents[1] / "fixtures" / "smollm2-greedy.json"
TOLERANCE = 1e-3


def call(url, body=None):
    request = urllib.request.Request(url, body and json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def served(url, model, ids):
    """The log-probability of each token after the first."""
    body = {"model": model, "prompt": ids, "echo": True, "logprobs": 1, "max_tokens": 0}
    return call(f"{url}/v1/completions", body)["choices"][0]["logprobs"]["token_logprobs"][1:]


def expected(model, ids):
    rows = log_probs(model, ids)
    return [rows[place, token].item() for place, token in enumerate(ids[1:])]


def main():
    gguf, url, data_dir = sys.argv[1:]
    torch.set_num_threads(1)
    versions = [model["id"] for model in call(f"{url}/v1/models")["data"] if len(model["id"]) == 64]
    if not versions:
        sys.exit("no adapter is live")
    base = load(gguf)
    prompts = [case["prompt_ids"] + case["ids"] for case in json.loads(PROMPTS.read_text())]
    of_base = [expected(base, ids) for ids in prompts]
    adapted = PeftModel.from_pretrained(base, pathlib.Path(data_dir) / "adapters" / versions[0]).eval()
    gap = change = 0.0
    for ids, without in zip(prompts, of_base):
        ours, theirs = served(url, versions[0], ids), expected(adapted, ids)
        gap = max(gap, *(abs(a - b) for a, b in zip(ours, theirs, strict=True)))
        change = max(change, *(abs(a - b) for a, b in zip(theirs, without, strict=True)))
    print(f"{versions[0]}: the largest difference is {gap:.6f}, where the adapter changes up to {change:.3f}")
    if gap > TOLERANCE or change < 10 * TOLERANCE:
        sys.exit("they do not agree, or the adapter changes nothing")


if __name__ == "__main__":
    main()
