#pragma once
// What runtime.cc and race.cc share; kernel code never includes it.
#include <elman/host/host.h>

#include <string>
#include <vector>

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

Fiber* running();
std::string where(const Fiber* f);
// End the running launch with this text; `first` and `second` are code addresses that it completes with file and line.
[[noreturn]] void fail(std::string text, const void* first = nullptr, const void* second = nullptr);

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
