"""Which experts a mixture of experts sends each token to: read while it runs, and decided for it from a record.

A sampler and a trainer that round differently choose different experts where two are nearly as good, and then compute
different functions of the same weights. With the sampler's choice recorded and replayed they do not: the router's own
code runs on its own weights, only the choice (its ``topk``) is answered from the record, so that the weights of the
chosen experts, and their gradients, are those of the trainer's router.

Routers are found by structure (a part called gate or router beside the experts) and tried once; a model whose router
returns something else than (logits, weights, indices) routes itself, and `Routing.reason` says why.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

NATURAL = -1
"""In a record that is replayed: the router chooses for itself."""
STACKED = "_apply_gate"
"""transformers' mark of every mixture of experts."""


@dataclass(slots=True, eq=False)
class Routes:
    """What the routers of one forward returned, by their number: ``logits`` [P, E] and ``chosen`` [P, K]."""

    logits: dict[int, Tensor] = field(default_factory=dict)
    chosen: dict[int, Tensor] = field(default_factory=dict)


class Routing:
    """The routers of a model, in the order of its layers.

    ``shape`` is (layers with experts, experts a token goes to), that of one token's record; ``num_experts`` are those
    of a layer, ``dtype`` the smallest that holds their numbers. ``is_replayed`` says whether samplers record the
    choices and forwards of recorded rows repeat them. ``last`` are the routes of the last forward that kept them.
    """

    def __init__(self, routers: Sequence[nn.Module], num_experts: int, experts_a_token: int):
        self.routers = tuple(routers)
        self.num_experts = num_experts
        self.shape = (len(self.routers), experts_a_token)
        self.dtype = torch.uint8 if num_experts <= 256 else torch.int16
        self.is_replayed = True
        self.keeps = ""
        self.last = Routes()
        self._in_use: Tensor | None = None

    @property
    def bytes_a_token(self) -> int:
        """Size of one token's record."""
        layers, experts = self.shape
        return layers * experts * self.dtype.itemsize

    @contextmanager
    def forward(self, replayed_PLK: Tensor | None = None, *, keep: str = "") -> Iterator[Routes]:
        """Inside the block, one forward: choices from `replayed_PLK` where they are not NATURAL; its routes are kept.

        ``keep`` is empty (nothing), ``chosen``, or ``all``, which adds the logits with their gradient.
        """
        routes = Routes()
        before = [router.__dict__.get("forward") for router in self.routers]
        outer = self._in_use
        self._in_use = replayed_PLK
        for number, router in enumerate(self.routers):
            chosen_PK = None if replayed_PLK is None else replayed_PLK[:, number]
            kept = partial(_keep, routes, number, keep)
            router.__dict__["forward"] = partial(_run, router.forward, chosen_PK, kept)
        try:
            yield routes
        finally:
            self._in_use = outer
            for router, forward in zip(self.routers, before):
                del router.__dict__["forward"]
                if forward is not None:
                    router.__dict__["forward"] = forward

    def again(self) -> AbstractContextManager[Routes]:
        """For a part of the forward in progress that is computed once more, later: its choices are the same."""
        return self.forward(self._in_use)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside the block, the forwards of packed rows keep all of their routes, in ``last``."""
        self.keeps = "all"
        try:
            yield
        finally:
            self.keeps = ""
            self.last = Routes()

    def chosen(self, routes: Routes) -> Tensor:
        """The experts of each token of a forward that kept them: [P, L, K], in ``dtype``."""
        by_layer = [routes.chosen[number] for number in range(len(self.routers))]
        return torch.stack(by_layer, 1).to(self.dtype)


def replayed(
    records: Iterable[tuple[int, Tensor | None]], num_tokens: int, device: torch.device | str
) -> Tensor | None:
    """Records [t, L, K] put where their tokens are among `num_tokens`, NATURAL elsewhere; None without records."""
    known = [(start, record) for start, record in records if record is not None]
    if not known:
        return None
    shape = (num_tokens, *known[0][1].shape[1:])
    record_PLK = torch.full(shape, NATURAL, dtype=torch.int16)
    for start, record in known:
        record_PLK[start : start + len(record)] = record.to(torch.int16)
    return record_PLK.to(device)


def joined(parts: Sequence[tuple[Routes, Tensor]], order_P: Tensor) -> Routes:
    """The routes of forwards over rectangles as those of packed tokens: what each takes, end to end, in `order_P`."""

    def together(values: Sequence[Mapping[int, Tensor]]) -> dict[int, Tensor]:
        whole = {}
        for number in values[0]:
            taken = [part[number].index_select(0, take) for part, (_, take) in zip(values, parts)]
            whole[number] = torch.cat(taken).index_select(0, order_P)
        return whole

    return Routes(
        logits=together([routes.logits for routes, _ in parts]),
        chosen=together([routes.chosen for routes, _ in parts]),
    )


def _run(
    forward: Callable[..., Any],
    chosen_PK: Tensor | None,
    keep: Callable[[Any], None],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """A router's forward, with its choice from the record."""
    if chosen_PK is None:
        output = forward(*args, **kwargs)
    else:
        with _ChosenExperts(chosen_PK):
            output = forward(*args, **kwargs)
    keep(output)
    return output


