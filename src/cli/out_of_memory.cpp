// A program that continues without memory needs every error path to be right, including those that never run. In isr a
// failed allocation once lost flushed writes, gave wrong bytes and hung. A process that ends loses nothing that it has
// answered. So no allocation in this program fails, neither its own nor a library's: the functions below replace those
// of the C library and end the process instead. docs/decisions/0021-out-of-memory-is-the-end.md has the reasons.
//
// Sanitizers replace the same functions, and end the process as well.

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <string_view>

// The C library's own functions, under the names that it provides for replacements like these.
extern "C" {
void* __libc_malloc(std::size_t size) noexcept;                           // NOLINT(bugprone-reserved-identifier)
void* __libc_calloc(std::size_t count, std::size_t size) noexcept;        // NOLINT(bugprone-reserved-identifier)
void* __libc_realloc(void* old, std::size_t size) noexcept;               // NOLINT(bugprone-reserved-identifier)
void* __libc_memalign(std::size_t alignment, std::size_t size) noexcept;  // NOLINT(bugprone-reserved-identifier)
}

namespace {

constexpr int kFailed = 1;  // "failed" of the exit codes
constexpr std::string_view kLastWords = "isr: out of memory: this process ends; what it has answered is kept\n";

[[noreturn]] void end() noexcept {
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, kLastWords.data(), kLastWords.size());
  ::_exit(kFailed);
}

void* or_end(void* memory) noexcept {
  if (memory == nullptr) end();
  return memory;
}

}  // namespace

extern "C" {

void* malloc(std::size_t size) noexcept { return or_end(__libc_malloc(size)); }

void* calloc(std::size_t count, std::size_t size) noexcept { return or_end(__libc_calloc(count, size)); }

void* realloc(void* old, std::size_t size) noexcept {
  void* const memory = __libc_realloc(old, size);
  return size == 0 ? memory : or_end(memory);  // realloc to size 0 acts as free()
}

void* memalign(std::size_t alignment, std::size_t size) noexcept { return or_end(__libc_memalign(alignment, size)); }

void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept { return memalign(alignment, size); }

int posix_memalign(void** memory, std::size_t alignment, std::size_t size) noexcept {
  const bool power_of_two = alignment != 0 && (alignment & (alignment - 1)) == 0;
  if (!power_of_two || alignment % sizeof(void*) != 0) return EINVAL;
  *memory = memalign(alignment, size);
  return 0;
}

}  // extern "C"

#endif
