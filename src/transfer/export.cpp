#include "transfer/export.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

namespace isr {
namespace {

constexpr std::size_t kExportStep = 8 * kChunkSize;

/// The file of an export: what fails or is interrupted takes it away again. Not so a kill or a power cut.
class NewFile {
 public:
  explicit NewFile(fs::path path)
      : path_(std::move(path)), fd_(::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) {
    if (!fd_ && errno == EEXIST) throw Error(ErrorKind::kUsage, fmt::format("{} exists", path_.string()));
    if (!fd_) throw_errno(fmt::format("cannot create {}", path_.string()), errno);
  }
  ~NewFile() {
    if (!complete_) ::unlink(path_.c_str());
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  int fd() const { return fd_.get(); }
  const fs::path& path() const { return path_; }
  void complete() {
    sync_file(fd_.get(), path_);
    complete_ = true;
  }

 private:
  fs::path path_;
  UniqueFd fd_;
  bool complete_ = false;
};

}  // namespace

std::uint64_t export_size(Image& image, const VersionImage& described) {
  if (described.original_size == 0) return image.size();
  Bytes padding(image.size() - described.original_size);
  image.read(described.original_size, padding);
  return is_zero(padding) ? described.original_size : image.size();
}

void export_raw(Image& image, std::uint64_t size, const fs::path& file, std::stop_token stop,
                const ProgressFn& progress) {
  NewFile out(file);
  if (::ftruncate(out.fd(), static_cast<off_t>(size)) != 0) {
    throw_errno(fmt::format("cannot write {}", file.string()), errno);
  }
  Bytes buffer(kExportStep);
  for (std::uint64_t offset = 0; offset < size; offset += buffer.size()) {
    if (stop.stop_requested()) throw Error(ErrorKind::kCancelled, "interrupted; nothing was exported");
    const std::size_t n = std::min<std::uint64_t>(image.read(offset, buffer), size - offset);
    for (std::size_t at = 0; at < n; at += kChunkSize) {
      const ByteView part = ByteView(buffer).subspan(at, std::min(kChunkSize, n - at));
      if (!is_zero(part)) write_all_at(out.fd(), part, offset + at, file);
    }
    if (progress) progress("export", offset + n, size);
  }
  wipe(buffer);
  out.complete();
}

}  // namespace isr
