"""The texts of replies behind prompts, by transformers: what decoding both together adds to the text of the prompt.

Usage: python tests/parity/reply_texts.py [FIXTURES_DIR]

Reads tokenizers/llama.gguf and tokenizers/gemma.gguf under FIXTURES_DIR (default: tests/fixtures) and writes
tokenizers/reply-texts.json: vocabulary, ids of the prompt, ids of the reply, text of the reply.
"""

import json
import sys
from pathlib import Path

import gguf
import tokenizers
import transformers
from tokenizers import decoders

CONTROL = 3

# The decoders that Llama 2 and Gemma were published with.
STEPS = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
DECODERS = {"llama": decoders.Sequence([*STEPS, decoders.Strip(" ", 1, 0)]), "gemma": decoders.Sequence(STEPS)}

PROMPTS = {
    "llama": [[], ["<s>"], ["<s>", "▁", "t", "h"], ["[INST]"], ["<s>", "[INST]", "▁", "a", "[/INST]"], ["<0x0A>"]],
    "gemma": [[], ["<s>"], ["t", "h", "e"], ["<s>", "<start_of_turn>", "a", "<end_of_turn>"]],
}
REPLIES = [
    ["▁", "a", "▁", "b"],
    ["a", "▁"],
    ["▁", "▁", "a"],
    ["<0xC3>", "<0xA9>", "▁", "a"],
    ["<0x20>", "a"],
]


def main():
    fixtures = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "fixtures") / "tokenizers"
    rows = []
    for name, prompts in PROMPTS.items():
        reader = gguf.GGUFReader(str(fixtures / f"{name}.gguf"))
        field = lambda key: reader.fields[f"tokenizer.ggml.{key}"].contents()
        tokens, types = field("tokens"), field("token_type")
        ids = {token: id for id, token in enumerate(tokens)}
        inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ids, merges=[], byte_fallback=True))
        inner.decoder = DECODERS[name]
        special = [token for token, type in zip(tokens, types) if type == CONTROL]
        inner.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in special])
        reference = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False)
        decode = lambda ids: reference.decode(ids, skip_special_tokens=True)
        for prompt in prompts:
            prompt = [ids[token] for token in prompt]
            for reply in [*REPLIES, [special[-1], "▁", "a"]]:
                reply = [ids[token] for token in reply]
                before, whole = decode(prompt), decode(prompt + reply)
                assert whole.startswith(before)
                rows.append([name, prompt, reply, whole[len(before) :]])
    text = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    (fixtures / "reply-texts.json").write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
