"""Talks to a running server through OpenAI's own package and checks what it understood.

    pip install openai==3.57.0
    python tests/parity/openai_client.py http://127.0.0.1:8080
"""

import sys

import openai

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What is 38 + 9?"}]},
]


def completions(client):
    whole = client.completions.create(
        model="live",
        prompt="38 + 9 =",
        max_tokens=6,
        seed=1,
        logprobs=3,
        extra_body={"top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1},
    )
    told = whole.choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset) == whole.usage.completion_tokens
    assert "".join(told.tokens).startswith(whole.choices[0].text)
    many = client.completions.create(model="base", prompt=["a b", "c d"], n=2, max_tokens=4)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3] and many.system_fingerprint == "base"
    scored = client.completions.create(model="base", prompt="38 + 9 = 47", max_tokens=0, echo=True, logprobs=1)
    told = scored.choices[0].logprobs
    assert scored.choices[0].text == "38 + 9 = 47" == "".join(told.tokens)
    assert told.token_logprobs[0] is None and all(value <= 0 for value in told.token_logprobs[1:])


def streamed_completions(client):
    asked = {"model": "base", "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**asked)
    events = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(event.choices[0].text for event in events[:-1]) == whole.choices[0].text
    assert events[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert events[-1].choices == [] and events[-1].usage == whole.usage


def chat(client):
    asked = {"model": "live", "messages": MESSAGES, "max_completion_tokens": 20, "temperature": 0}
    whole = client.chat.completions.create(
        **asked, logprobs=True, top_logprobs=2, logit_bias={"5": -1}, user="me", store=False
    )
    told = whole.choices[0].logprobs.content
    assert len(told) == whole.usage.completion_tokens and all(len(token.top_logprobs) == 2 for token in told)
    whole = client.chat.completions.create(**asked)
    events = list(client.chat.completions.create(**asked, stream=True, logprobs=True))
    assert "".join(event.choices[0].delta.content for event in events) == whole.choices[0].message.content
    # The package's own accumulation of a stream refuses replies that were cut off, so this one is ended by a text.
    with client.chat.completions.stream(**asked, stop=[" "]) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.role == "assistant" and " " not in message.content


def errors(client):
    tool = {"type": "function", "function": {"name": "f"}}
    for status, code, call in [
        (404, "model_not_found", lambda: client.completions.create(model="gpt-4o", prompt="a")),
        (422, "invalid_body", lambda: client.chat.completions.create(model="live", messages=MESSAGES, tools=[tool])),
        (422, "unservable", lambda: client.completions.create(model="live", prompt="a", max_tokens=10**6)),
    ]:
        try:
            call()
        except openai.APIStatusError as error:
            assert (error.status_code, error.code) == (status, code), error
        else:
            raise AssertionError(f"{code} was expected")


def main():
    client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="any", max_retries=0)
    assert {"live", "base"} <= {model.id for model in client.models.list().data}
    assert client.models.retrieve("live").id == "live"
    for check in (completions, streamed_completions, chat, errors):
        check(client)
        print(check.__name__, "ok")


if __name__ == "__main__":
    main()
