#pragma once
// What the runtime's files and race.cc share; kernel code never includes it.
#include <elman/host/host.h>

#include <mutex>
#include <string>
#include <vector>

#ifdef __SANITIZE_THREAD__
#error "compile the runtime and the race check without -fsanitize=thread; only kernel files carry it"
#endif

namespace elman::host {
struct Block;
struct Warp;
struct Fiber;

struct List {  // fibers in order of arrival
  Fiber *head = nullptr, *tail = nullptr;
};

struct Copy {
  void* to;
  const void* from;
  int group;
};

struct Fiber : Here {
  void* stack_pointer = nullptr;
  Fiber* next = nullptr;
  Block* home = nullptr;
  Warp* warp = nullptr;
  unsigned lane = 0;
  const char *operation = nullptr, *file = nullptr;  // what it waits in
  int line = 0;
  bool done = false;
  char* stack = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  unsigned looked = 0;  // words of an exchange that were published when it last loaded some or waited
  int copy_groups = 0;
  std::vector<Copy> copies;
};

struct Warp {
  uint32_t arrived = 0, phase = 0;
  unsigned fences = 0;  // sync_warp calls completed
  const char *operation = nullptr, *file = nullptr;
  int line = 0;
  List waiting;
  Slot slots[2][32];  // two sets: no lane can be two exchanges ahead of another
};

struct Block {
  unsigned index = 0, live = 0, arrived = 0;
  unsigned barriers = 0;  // sync_block calls completed
  const char* file = nullptr;
  int line = 0;
  List waiting;
  std::vector<Warp> warps;
  unsigned char* shared = nullptr;
  size_t shared_bytes = 0;
  std::vector<size_t> ends;  // of the arrays handed out: a watched gap follows each
};

enum Order { forward_order, reverse_order, random_order };

struct Runtime {
  int order = forward_order;
  uint64_t seed = 1, random = 1;
  Fiber* current = nullptr;
  List ready;
  size_t unfinished = 0;
  bool cooperative = false;
  void* main_stack_pointer = nullptr;
  std::vector<Fiber> fibers;
  std::vector<Block> live_blocks;
  struct Waiter {
    const unsigned* counter;
    unsigned target;
    Fiber* fiber;
  };
  std::vector<Waiter> waiters;
  List readers;  // fibers that found a word of an exchange absent
  unsigned published = 0;  // words, in this launch
  bool news = false;  // published since some reader looked
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
  std::string error;
  const void* error_sites[2] = {};
  const void* main_stack_bottom = nullptr;  // learnt from AddressSanitizer
  size_t main_stack_bytes = 0;
  void* main_fake_stack = nullptr;
};
// Defined in runtime.cc, one a library. Hidden, so that no access to it goes through the global offset table.
[[gnu::visibility("hidden")]] extern Runtime rt;

inline void push(List& list, Fiber* f) {
  f->next = nullptr;
  (list.tail ? list.tail->next : list.head) = f;
  list.tail = f;
}

inline Fiber* pop(List& list) {
  Fiber* f = list.head;
  if (f && !(list.head = f->next)) list.tail = nullptr;
  return f;
}

// runtime.cc
Fiber* running();
// Move all waiting fibers to the ready list, in the order that the caller chose.
void make_ready(List& list);
// Let others run until somebody makes this fiber ready; it joins `list` unless that is null. Fails on a deadlock.
void wait_in(List* list, const char* operation, const char* file, int line);
// Return the next fiber to run, or null. Readers of an exchange look again when nobody else can go on.
Fiber* next_ready();
// In a random order, let the readers look now and then while others can go on.
void maybe_wake_readers();
// End the running launch with this text; `first` and `second` are code addresses that it completes with file and line.
[[noreturn]] void fail(std::string text, const void* first = nullptr, const void* second = nullptr);

// runtime_sync.cc: let the threads that wait in the block's barrier go on.
void release_block(Block& b);

// runtime_report.cc
std::string where(const Fiber* f);              // "block 0 thread 1"
std::string place(const char* file, int line);  // "name.cu.cc:12"
std::string deadlock_report();
// " (file:line, then file:line)" of code addresses in this library; empty where there are none.
std::string source_lines(const void* const (&sites)[2]);

// The race check's side, absent (weak) unless race.cc is linked.
extern "C" {
__attribute__((weak)) void elman_race_begin_launch();
__attribute__((weak)) void elman_race_begin_block(Block* block);
__attribute__((weak)) void elman_race_touch(const void* p, size_t bytes, int write, const void* site);
__attribute__((weak)) void elman_race_sync_block(Block* block);
__attribute__((weak)) void elman_race_release(const unsigned* counter);
__attribute__((weak)) void elman_race_acquire(const unsigned* counter);
}
}  // namespace elman::host
