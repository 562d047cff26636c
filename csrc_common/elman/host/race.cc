// A check that every two accesses to one place, one of them a write, have a barrier between them.
// * A kernel file compiled with -fsanitize=thread calls __tsan_readN / __tsan_writeN at every load and store. libtsan is not
//   linked: this file answers, so kernels keep plain pointers. Link it with the runtime; compile neither with that flag.
// * The finding depends on the barriers that ran, not on the order of the fibers. Code that did not run is not checked.
// * Watched: the launch's shared memory, and tensors named by elman_race_watch. Two bytes, the smallest element, are one cell.
// * Words of an exchange are not watched and order nothing: the runtime, which is not instrumented, moves them.
// * Between blocks only add_release / wait_until_acquire orders. An acquire holds for its own thread at once, for the rest
//   of its block from the next sync_block on; a release covers all before the block's last sync_block, and its own thread.
// * For one calling thread at a time.
#include <elman/host/internal.h>

#include <stdio.h>

#include <algorithm>
#include <unordered_map>

namespace elman::host {
namespace {
struct Stamp {  // one access
  int64_t thread = -1;  // over the whole launch
  unsigned block = 0, warp = 0, barriers = 0, fences = 0;
  const void* site = nullptr;
};

struct Cell {
  unsigned launch = 0;
  Stamp write;
  std::vector<Stamp> reads;  // every read that no later read is ordered after
};

struct Known {  // of another block: all it did before its barrier number `barriers`, and `thread`'s accesses since
  unsigned barriers = 0;
  int64_t thread = -1;
};
using Knowledge = std::vector<Known>;  // by block; empty: nothing

struct BlockState {
  Knowledge known;                                 // by every thread
  std::unordered_map<int64_t, Knowledge> pending;  // acquired by one thread since the last sync_block
  std::vector<Cell> shared;
};

struct Region {
  uintptr_t low, high;
  std::vector<Cell> cells;
  std::string name;
};

std::vector<Region> regions;
uintptr_t lowest = UINTPTR_MAX, highest = 0;  // of all regions: most accesses are of a fiber's stack, far from them
std::vector<BlockState> states;
std::unordered_map<const unsigned*, Knowledge> counters;
unsigned launch = 0;

int64_t global_thread(const Fiber* f) { return (int64_t)f->block * threads + f->thread; }

void merge(Knowledge& into, const Knowledge& from) {
  if (into.size() < from.size()) into.resize(from.size());
  for (size_t i = 0; i < from.size(); ++i)
    if (from[i].barriers > into[i].barriers || (from[i].barriers == into[i].barriers && into[i].thread < 0)) into[i] = from[i];
}

bool covers(const Knowledge& k, const Stamp& old) {
  if (old.block >= k.size()) return false;
  return old.barriers < k[old.block].barriers ||
         (old.barriers == k[old.block].barriers && old.thread == k[old.block].thread);
}

bool ordered(const Stamp& old, const Stamp& now) {
  if (old.thread == now.thread) return true;
  if (old.block == now.block) return old.barriers != now.barriers || (old.warp == now.warp && old.fences != now.fences);
  const BlockState& state = states[now.block];
  if (covers(state.known, old)) return true;
  const auto mine = state.pending.find(now.thread);
  return mine != state.pending.end() && covers(mine->second, old);
}

void check(const Stamp& old, const Stamp& now, const char* what, const char* memory, size_t byte) {
  if (old.thread < 0 || ordered(old, now)) return;
  char text[240];
  snprintf(text, sizeof text, "race: %s of %s byte %zu, block %u thread %lld then block %u thread %lld, no barrier between", what,
           memory, byte, old.block, (long long)(old.thread % threads), now.block, (long long)(now.thread % threads));
  fail(text, old.site, now.site);
}

void access(Cell& c, const Stamp& now, bool write, const char* memory, size_t byte) {
  if (c.launch != launch) {
    c.launch = launch;
    c.write = {};
    c.reads.clear();
  }
  check(c.write, now, write ? "write after write" : "read after write", memory, byte);
  if (write) {
    for (const Stamp& r : c.reads) check(r, now, "write after read", memory, byte);
    c.reads.clear();
    c.write = now;
  } else {
    auto replaced = [&](const Stamp& r) { return ordered(r, now); };
    c.reads.erase(std::remove_if(c.reads.begin(), c.reads.end(), replaced), c.reads.end());
    c.reads.push_back(now);
  }
}
}  // namespace

extern "C" {
void elman_race_begin_launch() {
  ++launch;
  counters.clear();
  states.clear();
  states.resize(blocks);
}

void elman_race_begin_block(Block* b) { states[b->index].shared.resize((b->shared_bytes + 1) / 2); }

void elman_race_touch(const void* p, size_t bytes, int write, const void* site) {
  const Fiber* f = running();
  if (!f) return;
  const Block& b = *f->home;
  const uintptr_t a = (uintptr_t)p, low = (uintptr_t)b.shared;
  const Stamp now{global_thread(f), f->block, f->thread / 32, b.barriers, f->warp->fences, site};
  if (a + bytes > low && a < low + b.shared_bytes + 128) {
    if (a < low || a + bytes > low + b.shared_bytes) fail(where(f) + ": access past the end of shared memory", site);
    for (const size_t end : b.ends)
      if (a + bytes > low + end && a < low + end + shared_gap) fail(where(f) + ": access past the end of a shared array", site);
    for (size_t i = (a - low) / 2; i < (a - low + bytes + 1) / 2; ++i)
      access(states[f->block].shared[i], now, write, "shared memory", 2 * i);
    return;
  }
  if (a < lowest || a >= highest) return;
  for (Region& r : regions)
    if (a >= r.low && a < r.high) {
      for (size_t i = (a - r.low) / 2; i < (std::min(a + bytes, r.high) - r.low + 1) / 2; ++i)
        access(r.cells[i], now, write, r.name.c_str(), 2 * i);
      return;
    }
}

void elman_race_sync_block(Block* b) {
  BlockState& state = states[b->index];
  for (const auto& [thread, knowledge] : state.pending) merge(state.known, knowledge);
  state.pending.clear();
}

void elman_race_release(const unsigned* counter) {
  const Fiber* f = running();
  Knowledge given = states[f->block].known;
  const auto mine = states[f->block].pending.find(global_thread(f));
  if (mine != states[f->block].pending.end()) merge(given, mine->second);
  if (given.size() < blocks) given.resize(blocks);
  given[f->block] = {f->home->barriers, global_thread(f)};
  merge(counters[counter], given);
}

void elman_race_acquire(const unsigned* counter) {
  const Fiber* f = running();
  merge(states[f->block].pending[global_thread(f)], counters[counter]);
}

// Watch a tensor in the launches to come; forget all tensors.
__attribute__((visibility("default"))) void elman_race_watch(const void* p, size_t bytes, const char* name) {
  regions.push_back({(uintptr_t)p, (uintptr_t)p + bytes, std::vector<Cell>((bytes + 1) / 2), "tensor " + std::string(name)});
  lowest = std::min(lowest, regions.back().low);
  highest = std::max(highest, regions.back().high);
}
__attribute__((visibility("default"))) void elman_race_unwatch() {
  regions.clear();
  lowest = UINTPTR_MAX, highest = 0;
}

// What -fsanitize=thread calls.
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
#define ELMAN_ACCESS(name, n, write) \
  void __tsan_##name##n(void* p) { elman_race_touch(p, n, write, __builtin_return_address(0)); }
#define ELMAN_ACCESSES(n)                                                \
  ELMAN_ACCESS(read, n, 0) ELMAN_ACCESS(write, n, 1)                     \
  ELMAN_ACCESS(unaligned_read, n, 0) ELMAN_ACCESS(unaligned_write, n, 1) \
  ELMAN_ACCESS(volatile_read, n, 0) ELMAN_ACCESS(volatile_write, n, 1)
ELMAN_ACCESSES(1) ELMAN_ACCESSES(2) ELMAN_ACCESSES(4) ELMAN_ACCESSES(8) ELMAN_ACCESSES(16)
void __tsan_read_range(void* p, size_t n) { elman_race_touch(p, n, 0, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t n) { elman_race_touch(p, n, 1, __builtin_return_address(0)); }
}
}  // namespace elman::host
