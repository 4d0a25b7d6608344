#pragma once

#include <sys/stat.h>

#include <cerrno>
#include <string>
#include <string_view>

#include "base/file.h"

/// The system calls below file.h and whole_file.h: repeated after a signal, failures as Error{kIo} with the path.
namespace isr {

/// Repeats a system call that a signal interrupted.
template <class Call>
auto uninterrupted(Call call) {
  for (;;) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

/// errno_value as the error of that action.
[[noreturn]] void fail(std::string_view action, const fs::path& path, int errno_value);
struct stat status_of(int fd, const fs::path& path);
void sync_directory_fd(int fd, const fs::path& directory);
UniqueFd open_at(int directory, const char* name, int flags, mode_t mode, const fs::path& name_for_errors);
/// A symlink is followed: to the caller's path this is not the last component.
UniqueFd open_directory(const fs::path& directory);
fs::path parent_of(const fs::path& path);
/// A new name that begins with kTempFilePrefix.
std::string temporary_name();

}  // namespace isr
