// h[t] = wx[t] + W h[t-1], y[t] = h[t] silu(h[t]): equations 2 and 3 of README.md; wx = W x + b is a torch product.
#include <elman/families/dense_recurrence.cuh>

#include "elman_args.h"

namespace e42 {
struct Step : elman::dense::Linear, elman::dense::SelfGate {};
}  // namespace e42

ELMAN_FORWARD(a) { return elman::dense::forward<e42::Step, args::Constant>("e42_forward", a); }
ELMAN_BACKWARD(a) { return elman::dense::backward<e42::Step, args::Constant>("e42_backward", a); }
