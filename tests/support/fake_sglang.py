"""A fake server with SGLang's HTTP interface, by the source of SGLang 0.5.23; what it computes is `FakeServer`'s."""

from __future__ import annotations

from typing import Any, Iterator

import torch

from tests.support.fake_server import FakeServer, Wire

PATHS = frozenset(
    "/health /server_info /model_info /v1/models /v1/tokenize /generate /abort_request /update_weights_from_disk "
    "/load_lora_adapter /unload_lora_adapter".split()
)
SETTINGS = {
    "version": "0.5.23",
    "dtype": "float32",
    "context_length": 258,
    "enable_deterministic_inference": True,
    "incremental_streaming_output": True,
    "skip_tokenizer_init": False,
    "preferred_sampling_params": None,
    "rl_on_policy_target": None,
    "enable_watermark": False,
    "quantization": None,
    "torchao_config": "",
}
LEFT_OUT = 42
"""The seed of requests without one, and of all where seeds are not read."""


def complete(http: Any, server: FakeServer, body: dict[str, Any]) -> None:
    """Answer ``/generate``: a refusal, which a stream brings as an event, or what was asked for."""
    wrong = refusal_of(server, body)
    if wrong:
        error = {"message": wrong, "type": "invalid_request_error", "code": 400}
        http.stream([{"error": error}]) if body.get("stream") else http.send(400, {"error": error})
        return
    flat = flat_body(server, body)
    if body.get("top_logprobs_num"):
        http.send(200, likeliest(server, flat))
    elif body.get("logprob_start_len", -1) >= 0:
        http.send(200, scored(server, flat, body["logprob_start_len"]))
    elif body.get("stream"):
        server.requests.append({**flat, "rid": body["rid"]})
        http.stream(events(server, {**flat, "prompt": server.prompt_of(flat)}))
    else:
        http.send(200, whole(server, {**flat, "prompt": server.prompt_of(flat)}))


def refusal_of(server: FakeServer, body: dict[str, Any]) -> str:
    """Why a request is not taken; empty if it is."""
    size = server.model.config.vocab_size
    for token in body["sampling_params"].get("logit_bias", {}):
        if int(token) >= size:
            return f"logit_bias must has keys in [0, {size - 1}], got {token}."
    adapter = body.get("lora_path")
    if adapter is not None and adapter not in server.adapters:
        return f"Got LoRA adapter that has never been loaded: {adapter}"
    return ""


def flat_body(server: FakeServer, body: dict[str, Any]) -> dict[str, Any]:
    """The request in the words that `FakeServer.completion` reads, beside its own."""
    parameters = body["sampling_params"]
    ends = [*parameters.get("stop_token_ids", ()), server.model.config.eos_token_id]
    seed = parameters.get("sampling_seed", LEFT_OUT)
    return {
        **parameters,
        "model": body.get("lora_path", "tiny"),
        "prompt": body["input_ids"],
        "seed": seed if server.settings["enable_deterministic_inference"] else LEFT_OUT,
        "max_tokens": parameters["max_new_tokens"],
        "stop_token_ids": [] if parameters.get("ignore_eos") else ends,
        "stop": parameters.get("stop", []),
    }


