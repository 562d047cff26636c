// The host backend's runtime: every CUDA thread is a fiber, scheduled on the OS thread that launched.
// * A plain launch runs one block after another; a cooperative one runs all blocks together.
// * A fiber runs until it waits. Barriers and collectives keep lists of who waits; when nobody is ready and somebody is
//   unfinished, that is a deadlock, known at once. Who was released goes on first, while his stack is in the cache.
// * Shared memory starts as 0xFF bytes (NaN in every format); the gaps after its arrays are checked at the end.
// * One mutex: indices are read constantly, so the state is plain and launches take turns.
// * runtime_sync.cc: barriers, collectives and copies; runtime_report.cc: the texts of failures.
// Compile all three with the kernel's sanitizers, except thread: instrumented, the race check would check itself.
#include <elman/host/internal.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define ELMAN_ASAN(...) __VA_ARGS__
#else
#define ELMAN_ASAN(...)
#endif
#ifndef __x86_64__
#error "the host backend switches stacks in x86-64 assembly; add elman_switch_stack for this machine"
#endif

// void elman_switch_stack(void** save, void* load): keep the callee-saved registers and the stack pointer, take up
// another's.
// Shadow stacks (CET) are not supported. MXCSR is not kept: no kernel changes it.
extern "C" __attribute__((visibility("hidden"))) void elman_switch_stack(void** save, void* load);
asm(R"(
  .text
  .globl elman_switch_stack
  .hidden elman_switch_stack
  .type elman_switch_stack, @function
elman_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size elman_switch_stack, .-elman_switch_stack
)");

// The stacks of all fibers, kept between launches: two mappings each, of the 65,530 that Linux allows a process by default.
// One for all libraries of a process, however many kernels it loads: the dynamic linker merges this symbol (STB_GNU_UNIQUE).
struct Stacks {
  std::mutex mutex;  // of the launches too
  char* base = nullptr;
  size_t count = 0;
};
#ifdef __SANITIZE_ADDRESS__  // it reports what two libraries define
static Stacks elman_host_stacks;
#else
extern "C" {
[[gnu::visibility("default")]] inline Stacks elman_host_stacks;
}
#endif

