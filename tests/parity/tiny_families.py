"""Golden values of a tiny model of every family: log-probabilities with and without an adapter, and gradients.

Usage: python tests/parity/tiny_families.py [FIXTURES_DIR]

Writes families/NAME/ under FIXTURES_DIR (default: tests/fixtures): the folder as transformers writes it, the adapter as
PEFT writes it (lora/), log-probabilities (expected.json), for some families the gradient of a loss with respect to the
adapter (gradients.safetensors), and for those whose GGUF layout differs the model as llama.cpp's converter lays it out
(model.gguf), which llama.cpp itself then scores. Everything is seeded, in f32 on one CPU thread.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

import tiny_llama
from tiny_llama import LORA_TARGETS, VOCAB_SIZE, clean, log_probs, permute, rounded, write_json

WINDOW = 8
# Below the window, and beyond twice of it.
PROMPT_LENGTHS = (6, 20)

SIZES = dict(
    vocab_size=VOCAB_SIZE,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    attn_implementation="eager",
)
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 40,
}


@dataclass
class Family:
    config: object
    dtype: torch.dtype = torch.float32
    # The architecture in GGUF, or None where there is nothing that another file does not show.
    gguf: str | None = None
    gradients: bool = False
    # Turns the newer keys of config.json into the older ones, which most published models have.
    older_keys: bool = False


FAMILIES = {
    # Llama's biases are rare, but llama.cpp's converter permutes them like the rows they belong to.
    "llama3": Family(
        LlamaConfig(
            **SIZES, rope_parameters=LLAMA3_ROPE, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
        ),
        gguf="llama",
        older_keys=True,
    ),
    "mistral": Family(MistralConfig(**SIZES, head_dim=12, sliding_window=WINDOW), dtype=torch.bfloat16),
    "qwen2": Family(Qwen2Config(**SIZES, use_sliding_window=False), gguf="qwen2", older_keys=True),
    "qwen2-window": Family(
        Qwen2Config(
            **SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1, tie_word_embeddings=True
        ),
        dtype=torch.float16,
    ),
    "qwen3": Family(Qwen3Config(**SIZES, head_dim=12, tie_word_embeddings=True), gguf="qwen3", gradients=True),
    "gemma2": Family(
        Gemma2Config(
            **SIZES,
            head_dim=12,
            query_pre_attn_scalar=12,
            sliding_window=WINDOW,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
        ),
        gguf="gemma2",
        gradients=True,
        older_keys=True,
    ),
    # Six layers, because the sixth is the first that sees everything.
    "gemma3": Family(
        Gemma3TextConfig(
            **{
                **SIZES,
                "num_hidden_layers": 6,
                "intermediate_size": 32,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
            },
            head_dim=12,
            query_pre_attn_scalar=12,
            sliding_window=WINDOW,
        ),
        gguf="gemma3",
        gradients=True,
        older_keys=True,
    ),
    "gemma3-scaled": Family(
        Gemma3TextConfig(
            **{**SIZES, "num_hidden_layers": 3},
            head_dim=12,
            query_pre_attn_scalar=20,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "linear", "rope_theta": 100_000.0, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
            },
            final_logit_softcapping=2.0,
        ),
        dtype=torch.bfloat16,
    ),
}


def main():
    fixtures = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "fixtures")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(31)
    prompts = [torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist() for length in PROMPT_LENGTHS]
    for seed, (name, family) in enumerate(FAMILIES.items(), start=40):
        directory = fixtures / "families" / name
        write_base(directory, family, seed)
        write_lora(directory, name, seed)
        expected = write_expected(directory, prompts)
        if family.gradients:
            write_gradients(directory, prompts[-1])
        line = f"{name}: the adapter moves log-probabilities by up to {expected['moved']:.2f}"
        if family.gguf:
            write_gguf(directory, family)
            line += f"; llama.cpp differs by up to {difference_from_llama_cpp(directory, prompts):.1e}"
        print(line)
    for path in (fixtures / "families").rglob("*"):
        if path.is_file():
            path.chmod(0o644)


# --- models -----------------------------------------------------------------------------------------------------


def write_base(directory, family, seed):
    """Weights from one generator in the order of the names, so that they do not depend on how the library inits."""
    clean(directory)
    model = AutoModelForCausalLM.from_config(family.config).eval()
    less_one = family.config.model_type.startswith("gemma")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise + (1.0 if "norm" in name and not less_one else 0.0))
    model.to(family.dtype).save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    if family.older_keys:
        use_older_keys(directory / "config.json")


def use_older_keys(path):
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        config["sliding_window_pattern"] = 6
        rope = rope["full_attention"]
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope if rope.get("rope_type", "default") != "default" else None
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_base(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


def load_policy(directory):
    return PeftModel.from_pretrained(load_base(directory), directory / "lora", is_trainable=True).eval()


def write_lora(directory, name, seed):
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, target_modules=LORA_TARGETS, bias="none", task_type="CAUSAL_LM"
    )
    model = get_peft_model(load_base(directory), config)
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for parameter_name, parameter in sorted(model.named_parameters()):
            if "lora_" in parameter_name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.peft_config["default"].base_model_name_or_path = name
    model.save_pretrained(directory / "lora", save_embedding_layers=False)
    (directory / "lora" / "README.md").unlink(missing_ok=True)
    tiny_llama.sort_targets(directory / "lora" / "adapter_config.json")


# --- values -----------------------------------------------------------------------------------------------------


def write_expected(directory, prompts):
    base, policy = load_base(directory), load_policy(directory)
    cases, moved = [], 0.0
    for ids in prompts:
        plain, adapted = log_probs(base, ids), log_probs(policy, ids)
        moved = max(moved, (plain - adapted).abs().max().item())
        cases.append({"ids": ids, "base": rounded(plain), "lora": rounded(adapted)})
    note = "log_softmax(logits) at every position: [position][vocab]; weights widened to f32, arithmetic in f32"
    write_json(directory / "expected.json", {"note": note, "prompts": cases})
    return {"moved": moved}


def write_gradients(directory, ids):
    """Of minus the mean log-probability of each token of the last prompt after those before it."""
    policy = load_policy(directory)
    logits = policy(input_ids=torch.tensor([ids])).logits[0, :-1]
    torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])).backward()
    gradients = {
        name.replace(".default", ""): parameter.grad
        for name, parameter in policy.named_parameters()
        if parameter.requires_grad
    }
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    save_file(gradients, directory / "gradients.safetensors")


# --- GGUF -------------------------------------------------------------------------------------------------------


def write_gguf(directory, family):
    """As llama.cpp's converter lays it out: q and k of Llama permuted, 1 added to Gemma's norms."""
    model = load_base(directory)
    config = model.config
    architecture = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[family.gguf]
    writer = gguf.GGUFWriter(str(directory / "model.gguf"), family.gguf)
    writer.add_name(directory.name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(VOCAB_SIZE)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    if family.gguf != "qwen2":
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if family.gguf.startswith("gemma"):
        writer.add_sliding_window(config.sliding_window)
        if config.attn_logit_softcapping:
            writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        if config.final_logit_softcapping:
            writer.add_final_logit_softcapping(config.final_logit_softcapping)
    tiny_llama.add_tokenizer(writer)

    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.numpy().astype(np.float32)
        part = name.split(".")[-2]
        if family.gguf == "llama" and part in heads:
            array = permute(array, heads[part])
        if family.gguf.startswith("gemma") and part.endswith("norm"):
            array = array + 1
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(array))
    if rope.get("rope_type") == "llama3":
        plain = rope["rope_theta"] ** (-torch.arange(0, head_dim, 2) / head_dim)
        divisors = plain / model.model.rotary_emb.inv_freq
        print("rope divisors", divisors.tolist())
        writer.add_tensor("rope_freqs.weight", divisors.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def difference_from_llama_cpp(directory, prompts):
    """The largest difference between llama.cpp's log-probabilities and those of transformers."""
    model = llama_cpp.Llama(
        str(directory / "model.gguf"),
        n_ctx=64,
        logits_all=True,
        n_threads=1,
        # f32 keys and values; the default is f16.
        type_k=0,
        type_v=0,
        verbose=False,
    )
    base, largest = load_base(directory), 0.0
    for ids in prompts:
        model.reset()
        model.eval(ids)
        found = torch.log_softmax(torch.tensor(model.scores[: len(ids)]), dim=-1)
        largest = max(largest, (found - log_probs(base, ids)).abs().max().item())
    return largest


if __name__ == "__main__":
    main()
