// h[t] = tanh(wx[t] + W h[t-1]), y[t] = h[t], for rows that are slots of sequences: equation 2 of README.md; wx and the sum over slots are
// torch's.
#include <elman/families/dense_recurrence.cuh>

#include "elman_args.h"

namespace e2 {
struct Step : elman::dense::Tanh, elman::dense::Plain {};
}  // namespace e2

ELMAN_FORWARD(a) { return elman::dense::forward<e2::Step, args::Constant>("e2_forward", a); }
ELMAN_BACKWARD(a) { return elman::dense::backward<e2::Step, args::Constant>("e2_backward", a); }
