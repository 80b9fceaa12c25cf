#!/bin/sh
# vLLM on a CPU starts a model whose heads its attention cannot compute, says that it is well, and dies at the first request.
#
# Guess: a model with heads of 16 dimensions is refused when the engine is made: get_supported_head_sizes of the CPU's
# attention has 32 and more, and other devices' attention is chosen by that list. On a CPU nothing compares: the engine
# loads and gives its cache sizes, a server's /health says 200, and the first request ends the engine.
#
# Seen:
#     @@
set -eu