namespace elman::host {
const Here* here = nullptr;
unsigned threads = 0, blocks = 0;
Runtime rt;

namespace {
constexpr size_t page = 4096;
constexpr size_t stack_bytes = 64 * 1024 ELMAN_ASAN(*4);  // its first page is a guard
constexpr size_t shared_limit = 227 * 1024;               // a Hopper block's; smaller devices refuse at the launch
constexpr unsigned most_threads = 1024;

size_t random_below(size_t n) {  // xorshift64
  rt.random ^= rt.random << 13;
  rt.random ^= rt.random >> 7;
  rt.random ^= rt.random << 17;
  return rt.random % n;
}

// Put everything into the order that the caller chose.
template <class T> void arrange(std::vector<T>& items) {
  if (rt.order == reverse_order) std::reverse(items.begin(), items.end());
  if (rt.order == random_order)
    for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[random_below(i)]);
}

// Leave the running stack for a fiber's, or for the launching stack where f is null.
void switch_to(void** save, Fiber* f, [[maybe_unused]] void** fake_stack, [[maybe_unused]] bool last) {
  rt.current = f;
  here = f;
  ELMAN_ASAN(__sanitizer_start_switch_fiber(last ? nullptr : fake_stack, f ? f->stack : rt.main_stack_bottom,
                                            f ? stack_bytes : rt.main_stack_bytes);)
  elman_switch_stack(save, f ? f->stack_pointer : rt.main_stack_pointer);
  ELMAN_ASAN(__sanitizer_finish_switch_fiber(*fake_stack, nullptr, nullptr);)
}

[[noreturn]] void abandon() {
  Fiber* f = rt.current;
  switch_to(&f->stack_pointer, nullptr, &f->fake_stack, false);
  __builtin_unreachable();
}

[[noreturn]] void fiber_main() {
  Fiber* f = rt.current;
#ifdef __SANITIZE_ADDRESS__
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (!rt.main_stack_bottom) {
    rt.main_stack_bottom = bottom;
    rt.main_stack_bytes = size;
  }
#endif
  rt.body(rt.argument);
  if (!f->copies.empty())
    fail("copy without a wait: " + where(f) + " returned with " + std::to_string(f->copies.size()) +
         " copies in flight");
  f->done = true;
  --rt.unfinished;
  Block& b = *f->home;
  const Warp& w = *f->warp;
  if (w.arrived)
    fail("divergent warp collective: " + where(f) + " returned while its warp is in " + w.operation + " at " +
         place(w.file, w.line));
  if (--b.live && b.arrived == b.live) release_block(b);
  Fiber* next = next_ready();
  if (!next && rt.unfinished) rt.error = deadlock_report();
  switch_to(&f->stack_pointer, next, &f->fake_stack, true);
  __builtin_unreachable();
}

bool grow_stacks(size_t count) {
  Stacks& all = elman_host_stacks;
  if (all.count >= count) return true;
  if (all.base) munmap(all.base, all.count * stack_bytes);
  all.base = nullptr;
  all.count = 0;
  void* base = mmap(nullptr, count * stack_bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return false;
  // Each guard page splits a mapping; the usual limit of 65530 mappings allows about 32,000 fibers.
  for (size_t i = 0; i < count; ++i)
    if (mprotect(static_cast<char*>(base) + i * stack_bytes, page, PROT_NONE)) {
      munmap(base, count * stack_bytes);
      return false;
    }
  all.base = static_cast<char*>(base);
  all.count = count;
  return true;
}

void start(Fiber& f, size_t i) {
  f.stack = elman_host_stacks.base + i * stack_bytes;
  // A fiber that was abandoned leaves poison behind.
  ELMAN_ASAN(__asan_unpoison_memory_region(f.stack + page, stack_bytes - page);)
  // Stacks that began at the same place of a page would meet in a few sets of the cache.
  void** top = reinterpret_cast<void**>(f.stack + stack_bytes - i * 640 % page);
  *--top = nullptr;  // the stack pointer is 8 modulo 16 at a function's entry
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int r = 0; r < 6; ++r) *--top = nullptr;
  f.stack_pointer = top;
  f.done = false;
  f.operation = nullptr;
  f.copies.clear();
  f.copy_groups = 0;
  f.looked = 0;
}

// Run some blocks of the launch together until all have returned or one has failed.
void run_together(const std::vector<unsigned>& indices, size_t shared_bytes) {
  const size_t padded = (shared_bytes + 255) / 128 * 128;  // 128 bytes or more past the end are watched
  rt.live_blocks.clear();
  rt.live_blocks.resize(indices.size());
  rt.fibers.resize(indices.size() * threads);
  if (!grow_stacks(rt.fibers.size())) {
    rt.error =
        "the host backend cannot hold " + std::to_string(rt.fibers.size()) + " threads at once; use fewer blocks";
    return;
  }
  std::unique_ptr<unsigned char, decltype(&free)> memory(
      static_cast<unsigned char*>(aligned_alloc(128, padded * indices.size())), &free);
  memset(memory.get(), 0xFF, padded * indices.size());
  List all;
  rt.ready = {};
  rt.readers = {};
  rt.published = 0;
  rt.news = false;
  rt.waiters.clear();
  for (size_t n = 0; n < indices.size(); ++n) {
    Block& b = rt.live_blocks[n];
    b.index = indices[n];
    b.live = threads;
    b.warps.resize(threads / 32);
    b.shared = memory.get() + n * padded;
    b.shared_bytes = shared_bytes;
    ELMAN_ASAN(__asan_poison_memory_region(b.shared + shared_bytes, padded - shared_bytes);)
    if (elman_race_begin_block) elman_race_begin_block(&b);
    for (unsigned t = 0; t < threads; ++t) {
      Fiber& f = rt.fibers[n * threads + t];
      f.thread = t;
      f.block = b.index;
      f.lane = t % 32;
      f.home = &b;
      f.warp = &b.warps[t / 32];
      start(f, n * threads + t);
      push(all, &f);
    }
  }
  rt.unfinished = rt.fibers.size();
  make_ready(all);
  switch_to(&rt.main_stack_pointer, pop(rt.ready), &rt.main_fake_stack, false);
  rt.current = nullptr;
  here = nullptr;
  ELMAN_ASAN(__asan_unpoison_memory_region(memory.get(), padded * indices.size());)
  for (const Block& b : rt.live_blocks) {
    auto written = [&](size_t from, size_t to) {
      return std::any_of(b.shared + from, b.shared + to, [](unsigned char c) { return c != 0xFF; });
    };
    bool bad = written(shared_bytes, padded);
    for (size_t end : b.ends) bad |= written(end, end + shared_gap);
    if (bad && rt.error.empty())
      rt.error = "block " + std::to_string(b.index) + " wrote past the end of a shared array";
  }
}

}  // namespace

