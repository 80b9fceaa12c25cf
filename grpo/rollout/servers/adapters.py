"""How a server's adapters follow the policy's, whatever the server is: each version has a name of its own."""

from __future__ import annotations

from typing import Callable, Iterator, Sequence

from grpo.rollout.servers.server import PREFIX


def swap(
    name: str,
    present: Sequence[str],
    *,
    load: Callable[[], object],
    unload: Callable[[str], object],
) -> None:
    """Let a server with the adapters `present` have `name` and no other version; `load` gives it `name`."""
    earlier = [one for one in present if one.startswith(PREFIX)]
    if name not in earlier:
        load()
    for other in earlier:
        if other != name:
            unload(other)


def of_earlier_runs(whole: str) -> Iterator[str]:
    """What is wrong with `whole`, the name of the weights below an adapter: those of the start are meant."""
    if whole.startswith(PREFIX):
        yield (
            f"was given whole weights by another run ({whole}), so that an adapter would not sit on the "
            "recipe's model; start it anew"
        )
