"""Golden values for drawing tokens, by the logits processors of transformers.

    python tests/parity/sampling.py

Writes tests/fixtures/sampling.json: logits, a history, parameters, and the probabilities that are left of each token.
"""

import json
from pathlib import Path

import torch
from transformers import generation

FIXTURE = Path(__file__).parents[1] / "fixtures" / "sampling.json"
VOCAB_SIZE = 40

CASES = [
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8, "temperature": 1.5},
    {"top_k": 8, "top_p": 0.7},
    {"top_k": 12, "min_p": 0.05},
    {"top_p": 0.95, "min_p": 0.02, "temperature": 1.4},
    {"repetition_penalty": 1.2, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.03},
    {"repetition_penalty": 2.0, "temperature": 2.0, "top_k": 3, "top_p": 0.5, "min_p": 0.2},
]


def processors(case):
    """In the order in which transformers applies them."""
    if "repetition_penalty" in case:
        yield generation.RepetitionPenaltyLogitsProcessor(case["repetition_penalty"])
    if "temperature" in case:
        yield generation.TemperatureLogitsWarper(case["temperature"])
    if "top_k" in case:
        yield generation.TopKLogitsWarper(case["top_k"])
    if "top_p" in case:
        yield generation.TopPLogitsWarper(case["top_p"])
    if "min_p" in case:
        yield generation.MinPLogitsWarper(case["min_p"])


def main():
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(7)
    cases = []
    for case in CASES:
        # Rounded, so that the file says exactly what was computed with.
        logits = (3 * torch.randn(VOCAB_SIZE, generator=generator)).mul(1000).round().div(1000)
        history = torch.randint(VOCAB_SIZE, (12,), generator=generator)
        scores = logits[None].clone()
        for processor in processors(case):
            scores = processor(history[None], scores)
        probabilities = scores.softmax(-1)[0]
        cases.append(
            {
                "sampling": case,
                "prompt": history[:7].tolist(),
                "response": history[7:].tolist(),
                "logits": [round(value, 3) for value in logits.tolist()],
                "probabilities": [float(f"{value:.7g}") for value in probabilities.tolist()],
            }
        )
    lines = ",\n".join(json.dumps(case) for case in cases)
    FIXTURE.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