void make_ready(List& list) {
  if (rt.order == forward_order) {
    if (list.head) {
      list.tail->next = rt.ready.head;
      if (!rt.ready.head) rt.ready.tail = list.tail;
      rt.ready.head = list.head;
    }
  } else {
    static std::vector<Fiber*> items;
    items.clear();
    while (Fiber* f = pop(list)) items.push_back(f);
    arrange(items);
    for (Fiber* f : items) push(rt.ready, f);
  }
  list = {};
}

Fiber* next_ready() {
  if (!rt.ready.head && rt.readers.head && rt.news) {
    rt.news = false;
    make_ready(rt.readers);
  }
  return pop(rt.ready);
}

void maybe_wake_readers() {
  if (rt.order == random_order && rt.readers.head && random_below(16) == 0) make_ready(rt.readers);
}

void wait_in(List* list, const char* operation, const char* file, int line) {
  Fiber* f = rt.current;
  f->operation = operation;
  f->file = file;
  f->line = line;
  if (list) push(*list, f);
  Fiber* next = next_ready();
  if (!next) fail(deadlock_report());
  if (next != f) switch_to(&f->stack_pointer, next, &f->fake_stack, false);  // a reader of an exchange may be its own successor
  f->operation = nullptr;
}

Fiber* running() { return rt.current; }

void fail(std::string text, const void* first, const void* second) {
  if (rt.error.empty()) {
    rt.error = std::move(text);
    rt.error_sites[0] = first;
    rt.error_sites[1] = second;
  }
  abandon();
}

int run(const char* name, bool cooperative, int64_t grid, int64_t block, size_t shared_bytes, void (*body)(void*),
        void* argument, char* error, size_t error_size) {
  const std::lock_guard<std::mutex> lock(elman_host_stacks.mutex);
  rt.error.clear();
  rt.error_sites[0] = rt.error_sites[1] = nullptr;
  rt.main_stack_bottom = nullptr;
  if (grid <= 0 || grid > INT32_MAX) {
    rt.error = "launch refused: the number of blocks must be 1 to 2147483647";
  } else if (block <= 0 || block % 32 || block > most_threads) {
    rt.error = "launch refused: the number of threads must be a multiple of 32, 32 to 1024";
  } else if (shared_bytes > shared_limit) {
    rt.error = "launch refused: more shared memory than the 232448 bytes a block can have";
  } else {
    threads = (unsigned)block;
    blocks = (unsigned)grid;
    rt.cooperative = cooperative;
    rt.body = body;
    rt.argument = argument;
    rt.random = rt.seed * 2654435761u + 88172645463325252u;
    if (elman_race_begin_launch) elman_race_begin_launch();
    std::vector<unsigned> indices(blocks);
    for (unsigned i = 0; i < blocks; ++i) indices[i] = i;
    if (cooperative) {
      run_together(indices, shared_bytes);
    } else {
      arrange(indices);
      for (size_t i = 0; i < indices.size() && rt.error.empty(); ++i) run_together({indices[i]}, shared_bytes);
    }
  }
  if (rt.error.empty()) return 0;
  snprintf(error, error_size, "%s: %sgrid of %lld blocks of %lld threads with %zu bytes of shared memory: %s%s", name,
           cooperative ? "cooperative " : "", (long long)grid, (long long)block, shared_bytes, rt.error.c_str(),
           source_lines(rt.error_sites).c_str());
  return 1;
}

void* shared_array(unsigned offset, size_t bytes, size_t alignment, const char* file, int line) {
  Block& b = *rt.current->home;
  const size_t end = offset + bytes;
  if (offset % alignment || end > b.shared_bytes)
    fail("shared array at " + place(file, line) + ", bytes " + std::to_string(offset) + " to " + std::to_string(end) +
         ", is misaligned or past the launch's " + std::to_string(b.shared_bytes) + " bytes");
  // An array that ends where the launch's memory ends is followed by the watched tail already.
  if (end + shared_gap <= b.shared_bytes && std::find(b.ends.begin(), b.ends.end(), end) == b.ends.end()) {
    b.ends.push_back(end);
    ELMAN_ASAN(__asan_poison_memory_region(b.shared + end, shared_gap);)
  }
  return b.shared + offset;
}

}  // namespace elman::host

// Choose the order in which threads and blocks run: 0 forward, 1 reverse, 2 random from `seed`. Results must not depend
// on it.
extern "C" __attribute__((visibility("default"))) void elman_host_order(int order, uint64_t seed) {
  const std::lock_guard<std::mutex> lock(elman_host_stacks.mutex);
  elman::host::rt.order = order;
  elman::host::rt.seed = seed;
}
