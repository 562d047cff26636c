"""A suite's text, from which tests make others by replacing a part."""

GOOD = """
description: a test
params: 300K
depth: 2
align: 16
tolerance: 20%
training: {batch: 4, lr: 3e-4, betas: [0.9, 9.5e-1]}
budget: {tokens: 5000}
rows:
  - {model: gru}
  - {label: second, model: lstm, options: {expansion: 1}, dim: 64, depth: 3}
"""
