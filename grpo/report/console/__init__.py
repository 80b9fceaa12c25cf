"""What a person sees of a run while it runs: in a terminal, in a notebook, in a file, from another process.

`console.Console` is what a run talks to. It hands lines to a display (``screen``, ``page``, ``display``), which only
knows where they appear, and keeps a live area up to date in a thread of its own. Nothing here imports torch, so that
the first line is on the screen before it is loaded.
"""
