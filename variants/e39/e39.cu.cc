// h[t] = tanh(wx[t] + W h[t-1]), y[t] = h[t] silu(h[t]): equations 2 and 3 of README.md; wx = u.
#include <elman/families/dense_recurrence.cuh>

#include "elman_args.h"

namespace e39 {
struct Step : elman::dense::Tanh, elman::dense::SelfGate {};
}  // namespace e39

ELMAN_FORWARD(a) { return elman::dense::forward<e39::Step, args::Constant>("e39_forward", a); }
ELMAN_BACKWARD(a) { return elman::dense::backward<e39::Step, args::Constant>("e39_backward", a); }
