"""Decode attention and the sampler in C++ for CPUs, compiled at first use if there is a compiler.

``kernels.cpp`` holds the functions, ``build`` compiles them once per machine ($CXX, g++ or clang++, a few seconds), and
``ops`` loads, checks and calls them. Where one of these fails, torch's own operations do the work, slower, and
`grpo.kernels.cpu.ops.reason` says why.
"""
