"""The GRU layer: project in, run the cell over time, project out.

Under autocast the cell runs in the autocast dtype, its weights cast at each step (elmanctl/cudnn.py says why).
"""

from torch import nn

from elmanctl.cudnn import CellLayer


class Layer(CellLayer):
    """y = W_out GRU(W_in x)."""

    cell_class, function, gates = nn.GRU, "gru", 3
