#include "transfer/export.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/child_process.h"

namespace isr {
namespace {

constexpr std::size_t kExportStep = 8 * kChunkSize;

/// The file of an export. The destructor removes it after a failure or an interruption; a kill or a power cut leaves
/// it.
class NewFile {
 public:
  explicit NewFile(fs::path path)
      : path_(std::move(path)), fd_(::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) {
    if (!fd_ && errno == EEXIST) throw Error(ErrorKind::kUsage, fmt::format("{} exists already", path_.string()));
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

/// Removes a temporary file on destruction, also when the operation fails or is interrupted.
class PassingFile {
 public:
  explicit PassingFile(fs::path path) : path_(std::move(path)) {}
  ~PassingFile() {
    std::error_code absent;
    if (!kept_) fs::remove(path_, absent);
  }
  PassingFile(const PassingFile&) = delete;
  PassingFile& operator=(const PassingFile&) = delete;
  void keep() noexcept { kept_ = true; }

 private:
  fs::path path_;
  bool kept_ = false;
};

void convert_to_qcow2(const fs::path& raw, const fs::path& target, const std::stop_token& stop) {
  constexpr std::chrono::hours kLongest{24 * 365};
  PassingFile made(target);
  ChildProcess child;
  ChildOptions how;
  how.program = "qemu-img";
  // Absolute, because a colon in a relative name would make it an address.
  how.arguments = {"convert", "-f", "raw", "-O", "qcow2", fs::absolute(raw).string(), fs::absolute(target).string()};
  how.directory = "/";
  child.start(std::move(how));
  const auto status = child.wait_exit({kLongest, stop});
  if (status != 0) {
    const std::string why = status ? describe_status(*status) : "it did not finish in time";
    const std::string said = child.last_words();
    throw Error(ErrorKind::kIo,
                fmt::format("qemu-img could not write {}: {}", target.string(), said.empty() ? why : said));
  }
  sync_file(open_file(target, O_RDONLY).get(), target);  // qemu-img does not sync, so a power cut would leave zeros
  made.keep();
}

}  // namespace

const VersionImage& choose_disk(const ParcelVersion& version, const std::string& wanted) {
  for (const VersionImage& image : version.images) {
    if (wanted.empty() ? is_disk(image.role) : image.name == wanted) return image;
  }
  throw Error(ErrorKind::kNotFound, fmt::format("there is no image called {}", wanted));
}

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

void export_qcow2(Image& image, std::uint64_t size, const fs::path& file, std::stop_token stop,
                  const ProgressFn& progress) {
  const fs::path raw = file.string() + ".partial";
  export_raw(image, size, raw, stop, progress);
  const PassingFile whole(raw);
  convert_to_qcow2(raw, file, stop);
}

}  // namespace isr
