"""Golden values of a tiny Llama: forward, LoRA, GRPO gradients and AdamW, by PyTorch, transformers and PEFT.

Usage: python tests/parity/tiny_llama.py [FIXTURES_DIR]

Writes tiny-llama/, tiny-llama-sharded/ and tiny-llama-lora/ under FIXTURES_DIR (default: tests/fixtures).
Everything is seeded, in f32 on one CPU thread.
"""

import json
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB_SIZE = 96
PROMPT_LENGTHS = (5, 17, 40)
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TEMPERATURE = 0.8
CLIP_LOW = 0.2
CLIP_HIGH = 0.28
ADVANTAGE_EPS = 1e-6

# A rollout is a path of ranks through the policy's sorted next-token distributions: rank 0 is the likeliest token.
# Rollouts repeat, share prefixes, and one is a strict prefix of another.
GRPO_QUESTIONS = [
    {"prompt_length": 6, "ranks": [[0, 0, 0], [0, 0, 0], [0, 0, 1, 0], [0, 1], [1], [0, 0, 0]]},
    {"prompt_length": 9, "ranks": [[2, 0], [2, 0], [2, 0, 1], [2], [1, 3, 0, 2], [1, 3, 1, 0]]},
]
GRPO_REWARDS = [[1, 1, 0, 0, 0, 1], [1, 1, 0, 0, 0, 0]]

# Ways to learn, each beside the first one, by the names and values of the settings.
PLAIN_LOSS = {
    "advantage": "group-normalised",
    "loss_average": "token-mean",
    "kl": "k3",
    "kl_coefficient": 0.05,
    "entropy_coefficient": 0.0,
}
LOSSES = [
    PLAIN_LOSS,
    PLAIN_LOSS | {"advantage": "mean-only"},
    PLAIN_LOSS | {"advantage": "fixed"},
    PLAIN_LOSS | {"loss_average": "sequence-mean"},
    PLAIN_LOSS | {"loss_average": "constant"},
    PLAIN_LOSS | {"kl": "off"},
    PLAIN_LOSS | {"kl": "k1"},
    PLAIN_LOSS | {"kl": "k2"},
    PLAIN_LOSS | {"entropy_coefficient": 0.1},
]
MAX_TOKENS = 8
UPDATE = PLAIN_LOSS | {
    "loss_average": "sequence-mean",
    "kl_reference": "start",
    "entropy_coefficient": 0.01,
    "epochs": 2,
    "minibatches": 2,
    "learning_rate": 2e-3,
    "weight_decay": 0.1,
    "max_gradient_norm": 0.05,
}


def main():
    fixtures = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "fixtures")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    base_dir = fixtures / "tiny-llama"
    lora_dir = fixtures / "tiny-llama-lora"
    prompts = random_prompts()
    write_base(base_dir)
    write_lora(base_dir, lora_dir)
    write_gguf(base_dir, base_dir / "tiny.gguf")
    write_sharded(fixtures / "tiny-llama-sharded", prompts)
    write_expected(base_dir, lora_dir, prompts)
    questions = write_grpo(base_dir, lora_dir)
    write_losses(base_dir, lora_dir, questions)
    write_update(base_dir, lora_dir, questions)
    write_adamw(base_dir)
    write_schedules(base_dir)
    for path in fixtures.glob("tiny-llama*/*"):
        path.chmod(0o644)


# --- models -----------------------------------------------------------------------------------------------------


def tiny_config(**overrides):
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        rope_theta=10000.0,
        rms_norm_eps=1e-5,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="eager",
        **overrides,
    )


