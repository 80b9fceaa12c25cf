"""What a run takes: seconds of clock, processors and devices, tokens, energy; and at a price, money.

``meter`` measures inside a run and writes ``costs.jsonl``, ``processor`` and ``energy`` ask the system, ``book`` reads
the file back as one account over all attempts, ``price`` makes money of hours, ``table`` is what ``grpo cost`` prints.
Torch is not imported.
"""

from __future__ import annotations
