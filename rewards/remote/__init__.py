"""Rewards judged on other machines: a reward service behind HTTP, and what spreads work over several of them.

`wire` is what travels, `identity` what both sides must have in common, `server` judges, `client` asks one server and
`spread` many. A server judges by the rewards of its own recipe alone: what it is sent are completions and rows, never
code that it would run as a reward. The programs in completions run in its sandbox, as they do at home.
"""
