"""Prompts become groups: engines that sample, behind one interface."""
