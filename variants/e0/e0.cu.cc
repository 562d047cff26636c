// h[t] = tanh(wx[t] + W h[t-1]) and, by GATE, y[t] = h[t], h[t] silu(q[t]) or h[t] silu(h[t] + q[t]): equations 2 and 3 of README.md;
// wx = W_x u + b and q are made by torch.
#include <elman/families/dense_recurrence.cuh>

#include "elman_args.h"

namespace e0 {
template <int GATE> struct Readout;
template <> struct Readout<0> : elman::dense::Plain {};
template <> struct Readout<1> : elman::dense::SiluGate {};
template <> struct Readout<2> : elman::dense::SumGate {};
struct Step : elman::dense::Tanh, Readout<args::Constant::GATE> {};
}  // namespace e0

ELMAN_FORWARD(a) { return elman::dense::forward<e0::Step, args::Constant>("e0_forward", a, a.q); }
ELMAN_BACKWARD(a) { return elman::dense::backward<e0::Step, args::Constant>("e0_backward", a, a.q, a.d_q); }
