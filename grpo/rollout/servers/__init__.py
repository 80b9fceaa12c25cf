"""Completions by inference servers: the weights go to them over files, tokens and log-probs come back over HTTP.

``decoder`` is the interface, a `grpo.rollout.decoder.Decoder`; ``fleet`` holds the servers of a process, ``vllm``
speaks to one, ``handshake`` says what it must be. No server's package is imported. Import the modules directly.
"""