def _keep(routes: Routes, number: int, keep: str, output: Any) -> None:
    if keep:
        routes.chosen[number] = output[2].detach()
    if keep == "all":
        routes.logits[number] = output[0]


class _ChosenExperts(TorchFunctionMode):
    """Answers a router's ``topk`` with the recorded experts, and their scores as the router has them now."""

    def __init__(self, chosen_PK: Tensor):
        super().__init__()
        self.chosen_PK = chosen_PK

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func not in (torch.topk, Tensor.topk) or output.indices.shape != self.chosen_PK.shape:
            return output
        chosen_PK = self.chosen_PK.to(output.indices.dtype)
        index_PK = torch.where(chosen_PK == NATURAL, output.indices, chosen_PK)
        scores_PE = args[0] if args else (kwargs or {})["input"]
        return torch.return_types.topk((scores_PE.gather(-1, index_PK), index_PK))


# ---- finding and trying routers -----------------------------------------------------------------------------------


def find_routing(model: nn.Module) -> tuple[Routing | None, str]:
    """(the routing of a mixture of experts, why it cannot be recorded); both empty for other models."""
    experts = [name for name, module in model.named_modules() if hasattr(module, STACKED)]
    if not experts:
        return None, ""
    kind = type(model).__name__
    routers = [_router_beside(model, name) for name in experts]
    found = [router for router in routers if router is not None]
    if len(found) < len(experts):
        return None, f"{kind} keeps its routers elsewhere than beside the experts"
    num_experts = {int(getattr(model.get_submodule(name), "num_experts", 0)) for name in experts}
    try:
        widths = {_try(router) for router in dict.fromkeys(found)}
    except Exception as error:  # noqa: BLE001  the model's code is not ours: whatever it raises is the answer
        return None, f"{kind} has routers of another kind ({type(error).__name__}: {error})"
    if len(widths) != 1 or len(num_experts) != 1:
        return None, f"{kind} has layers with different numbers of experts"
    return Routing(found, num_experts.pop(), widths.pop()), ""


def _router_beside(model: nn.Module, experts: str) -> nn.Module | None:
    """The router in the block that holds the experts; adapters wrap experts in modules called base_layer."""
    path = experts
    while path.endswith(".base_layer"):
        path = path.removesuffix(".base_layer")
    block = model.get_submodule(path.rpartition(".")[0])
    routers = [child for name, child in block.named_children() if is_router_name(name)]
    return routers[0] if len(routers) == 1 else None


def is_router_name(name: str) -> bool:
    """Whether a part of a model is called what routers are called."""
    return name == "gate" or "router" in name


@torch.no_grad()
def _try(router: nn.Module) -> int:
    """The experts that `router` chooses for a token; an error if it is not a router that can be told what to choose."""
    weight: Any = next(router.parameters())
    probe_PD = torch.zeros(2, weight.shape[-1], dtype=weight.dtype, device=weight.device)
    logits_PE, _, natural_PK = router(probe_PD)
    asked_PK = (natural_PK + 1) % logits_PE.shape[-1]
    with _ChosenExperts(asked_PK):
        _, weight_PK, index_PK = router(probe_PD)
    if not torch.equal(index_PK, asked_PK) or weight_PK.shape != index_PK.shape:
        raise TypeError("it does not choose by topk")
    return int(index_PK.shape[-1])


def without_balance_loss(model: nn.Module) -> str:
    """Why the class of a mixture of experts has no auxiliary loss; empty if transformers balances it by one."""
    module = sys.modules[type(model).__module__]
    if hasattr(module, "load_balancing_loss_func"):
        return ""
    return (
        f"{type(model).__name__} has no auxiliary loss of its own (DeepSeek-V3 and its kin keep the load even by a "
        "bias on the scores that experts are chosen by)"
    )
