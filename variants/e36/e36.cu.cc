// h[t] = wx[t] + W h[t-1], y[t] = h[t] silu(h[t]): equations 2 and 3 of README.md; wx = W_x u + b is a torch product.
#include <elman/families/dense_recurrence.cuh>

#include "elman_args.h"

namespace e36 {
struct Step : elman::dense::Linear, elman::dense::SelfGate {};
}  // namespace e36

ELMAN_FORWARD(a) { return elman::dense::forward<e36::Step, args::Constant>("e36_forward", a); }
ELMAN_BACKWARD(a) { return elman::dense::backward<e36::Step, args::Constant>("e36_backward", a); }
