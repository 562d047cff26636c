// The host backend's texts: where a thread is, who waits in a deadlock, which source lines a failure belongs to.
#include <elman/host/internal.h>

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

namespace elman::host {
std::string where(const Fiber* f) {
  return "block " + std::to_string(f->block) + " thread " + std::to_string(f->thread);
}

std::string place(const char* file, int line) {
  const char* slash = file ? strrchr(file, '/') : nullptr;
  return std::string(slash ? slash + 1 : file ? file : "?") + ":" + std::to_string(line);
}

std::string deadlock_report() {
  std::string text = "deadlock: no thread can go on;";
  int shown = 0;
  for (size_t i = 0; i < rt.fibers.size() && shown < 8; ++shown) {
    const Fiber& f = rt.fibers[i];
    size_t j = i;
    for (; j < rt.fibers.size(); ++j) {
      const Fiber& g = rt.fibers[j];
      if (g.home != f.home || g.done != f.done || g.operation != f.operation || g.line != f.line) break;
    }
    text += " block " + std::to_string(f.block) + " threads " + std::to_string(f.thread) + "-" +
            std::to_string(rt.fibers[j - 1].thread);
    text += f.done ? " have returned;"
                   : " wait in " + std::string(f.operation ? f.operation : "?") + " at " + place(f.file, f.line) + ";";
    i = j;
  }
  return text;
}

// By addr2line from the compiler's binutils.
std::string source_lines(const void* const (&sites)[2]) {
  std::string text;
  for (const void* site : sites) {
    Dl_info info;
    if (!site || !dladdr(site, &info) || !info.dli_fname) continue;
    char command[600], line[300] = "";
    const size_t offset = (size_t)((const char*)site - (const char*)info.dli_fbase) - 1;
    snprintf(command, sizeof command, "addr2line -s -e '%s' 0x%zx 2>/dev/null", info.dli_fname, offset);
    if (FILE* pipe = popen(command, "r")) {
      if (!fgets(line, sizeof line, pipe)) line[0] = 0;
      pclose(pipe);
    }
    line[strcspn(line, " \n")] = 0;
    if (!line[0] || line[0] == '?') snprintf(line, sizeof line, "code offset 0x%zx", offset);
    text += (text.empty() ? " (" : ", then ") + std::string(line);
  }
  return text.empty() ? text : text + ")";
}

void misaligned(const void* p, size_t bytes, const char* operation, const char* file, int line) {
  char text[200];
  snprintf(text, sizeof text, "%s at %s: address %p is not a multiple of %zu", operation, place(file, line).c_str(), p,
           bytes);
  fail(text);
}
}  // namespace elman::host
