// Kernels with one mistake each, chosen by `which`, and right ones;
// tests/test_host_backend.py and test_host_flavours.py assert what the host says of them.
#include <elman/elman.cuh>
#include <elman/roles.cuh>

#include "elman_args.h"

namespace {
using namespace elman;
enum Mistake : int {
  none, missing_sync_block, missing_sync_warp, shuffle_as_fence, divergent_collective, divergent_barrier, returned_lanes,
  past_the_end, into_the_next, past_the_launch, forgotten_wait, misaligned_pair, other_block_unordered, wait_in_plain_launch,
  early_exit, skipped_group_barrier, bad_threads, bad_blocks, too_much_shared, local_array,
  published_twice, mark_published, never_published, words_in_plain_launch, missing_role_barrier
};

struct Layout {
  Carve c;
  unsigned a, b;
  ELMAN_BOTH Layout() : a(c.take<float>(64)), b(c.take<float>(64)) {}
};

// y[t] = x[63 - t] through shared memory, for one block of 64 threads.
ELMAN_KERNEL(64) turn_around(const float* x, float* y, int mistake) {
  const Layout at;
  float *a = shared<float>(at.a, 64), *b = shared<float>(at.b, 64);
  const unsigned t = thread_x();
  if (mistake == divergent_collective) {
    if (t % 32 < 16) y[t] = shfl(x[t], 0);
    else y[t] = shfl_xor(x[t], 1);
  }
  if (mistake == divergent_barrier) {
    if (t < 32) sync_block();
    else sync_block();
  }
  if (mistake == returned_lanes && t % 32 >= 16) return;
  if (mistake == past_the_launch) b = shared<float>(at.b, 96);
  if (mistake == misaligned_pair) y[t] = load2(x + 1).x;
  if (mistake == forgotten_wait) {
    if (t < 16) copy16_async(a + 4 * t, x + 4 * t);
    copy_commit();
  } else {
    a[t] = x[t];
  }
  b[t] = warp_sum(0.f);
  if (mistake == past_the_end && t == 0) b[64] = 1;
  if (mistake == into_the_next && t == 0) a[64] = 1;
  if (mistake == local_array) {
    float few[4] = {x[0], x[1], x[2], x[3]};
    volatile unsigned i = 4 + t;
    b[t] += few[i] - few[i];
  }
  if (mistake != missing_sync_block) sync_block();
  y[t] = a[63 - t] + b[63 - t];
}

// Neighbours within a warp, one warp.
ELMAN_KERNEL(32) neighbours(const float* x, float* y, int mistake) {
  const Layout at;
  float* a = shared<float>(at.a, 64);
  const unsigned t = thread_x();
  a[t] = x[t];
  if (mistake == shuffle_as_fence) y[t] = shfl(x[t], 0);
  else if (mistake != missing_sync_warp) sync_warp();
  y[t] = a[t ^ 1];
}

// Two blocks hand values to each other through global memory: y[64 b + t] = y0 of the other block, 2 x.
ELMAN_KERNEL(64) exchange_blocks(const float* x, float* y, unsigned* counter, int mistake) {
  GroupBarrier barrier{counter, blocks_x()};
  const unsigned mine = block_x() * 64 + thread_x(), other = (1 - block_x()) * 64 + thread_x();
  y[mine] = 2 * x[mine];
  if (mistake == early_exit && block_x() == 1) return;
  if (mistake != other_block_unordered && mistake != skipped_group_barrier) barrier.wait();
  const float v = y[other];
  if (mistake != other_block_unordered) barrier.wait();
  y[mine] = v;
}

// Two blocks hand each other 64 values, each its own ready flag: y[64 b + t] = x of the other block.
ELMAN_KERNEL(32) pass_words(const float* x, float* y, uint32_t* words, int mistake) {
  const unsigned mine = block_x() * 64 + lane() % 16 * 4, other = (1 - block_x()) * 64 + lane() % 16 * 4;
  for (unsigned i = 0; i < 4 && lane() < 16; ++i) {
    uint32_t v = present(__builtin_bit_cast(uint32_t, x[mine + i]));
    if (mistake == mark_published && i == 2) v = ~0u;
    if (mistake == never_published && block_x() == 1 && lane() == 5) continue;
    publish_word(words + mine + i, v);
    if (mistake == published_twice) publish_word(words + mine + i, v);
  }
  Words got = load_words(words + other);
  const auto late = [&] { return got.w[0] == ~0u || got.w[1] == ~0u || got.w[2] == ~0u || got.w[3] == ~0u; };
  for (unsigned tries = 0; ballot(late());) {
    await_words(tries);
    if (late()) got = load_words(words + other);
  }
  for (unsigned i = 0; i < 4 && lane() < 16; ++i) y[mine + i] = __builtin_bit_cast(float, got.w[i]);
}

// y[t] = 2 x[63 - t] in three stages: threads 64 to 95 read x, threads 0 to 63 turn it around among themselves, threads 64 to 95 write.
ELMAN_KERNEL(96) two_roles(const float* x, float* y, int mistake) {
  using Meeting = Roles<64, 96>;
  Carve c;
  float *a = shared<float>(c.take<float>(64), 64), *b = shared<float>(c.take<float>(64), 64);
  unsigned* mark = shared<unsigned>(c.take<unsigned>(1), 1);
  const unsigned t = thread_x();
  for (int stage = 0; stage < 3; ++stage) {
    if (t >= 64) {
      for (unsigned i = t - 64; i < 64; i += 32)
        if (stage == 0) b[i] = x[i];
        else if (stage == 2) y[i] = a[i];
    } else if (stage == 1) {
      a[t] = b[t];
      if (mistake != missing_role_barrier) Meeting::meet(mark);
      const float v = a[63 - t];
      Meeting::meet(mark);
      a[t] = 2 * v;
    }
    Meeting::meet_all(mark);
  }
}

// D = A B for A[i][k] = x[(i + k) % 8], B[k][j] = x[(k * j) % 8] by one warp; y [16, 8].
ELMAN_KERNEL(32) product(const float* x, float* y) {
  const unsigned g = lane() >> 2, t = 2 * (lane() & 3);
  auto a_at = [&](unsigned i, unsigned k) { return x[(i + k) % 8]; };
  auto b_at = [&](unsigned k, unsigned j) { return x[(k * j) % 8]; };
  uint32_t a[4], b[2];
  for (unsigned r = 0; r < 4; ++r) {
    const unsigned i = g + 8 * (r & 1), k = t + 8 * (r >> 1);
    a[r] = pack(a_at(i, k), a_at(i, k + 1));
  }
  for (unsigned r = 0; r < 2; ++r) b[r] = pack(b_at(t + 8 * r, g), b_at(t + 8 * r + 1, g));
  float d[4] = {};
  mma_m16n8k16_bf16(d, a, b);
  store2(y + g * 8 + t, d[0], d[1]);
  store2(y + (g + 8) * 8 + t, d[2], d[3]);
}

// y[t] = x[t] rounded to bf16.
ELMAN_KERNEL(32) round_all(const float* x, float* y) {
  for (unsigned i = thread_x(); i < 128; i += 32) y[i] = rounded<bf16>(x[i]);
}
}  // namespace

