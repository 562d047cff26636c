"""Tensors of the E63 kernel: h[t] from alpha, beta and u = tanh(wx + W h[t-1]); in form c the gates have rows of W too."""

from elmanctl.families import gated

FORMS = "abcd"

kernel = gated.kernel(
    __package__,
    inputs="INPUTS",
    kept="KEPT",
    sums="SUMS",
    division=gated.square("SUMS", width=1024),
    constants={
        "FORM": "0 to 3 for the forms a to d",
        "INPUTS": "pre-activations of a channel: u, alpha and in forms b and c beta",
        "SUMS": "how many of them have a row of W",
        "KEPT": "values of a channel that are kept: h, u and in form c both gates",
    },
)


def constants(config) -> dict[str, int]:
    """Return the compile-time constants of a Config."""
    form, both = FORMS.index(config.form), config.form in "bc"
    own = {
        "FORM": form,
        "INPUTS": 2 + both,
        "SUMS": 3 if config.form == "c" else 1,
        "KEPT": 4 if config.form == "c" else 2,
    }
    return gated.constants(config) | own
