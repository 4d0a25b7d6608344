#include "chunkstore/pack_disk.h"

#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "base/whole_file.h"
#include "chunkstore/pack_bench.h"

namespace isr::test {

Sync<Disk>& disk() {
  static Sync<Disk> all;
  return all;
}

bool& syncs_kill() {
  static bool kill = false;
  return kill;
}

bool& fail_directory_syncs() {
  static bool fail = false;
  return fail;
}

std::function<void()>& before_next_read() {
  static std::function<void()> body;
  return body;
}

void copy_after_power_cut(const fs::path& store, const fs::path& copy) {
  fs::copy(store, copy, fs::copy_options::recursive);
  for (const auto& pack : packs_of(store)) {
    Bytes durable = disk().lock()->packs[pack.string()].durable;
    durable.resize(std::min<std::size_t>(durable.size(), fs::file_size(pack)));
    fs::remove(copy / "packs" / pack.filename());
    replace_file(copy / "packs" / pack.filename(), durable);
  }
}

namespace {

std::optional<std::string> pack_of(int fd) {
  std::error_code error;
  const std::string path = fs::read_symlink("/proc/self/fd/" + std::to_string(fd), error).string();
  return path.ends_with(".pack") ? std::optional(path) : std::nullopt;
}

void note_write(int fd, const void* bytes, ssize_t count, off_t offset) {
  const auto path = count > 0 ? pack_of(fd) : std::nullopt;
  if (!path) return;
  const auto* first = static_cast<const std::uint8_t*>(bytes);
  disk().lock()->packs[*path].dirty.emplace_back(static_cast<std::uint64_t>(offset), Bytes(first, first + count));
}

}  // namespace
}  // namespace isr::test

// In the place of the C library's:

extern "C" ssize_t preadv(int fd, const iovec* parts, int count, off_t offset) {
  if (isr::test::before_next_read()) std::exchange(isr::test::before_next_read(), nullptr)();
  return ::syscall(SYS_preadv, fd, parts, count, offset, 0);
}

extern "C" ssize_t pwrite(int fd, const void* bytes, size_t size, off_t offset) {
  if (isr::test::disk().lock()->full_writes > 0 && isr::test::pack_of(fd)) {
    isr::test::disk().lock()->full_writes--;
    errno = ENOSPC;
    return -1;
  }
  const auto count = static_cast<ssize_t>(::syscall(SYS_pwrite64, fd, bytes, size, offset));
  isr::test::note_write(fd, bytes, count, offset);
  return count;
}

extern "C" ssize_t pwritev(int fd, const iovec* parts, int part_count, off_t offset) {
  ssize_t total = 0;
  for (int i = 0; i < part_count; ++i) {
    const ssize_t count = ::pwrite(fd, parts[i].iov_base, parts[i].iov_len, offset + total);
    if (count < 0) return total > 0 ? total : count;
    total += count;
    if (count < static_cast<ssize_t>(parts[i].iov_len)) break;
  }
  return total;
}

extern "C" int fdatasync(int fd) {
  if (const auto path = isr::test::pack_of(fd)) {
    auto state = isr::test::disk().lock();
    auto& file = state->packs[*path];
    const auto dirty = std::exchange(file.dirty, {});
    if (state->fail_syncs) {
      if (isr::test::syncs_kill()) ::raise(SIGKILL);
      errno = EIO;
      return -1;
    }
    for (const auto& [offset, bytes] : dirty) {
      file.durable.resize(std::max<std::size_t>(file.durable.size(), offset + bytes.size()));
      std::copy(bytes.begin(), bytes.end(), file.durable.begin() + static_cast<std::ptrdiff_t>(offset));
    }
  }
  return static_cast<int>(::syscall(SYS_fdatasync, fd));
}

extern "C" int rename(const char* from, const char* to) noexcept {
  const auto result = static_cast<int>(::syscall(SYS_rename, from, to));
  auto state = isr::test::disk().lock();
  if (auto moved = state->packs.extract(from); result == 0 && moved) {
    state->packs.erase(to);
    moved.key() = to;
    state->packs.insert(std::move(moved));
  }
  return result;
}

extern "C" int fsync(int fd) {
  struct stat status {};
  if (isr::test::fail_directory_syncs() && ::fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)) {
    errno = EIO;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_fsync, fd));
}
