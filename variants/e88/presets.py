"""The published names of E88 configurations, each with the options it pins. Tags may follow: E88f_h32n16.

* The heads are these suffixes after the variant's name.
* STRIPPED and SHELL are the two bases of the ablation rounds; README.md says what each name stands for.
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
# The shell of gated delta networks, with their gate.
FLA = SHELL | {"gate_activation": "silu"}


def heads(count: int, n_state: int = 32) -> dict:
    """Return the sizes of a layer."""
    return {"n_heads": count, "n_state": n_state}


H8, H16, H56 = heads(8), heads(16), heads(56)
# Heads of n=32 for a model of this size.
BUDGETS = {"100M": 32, "200M": 40, "300M": 48, "500M": 64, "750M": 72, "1B": 80}
# State widths compared at 2048 keys of all heads.
WIDTHS = {16: 128, 24: 85, 32: 64, 40: 51, 48: 42}
# As many keys as the model is wide: E88_dim1792 has 56 heads of 32.
DIMS = range(1536, 3073, 256)
# Heads of the balanced layers, whose state width follows as a tag: E88_b56n32.
BALANCED = (28, 32, 40, 44, 56, 60, 64)

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
    "h_": STRIPPED,
    # Round a: changes to the full shell.
    "a_noconv": SHELL | H16 | {"use_conv": False},
    "a_linear": SHELL | H16 | {"linear_state": True},
    "a_nogate": STRIPPED | H16 | {"use_conv": True, "use_output_norm": True},
    "a_simpledecay": SHELL | H16 | {"decay": "simple"},
    "a_noconv_linear": SHELL_B | H16 | {"linear_state": True},
    "a_noconv_nogate": STRIPPED | H16 | {"use_output_norm": True},
    "a_minimal": STRIPPED | H16 | {"use_output_norm": True, "decay": "simple"},
    # Round b: changes to the shell without convolution.
    "b_nosilu": SHELL_B | H16 | {"use_silu": False},
    "b_nol2": SHELL_B | H16 | {"use_l2_norm": False},
    "b_nosilu_nol2": SHELL_B | H16 | {"use_silu": False, "use_l2_norm": False},
    "b_nonorm": GATED | H16,
    "b_nogate_nonorm": STRIPPED | H16,
    # Round c: changes to b_nonorm. Rounds d and e: changes to the stripped layer.
    "c_nogate": STRIPPED | H16,
    "c_simpledecay": GATED | H16 | {"decay": "simple"},
    "d_tiekv": STRIPPED | H16 | {"tie_kv": True},
    "d_linear": STRIPPED | H16 | {"linear_state": True},
    "d_simpledecay": STRIPPED | H16 | {"decay": "simple"},
    "d_tiekv_linear": STRIPPED | H16 | {"tie_kv": True, "linear_state": True},
    "e_h8_75m": STRIPPED | H8,
    "e_h10_75m": STRIPPED | heads(10),
    "e_h12_75m": STRIPPED | heads(12),
    "e_h16_48m": STRIPPED | H16,
    "e_h12_linear": STRIPPED | heads(12) | {"linear_state": True},
    # Round h: how heads are mixed.
    "h_concat": STRIPPED | H8,
    "h_wsum": STRIPPED | H8 | {"head_mix": "weighted_sum"},
    "h_perhead": STRIPPED | H8 | {"head_mix": "per_head"},
    "h_inputw": STRIPPED | H8 | {"head_mix": "input_weighted"},
    "h_sum": STRIPPED | H8 | {"head_mix": "sum"},
    # Sizes.
    **{f"_b{count}": STRIPPED | {"n_heads": count} for count in BALANCED},
    **{f"_dim{dim}": STRIPPED | heads(dim // 32) for dim in DIMS},
    **{f"_n{width}": STRIPPED | heads(count, width) for width, count in WIDTHS.items()},
    **{f"_{budget}": STRIPPED | heads(count) for budget, count in BUDGETS.items()},
    "_h8n32_500m": STRIPPED | H8,
    "_h8n64_500m": STRIPPED | heads(8, 64),
    "_h8n48_scaled": STRIPPED | heads(8, 48),
    "_h8n56_scaled": STRIPPED | heads(8, 56),
    # Balanced layers of 56 heads. The last two are one: both have the norm.
    "_gated_sigmoid": GATED | H56,
    "_gated_silu": GATED | H56 | {"gate_activation": "silu"},
    "_conv_silu": FLA | H56,
    "_full_fla": FLA | H56,
    # Label of a published row, E88b_nonorm in the configuration that was run.
    "_h16n32_gate": GATED | H16,
}

PRESETS = {f"E88{suffix}": pinned for suffix, pinned in SUFFIXES.items()}
