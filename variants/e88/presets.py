"""The published names of E88 configurations, each with the options it pins. Tags may follow: E88f_h32n16.

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

PRESETS: dict[str, dict] = {
    # One option each; everything else keeps its default.
    "E88s": {"expansion": 1.0},
    "E88t": {"tie_kv": True, "expansion": 1.0},
    # Families: heads and state width follow as tags.
    "E88_": STRIPPED,
    "E88c_": GATED,
    "E88d_": STRIPPED | {"n_state": 32},
    "E88e_": STRIPPED | {"n_state": 32},
    "E88f_": STRIPPED,
    "E88g_": STRIPPED,
    # Round a: one change to the full shell.
    "E88a_noconv": SHELL | H16 | {"use_conv": False},
    "E88a_linear": SHELL | H16 | {"linear_state": True},
    "E88a_nogate": STRIPPED | H16 | {"use_conv": True, "use_output_norm": True},
    "E88a_simpledecay": SHELL | H16 | {"decay": "simple"},
    "E88a_minimal": STRIPPED | H16,
    # Round b: one change to the shell without convolution.
    "E88b_nosilu": SHELL_B | H16 | {"use_silu": False},
    "E88b_nol2": SHELL_B | H16 | {"use_l2_norm": False},
    "E88b_nonorm": GATED | H16,
    # Rounds c, d, e: on the stripped layer.
    "E88c_nogate": STRIPPED | H16,
    "E88d_tiekv": STRIPPED | H16 | {"tie_kv": True},
    "E88d_linear": STRIPPED | H16 | {"linear_state": True},
    "E88d_simpledecay": STRIPPED | H16 | {"decay": "simple"},
    "E88e_h8_75m": STRIPPED | H8,
    # Round h: how heads are mixed.
    "E88h_concat": STRIPPED | H8,
    "E88h_wsum": STRIPPED | H8 | {"head_mix": "weighted_sum"},
    "E88h_perhead": STRIPPED | H8 | {"head_mix": "per_head"},
    "E88h_inputw": STRIPPED | H8 | {"head_mix": "input_weighted"},
    "E88h_sum": STRIPPED | H8 | {"head_mix": "sum"},
    # Balanced layers of 56 heads.
    "E88_gated_sigmoid": GATED | H56,
    "E88_gated_silu": GATED | H56 | {"gate_activation": "silu"},
    "E88_conv_silu": GATED | H56 | {"gate_activation": "silu", "use_conv": True},
    "E88_full_fla": GATED | H56 | {"gate_activation": "silu", "use_conv": True, "use_output_norm": True},
    # Heads for a budget, at n=32; only the ends of the range have a published pair of name and heads.
    "E88_100M": STRIPPED | {"n_heads": 32, "n_state": 32},
    "E88_1B": STRIPPED | {"n_heads": 80, "n_state": 32},
    # Label of a published row, E88b_nonorm in the configuration that was run.
    "E88_h16n32_gate": GATED | H16,
}
