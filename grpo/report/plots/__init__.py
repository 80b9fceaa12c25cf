"""Plots of run folders: ``curves`` are their numbers, ``figure`` draws them with matplotlib, ``plot`` is for users."""
