"""Makes tests/fixtures/products-{train,heldout}.jsonl: 40 + 40 products of a number in 2..12 and one in 2..9.

No question is in both files, nor among the solved ones of products-8shot.j2, which it makes, too.

    python3 tests/parity/products.py
"""

import itertools
import json
import pathlib
import random

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"
HEADER = '{#- ttrl\nstop = ["\\n"]\nmax_tokens = 6\nanswer = "first-number"\n-#}\n'


def main() -> None:
    pairs = [(f"{a} * {b} =", str(a * b)) for a, b in itertools.product(range(2, 13), range(2, 10))]
    random.Random(1).shuffle(pairs)
    solved = "".join(f"{question} {answer}\n" for question, answer in pairs[:8])
    (FIXTURES / "products-8shot.j2").write_text(HEADER + solved + "{{ question }}")
    for name, chosen in [("train", pairs[8:48]), ("heldout", pairs[48:88])]:
        lines = [json.dumps({"question": question, "answer": answer}) for question, answer in chosen]
        (FIXTURES / f"products-{name}.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
