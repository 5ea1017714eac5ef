"""Log-probabilities of the greedy continuations with the GGUF weights widened to f32, by gguf and transformers.

Usage: python tests/parity/smollm2_f32.py PATH/SmolLM2-135M-Instruct.Q4_1.gguf [FIXTURES_DIR]

llama.cpp rounds activations to 8 bits before each quantised product; here nothing is rounded, so these are the values
of the model that the file describes. Reads smollm2-greedy.json, writes smollm2-f32.json beside it.
"""

import json
import sys
from pathlib import Path

import gguf
import torch
from transformers import LlamaConfig, LlamaForCausalLM

TOP = 5


def main():
    path = Path(sys.argv[1])
    fixtures = Path(sys.argv[2] if len(sys.argv) > 2 else Path(__file__).parents[1] / "fixtures")
    torch.set_num_threads(1)
    model = load(path)
    rows = []
    for case in json.loads((fixtures / "smollm2-greedy.json").read_text()):
        logs = log_probs(model, case["prompt_ids"] + case["ids"])[len(case["prompt_ids"]) - 1 : -1]
        chosen = [round(row[token].item(), 6) for row, token in zip(logs, case["ids"])]
        top = logs[0].topk(TOP)
        rows.append(
            {
                "name": case["name"],
                "prompt_ids": case["prompt_ids"],
                "ids": case["ids"],
                "log_probs": chosen,
                "argmax_ids": logs.argmax(-1).tolist(),
                "first_top": [
                    {"id": i, "log_prob": round(v, 6)} for i, v in zip(top.indices.tolist(), top.values.tolist())
                ],
            }
        )
        difference = max(abs(a - b) for a, b in zip(chosen, case["log_probs"]))
        print(f"{case['name']}: largest difference from llama.cpp {difference:.4f}")
    text = ",\n".join(json.dumps(row) for row in rows)
    (fixtures / "smollm2-f32.json").write_text(f"[\n{text}\n]\n")


@torch.no_grad()
def log_probs(model, ids):
    return torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), dim=-1)


def load(path):
    reader = gguf.GGUFReader(str(path))

    def field(name):
        return reader.fields[f"llama.{name}"].contents()

    heads, kv_heads = field("attention.head_count"), field("attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=field("vocab_size"),
        hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        rope_theta=field("rope.freq_base"),
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        max_position_embeddings=field("context_length"),
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    state = {}
    for name in model.state_dict():
        if name == "lm_head.weight":
            continue
        tensor = stored.pop(names.get_name(name, try_suffixes=(".weight",)))
        weight = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        if name.endswith("q_proj.weight"):
            weight = unpermute(weight, heads)
        if name.endswith("k_proj.weight"):
            weight = unpermute(weight, kv_heads)
        state[name] = weight
    assert not stored, list(stored)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model


def unpermute(weight, heads):
    """The inverse of the row order that llama.cpp's converter gives q and k."""
    rows = weight.shape[0] // heads // 2
    return weight.reshape(heads, rows, 2, -1).transpose(1, 2).reshape(weight.shape)


if __name__ == "__main__":
    main()
