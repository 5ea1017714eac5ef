"""What the scripts that try learning over HTTP share: the questions, a server of its own, and what it gets right."""

import json
import os
import pathlib
import re
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
TTRL = ROOT / "target/release/ttrl"


def questions(name, part):
    lines = (ROOT / f"tests/fixtures/{name}-{part}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def sums(part):
    return questions("additions", part)


class Server:
    def __init__(
        self, folder, ttrl=TTRL, model=None, template="additions-8shot", log=None, start=subprocess.Popen, **settings
    ):
        """`settings` are variables without their `TTRL_`; what the server logs goes to the file `log`, if there is one."""
        command = [ttrl, "serve", "--bind", "127.0.0.1:0", "--data-dir", folder, "--prompt-template", template]
        model = model or next((ROOT / "target/models").glob("SmolLM2-135M-Instruct*.gguf"), None)
        command += ["--model", model] if model else []
        env = {**os.environ, "TTRL_LOG__FILTER": "error", **{f"TTRL_{name}": value for name, value in settings.items()}}
        self.process = start(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
        found = (re.match(r"listening on\s+(\S+)", line) for line in self.process.stdout)
        self.url = next((match[1] for match in found if match), None)
        if self.url is None:
            sys.exit("the server did not start; its reason is above")
        self.key = (pathlib.Path(folder) / "operator.key").read_text().strip()

    def call(self, path, body=None, **headers):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", **headers}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=300) as response:
            return json.load(response)

    def round(self, **body):
        """Runs a round and returns it as it ended."""
        path = f"/v1/rounds/{self.call('/v1/rounds', body)['id']}"
        while (found := self.call(path)["round"])["state"] in ("queued", "sampling", "training", "evaluating"):
            time.sleep(1)
        return found

    def stop(self):
        self.process.terminate()
        self.process.wait()


def ask(server, questions, learn, **headers):
    """Share of right samples, share of right answers, and the versions that answered; 16 votes a question."""
    samples = right = 0
    versions = set()
    for index, line in enumerate(questions):
        body = {"question": line["question"], "votes": 16, "temperature": 0.8, "seed": index, "learn": learn}
        answer = server.call("/v1/answer", body, **headers)
        samples += sum(vote["share"] for vote in answer["votes"] if vote["answer"] == line["answer"])
        right += answer["answer"] == line["answer"]
        versions.add(answer["adapter_version"][:12])
    return samples / len(questions), right / len(questions), versions
