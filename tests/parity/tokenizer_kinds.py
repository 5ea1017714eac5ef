"""Golden token ids of many kinds of tokenizers, by llama.cpp, sentencepiece, tiktoken and tokenizers.

Usage: python tests/parity/tokenizer_kinds.py QWEN.gguf MISTRAL_COMMON.whl [FIXTURES_DIR]

QWEN.gguf is Qwen2.5-Coder-0.5B-Instruct in Q4_K_M, MISTRAL_COMMON.whl has Mistral's vocabularies (the README says where
they come from). Writes tokenizers/ under FIXTURES_DIR (default: tests/fixtures):

- texts.json: the texts, and whether special tokens in them are parsed; the other files list ids in the same order.
- byte-level.json: a small vocabulary whose merges cross every cut, so that its ids show where a text was cut;
  byte-level-ids.json: what each kind of cuts (`tokenizer.ggml.pre`) makes of the texts.
- llama.gguf, gemma.gguf: small SentencePiece vocabularies, as Llama's and as Gemma's are; and their -ids.json.
- qwen2-ids.json, mistral-v1-ids.json, mistral-v3-ids.json, tekken-ids.json: published vocabularies, which the tests
  fetch.
"""

import base64
import ctypes
import io
import json
import sys
import tempfile
import unicodedata
import zipfile
from pathlib import Path

import gguf
import llama_cpp
import sentencepiece
import tiktoken
import tokenizers

from texts import PLAIN, TEXTS

BYTE_LEVEL_TOKENS = 1400
SENTENCEPIECE_TOKENS = 1500

# The kinds whose cuts llama.cpp makes as the published tokenizers do, but for the composing of characters.
BY_LLAMA_CPP = {
    "gpt-2": False,
    "smollm": False,
    "llama-bpe": False,
    "dbrx": False,
    "deepseek-llm": False,
    "deepseek-coder": False,
    "falcon": False,
    "default": False,
    "olmo": True,
    "command-r": True,
    "qwen2": True,
}

# llama.cpp's cuts for these are not the published ones; tiktoken runs the pattern itself.
LETTERS = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
CAPITALS = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
BY_TIKTOKEN = {
    "gpt-4o": "|".join([LETTERS + SUFFIX, CAPITALS + SUFFIX, r"\p{N}{1,3}", REST]),
    "tekken": "|".join([LETTERS, CAPITALS, r"\p{N}", REST]),
}

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def main():
    fixtures = Path(sys.argv[3] if len(sys.argv) > 3 else Path(__file__).parents[1] / "fixtures") / "tokenizers"
    fixtures.mkdir(parents=True, exist_ok=True)
    silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silence, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    write_lines(fixtures / "texts.json", [[text, special] for text, special in TEXTS])
    byte_level(fixtures)
    sentencepiece_vocabulary(fixtures, "llama", dict(add_dummy_prefix=True, control_symbols=["[INST]", "[/INST]"]))
    runs = ["▁" * n for n in range(2, 32)] + ["\n" * n for n in range(1, 32)]
    turns = ["<start_of_turn>", "<end_of_turn>"]
    sentencepiece_vocabulary(
        fixtures, "gemma", dict(add_dummy_prefix=False, control_symbols=turns, user_defined_symbols=runs)
    )
    write_lines(fixtures / "qwen2-ids.json", qwen2(Path(sys.argv[1])))
    wheel = zipfile.ZipFile(sys.argv[2])
    for name, file in [("v1", "tokenizer.model.v1"), ("v3", "mistral_instruct_tokenizer_240323.model.v3")]:
        write_lines(fixtures / f"mistral-{name}-ids.json", published_sentencepiece(wheel.read(f"mistral_common/data/{file}")))
    write_lines(fixtures / "tekken-ids.json", tekken(wheel.read("mistral_common/data/tekken_240718.json")))


def byte_level(fixtures):
    """Trained without any cut but the ends of the texts."""
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=BYTE_LEVEL_TOKENS,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=12,
        show_progress=False,
    )
    trained.train_from_iterator([text for text in PLAIN if len(set(text)) > 3], trainer)
    model = json.loads(trained.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [" ".join(pair) for pair in model["merges"]]
    write(fixtures / "byte-level.json", {"tokens": tokens, "merges": merges})
    ids = {}
    for pre, composed in BY_LLAMA_CPP.items():
        vocabulary = LlamaCpp(gpt2_file(tokens, merges, pre))
        ids[pre] = [vocabulary(unicodedata.normalize("NFC", text) if composed else text, False) for text in PLAIN]
    letters = {letter: byte for byte, letter in gguf_alphabet().items()}
    ranks = {bytes(letters[letter] for letter in token): rank for rank, token in enumerate(tokens)}
    for pre, pattern in BY_TIKTOKEN.items():
        encoding = tiktoken.Encoding(pre, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        ids[pre] = [encoding.encode_ordinary(text) for text in PLAIN]
    # A text that all kinds cut alike says nothing of their differences.
    kept = [at for at, text in enumerate(PLAIN) if len({tuple(rows[at]) for rows in ids.values()}) > 1]
    print(f"byte-level: {len(kept)} of {len(PLAIN)} texts are cut differently by some kind")
    rows = [{"text": PLAIN[at], "ids": {pre: rows[at] for pre, rows in ids.items()}} for at in kept]
    write_lines(fixtures / "byte-level-ids.json", rows)


def gguf_alphabet():
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + at) for at, byte in enumerate(others)}


