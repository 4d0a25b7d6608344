#include "image/lossy_disk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <mutex>
#include <set>

namespace isr::test {
namespace {

constexpr std::uint64_t kPage = 4096;

struct File {
  std::set<std::uint64_t> dirty;  // pages that the next sync writes
  std::set<std::uint64_t> lost;   // pages that none does
  Bytes disk;
};
using Identity = std::pair<std::uint64_t, std::int64_t>;  // inode, and when it was made: numbers are used again
struct Disk {
  fs::path directory;
  std::map<Identity, File> files;
  int failing_syncs = 0;
  std::function<void()> during_sync;
};

std::mutex mutex;
Disk* active = nullptr;  // guarded by mutex

Identity identity_of(int fd, const char* path, int flags) {
  struct statx status {};
  ::statx(fd, path, flags, STATX_INO | STATX_BTIME, &status);
  return {status.stx_ino, status.stx_btime.tv_sec * 1'000'000'000 + status.stx_btime.tv_nsec};
}

/// nullptr: not below the disk's directory. With the mutex held.
File* file_of(int fd) {
  if (active == nullptr) return nullptr;
  char target[4096];
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t length = ::readlink(link.c_str(), target, sizeof target);
  if (length <= 0) return nullptr;
  const fs::path path(std::string(target, static_cast<std::size_t>(length)));
  return path.parent_path() == active->directory ? &active->files[identity_of(fd, "", AT_EMPTY_PATH)] : nullptr;
}

void note_write(int fd, std::uint64_t offset, std::uint64_t length) {
  const std::lock_guard lock(mutex);
  File* file = file_of(fd);
  if (file == nullptr) return;
  for (std::uint64_t page = offset / kPage; page * kPage < offset + length; ++page) file->dirty.insert(page);
}

/// The errno of the sync; 0: done.
int sync_pages(int fd) {
  const std::lock_guard lock(mutex);
  File* file = file_of(fd);
  if (file == nullptr) return 0;
  const std::set<std::uint64_t> pages = std::exchange(file->dirty, {});
  struct stat status {};
  ::fstat(fd, &status);
  if (active->failing_syncs > 0) {
    --active->failing_syncs;
    file->lost.insert(pages.begin(), pages.end());
    return EIO;
  }
  file->disk.resize(static_cast<std::size_t>(status.st_size));
  for (const std::uint64_t page : pages) {
    if (page * kPage >= file->disk.size() || file->lost.contains(page)) continue;
    const MutableBytes part = MutableBytes(file->disk).subspan(page * kPage);
    read_at(fd, part.first(std::min<std::size_t>(part.size(), kPage)), page * kPage, "disk");
  }
  return 0;
}

std::function<void()> take_during_sync() {
  const std::lock_guard lock(mutex);
  return active ? std::exchange(active->during_sync, {}) : nullptr;
}

int synced(int fd, long number) {
  const int errno_value = sync_pages(fd);
  if (const auto call = take_during_sync()) call();
  if (errno_value != 0) {
    errno = errno_value;
    return -1;
  }
  return static_cast<int>(::syscall(number, fd));
}

}  // namespace

LossyDisk::LossyDisk(const fs::path& directory) {
  const std::lock_guard lock(mutex);
  active = new Disk{fs::canonical(directory), {}, 0, {}};
}

LossyDisk::~LossyDisk() {
  const std::lock_guard lock(mutex);
  delete std::exchange(active, nullptr);
}

void LossyDisk::fail_syncs(int count) {
  const std::lock_guard lock(mutex);
  active->failing_syncs = count;
}

void LossyDisk::during_next_sync(std::function<void()> call) {
  const std::lock_guard lock(mutex);
  active->during_sync = std::move(call);
}

void LossyDisk::cut_power() {
  const std::lock_guard lock(mutex);
  for (const auto& entry : fs::directory_iterator(active->directory)) {
    File& file = active->files[identity_of(AT_FDCWD, entry.path().c_str(), AT_SYMLINK_NOFOLLOW)];
    file.dirty.clear();
    file.lost.clear();
    fs::resize_file(entry.path(), 0);
    const UniqueFd fd = open_file(entry.path(), O_RDWR);
    ::syscall(SYS_pwrite64, fd.get(), file.disk.data(), file.disk.size(), 0);
  }
}

}  // namespace isr::test

extern "C" {

ssize_t pwrite(int fd, const void* bytes, std::size_t size, off_t offset) {
  const auto put = static_cast<ssize_t>(::syscall(SYS_pwrite64, fd, bytes, size, offset));
  if (put > 0) isr::test::note_write(fd, static_cast<std::uint64_t>(offset), static_cast<std::uint64_t>(put));
  return put;
}

int fdatasync(int fd) { return isr::test::synced(fd, SYS_fdatasync); }
int fsync(int fd) { return isr::test::synced(fd, SYS_fsync); }

}  // extern "C"
