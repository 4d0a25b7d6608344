#include "base/file_calls.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/crypto.h"
#include "base/error.h"
#include "base/whole_file.h"

namespace isr {

[[noreturn]] void fail(std::string_view action, const fs::path& path, int errno_value) {
  if (errno_value == ELOOP) {
    throw Error(ErrorKind::kIo, fmt::format("{} {}: it is a symbolic link", action, path.string()));
  }
  throw_errno(fmt::format("{} {}", action, path.string()), errno_value);
}

struct stat status_of(int fd, const fs::path& path) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) fail("cannot examine", path, errno);
  return status;
}

void sync_directory_fd(int fd, const fs::path& directory) {
  // Some file systems (FUSE, network) answer EINVAL because they cannot sync directories.
  if (uninterrupted([&] { return ::fsync(fd); }) != 0 && errno != EINVAL) fail("cannot sync", directory, errno);
}

UniqueFd open_at(int directory, const char* name, int flags, mode_t mode, const fs::path& name_for_errors) {
  UniqueFd fd(uninterrupted([&] { return ::openat(directory, name, flags | O_CLOEXEC | O_NOFOLLOW, mode); }));
  if (!fd) fail("cannot open", name_for_errors, errno);
  return fd;
}

UniqueFd open_directory(const fs::path& directory) {
  UniqueFd fd(uninterrupted([&] { return ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
  if (!fd) fail("cannot open directory", directory, errno);
  return fd;
}

fs::path parent_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

std::string temporary_name() {
  std::array<std::uint8_t, 8> random{};
  random_bytes(random);
  return std::string(kTempFilePrefix) + to_hex(random);
}

}  // namespace isr
