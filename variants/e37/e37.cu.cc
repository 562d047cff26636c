// h[t] = tanh(wx[t] + W h[t-1]), y[t] = h[t] silu(h[t]): equations 2 and 3 of README.md; wx = W' u + b is a torch product.
#include <elman/families/dense_recurrence.cuh>

#include "elman_args.h"

namespace e37 {
struct Step : elman::dense::Tanh, elman::dense::SelfGate {};
}  // namespace e37

ELMAN_FORWARD(a) { return elman::dense::forward<e37::Step, args::Constant>("e37_forward", a); }
ELMAN_BACKWARD(a) { return elman::dense::backward<e37::Step, args::Constant>("e37_backward", a); }
