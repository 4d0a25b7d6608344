#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "base/file.h"
#include "fusefs/mount.h"
#include "support/bytes.h"
#include "support/memory_overlay.h"

namespace isr::test {

/// A source without objects: the images of these tests lie over zeros.
class EmptySource : public ObjectSource {
 public:
  std::optional<Bytes> fetch(const Cid&, Priority, std::stop_token) override { return std::nullopt; }
  std::string describe() const override { return "nothing"; }
};

inline std::shared_ptr<Image> zero_image(const std::string& name, std::uint64_t size,
                                         std::shared_ptr<Overlay> overlay) {
  auto reader = std::make_shared<ChunkReader>(std::make_shared<EmptySource>(), ReaderOptions{.prefetch_threads = 1});
  return std::make_shared<Image>(name, TreeRoot{size, {}}, reader, std::move(overlay));
}

inline bool can_mount() {
  if (::access("/dev/fuse", F_OK) == 0) return true;
  WARN("skipped: /dev/fuse is absent");
  return false;
}

/// disk.raw (writable), version.raw (read-only) and ram.raw (writable, reads are retried), mounted.
struct MountedImage {
  static constexpr std::uint64_t kSize = (3U << 20U) + 777;

  explicit MountedImage(std::uint64_t size = kSize, const MountOptions& options = {})
      : disk(zero_image("disk", size, disk_overlay)),
        version(zero_image("version", size, nullptr)),
        ram(zero_image("ram", size, ram_overlay)) {
    std::vector<MountedFile> files{{"disk.raw", disk}, {"version.raw", version}, {"ram.raw", ram, true}};
    mount = make_mount(
        point(), std::move(files), [this] { return fmt::format("{{\"asked\":{}}}\n", ++asked); }, options);
    mount->start();
  }
  fs::path point() const { return directory.path(); }
  UniqueFd open(const std::string& name, int flags) const {
    UniqueFd fd(::open((point() / name).c_str(), flags | O_CLOEXEC));
    if (!fd) throw std::system_error(errno, std::generic_category(), "open " + name);
    return fd;
  }
  Bytes content(const std::shared_ptr<Image>& image, std::uint64_t offset, std::size_t length) const {
    Bytes out(length);
    out.resize(image->read(offset, out));
    return out;
  }

  TempDirectory directory;
  std::atomic<int> asked{0};
  std::shared_ptr<MemoryOverlay> disk_overlay = std::make_shared<MemoryOverlay>();
  std::shared_ptr<MemoryOverlay> ram_overlay = std::make_shared<MemoryOverlay>();
  std::shared_ptr<Image> disk, version, ram;
  std::unique_ptr<Mount> mount;
};

/// A shared mapping of a whole file.
class Mapping {
 public:
  Mapping(int fd, std::size_t size)
      : size_(size), start_(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) {
    if (start_ == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
  }
  ~Mapping() { ::munmap(start_, size_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  MutableBytes bytes() { return {static_cast<std::uint8_t*>(start_), size_}; }

 private:
  std::size_t size_;
  void* start_;
};

/// Runs body in a forked process and returns its pid; the process ends with body's result.
template <class Body>
pid_t in_child(Body&& body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    int code = 99;
    try {
      code = body();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "child: %s\n", error.what());
    }
    ::_exit(code);
  }
  return pid;
}
inline int exit_code_of(pid_t pid) {
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace isr::test
