"""Recipes: from files on a disk to trained weights and a report, as a paper's experiments go.

A recipe stands above models, data, training loop and metrics, and only puts them together. `vtrlib.recipes.discovla`
trains on MSR-VTT or any other videos with captions; `python -m vtrlib discovla` is its way in from a shell.

Importing this room loads nothing.
"""
