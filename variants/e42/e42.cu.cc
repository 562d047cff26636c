// h[t] = W (x[t] + h[t-1]) + b, y[t] = h[t] silu(h[t]), x = silu(u): equations 2 and 3 of README.md.
#include <elman/families/tied_recurrence.cuh>

#include "elman_args.h"

namespace e42 {
struct Step : elman::dense::Linear, elman::dense::SelfGate {};
}  // namespace e42

ELMAN_FORWARD(a) { return elman::tied::forward<e42::Step, args::Constant>("e42_forward", a); }
ELMAN_BACKWARD(a) { return elman::tied::backward<e42::Step, args::Constant>("e42_backward", a); }
