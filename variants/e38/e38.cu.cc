// h[t] = tanh(wx[t] + W h[t-1]), y[t] = h[t] silu(h[t]): equations 2 and 3 of README.md; wx = u + b.
#include <elman/families/dense_recurrence.cuh>

#include "elman_args.h"

namespace e38 {
struct Step : elman::dense::Tanh, elman::dense::SelfGate {};
}  // namespace e38

ELMAN_FORWARD(a) { return elman::dense::forward<e38::Step, args::Constant>("e38_forward", a); }
ELMAN_BACKWARD(a) { return elman::dense::backward<e38::Step, args::Constant>("e38_backward", a); }
