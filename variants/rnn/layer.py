"""The RNN layer: project in, run the tanh cell over time, project out.

Under autocast the cell runs in the autocast dtype, its weights cast at each step (elmanctl/cudnn.py says why).
"""

from torch import nn

from elmanctl.cudnn import CellLayer


class Layer(CellLayer):
    """y = W_out RNN(W_in x)."""

    cell_class, function = nn.RNN, "rnn_tanh"
