"""How objects look in a notebook: plain values become small pieces of HTML, text always escaped.

``markup`` makes elements and small drawings, ``cards`` what each object shows. Nothing here knows the objects
themselves: they hand over plain values. Plots of a run are in ``grpo.report.plots``.
"""