def random_model(seed, **overrides):
    """Weights from one generator in the order of the names, so that they do not depend on how the library inits."""
    model = LlamaForCausalLM(tiny_config(**overrides)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.4 if "lm_head" in name else 0.2
            parameter.copy_(1.0 + 0.2 * noise if "norm" in name else scale * noise)
    return model


def write_base(directory):
    """The config is rewritten with the older `rope_theta` and `torch_dtype` keys; the sharded one keeps the newer."""
    clean(directory)
    random_model(seed=11, tie_word_embeddings=False).save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config.pop("rope_parameters", None)
    config.pop("dtype", None)
    config.update(rope_theta=10000.0, rope_scaling=None, torch_dtype="float32")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_sharded(directory, prompts):
    clean(directory)
    model = random_model(seed=12, tie_word_embeddings=True).to(torch.bfloat16)
    model.save_pretrained(directory, max_shard_size="40KB")
    (directory / "generation_config.json").unlink(missing_ok=True)
    assert len(list(directory.glob("model-*-of-00002.safetensors"))) == 2
    reread = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    expected = {
        "note": "log_softmax(logits) at every position; bf16 weights widened to f32, arithmetic in f32",
        "prompts": [{"ids": ids, "log_probs": rounded(log_probs(reread, ids))} for ids in prompts],
    }
    write_json(directory / "expected.json", expected)


def write_lora(base_dir, directory):
    clean(directory)
    base = load_base(base_dir)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=0.0,
        target_modules=LORA_TARGETS,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path="tiny-llama",
    )
    model = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(13)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                scale = 0.1 if "lora_A" in name else 0.04
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    model.peft_config["default"].base_model_name_or_path = "tiny-llama"
    model.save_pretrained(directory, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)
    sort_targets(directory / "adapter_config.json")


def sort_targets(path):
    """PEFT writes the targets in the order of a set: sort them so that the file is the same each time."""
    adapter_config = json.loads(path.read_text())
    adapter_config["target_modules"] = sorted(adapter_config["target_modules"])
    path.write_text(json.dumps(adapter_config, indent=2, sort_keys=True) + "\n")


def load_base(base_dir):
    return LlamaForCausalLM.from_pretrained(base_dir, dtype=torch.float32, attn_implementation="eager").eval()


def load_policy(base_dir, lora_dir):
    return PeftModel.from_pretrained(load_base(base_dir), lora_dir, is_trainable=True).eval()


def write_gguf(base_dir, path):
    """As llama.cpp's converter writes it: q and k rows permuted for interleaved rotary pairs."""
    model = load_base(base_dir)
    config = model.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny-llama")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(VOCAB_SIZE)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    add_tokenizer(writer)

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        array = tensor.numpy().astype(np.float32)
        if name.endswith("q_proj.weight"):
            array = permute(array, heads)
        if name.endswith("k_proj.weight"):
            array = permute(array, kv_heads)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def permute(weight, heads):
    rows = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, rows, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def add_tokenizer(writer):
    """Byte-level characters of ASCII text, three control tokens, and as many merges as fill the vocabulary."""
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    characters = ["\u0120", "\u010a"]  # space and newline in the byte-level alphabet
    characters += list("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-*/=.,:;!?()'\"<>[]{}_$&")
    merges = ["t h", "th e", "\u0120 a", "\u0120 th", "\u0120 +", "\u0120 =", "1 0", "i n"]
    merges = merges[: VOCAB_SIZE - len(control) - len(characters)]
    tokens = control + characters + [merge.replace(" ", "") for merge in merges]
    assert len(tokens) == VOCAB_SIZE == len(set(tokens)), len(tokens)
    kinds = [gguf.TokenType.CONTROL] * len(control) + [gguf.TokenType.NORMAL] * (VOCAB_SIZE - len(control))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


# --- forward ----------------------------------------------------------------------------------------------------


def random_prompts():
    generator = torch.Generator().manual_seed(14)
    return [torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist() for length in PROMPT_LENGTHS]


@torch.no_grad()
def log_probs(model, ids):
    return torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].float(), dim=-1)


def write_expected(base_dir, lora_dir, prompts):
    base, policy = load_base(base_dir), load_policy(base_dir, lora_dir)
    cases = []
    for ids in prompts:
        plain, adapted = log_probs(base, ids), log_probs(policy, ids)
        print(
            f"prompt of {len(ids)}: mean top probability {plain.max(-1).values.exp().mean():.3f},"
            f" largest change by the adapter {(plain - adapted).abs().max():.3f}"
        )
        cases.append({"ids": ids, "base": rounded(plain), "lora": rounded(adapted)})
    note = "log_softmax(logits) at every position, temperature 1: [position][vocab]"
    write_json(base_dir / "expected.json", {"note": note, "vocab_size": VOCAB_SIZE, "prompts": cases})


# --- GRPO -------------------------------------------------------------------------------------------------------


