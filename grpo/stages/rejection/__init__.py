"""Rejection sampling, piece by piece: candidates, the filters, the choice among what passes, and what is written.

`candidates` are completions with their verdicts, freshly sampled or ``stored`` by earlier runs; ``filters`` and
``diversity`` say what becomes of each; ``rows`` makes the rows of the files, ``tokens`` checks that they train what was
sampled, ``progress`` keeps what a resumed run needs. The run itself is ``grpo.stages.reject``.
"""
