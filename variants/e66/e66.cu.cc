// Equations 1 and 2 of README.md: h = alpha h' + (1 - alpha) u with u = tanh(wx[0] + U (V h')), alpha = sigmoid(wx[1]); wx is a torch product.
#include <elman/families/gated_recurrence.cuh>

#include "elman_args.h"

namespace e66 {
struct Cell : elman::dense::Blend, elman::dense::SelfGate {};
}  // namespace e66

ELMAN_FORWARD(a) { return elman::dense::forward_cell<e66::Cell, args::Constant>("e66_forward", a); }
ELMAN_BACKWARD(a) { return elman::dense::backward_cell<e66::Cell, args::Constant>("e66_backward", a); }