def write_grpo(base_dir, lora_dir):
    base, policy = load_base(base_dir), load_policy(base_dir, lora_dir)
    generator = torch.Generator().manual_seed(15)
    questions = [
        question(base, policy, spec, rewards, generator) for spec, rewards in zip(GRPO_QUESTIONS, GRPO_REWARDS)
    ]
    cases = [grpo_case(policy, questions, beta) for beta in (0.001, 0.05)]
    write_json(
        base_dir / "grpo.json",
        {
            "note": "log-probs are log_softmax(logits / temperature); advantages use the population std; the loss is"
            " the mean over all rollout tokens of -min(ratio*A, clip(ratio, 1-clip_low, 1+clip_high)*A) + beta*k3,"
            " k3 = exp(ref-logp) - (ref-logp) - 1; clip_fraction counts tokens whose clipped term is strictly"
            " the smaller, outside_fraction those whose ratio is outside the range",
            "temperature": TEMPERATURE,
            "clip_low": CLIP_LOW,
            "clip_high": CLIP_HIGH,
            "advantage_eps": ADVANTAGE_EPS,
            "questions": questions,
            "cases": cases,
        },
    )
    return questions


def question(base, policy, spec, rewards, generator):
    prompt = torch.randint(3, VOCAB_SIZE, (spec["prompt_length"],), generator=generator).tolist()
    rewards_t = torch.tensor(rewards, dtype=torch.float64)
    mean, std = rewards_t.mean(), rewards_t.std(unbiased=False)
    advantages = ((rewards_t - mean) / (std + ADVANTAGE_EPS)).tolist()
    rollouts = []
    for ranks, reward, advantage in zip(spec["ranks"], rewards, advantages):
        tokens = follow_ranks(policy, prompt, ranks)
        with torch.no_grad():
            logps, entropies = sampled(policy, prompt, tokens)
            ref_logps, _ = sampled(base, prompt, tokens)
        # Perturbed away from the true value by at least 0.02, and never near a clip edge, so that no rounding of the
        # ratio can change which branch a token takes.
        shift = []
        while len(shift) < len(tokens):
            value = (torch.rand((), generator=generator).item() - 0.5) * 0.6
            ratio = float(np.exp(-value))
            if min(abs(ratio - (1 - CLIP_LOW)), abs(ratio - (1 + CLIP_HIGH)), abs(value)) > 0.02:
                shift.append(value)
        rollouts.append(
            {
                "tokens": tokens,
                "reward": float(reward),
                "advantage": significant(advantage, 9),
                "logprobs": rounded(logps, 9),
                "old_logprobs": rounded(logps + torch.tensor(shift), 9),
                "ref_logprobs": rounded(ref_logps, 9),
                "entropies": rounded(entropies, 9),
            }
        )
    return {
        "prompt": prompt,
        "reward_mean": significant(mean.item(), 9),
        "reward_std": significant(std.item(), 9),
        "rollouts": rollouts,
    }


@torch.no_grad()
def follow_ranks(model, prompt, ranks):
    tokens = []
    for rank in ranks:
        logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0, -1]
        tokens.append(logits.argsort(descending=True)[rank].item())
    return tokens


def sampled(model, prompt, tokens):
    """Log-probability of each rollout token, and the entropy of the distribution it was drawn from."""
    logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    logps = torch.log_softmax(logits / TEMPERATURE, dim=-1)
    entropies = -(logps.exp() * logps).sum(-1)
    return logps.gather(-1, torch.tensor(tokens)[:, None])[:, 0], entropies


def grpo_case(policy, questions, beta):
    policy.zero_grad(set_to_none=True)
    losses, kls, clipped, outside, entropies = [], [], [], [], []
    for item in questions:
        for rollout in item["rollouts"]:
            logp, entropy = sampled(policy, item["prompt"], rollout["tokens"])
            old, ref = torch.tensor(rollout["old_logprobs"]), torch.tensor(rollout["ref_logprobs"])
            ratio, advantage = (logp - old).exp(), rollout["advantage"]
            free, bound = ratio * advantage, ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH) * advantage
            k3 = (ref - logp).exp() - (ref - logp) - 1
            losses.append(-torch.minimum(free, bound) + beta * k3)
            kls.append(k3.detach())
            clipped.append((bound < free).detach())
            outside.append(((ratio < 1 - CLIP_LOW) | (ratio > 1 + CLIP_HIGH)).detach())
            entropies.append(entropy.detach())
    loss = torch.cat(losses).mean()
    loss.backward()
    gradients = {
        name.replace(".default", ""): rounded(parameter.grad, 9)
        for name, parameter in sorted(policy.named_parameters())
        if parameter.requires_grad
    }
    assert len(gradients) == 3 * len(LORA_TARGETS) * 2
    case = {
        "beta": beta,
        "loss": significant(loss.item(), 9),
        "mean_kl": mean_of(kls),
        "clip_fraction": mean_of(clipped),
        "outside_fraction": mean_of(outside),
        "mean_entropy": mean_of(entropies),
        "token_count": sum(len(row) for row in losses),
    }
    print("grpo", case)
    return {**case, "gradients": gradients}


