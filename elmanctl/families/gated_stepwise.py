"""The gated recurrences with products of torch (cuBLAS) in each step in place of the compiled kernel: the second, verified mode of stepwise.py."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from elmanctl.families.gated_reference import Cell, split
from elmanctl.stepwise import product


@dataclass(frozen=True)
class Stepwise:
    """Forward and backward pass of a cell, with the results, saved tensors and rounding points of its kernel.

    Args:
        cell: the elementwise part.
        readout, readout_slopes: y from h and gates, and its slopes by each.
        gates: names of the readout's inputs.
    """

    cell: Cell
    readout: object
    readout_slopes: object
    gates: tuple[str, ...] = ()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return outputs and saved tensors, as launch.run_forward does."""
        cell, wx, h = self.cell, inputs["wx"], inputs["h0"]
        state, hs, kept, ms = inputs["s0"] if cell.local else h, [], [], []
        for t in range(wx.shape[1]):
            pre = list(split(wx[:, t].to(h.dtype), cell.inputs))
            if "V" in inputs:
                ms.append(product(h.to(wx.dtype), inputs["V"].mT).to(wx.dtype))
                totals = product(ms[-1], inputs["U"].mT)
            else:
                totals = product(h.to(wx.dtype), inputs["W"].mT)
            for i, total in enumerate(split(totals, cell.sums)):
                pre[i] = pre[i] + total
            h, state, values = cell.step(pre, state)
            hs.append(h)
            kept.append(torch.cat(list(values), -1))
        y = self.readout(torch.stack(hs, 1), *(inputs[g].to(h.dtype) for g in self.gates)).to(wx.dtype)
        found = {"y": y, "h_last": h.clone(), "kept": torch.stack(kept, 1)}
        found |= {"s_last": state.clone()} if cell.local else {}
        return found | ({"m": torch.stack(ms, 1)} if ms else {})

    def backward(self, tensors: Mapping[str, Tensor], upstream: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors that the kernel's backward pass writes."""
        cell, wx, h0 = self.cell, tensors["wx"], tensors["h0"]
        T, D = wx.shape[1], h0.shape[1]
        kept = tensors["kept"].split(D, -1)
        first = tensors["s0"] if cell.local else h0
        former_state = torch.cat([first[:, None], kept[0][:, :-1]], 1)
        h = cell.output(kept)
        gates = [tensors[g].to(h.dtype) for g in self.gates]
        read = [upstream["d_y"].to(h.dtype) * slope for slope in self.readout_slopes(h, *gates)]
        slopes = cell.slopes(split(wx.to(h.dtype), cell.inputs), kept, former_state)
        d_h, carry = upstream["d_h_last"], upstream["d_s_last"] if cell.local else torch.zeros_like(h0)
        d_wx, d_m = torch.empty_like(wx), torch.empty_like(tensors["m"]) if "m" in tensors else None
        for t in reversed(range(T)):
            d_pre, carry = cell.back([s[:, t] for s in slopes], read[0][:, t] + d_h, carry)
            d_wx[:, t] = torch.cat(list(d_pre), -1)
            rounded = d_wx[:, t, : cell.sums * D]
            if d_m is None:
                d_h = product(rounded, tensors["W"])
            else:
                d_m[:, t] = product(rounded, tensors["U"])
                d_h = product(d_m[:, t], tensors["V"])
        found = {"d_wx": d_wx, "former": torch.cat([h0[:, None], h[:, :-1]], 1).to(wx.dtype)}
        found |= {"d_h0": d_h, "d_s0": carry} if cell.local else {"d_h0": d_h + carry}
        found |= {f"d_{g}": d.to(wx.dtype) for g, d in zip(self.gates, read[1:], strict=True)}
        return found | ({} if d_m is None else {"d_m": d_m})
