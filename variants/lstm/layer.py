"""The LSTM layer: project in, run the cell over time, project out.

Under autocast the cell runs in the autocast dtype, its weights cast at each step (elmanctl/cudnn.py says why).
"""

from torch import nn

from elmanctl.cudnn import CellLayer


class Layer(CellLayer):
    """y = W_out LSTM(W_in x)."""

    cell_class, function, gates = nn.LSTM, "lstm", 4
    states = ("h", "c")

    def reset_parameters(self) -> None:
        """Draw the parameters as others do, but for the forget gate's bias, which is 1: gates that start open let gradients through time."""
        super().reset_parameters()
        # Rows are the input, forget, cell and output gates. The two biases add up, so one of them carries the 1.
        nn.init.ones_(self.cell.bias_ih_l0.detach().chunk(self.gates)[1])
