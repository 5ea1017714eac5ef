"""Writes the answers of the tests' tables as seeds to fuzz/corpus/grade.

    python fuzz/seeds.py
"""

import hashlib
import json
import pathlib

HERE = pathlib.Path(__file__).parent
TABLES = HERE.parent / "tests" / "fixtures" / "grading"
CORPUS = HERE / "corpus" / "grade"

CORPUS.mkdir(parents=True, exist_ok=True)
texts = {json.loads(line) for line in (TABLES / "hostile.txt").read_text(encoding="utf-8").splitlines()}
for table in TABLES.glob("*.jsonl"):
    for line in table.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts.update(row[side] for side in ("gold", "pred") if side in row)
for text in texts:
    data = text.encode()
    (CORPUS / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
print(f"{len(texts)} seeds")
