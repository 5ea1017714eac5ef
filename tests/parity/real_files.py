"""Greedy continuations and the log-probability of a page by llama.cpp, for published files.

Usage: python tests/parity/real_files.py NAME=FILE.gguf... [--fixtures DIR]

Writes real-files/NAME.json under DIR (default: tests/fixtures) for each file: twenty prompts with the 24 tokens that
llama.cpp thinks most probable, how far each was ahead of the second, and the mean log-probability of the tokens of a
page of text. The tests know the names smollm2 and qwen2.5-coder; the README says where the files come from.

llama.cpp rounds activations to 8 bits before each quantised product, and how much that moves depends on the processor.
So the weights are widened to f32 first: what llama.cpp computes then is the model that the file describes.
The page is scored both ways.
"""

import argparse
import json
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

from texts import MORE_PROMPTS, PAGE, RAW_PROMPTS
from tokenizer_golden import Model

NEW_TOKENS = 24


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", metavar="NAME=FILE.gguf")
    parser.add_argument("--fixtures", type=Path, default=Path(__file__).parents[1] / "fixtures")
    arguments = parser.parse_args()
    folder = arguments.fixtures / "real-files"
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [(name, text, False) for name, text in RAW_PROMPTS] + MORE_PROMPTS
    for argument in arguments.files:
        name, path = argument.split("=", 1)
        page = page_of(Model(path))
        with tempfile.TemporaryDirectory() as scratch:
            wide = Path(scratch) / "wide.gguf"
            widen(path, wide)
            model = Model(wide)
            page["mean_log_prob_as_run"] = page.pop("mean_log_prob")
            page |= page_of(model)
            rows = [json.dumps(greedy(model, *prompt)) for prompt in prompts]
        page, text = json.dumps(page), ",\n  ".join(rows)
        (folder / f"{name}.json").write_text(f'{{"page": {page},\n "prompts": [\n  {text}\n]}}\n')


def widen(path, wide):
    """Writes the file again with every tensor in f32."""
    reader = gguf.GGUFReader(str(path))
    writer = gguf.GGUFWriter(str(wide), reader.fields["general.architecture"].contents(), use_temp_file=True)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            array = field.types[0] == gguf.GGUFValueType.ARRAY
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if array else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def greedy(model, name, text, special):
    prompt_ids = model.tokenize(text, special)
    context = model.context()
    ids, margins, pending = [], [], prompt_ids
    for _ in range(NEW_TOKENS):
        row = model.next_log_probs(context, pending)
        second, first = np.argsort(row, kind="stable")[-2:]
        ids.append(int(first))
        margins.append(round(float(row[first] - row[second]), 4))
        pending = [ids[-1]]
    llama_cpp.llama_free(context)
    print(f"{name}: smallest margin {min(margins):.3f}: {model.decode(ids).decode(errors='replace')!r}")
    return {"name": name, "prompt_ids": prompt_ids, "ids": ids, "margins": margins}


def page_of(model):
    """The mean of every token's log-probability after those before it; the first is given."""
    ids = model.tokenize(PAGE, False)
    context = model.context()
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for at, token in enumerate(ids):
        batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.logits[at] = token, at, 1, True
        batch.seq_id[at][0] = 0
    assert llama_cpp.llama_decode(context, batch) == 0
    total = 0.0
    for at, token in enumerate(ids[1:]):
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, at), (model.vocab_size,))
        logits = logits.astype(np.float64)
        top = logits.max()
        total += logits[token] - top - np.log(np.exp(logits - top).sum())
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    mean = total / (len(ids) - 1)
    print(f"page: {len(ids)} tokens, mean log-probability {mean:.5f}")
    return {"ids": ids, "mean_log_prob": round(mean, 6)}


if __name__ == "__main__":
    main()
