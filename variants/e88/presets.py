"""The published names of E88 configurations, each with the options it pins. Tags may follow: E88f_h32n16.

* The heads are these suffixes after the variant's name.
* STRIPPED and SHELL are the two bases of the ablation rounds; README.md says which names have no meaning here, and why.
"""

STRIPPED = {
    "expansion": 1.0,
    "use_conv": False,
    "use_silu": True,
    "use_l2_norm": True,
    "decay": "mamba",
    "use_write_gate": False,
    "linear_state": False,
    "use_value_residual": False,
    "use_output_norm": False,
    "use_gate": False,
    "tie_kv": False,
    "head_mix": "concat",
}
GATED = STRIPPED | {"use_gate": True, "gate_activation": "sigmoid"}
# The full layer of the first rounds: convolution, norm and sigmoid gate.
SHELL = GATED | {"use_conv": True, "use_output_norm": True}
# The second round starts from the first one's best: no convolution.
SHELL_B = GATED | {"use_output_norm": True}

H16 = {"n_heads": 16, "n_state": 32}
H8 = {"n_heads": 8, "n_state": 32}
H56 = {"n_heads": 56, "n_state": 32}

SUFFIXES: dict[str, dict] = {
    # One option each; everything else keeps its default.
    "s": {"expansion": 1.0},
    "t": {"tie_kv": True, "expansion": 1.0},
    # Families: heads and state width follow as tags.
    "_": STRIPPED,
    "c_": GATED,
    "d_": STRIPPED | {"n_state": 32},
    "e_": STRIPPED | {"n_state": 32},
    "f_": STRIPPED,
    "g_": STRIPPED,
    # Round a: one change to the full shell.
    "a_noconv": SHELL | H16 | {"use_conv": False},
    "a_linear": SHELL | H16 | {"linear_state": True},
    "a_nogate": STRIPPED | H16 | {"use_conv": True, "use_output_norm": True},
    "a_simpledecay": SHELL | H16 | {"decay": "simple"},
    "a_minimal": STRIPPED | H16,
    # Round b: one change to the shell without convolution.
    "b_nosilu": SHELL_B | H16 | {"use_silu": False},
    "b_nol2": SHELL_B | H16 | {"use_l2_norm": False},
    "b_nonorm": GATED | H16,
    # Rounds c, d, e: on the stripped layer.
    "c_nogate": STRIPPED | H16,
    "d_tiekv": STRIPPED | H16 | {"tie_kv": True},
    "d_linear": STRIPPED | H16 | {"linear_state": True},
    "d_simpledecay": STRIPPED | H16 | {"decay": "simple"},
    "e_h8_75m": STRIPPED | H8,
    # Round h: how heads are mixed.
    "h_concat": STRIPPED | H8,
    "h_wsum": STRIPPED | H8 | {"head_mix": "weighted_sum"},
    "h_perhead": STRIPPED | H8 | {"head_mix": "per_head"},
    "h_inputw": STRIPPED | H8 | {"head_mix": "input_weighted"},
    "h_sum": STRIPPED | H8 | {"head_mix": "sum"},
    # Balanced layers of 56 heads.
    "_gated_sigmoid": GATED | H56,
    "_gated_silu": GATED | H56 | {"gate_activation": "silu"},
    "_conv_silu": GATED | H56 | {"gate_activation": "silu", "use_conv": True},
    "_full_fla": GATED | H56 | {"gate_activation": "silu", "use_conv": True, "use_output_norm": True},
    # Heads for a budget, at n=32; only the ends of the range have a published pair of name and heads.
    "_100M": STRIPPED | {"n_heads": 32, "n_state": 32},
    "_1B": STRIPPED | {"n_heads": 80, "n_state": 32},
    # Label of a published row, E88b_nonorm in the configuration that was run.
    "_h16n32_gate": GATED | H16,
}

PRESETS = {f"E88{suffix}": pinned for suffix, pinned in SUFFIXES.items()}
