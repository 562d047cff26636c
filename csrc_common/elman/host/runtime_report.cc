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
      if (g.home != f.home || g.done != f.done || (!g.done && (g.operation != f.operation || g.line != f.line))) break;
    }
    text += " block " + std::to_string(f.block) + " threads " + std::to_string(f.thread) + "-" +
            std::to_string(rt.fibers[j - 1].thread);
    text += f.done ? " have returned;"
                   : " wait in " + std::string(f.operation ? f.operation : "?") + " at " + place(f.file, f.line) + ";";
    i = j;
  }
  return text;
}

namespace {
// Whether a file is one of the wrappers that kernels call, which says less than the line that calls it.
bool wrapper(const char* path) {
  for (const char* folder : {"/elman/", "/elman/host/", "/elman/device/"}) {
    const char* at = strstr(path, folder);
    if (at && !strchr(at + strlen(folder), '/')) return true;
  }
  return false;
}

// "file:line" of a code address: the innermost call that is not a wrapper's, as addr2line of the compiler's binutils tells.
std::string source_line(const char* library, size_t offset) {
  char command[600], line[1024];
  std::string found;
  snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%zx 2>/dev/null", library, offset);
  if (FILE* pipe = popen(command, "r")) {
    while (fgets(line, sizeof line, pipe)) {
      line[strcspn(line, " \n")] = 0;
      if (!line[0] || line[0] == '?') continue;
      const char* colon = strrchr(line, ':');
      const std::string path(line, colon ? colon - line : strlen(line));
      const size_t slash = path.rfind('/');
      const std::string here = path.substr(slash == std::string::npos ? 0 : slash + 1) + (colon ? colon : "");
      if (found.empty()) found = here;
      if (!wrapper(path.c_str())) {
        found = here;
        break;
      }
    }
    while (fgets(line, sizeof line, pipe)) {
    }
    pclose(pipe);
  }
  return found;
}
}  // namespace

std::string source_lines(const void* const (&sites)[2]) {
  std::string text;
  for (const void* site : sites) {
    Dl_info info;
    if (!site || !dladdr(site, &info) || !info.dli_fname) continue;
    const size_t offset = (size_t)((const char*)site - (const char*)info.dli_fbase) - 1;
    std::string line = source_line(info.dli_fname, offset);
    if (line.empty()) line = "code offset " + std::to_string(offset);
    text += (text.empty() ? " (" : ", then ") + line;
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