ELMAN_FORWARD(a) {
  const int which = (int)a.WHICH;
  unsigned *counter = (unsigned*)a.counter, *words = (unsigned*)a.words;
  const size_t bytes = Layout().c.bytes;
  ELMAN_TRY(fill_async(counter, 0, sizeof(unsigned), a.stream));
  switch (which) {
    case missing_sync_warp:
    case shuffle_as_fence: return launch(neighbours, "neighbours", 1, 32, bytes, a.stream, a.x, a.y, which);
    case wait_in_plain_launch:
    case other_block_unordered: return launch(exchange_blocks, "exchange_blocks", 2, 64, 0, a.stream, a.x, a.y, counter, which);
    case early_exit:
    case skipped_group_barrier:
      return launch_cooperative(exchange_blocks, "exchange_blocks", 2, 64, 0, a.stream, a.x, a.y, counter, which);
    case bad_threads: return launch(turn_around, "turn_around", 1, 48, bytes, a.stream, a.x, a.y, which);
    case bad_blocks: return launch(turn_around, "turn_around", 0, 64, bytes, a.stream, a.x, a.y, which);
    case too_much_shared: return launch(turn_around, "turn_around", 1, 64, 300000, a.stream, a.x, a.y, which);
    case 100: return launch(neighbours, "neighbours", 1, 32, bytes, a.stream, a.x, a.y, (int)none);
    case 101: return launch_cooperative(exchange_blocks, "exchange_blocks", 2, 64, 0, a.stream, a.x, a.y, counter, (int)none);
    case published_twice:
    case mark_published:
    case never_published:
    case 104:
      ELMAN_TRY(fill_async(words, 0xFF, 128 * sizeof *words, a.stream));
      return launch_cooperative(pass_words, "pass_words", 2, 32, 0, a.stream, a.x, a.y, words, which);
    case words_in_plain_launch:
      ELMAN_TRY(fill_async(words, 0xFF, 128 * sizeof *words, a.stream));
      return launch(pass_words, "pass_words", 2, 32, 0, a.stream, a.x, a.y, words, which);
    case missing_role_barrier:
    case 105: return launch(two_roles, "two_roles", 1, 96, bytes + 64 + shared_gap, a.stream, a.x, a.y, which);
    case 102: return launch(product, "product", 1, 32, 0, a.stream, a.x, a.y);
    case 103: return launch(round_all, "round_all", 1, 32, 0, a.stream, a.x, a.y);
    default: return launch(turn_around, "turn_around", 1, 64, bytes, a.stream, a.x, a.y, which);
  }
}
ELMAN_BACKWARD(a) { return refuse("there is no backward pass for mistake %d", (int)a.WHICH); }
