#pragma once
// Recurrences with one matrix state S [M value rows x N key columns] per (batch, head): T dependent steps in one launch.
//
//   S[t] = step(S[t-1]; k[t], rows[t], scalars[t]),   y[t] = S[t] q[t],   o[t] = output(y[t])
//
// * A block holds a few states in the registers of its consumer threads: a lane holds R rows x C columns (Tile). A state takes
//   whole warps, or several small ones share a warp. Rows are independent given the key, so sums over keys are shuffles within a
//   row's lanes; sums over rows occur in the backward pass only.
// * Time runs in chunks, one stage each, with one barrier a stage. Producer threads, in teams of two, eight or sixteen, turn the
//   raw inputs of the next chunk into records in shared memory (activation, norm, decay) while the consumers step the
//   present one, and write the results of the one before. No thread waits for another but at that barrier.
// * Forward keeps S before every K steps (`slots`), whatever the tile. Backward, from the last chunk to the first, replays a
//   chunk once from its slot, keeps its K states, and walks them back. No float atomics, every sum in a fixed order.
// * Step::every: forward keeps S before every step, and `kept` [B, T, H M]; backward reads them, and replays nothing.
//
// A variant supplies `Step` (members below, all static) and args with: B, T, H, s0, y, s_last, slots, d_y, d_s_last, d_s0;
// `readout` [B, T, H M] of accumulators where needs_readout; and in Backward history and partial, both null unless
// Step::global_history.
//   Scalar, N, M, K      storage type; keys and values of a state; steps between two slots
//   Team, EM             matrix_state::Team<N, M, packed>; how many of M values each of its lanes has
//   rows, scalars        vectors of length M and numbers in a record besides q and k; all rows and the first read_scalars numbers
//                        reach `forward`; all rows and the first grad_scalars numbers get a gradient
//   columns              further vectors of length N in a record, if any, which reach `forward` and get a gradient
//   spread               few states: more lanes for each, one state a block
//   packed               many small states: several share a warp
//   needs_readout        the backward pass needs y, which forward then keeps
//   every                if any, whether every state is kept
//   Raw, load            a team's part of the raw vectors of a step, and reading them
//   RawScalars, load_scalars   the raw numbers of a step, and reading them
//   prepare, prepare_scalars   the vectors of a record, by a team; its scalars, by one thread for each step
//   forward, slope, backward   one lane's part of the step; the derivative of its nonlinearity, and the rest of its derivative; or,
//                        without slope, all of its derivative from the states before and after
//   output, output_backward   what follows the readout, for a team's part of it, and its derivative
//   Sums, finish, finish_scalars, store_sums  gradients of the raw inputs from those of the record; sums over time, and
//                        their store
#include <elman/families/matrix_state/backward.cuh>
#include <elman/families/matrix_state/forward.cuh>

namespace elman::matrix_state {
template <class Plan, class Args>
Status launch_pass(void (*kernel)(Args), const char* name, const Args& a, unsigned shared_bytes) {
  if (a.B * a.T * a.H > INT32_MAX) return refuse("%s: more than 2^31 steps of all heads and batch rows in one call", name);
  return launch(kernel, name, ceil_div<int64_t>(a.B * a.H, Plan::heads), Plan::threads, shared_bytes, a.stream, a);
}
template <class Step, class Args> Status forward(const Args& a, const char* name) {
  return launch_pass<Plan<Step, false>>(forward_kernel<Step, Args>, name, a, ForwardShared<Step>().carve.bytes);
}
template <class Step, class Args> Status backward(const Args& a, const char* name) {
  return launch_pass<Plan<Step, true>>(backward_kernel<Step, Args>, name, a, BackwardShared<Step>().carve.bytes);
}
}  // namespace elman::matrix_state