def mean_of(rows):
    return significant(torch.cat(rows).double().mean().item(), 9)


# --- ways to learn ----------------------------------------------------------------------------------------------


def write_losses(base_dir, lora_dir, questions):
    policy = load_policy(base_dir, lora_dir)
    cases = []
    for options in LOSSES:
        policy.zero_grad(set_to_none=True)
        loss, _ = loss_of(policy, questions, questions, options)
        loss.backward()
        print("loss", options, loss.item())
        cases.append({**options, "loss": significant(loss.item(), 9), "gradients": some(policy, lambda p: p.grad)})
    note = (
        "one way to learn a case, on the questions of grpo.json, with gradients of some tensors; the entropy is of"
        f" softmax(logits / temperature); `constant` divides by rollouts * {MAX_TOKENS}"
    )
    write_json(base_dir / "losses.json", {"note": note, "max_tokens": MAX_TOKENS, "cases": cases})


def loss_of(policy, minibatch, questions, options, references=None):
    """The part of the loss of a step with `questions` that is the minibatch's, and how near a ratio is to an edge."""
    rollouts = [rollout for item in questions for rollout in item["rollouts"]]
    tokens = sum(len(rollout["tokens"]) for rollout in rollouts)
    total, margin = torch.zeros(()), 1.0
    for item in minibatch:
        for rollout, advantage in zip(item["rollouts"], advantages(item, options["advantage"])):
            logp, entropy = sampled(policy, item["prompt"], rollout["tokens"])
            ref = torch.tensor(rollout["ref_logprobs"]) if references is None else references[id(rollout)]
            ratio = (logp - torch.tensor(rollout["old_logprobs"])).exp()
            surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH) * advantage)
            gap = logp - ref
            kl = {
                "off": torch.zeros_like(gap),
                "k1": gap,
                "k2": gap.square() / 2,
                "k3": (-gap).exp() + gap - 1,
            }[options["kl"]]
            loss = -surrogate + options["kl_coefficient"] * kl - options["entropy_coefficient"] * entropy
            total = total + loss.sum() / {
                "token-mean": tokens,
                "sequence-mean": len(rollouts) * len(rollout["tokens"]),
                "constant": len(rollouts) * MAX_TOKENS,
            }[options["loss_average"]]
            edges = torch.tensor([1 - CLIP_LOW, 1 + CLIP_HIGH])[:, None]
            margin = min(margin, (ratio.detach() - edges).abs().min().item())
    return total, margin


def advantages(item, kind):
    rewards = torch.tensor([rollout["reward"] for rollout in item["rollouts"]], dtype=torch.float64)
    centred = rewards - rewards.mean()
    if kind == "group-normalised":
        centred = centred / (rewards.std(unbiased=False) + ADVANTAGE_EPS)
    if kind == "fixed":
        centred = centred.sign()
    return centred.tolist()


def some(policy, value):
    """The first and the last layer, attention and MLP: the others are in grpo.json."""
    chosen = ["layers.0.self_attn.q_proj", "layers.0.mlp.down_proj", "layers.2.self_attn.v_proj", "layers.2.mlp.up_proj"]
    return {
        name.replace(".default", ""): rounded(value(parameter), 9)
        for name, parameter in sorted(policy.named_parameters())
        if "lora_" in name and any(part in name for part in chosen)
    }


