#pragma once
// Steps of <elman/families/matrix_state.cuh> whose rows meet within a step: it needs a number of the whole state, as its norm.
// Such a Step says `coupled = true` and calls state_sums. A block then holds one state, and all its threads prepare, step and
// finish together, so that they can wait for each other inside a step: twice for each call.
#include <elman/families/matrix_state.cuh>

namespace elman::matrix_state {
template <class Step>
concept Coupled = requires { requires Step::coupled; };

template <class Step, bool BACKWARD>
  requires Coupled<Step>
struct Plan<Step, BACKWARD> {
  static constexpr bool backward = BACKWARD;
  static constexpr int N = Step::N, M = Step::M;
  static constexpr Shape shape = choose(N, M, BACKWARD, false);
  using Tile = matrix_state::Tile<N, M, shape.R, shape.C>;
  static constexpr bool split = false, apart = false, joint = false, ahead = false, turned = false, staged = false;
  static constexpr int heads = 1, consumers = Tile::lanes, producers = consumers, threads = consumers;
  static constexpr int chunk = Step::K, items = chunk, together = 32 / Step::Team::width;
  static_assert(Step::K % together == 0, "the teams of a warp must all have a step, since they shuffle together");
  ELMAN_FN static void end_stage() { sync_block(); }
  static constexpr int teams = producers / Step::Team::width, passes = ceil_div(items, teams);
  static constexpr bool even = passes * teams == items;
  static_assert(items <= producers);
  static constexpr int unrolled = 1, share = 2;
};

// A pass's shared memory, and room for the warps' parts of up to two sums after it.
template <class Step, bool BACKWARD> struct CoupledShared {
  static constexpr int most = 2;
  using Tile = typename Plan<Step, BACKWARD>::Tile;
  static ELMAN_BOTH Carve pass() {
    if constexpr (BACKWARD) return BackwardShared<Step>().carve;
    else return ForwardShared<Step>().carve;
  }
  Carve carve = pass();
  unsigned part = carve.take<Acc<typename Step::Scalar>>(most * Tile::warps);
};

// Sum each of x over all lanes of a state; the same bits in each of them. All its threads call it together.
template <class Step, class Plan, class A, int COUNT> ELMAN_FN void state_sums(const Lane<Step, Plan>&, A (&x)[COUNT]) {
  using Shared = CoupledShared<Step, Plan::backward>;
  constexpr int warps = Plan::Tile::warps;
  static_assert(COUNT <= Shared::most);
#pragma unroll
  for (int i = 0; i < COUNT; ++i) x[i] = warp_sum(x[i]);
  if constexpr (warps > 1) {
    A* parts = shared<A>(Shared().part, Shared::most * warps);
    if (lane() == 0)
      for (int i = 0; i < COUNT; ++i) parts[i * warps + warp()] = x[i];
    sync_block();
    for (int i = 0; i < COUNT; ++i) {
      x[i] = parts[i * warps];
      for (int w = 1; w < warps; ++w) x[i] += parts[i * warps + w];
    }
    sync_block();  // before the next call writes there
  }
}

// As forward and backward of the family, for any Step.
template <class Step, class Args> Status any_forward(const Args& a, const char* name) {
  if constexpr (Coupled<Step>)
    return launch_pass<Plan<Step, false>>(forward_kernel<Step, Args>, name, a, CoupledShared<Step, false>().carve.bytes);
  else return forward<Step>(a, name);
}
template <class Step, class Args> Status any_backward(const Args& a, const char* name) {
  if constexpr (Coupled<Step>)
    return launch_pass<Plan<Step, true>>(backward_kernel<Step, Args>, name, a, CoupledShared<Step, true>().carve.bytes);
  else return backward<Step>(a, name);
}
}  // namespace elman::matrix_state
