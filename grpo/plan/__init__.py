"""What a step would take on other hardware, on paper: bytes and operations by phase, from a recipe and a configuration.

`shape` counts a model's numbers, `device` holds data sheets, `assumed` what they do not say; `sampling`, `update` and
`exchange` turn them into seconds, `step` adds them up, `scaling` repeats that for many numbers of GPUs, and `words`
prints it. Nothing is measured here and no weights are read; docs/plan.md says how far predictions were off where they
could be compared.
"""