def write_update(base_dir, lora_dir, questions):
    """A whole update: question i is in minibatch i mod minibatches, each of which stands for the whole step."""
    policy = load_policy(base_dir, lora_dir)
    with torch.no_grad():
        references = {
            id(rollout): sampled(policy, item["prompt"], rollout["tokens"])[0]
            for item in questions
            for rollout in item["rollouts"]
        }
    parameters = [parameter for _, parameter in sorted(policy.named_parameters()) if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=UPDATE["learning_rate"], weight_decay=UPDATE["weight_decay"])
    norms = []
    for _ in range(UPDATE["epochs"]):
        for first in range(UPDATE["minibatches"]):
            optimizer.zero_grad(set_to_none=True)
            minibatch = questions[first :: UPDATE["minibatches"]]
            loss, margin = loss_of(policy, minibatch, questions, UPDATE, references)
            assert margin > 0.002, f"a ratio is {margin} from an edge of the clip range: a rounding may decide"
            (UPDATE["minibatches"] * loss).backward()
            norms.append(torch.nn.utils.clip_grad_norm_(parameters, UPDATE["max_gradient_norm"]).item())
            optimizer.step()
    print("update", norms)
    values = some(policy, lambda parameter: parameter)
    note = "an update of tiny-llama-lora by the questions of grpo.json: the norm of each gradient, some values after it"
    norms = [significant(norm, 9) for norm in norms]
    write_json(base_dir / "update.json", {"note": note, **UPDATE, "gradient_norms": norms, "values": values})


# --- optimizer --------------------------------------------------------------------------------------------------


def write_adamw(base_dir):
    generator = torch.Generator().manual_seed(16)
    shapes = {"a": (3, 4), "b": (5,)}
    start = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    gradients = [
        {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(5)
    ]
    cases = []
    for weight_decay, max_norm, decay in [(0.01, None, "none"), (0.0, None, "none"), (0.1, 2.5, "cosine")]:
        parameters = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
        settings = {"lr": 1e-2, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": weight_decay}
        optimizer = torch.optim.AdamW(parameters.values(), **settings)
        schedule = scheduler(optimizer, decay, len(gradients), 2)
        steps, rates = [], []
        for gradient in gradients:
            for name, parameter in parameters.items():
                parameter.grad = gradient[name].clone()
            if max_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters.values(), max_norm)
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
            steps.append({name: rounded(parameter, 9) for name, parameter in parameters.items()})
        settings |= {"max_norm": max_norm, "learning_rates": rates}
        cases.append({**settings, "values_after_step": steps})
    write_json(
        base_dir / "adamw.json",
        {
            "shapes": shapes,
            "start": {name: rounded(value, 9) for name, value in start.items()},
            "gradients": [{name: rounded(value, 9) for name, value in step.items()} for step in gradients],
            "cases": cases,
        },
    )


def scheduler(optimizer, decay, steps, warmup):
    """Rises in equal parts to the full rate in step `warmup`, then falls so as to reach 0 one step after the last."""
    if decay == "none":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    rest = steps - warmup + 1
    falling = {
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=rest),
        "linear": lambda: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=rest),
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
    }[decay]
    if warmup < 2:
        return falling()
    rising = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, 1.0, total_iters=warmup - 1)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [rising, falling()], milestones=[warmup - 1])


def write_schedules(base_dir):
    cases = []
    for decay in ("cosine", "linear", "constant"):
        for steps, warmup in [(10, 4), (40, 2), (100, 1), (5, 5)]:
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
            schedule = scheduler(optimizer, decay, steps, warmup)
            factors = []
            for _ in range(steps):
                factors.append(significant(optimizer.param_groups[0]["lr"], 9))
                optimizer.step()
                schedule.step()
            cases.append({"decay": decay, "steps": steps, "warmup": warmup / steps, "factors": factors})
    note = "what each step's learning rate is of the highest one, by torch.optim.lr_scheduler"
    write_json(base_dir / "schedules.json", {"note": note, "cases": cases})


# --- files ------------------------------------------------------------------------------------------------------


def significant(value, digits=7):
    return float(f"{value:.{digits}g}")


def rounded(tensor, digits=7):
    """Nested lists of floats; nine significant digits restore an f32 exactly."""
    values = tensor.detach().tolist()

    def walk(item):
        return [walk(inner) for inner in item] if isinstance(item, list) else significant(item, digits)

    return walk(values)


def clean(directory):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def write_json(path, value):
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