def events(server: FakeServer, flat: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A token an event, or all so far where streams are not incremental."""
    if server.fails:
        server.fails -= 1
        reason = {"type": "abort", "message": "Abort in waiting queue", "status_code": 500}
        yield {"output_ids": [], "meta_info": {"finish_reason": reason, "completion_tokens": 0}}
        return
    tokens, rows = [], []
    for token, logp, finish, stop in server.completion(flat):
        tokens.append(token)
        rows.append([logp, token, None])
        start = len(tokens) - 1 if server.settings["incremental_streaming_output"] else 0
        about = about_of(rows[start:], len(tokens), finish, stop)
        yield {"output_ids": tokens[start:], "meta_info": about}


def about_of(rows: list[Any], num_tokens: int, finish: str, stop: Any) -> dict[str, Any]:
    """``meta_info``."""
    reason: dict[str, Any] | None = None
    if finish:
        reason = {"type": finish}
        reason |= {"matched": stop} if finish == "stop" else {"length": num_tokens}
    return {
        "finish_reason": reason,
        "output_token_logprobs": rows,
        "completion_tokens": num_tokens,
    }


def whole(server: FakeServer, flat: dict[str, Any]) -> dict[str, Any]:
    """All tokens at once."""
    tokens, logps, finishes, stops = zip(*server.completion(flat))
    rows = [[logp, token, None] for logp, token in zip(logps, tokens)]
    about = about_of(rows, len(tokens), finishes[-1], stops[-1])
    return {"output_ids": tokens, "meta_info": about, "prompt_token_ids": flat["prompt"]}


def scored(server: FakeServer, flat: dict[str, Any], start: int) -> dict[str, Any]:
    """Log-probs of the prompt from `start` on, the first of which there is none of."""
    prompt = flat["prompt"]
    found = list(zip(prompt, server.scores(flat)))[start + 1 :]
    rows = [[score[str(token)]["logprob"], token, None] for token, score in found]
    return {"meta_info": {"input_token_logprobs": [[None, prompt[start], None], *rows]}}


@torch.no_grad()
def likeliest(server: FakeServer, flat: dict[str, Any]) -> dict[str, Any]:
    """The two likeliest tokens behind the prompt."""
    logits_V = server.model(input_ids=torch.tensor([flat["prompt"]])).logits[0, -1]
    scale = 1.0 if server.fault == "raw log-probs" else flat["temperature"]
    values, tokens = (logits_V / scale).log_softmax(-1).topk(2)
    rows = [[value, token, None] for value, token in zip(values.tolist(), tokens.tolist())]
    return {"meta_info": {"output_top_logprobs": [rows]}}


def control(server: FakeServer, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """What every other endpoint answers."""
    if path == "/update_weights_from_disk":
        return update(server, body)
    if path == "/load_lora_adapter":
        server.load_adapter(body["lora_name"], body["lora_path"])
        return 200, {"success": True, "loaded_adapters": dict.fromkeys(server.adapters, "")}
    if path == "/unload_lora_adapter":
        del server.adapters[body["lora_name"]]
        return 200, {"success": True}
    if path == "/abort_request":
        server.aborted.append(body["rid"])
        return 200, None
    return 200, said(server, path, body)


def update(server: FakeServer, body: dict[str, Any]) -> tuple[int, Any]:
    """Load weights, forget keys, bear the version's name."""
    server.load(body["model_path"])
    is_empty = server.reset() if body["flush_cache"] else True
    if is_empty:
        server.weight_version = body["weight_version"]
    message = "Succeeded to update model weights." if is_empty else "Cache flush failed"
    answer = {"success": is_empty, "message": message, "num_paused_requests": 0}
    return (200 if is_empty else 400), answer


def said(server: FakeServer, path: str, body: dict[str, Any]) -> Any:
    """What an endpoint says that changes nothing."""
    if path == "/model_info":
        return {"model_path": "tiny", "weight_version": server.weight_version}
    if path == "/server_info":
        lora = {"enable_lora": bool(server.lora_rank), "max_lora_rank": server.lora_rank or None}
        return {**server.settings, **lora}
    if path == "/v1/models":
        longest = server.settings["context_length"]
        return {"data": [{"id": "tiny", "max_model_len": longest}, *adapters_of(server)]}
    if path == "/v1/tokenize":
        tokens = server.tokenizer(body["prompt"], add_special_tokens=body["add_special_tokens"])
        return {"tokens": tokens["input_ids"], "count": len(tokens["input_ids"])}
    return None


def adapters_of(server: FakeServer) -> list[dict[str, Any]]:
    """The adapters as models that are served."""
    return [{"id": name, "parent": "tiny", "max_model_len": None} for name in server.adapters]


SGLANG = Wire("sglang", PATHS, SETTINGS, "/generate", complete, control)
