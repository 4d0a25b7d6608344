#include "base/file_lock.h"

#include <fcntl.h>

#include "base/file_calls.h"

namespace isr {
namespace {

/// A request for the lock of a whole file.
struct flock exclusive_lock() {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

}  // namespace

std::optional<FileLock> FileLock::try_acquire(const fs::path& path) {
  UniqueFd fd = open_file(path, O_RDWR | O_CREAT);
  struct flock lock = exclusive_lock();
  if (uninterrupted([&] { return ::fcntl(fd.get(), F_OFD_SETLK, &lock); }) != 0) {
    if (errno == EAGAIN || errno == EACCES) return std::nullopt;
    fail("cannot lock", path, errno);
  }
  // The last holder may have removed the file meanwhile. Another process could then lock a new file of this name.
  struct stat locked {};
  struct stat there {};
  if (::fstat(fd.get(), &locked) != 0) fail("cannot examine", path, errno);
  if (::lstat(path.c_str(), &there) != 0 || there.st_ino != locked.st_ino || there.st_dev != locked.st_dev) {
    return std::nullopt;
  }
  return FileLock(std::move(fd));
}

bool FileLock::is_held(const fs::path& path) {
  const auto fd = open_if_exists(path, O_RDWR);
  if (!fd) return false;
  struct flock lock = exclusive_lock();
  if (::fcntl(fd->get(), F_OFD_GETLK, &lock) != 0) fail("cannot look at the lock of", path, errno);
  return lock.l_type != F_UNLCK;
}

}  // namespace isr
