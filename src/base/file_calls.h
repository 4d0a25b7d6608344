#pragma once

#include <sys/stat.h>

#include <cerrno>
#include <string>
#include <string_view>

#include "base/file.h"

/// The system calls below file.h and whole_file.h. They are repeated after a signal, and failures are Error{kIo} with
/// the path.
namespace isr {

/// Repeats a system call that a signal interrupted.
template <class Call>
auto uninterrupted(Call call) {
  for (;;) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

/// Throws errno_value as the error of `action` on `path`.
[[noreturn]] void fail(std::string_view action, const fs::path& path, int errno_value);
struct stat status_of(int fd, const fs::path& path);
void sync_directory_fd(int fd, const fs::path& directory);
UniqueFd open_at(int directory, const char* name, int flags, mode_t mode, const fs::path& name_for_errors);
/// Follows a symlink, because it is not the last component of the caller's path.
UniqueFd open_directory(const fs::path& directory);
fs::path parent_of(const fs::path& path);
/// A new name that begins with kTempFilePrefix.
std::string temporary_name();

}  // namespace isr
