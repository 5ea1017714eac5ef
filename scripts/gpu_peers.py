#!/usr/bin/env python3
"""The peers of `ttrl bench` on a GPU: memory bandwidth by torch, answering by transformers, a GRPO step by PEFT.

    scripts/gpu_peers.py --parts bandwidth
    scripts/gpu_peers.py --parts decode,prefill,train --shape scripts/shapes/qwen2.5-1.5b.json

Prints one JSON object a line, each as soon as it is there; a part that fails has an `error` and the next goes on. Models
are random weights of the shape, in bf16, with torch's fused attention ("sdpa"); nothing is read from disk.

- bandwidth: a copy on the device, counting what is read and written, and a sum, which only reads.
- decode: `generate`, greedy, the key-value cache that it takes by default. The time of one token a stream, the prompt
  included, is taken off, so that what counts is from the first token of all streams to the last, as in `ttrl bench decode`.
- prefill: one forward pass that fills a cache, with the logits of each prompt's last token only.
- train: a step of GRPO: the reference's log-probabilities (the adapter off, no gradient), the policy's, the clipped loss
  with a k3 divergence, its gradients and AdamW. LoRA of rank 16 on all linear layers in f32, the base in bf16, autocast to
  bf16. Without and with gradient checkpointing, each with the largest micro-batch that fits; the faster counts.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

import torch
import torch.nn.functional as F


def show(what, **figures):
    print(json.dumps({"peer": "torch" if what == "bandwidth" else "transformers", "what": what, **figures}), flush=True)


class Clock:
    """Seconds of work on a device."""

    def __init__(self, device):
        self.cuda = device.type == "cuda"

    def now(self):
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def of(self, work):
        start = self.now()
        work()
        return self.now() - start


def out_of_memory(error):
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error)


def free(device):
    if device.type == "cuda":
        torch.cuda.empty_cache()


def bandwidth(args, device, clock):
    count = args.bytes // 4
    source, target = torch.ones(count, device=device), torch.empty(count, device=device)

    def speed(work, size):
        work()
        if device.type != "cuda":
            return [size / clock.of(work) for _ in range(10)]
        speeds = []
        for _ in range(10):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            end.synchronize()
            speeds.append(size / (begin.elapsed_time(end) / 1000))
        return speeds

    copy = speed(lambda: target.copy_(source), 8 * count)
    read = speed(source.sum, 4 * count)
    show(
        "bandwidth",
        bytes=4 * count,
        copy_bytes_per_second=statistics.median(copy),
        read_bytes_per_second=statistics.median(read),
    )


def load(args, device):
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = json.loads(pathlib.Path(args.shape).read_text())
    config = AutoConfig.for_model(**{name: value for name, value in shape.items() if name != "torch_dtype"})
    started = time.perf_counter()
    dtype = torch.bfloat16
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.eval()
    # Random models may want to end at once; every stream is to go on.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert next(model.parameters()).dtype == dtype and next(model.parameters()).device.type == device.type
    show("load", shape=args.shape, parameters=parameters, seconds=time.perf_counter() - started)
    return model


def tokens(model, rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, model.config.vocab_size, (rows, columns), generator=generator)
    return ids.to(next(model.parameters()).device)


@torch.inference_mode()
def decode(args, model, device, clock):
    for streams in args.streams:
        try:
            prompts = tokens(model, streams, args.prompt_tokens)
            mask = torch.ones_like(prompts)

            def generate(count):
                out = model.generate(
                    prompts, attention_mask=mask, do_sample=False, min_new_tokens=count, max_new_tokens=count
                )
                assert out.shape[1] == args.prompt_tokens + count

            generate(4)
            first = statistics.median(clock.of(lambda: generate(1)) for _ in range(2))
            drawn = streams * (args.tokens - 1)
            speeds = [drawn / (clock.of(lambda: generate(args.tokens)) - first) for _ in range(args.runs)]
            show("decode", streams=streams, prompt_tokens=args.prompt_tokens, tokens=args.tokens,
                 tokens_per_second=statistics.median(speeds), all_tokens_per_second=speeds)
        except Exception as error:
            show("decode", streams=streams, error=repr(error)[:500])
        free(device)


@torch.inference_mode()
def prefill(args, model, device, clock):
    prompts = tokens(model, args.prompts, args.prefill_tokens)

    def forward():
        model(prompts, use_cache=True, logits_to_keep=1)

    forward()
    speeds = [prompts.numel() / clock.of(forward) for _ in range(args.runs)]
    show("prefill", prompts=args.prompts, tokens=args.prefill_tokens, tokens_per_second=statistics.median(speeds),
         all_tokens_per_second=speeds)


class Step:
    """A GRPO step of PEFT over texts that are all of one length."""

    def __init__(self, args, model, device):
        self.args, self.model, self.device = args, model, device
        self.vars = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.vars, lr=1e-4, weight_decay=0.0, fused=device.type == "cuda")
        prompts = tokens(model, args.sequences // args.group, args.train_prompt_tokens, 1)
        responses = tokens(model, args.sequences, args.train_tokens, 2)
        self.texts = torch.cat([prompts.repeat_interleave(args.group, 0), responses], 1)
        rewards = torch.arange(args.sequences, device=device) % 2
        self.advantages = (0.5 - rewards.float())[:, None]

    def log_probs(self, texts):
        """Of the response's tokens."""
        count = self.args.train_tokens
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            logits = self.model(texts, use_cache=False, logits_to_keep=count + 1).logits[:, :-1]
        flat = F.cross_entropy(logits.float().flatten(0, 1), texts[:, -count:].flatten(), reduction="none")
        return -flat.view(len(texts), count)

    def run(self, rows, reference):
        for first in range(0, len(self.texts), rows):
            texts, advantages = self.texts[first : first + rows], self.advantages[first : first + rows]
            base = None
            if reference:
                with torch.no_grad(), self.model.disable_adapter():
                    base = self.log_probs(texts)
            policy = self.log_probs(texts)
            # What was drawn is known with its log-probability, as in `ttrl bench train`.
            ratio = torch.exp(policy + 10.0)
            gain = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
            loss = -gain.sum()
            if base is not None:
                off = base - policy
                loss = loss + 0.001 * (off.exp() - off - 1).sum()
            (loss / (self.args.sequences * self.args.train_tokens)).backward()
        torch.nn.utils.clip_grad_norm_(self.vars, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def train(args, model, device, clock):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    model.train()
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        step = Step(args, model, device)
        assert all(var.dtype == torch.float32 for var in step.vars)
        rows = min(args.sequences, args.micro_batch or args.sequences)
        while rows:
            try:
                free(device)
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                step.run(rows, True)
                seconds = statistics.median(clock.of(lambda: step.run(rows, True)) for _ in range(args.train_runs))
                without = statistics.median(clock.of(lambda: step.run(rows, False)) for _ in range(args.train_runs))
                peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
                found.append({"checkpointing": checkpointing, "micro_batch": rows, "seconds": seconds,
                              "seconds_without_reference": without, "peak_bytes": peak})
                break
            except Exception as error:
                if not out_of_memory(error):
                    raise
                step.optimizer.zero_grad(set_to_none=True)
            rows //= 2
    best = min(found, key=lambda row: row["seconds"])
    show("train", sequences=args.sequences, group=args.group, prompt_tokens=args.train_prompt_tokens,
         tokens=args.train_tokens, seconds=best["seconds"], best=best, all=found,
         response_tokens_per_second=args.sequences * args.train_tokens / best["seconds"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="bandwidth")
    parser.add_argument("--shape", help="config.json of a model")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--bytes", type=int, default=4_000_000_000)
    parser.add_argument("--streams", type=lambda text: [int(n) for n in text.split(",")], default=[1, 64, 256])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--prefill-tokens", type=int, default=2048)
    parser.add_argument("--sequences", type=int, default=128)
    parser.add_argument("--group", type=int, default=16)
    parser.add_argument("--train-prompt-tokens", type=int, default=256)
    parser.add_argument("--train-tokens", type=int, default=256)
    parser.add_argument("--micro-batch", type=int, help="texts at a time, at most")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--train-runs", type=int, default=2)
    args = parser.parse_args()
    device, failed, model = torch.device(args.device), False, None
    clock = Clock(device)
    # What needs no gradient first: the adapter of training stays on the model.
    for part in ("bandwidth", "decode", "prefill", "train"):
        if part not in args.parts.split(","):
            continue
        try:
            if part == "bandwidth":
                bandwidth(args, device, clock)
            else:
                model = model or load(args, device)
                {"decode": decode, "prefill": prefill, "train": train}[part](args, model, device, clock)
        except Exception as error:
            failed = True
            show(part, error=repr(error)[:500])
        free(device)
    sys.exit(failed)


if __name__ == "__main__":
    main()
