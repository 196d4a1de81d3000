"""A server of a tiny LM on loopback: the OpenAI completions protocol, with faults on demand."""

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch


class StubServer:
    """Answers as vLLM does: its bos before every text, one token after, log-probabilities of all but the first.

    Attributes:
        requests: Bodies received, in order, also of requests that fail.
        keys: Their headers ``Authorization``.
        faults: What becomes of the next requests, one each: ``f(handler, answer)`` sends something; None: the answer.
        change: Edits every answer before it is sent.
    """

    def __init__(self, model, tokenizer, bos: str = ""):
        self.model, self.tokenizer, self.bos = model.eval(), tokenizer, bos
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.faults: list[Callable | None] = []
        self.change: Callable[[dict], dict] = lambda answer: answer
        self.url = ""

    @torch.no_grad()
    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        choices, num_read = [], 0
        for index, prompt in enumerate(body["prompt"]):
            ids = self.tokenizer(self.bos + prompt, add_special_tokens=False)["input_ids"]
            log_p = self.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            spelled = self.tokenizer.convert_ids_to_tokens
            num_read += len(ids)
            ids = [*ids, log_p[-1].argmax().item()]
            places = [(None, None)]
            for here, token in zip(log_p, ids[1:], strict=True):
                best = here.topk(body["logprobs"])
                top = dict(zip(map(str, best.indices.tolist()), best.values.tolist(), strict=True))
                places.append((here[token].item(), {**top, str(token): here[token].item()}))
            logprobs = {"tokens": [spelled(i) or str(i) for i in ids], "text_offset": [0] * len(ids)}
            logprobs |= dict(zip(("token_logprobs", "top_logprobs"), map(list, zip(*places, strict=True)), strict=True))
            choices.insert(0, {"index": index, "text": prompt + "?", "logprobs": logprobs})  # in another order
        usage = {"prompt_tokens": num_read, "completion_tokens": len(choices)}
        return self.change({"choices": choices, "usage": usage})

    @contextmanager
    def running(self):
        """Serves on a free port."""
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):  # noqa: N802
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stub.requests.append({"path": self.path, **body})
                stub.keys.append(self.headers["Authorization"])
                fault = stub.faults.pop(0) if stub.faults else None
                (fault or send)(self, stub.answer(body))

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def send(handler, answer, status=200, **headers):
    """Send an answer: JSON, or text as it is."""
    body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def failing(status, text="", **headers):
    """An HTTP error."""
    return lambda handler, answer: send(handler, text, status, **headers)


def drop(handler, answer):
    """The connection ends without an answer."""
    handler.close_connection = True


def cut(handler, answer):
    """The connection ends in the middle of the answer."""
    body = json.dumps(answer).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True


def slow(handler, answer):
    """No answer in time."""
    threading.Event().wait(2)
    drop(handler, answer)


def trickle(handler, answer):
    """A byte now and then, forever."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            threading.Event().wait(0.05)
    except OSError:
        handler.close_connection = True
