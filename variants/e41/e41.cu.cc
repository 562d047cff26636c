// h[t] = tanh(wx[t] + W h[t-1]), y[t] = h[t] silu(h[t]): equations 2 and 3 of README.md; wx = d_x u + b.
#include <elman/families/dense_recurrence.cuh>

#include "elman_args.h"

namespace e41 {
struct Step : elman::dense::Tanh, elman::dense::SelfGate {};
}  // namespace e41

ELMAN_FORWARD(a) { return elman::dense::forward<e41::Step, args::Constant>("e41_forward", a); }
ELMAN_BACKWARD(a) { return elman::dense::backward<e41::Step, args::Constant>("e41_backward", a); }
