"""One run: how it is set up, and everything it records, saves and restores.

`setup` builds data, policy, engine and scorer for every command; `storage` keeps the run folder, `checkpoint`,
`tensor_file` and `async_writer` the checkpoints, `state` and `fingerprint` what goes into one; `log`, `metrics`,
`accuracy`, `ledger`, `console` and `summary` say what happened. The loop itself is ``grpo.train``.
"""