def vocabulary_file(path, model):
    """A GGUF file without tensors, and what llama.cpp wants to know of a model before it reads a vocabulary."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(model)
    return writer


def close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def gpt2_file(tokens, merges, pre):
    path = Path(tempfile.mkdtemp()) / f"{pre}.gguf"
    writer = vocabulary_file(path, "gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(merges)
    writer.add_add_bos_token(False)
    close(writer)
    return path


def sentencepiece_vocabulary(fixtures, name, options):
    """Trains a small vocabulary, writes it as GGUF and checks that llama.cpp reads it as sentencepiece does."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in PLAIN for line in text.splitlines() if line.strip()),
        model_writer=model,
        model_type="bpe",
        vocab_size=SENTENCEPIECE_TOKENS,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
        num_threads=1,
        **options,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    path = fixtures / f"{name}.gguf"
    writer = vocabulary_file(path, "llama")
    pieces = [processor.id_to_piece(id) for id in range(processor.get_piece_size())]
    kinds = [kind(processor, id, options.get("user_defined_symbols", [])) for id in range(len(pieces))]
    # In GGUF, texts that are found as a whole are written as they are in a text.
    pieces = [piece.replace("▁", " ") if kind == 4 else piece for piece, kind in zip(pieces, kinds)]
    writer.add_token_list(pieces)
    writer.add_token_scores([processor.get_score(id) for id in range(len(pieces))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(processor.bos_id())
    writer.add_eos_token_id(processor.eos_id())
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(options["add_dummy_prefix"])
    close(writer)
    ids = with_specials(processor)
    check(f"{name} by llama.cpp", ids, LlamaCpp(path))
    write_lines(fixtures / f"{name}-ids.json", ids)


def kind(processor, id, user_defined):
    """The number of a kind of token in GGUF."""
    if processor.is_unknown(id):
        return 2
    if processor.is_control(id):
        return 3
    if processor.is_byte(id):
        return 6
    return 4 if processor.id_to_piece(id) in user_defined else 1


def with_specials(processor):
    """The ids of the texts. Where special tokens are parsed, what lies between them is encoded by itself."""
    specials = {
        processor.id_to_piece(id): id
        for id in range(processor.get_piece_size())
        if processor.is_control(id) or processor.is_unknown(id)
    }

    def encode(text):
        found = [(at, -len(special), special) for special in specials if (at := text.find(special)) >= 0]
        if not found:
            return processor.encode(text) if text else []
        at, _, special = min(found)
        before = processor.encode(text[:at]) if at else []
        return before + [specials[special]] + encode(text[at + len(special) :])

    return [encode(text) if special else processor.encode(text) for text, special in TEXTS]


def published_sentencepiece(model):
    return with_specials(sentencepiece.SentencePieceProcessor(model_proto=model))


def tekken(text):
    """By tiktoken, as mistral-common does it; the special tokens of the file stand before its vocabulary."""
    file = json.loads(text)
    config, vocab = file["config"], file["vocab"]
    specials = config["default_num_special_tokens"]
    vocab = vocab[: config["default_vocab_size"] - specials]
    ranks = {base64.b64decode(token["token_bytes"]): token["rank"] for token in vocab}
    encoding = tiktoken.Encoding("tekken", pat_str=config["pattern"], mergeable_ranks=ranks, special_tokens={})
    return [[id + specials for id in encoding.encode_ordinary(text)] for text, special in TEXTS if not special]


def qwen2(path):
    """By tokenizers, with the published pattern and composed characters; llama.cpp does not compose."""
    reader = gguf.GGUFReader(str(path))
    field = lambda name: reader.fields[f"tokenizer.ggml.{name}"].contents()
    tokens, types = field("tokens"), field("token_type")
    merges = [tuple(merge.split(" ")) for merge in field("merges")]
    vocab = {token: id for id, (token, type) in enumerate(zip(tokens, types)) if type != 5}
    reference = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges))
    reference.normalizer = tokenizers.normalizers.NFC()
    reference.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(QWEN2), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    for token, type in zip(tokens, types):
        if type in (3, 4):
            added = tokenizers.AddedToken(token, special=type == 3, normalized=False)
            (reference.add_special_tokens if type == 3 else reference.add_tokens)([added])
    ids = []
    for text, special in TEXTS:
        reference.encode_special_tokens = not special
        ids.append(reference.encode(text, add_special_tokens=False).ids)
    composed = [(unicodedata.normalize("NFC", text), special) for text, special in TEXTS]
    check("qwen2 by llama.cpp", ids, LlamaCpp(path), composed)
    return ids


class LlamaCpp:
    """The tokenizer that llama.cpp builds of a GGUF file."""

    def __init__(self, path):
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert self.model, f"cannot load {path}"
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)

    def __call__(self, text, special):
        data = text.encode()
        room = len(data) + 8
        ids = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), ids, room, False, special)
        assert count >= 0
        return list(ids[:count])


def check(name, ids, other, texts=TEXTS):
    """Two references that disagree are no reference; what they disagree about is printed."""
    differ = [(text, special) for (text, special), row in zip(texts, ids) if other(text, special) != row]
    print(f"{name}: {len(differ)} of {len(ids)} texts differ {differ}")


def write_lines(path, rows):
    text = ",\n".join(json.dumps(row, ensure_ascii=True, separators=(",", ":")) for row in rows)
    path.write_text(f"[\n{text}\n]\n")


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
