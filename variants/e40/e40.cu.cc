// h[t] = tanh(wx[t] + W h[t-1]), y[t] = h[t] silu(h[t]): equations 2 and 3 of README.md; wx = u + b.
#include <elman/families/dense_recurrence.cuh>

#include "elman_args.h"

namespace e40 {
struct Step : elman::dense::Tanh, elman::dense::SelfGate {};
}  // namespace e40

ELMAN_FORWARD(a) { return elman::dense::forward<e40::Step, args::Constant>("e40_forward", a); }
ELMAN_BACKWARD(a) { return elman::dense::backward<e40::Step, args::Constant>("e40_backward", a); }
