// qemu-storage-daemon exports formats other than raw as a raw file over its own FUSE export, so that no plaintext copy
// is ever written to a disk.

#include "transfer/disk_source.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <atomic>
#include <nlohmann/json.hpp>

#include "base/child_process.h"
#include "base/error.h"
#include "base/find_program.h"
#include "base/log.h"
#include "base/spawn.h"
#include "base/text.h"
#include "base/whole_file.h"
#include "fusefs/mount_point.h"
#include "image/tree.h"
#include "transfer/disk_format.h"
#include "transfer/image_end.h"

namespace isr {
namespace {

using nlohmann::json;

constexpr std::chrono::seconds kExportDeadline{60};
constexpr std::chrono::milliseconds kExportPoll{10};

const std::vector<std::string>& known_formats() {
  static const std::vector<std::string> formats{"raw", "qcow2", "vmdk", "vdi", "vhdx"};
  return formats;
}

UniqueFd open_regular(const fs::path& file) {
  UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) {
    if (errno == ENOENT) throw Error(ErrorKind::kUsage, fmt::format("{} does not exist", file.string()));
    throw_errno(fmt::format("cannot open {}", file.string()), errno);
  }
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) throw_errno(file.string(), errno);
  if (!S_ISREG(info.st_mode)) {
    throw Error(ErrorKind::kUsage, fmt::format("{} is not a regular file", file.string()));
  }
  return fd;
}

/// The file in the state in which it was opened.
class SourceFile {
 public:
  explicit SourceFile(const fs::path& path) : path_(path), fd_(open_regular(path)), before_(status()) {
    if (before_.st_size == 0) throw Error(ErrorKind::kUsage, fmt::format("{} is empty", path.string()));
  }
  int fd() const { return fd_.get(); }
  const fs::path& path() const { return path_; }
  std::uint64_t size() const { return static_cast<std::uint64_t>(before_.st_size); }
  void check_unchanged() const {
    const auto same = [this](const struct stat& now) {
      return now.st_dev == before_.st_dev && now.st_ino == before_.st_ino && now.st_size == before_.st_size &&
             now.st_mtim.tv_sec == before_.st_mtim.tv_sec && now.st_mtim.tv_nsec == before_.st_mtim.tv_nsec;
    };
    struct stat named {};
    // QEMU opens the name, so the name must still lead to the file that was checked.
    if (!same(status()) || ::stat(path_.c_str(), &named) != 0 || !same(named)) {
      throw Error(ErrorKind::kIo, fmt::format("{} changed while it was read", path_.string()),
                  {"end the program that writes to it, and run the command again"});
    }
  }

 private:
  struct stat status() const {
    struct stat info {};
    if (::fstat(fd_.get(), &info) != 0) throw_errno(path_.string(), errno);
    return info;
  }
  fs::path path_;
  UniqueFd fd_;
  struct stat before_;
};

std::string cut_off(const SourceFile& file, std::uint64_t missing, const std::string& why) {
  return fmt::format("{} is cut off: at least {} bytes are missing ({})", file.path().string(), missing, why);
}

Error damage(const std::string& what, std::vector<std::string> hints = {}) {
  hints.emplace_back("fetch the file again, or import what it has, with zeros for the rest, with --force");
  return {ErrorKind::kUnsupported, what, std::move(hints)};
}

/// Reads the bytes of a descriptor as a disk.
class RawReader {
 public:
  RawReader(const fs::path& name, int fd) : name_(name), fd_(fd), size_(file_size(fd, name)) {
    if (size_ > kMaxImageSize) {
      throw Error(ErrorKind::kUnsupported, fmt::format("{} is larger than 16 TiB", name.string()));
    }
  }
  std::uint64_t size() const { return size_; }
  void read(std::uint64_t offset, MutableBytes out) const {
    const std::size_t n = offset < size_ ? read_at(fd_, out, offset, name_) : 0;
    if (offset < size_ && n < std::min<std::uint64_t>(out.size(), size_ - offset)) throw_shorter();
    std::fill(out.begin() + static_cast<std::ptrdiff_t>(n), out.end(), std::uint8_t{0});
  }
  std::uint64_t next_data(std::uint64_t offset) const {
    const off_t found = ::lseek(fd_, static_cast<off_t>(offset), SEEK_DATA);
    if (found >= 0) return static_cast<std::uint64_t>(found);
    if (errno != ENXIO) return offset;  // the file system does not report holes, so all of the file may be data
    if (file_size(fd_, name_) < size_) throw_shorter();
    return size_;
  }

 private:
  [[noreturn]] void throw_shorter() const {
    throw Error(ErrorKind::kIo, fmt::format("{} became shorter while it was read", name_.string()));
  }
  fs::path name_;
  int fd_;  // borrowed
  std::uint64_t size_;
};

class RawSource : public DiskSource {
 public:
  explicit RawSource(SourceFile file) : file_(std::move(file)), raw_(file_.path(), file_.fd()) {}
  std::uint64_t size() const override { return raw_.size(); }
  void read(std::uint64_t offset, MutableBytes out) override { raw_.read(offset, out); }
  std::uint64_t next_data(std::uint64_t offset) override { return raw_.next_data(offset); }
  void check_unchanged() const override { file_.check_unchanged(); }
  std::uint64_t missing_bytes() const override { return 0; }
  std::uint64_t unreadable_bytes() const override { return 0; }

 private:
  SourceFile file_;
  RawReader raw_;
};

struct Finished {
  int code = 0;  ///< the exit code; negative: the signal that ended it
  std::string output, errors;
};

Finished run_program(const std::vector<std::string>& command) {
  const UniqueFd output(::memfd_create("output", MFD_CLOEXEC));
  const UniqueFd errors(::memfd_create("errors", MFD_CLOEXEC));
  if (!find_program(command[0])) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{} is not installed", command[0]),
                {"sudo apt install qemu-utils qemu-system-common"});
  }
  SpawnOptions options;
  options.descriptors = {{output.get(), STDOUT_FILENO}, {errors.get(), STDERR_FILENO}};
  const int status = await_child(spawn(command[0], command, options));
  const auto text = [](int fd) {
    Bytes bytes(std::min<std::uint64_t>(file_size(fd, "output"), 1U << 20U));
    read_exact_at(fd, bytes, 0, "output");
    return std::string(as_text(bytes));
  };
  Finished finished{WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), text(output.get()),
                    text(errors.get())};
  while (!finished.errors.empty() && finished.errors.back() == '\n') finished.errors.pop_back();
  return finished;
}

[[noreturn]] void refuse_failure(const std::string& program, const Finished& failed) {
  throw Error(ErrorKind::kUnsupported, failed.errors.empty() ? program + " failed" : failed.errors);
}

/// Refuses an image with damage other than being cut off. QEMU's tools do not check every format.
void refuse_damage(const fs::path& file, const std::string& format) {
  constexpr int kLeaks = 3;  // leaked clusters, which are harmless
  constexpr int kCannotCheck = 63;
  const Finished checked = run_program({"qemu-img", "check", "--output=json", "-f", format, "--", file.string()});
  if (checked.code == 0 || checked.code == kLeaks || checked.code == kCannotCheck) return;
  throw damage(fmt::format("{} is damaged", file.string()),
               {fmt::format("qemu-img check -f {} {}    says more", format, file.string())});
}

/// The length that the file must have. Error{kUnsupported} when the file is shorter, unless salvage is set.
std::uint64_t whole_length(const SourceFile& file, const std::string& format, bool salvage) {
  std::uint64_t needed = 0;
  try {
    needed = needed_length(file.fd(), file.path(), format);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{} is not a usable {} image: {}", file.path().string(), format, error.what()));
  }
  if (needed > file.size() && !salvage) {
    throw damage(cut_off(file, needed - file.size(),
                         fmt::format("the file has {}, but its tables refer to byte {}", file.size(), needed)));
  }
  return std::max(needed, file.size());
}

std::string repair_command(const fs::path& file, const std::string& format) {
  return fmt::format("qemu-img check -r all -f {} {}    when nothing uses it any more", format, file.string());
}

json image_info(const fs::path& file, const std::string& format) {
  const Finished info = run_program({"qemu-img", "info", "--output=json", "-f", format, "--", file.string()});
  // QEMU replays the log of a VHDX only when it may write to it.
  if (info.code != 0 && info.errors.find("log that needs to be replayed") != std::string::npos) {
    throw Error(
        ErrorKind::kUnsupported,
        fmt::format("{} was not closed properly: its log has writes that are missing in the disk", file.string()),
        {repair_command(file, format)});
  }
  if (info.code != 0) refuse_failure("qemu-img", info);
  try {
    return json::parse(info.output);
  } catch (const json::exception&) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{} is not a {} image", file.string(), format));
  }
}

/// Refuses an image that was in use when its host went down: its tables may lead to the wrong bytes.
void refuse_unclean(const json& info, const fs::path& file, const std::string& format) {
  const json data = info.value("format-specific", json::object()).value("data", json::object());
  if (data.value("corrupt", false)) {
    throw damage(fmt::format("{} is marked as corrupt", file.string()), {repair_command(file, format)});
  }
  if (info.value("dirty-flag", false)) {
    throw damage(fmt::format("{} was not closed properly: it is marked as dirty", file.string()),
                 {repair_command(file, format)});
  }
}

void refuse_references(const json& info, const fs::path& file, const std::string& format) {
  if (info.contains("backing-filename") || info.contains("full-backing-filename")) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{} has a backing file, {}, which isr does not follow", file.string(),
                            info.value("backing-filename", "unnamed")),
                {"flatten it first: qemu-img convert -O qcow2 IN OUT"});
  }
  if (info.value("encrypted", false)) throw Error(ErrorKind::kUnsupported, file.string() + " is encrypted");
  const json data = info.value("format-specific", json::object()).value("data", json::object());
  if (data.contains("data-file"))
    throw Error(ErrorKind::kUnsupported, file.string() + " keeps its data in another file");
  if (format == "vmdk") {
    const json extents = data.value("extents", json::array());
    if (extents.size() != 1 || extents[0].value("filename", "") != file.string()) {
      throw Error(ErrorKind::kUnsupported, file.string() + " consists of several files");
    }
  }
}

/// Another format, read through qemu-storage-daemon's FUSE export. Once the export is open, its mount is removed
/// lazily. From then on only our descriptor leads to it, and the export ends with this process.
class ConvertedSource : public DiskSource {
 public:
  ConvertedSource(SourceFile file, const std::string& format, std::uint64_t whole_length, bool salvage)
      : file_(std::move(file)), missing_(whole_length - file_.size()), salvage_(salvage) {
    const TempDirectory temp("isr-import");
    const fs::path target = temp.path() / "disk.raw";
    replace_file(target, {});
    const fs::path pid_file = temp.path() / "pid";
    start(format, target, pid_file, missing_ == 0 ? fs::path() : stand_in(temp.path(), whole_length));
    try {
      wait_for(pid_file);
      exported_ = open_regular(target);
    } catch (const Error&) {
      if (mount_at(target)) detach(target);
      throw;
    }
    detach(target);
    raw_.emplace(file_.path(), exported_.get());
  }
  std::uint64_t size() const override { return raw_->size(); }
  void read(std::uint64_t offset, MutableBytes out) override {
    try {
      raw_->read(offset, out);
    } catch (const Error&) {
      if (!salvage_) throw;
      read_what_can_be(offset, out);
    }
  }
  std::uint64_t next_data(std::uint64_t offset) override { return raw_->next_data(offset); }
  void check_unchanged() const override { file_.check_unchanged(); }
  std::uint64_t missing_bytes() const override { return missing_; }
  std::uint64_t unreadable_bytes() const override { return unreadable_; }

 private:
  void read_what_can_be(std::uint64_t offset, MutableBytes out) {
    constexpr std::size_t kPiece = 4096;
    for (std::size_t at = 0; at < out.size(); at += kPiece) {
      const MutableBytes piece = out.subspan(at, std::min(kPiece, out.size() - at));
      try {
        raw_->read(offset + at, piece);
      } catch (const Error&) {
        if (daemon_.exit_status()) throw;
        std::fill(piece.begin(), piece.end(), std::uint8_t{0});
        unreadable_ += piece.size();
      }
    }
  }

  /// Makes an empty qcow2 of the length that the file should have. As an overlay over the file it adds zeros after the
  /// file's end. Needed because QEMU does not open a VHDX that is too short.
  static fs::path stand_in(const fs::path& directory, std::uint64_t length) {
    constexpr std::uint64_t kSector = 512;
    fs::path file = directory / "length.qcow2";
    const Finished made = run_program({"qemu-img", "create", "-q", "-f", "qcow2", "--", file.string(),
                                       std::to_string((length + kSector - 1) / kSector * kSector)});
    if (made.code != 0) refuse_failure("qemu-img", made);
    return file;
  }

  void start(const std::string& format, const fs::path& target, const fs::path& pid_file, const fs::path& over_it) {
    json bytes{{"driver", "file"}, {"filename", fs::absolute(file_.path()).string()}, {"read-only", true}};
    if (!over_it.empty()) {
      bytes = {{"driver", "qcow2"},
               {"file", {{"driver", "file"}, {"filename", over_it.string()}, {"read-only", true}}},
               {"backing", bytes},
               {"read-only", true}};
    }
    json node{{"driver", format}, {"node-name", "disk"}, {"file", bytes}, {"read-only", true}};
    if (format == "qcow2" || format == "vmdk") node["backing"] = nullptr;
    ChildOptions options;
    options.program = "qemu-storage-daemon";
    options.arguments = {
        "--blockdev", node.dump(),
        "--export",   fmt::format("type=fuse,id=export,node-name=disk,mountpoint={},writable=off", target.string()),
        "--pidfile",  pid_file.string()};
    options.directory = "/";
    options.death_signal = SIGTERM;  // on SIGTERM it removes its mount, if that still exists
    options.runs_fusermount = true;
    try {
      daemon_.start(std::move(options));
    } catch (const Error& error) {
      throw Error(ErrorKind::kUnsupported, error.what(), {"sudo apt install qemu-system-common"});
    }
  }

  /// Waits for the pid file, which the daemon writes once everything on its command line is set up.
  void wait_for(const fs::path& pid_file) {
    const auto deadline = std::chrono::steady_clock::now() + kExportDeadline;
    while (!fs::exists(pid_file)) {
      if (daemon_.wait_exit({kExportPoll, {}})) {
        const std::string words = daemon_.last_words();
        throw Error(ErrorKind::kUnsupported, words.empty() ? "qemu-storage-daemon failed" : words);
      }
      if (std::chrono::steady_clock::now() > deadline) {
        throw Error(ErrorKind::kIo,
                    fmt::format("qemu-storage-daemon did not open the image within {} s", kExportDeadline.count()));
      }
    }
  }

  SourceFile file_;
  std::uint64_t missing_;
  bool salvage_;
  std::atomic<std::uint64_t> unreadable_ = 0;
  ChildProcess daemon_;
  UniqueFd exported_;  // closed before the daemon is killed
  std::optional<RawReader> raw_;
};

/// QEMU exchanges file names as JSON, so the path must be valid UTF-8.
void require_text(const fs::path& path) {
  try {
    static_cast<void>(json(path.native()).dump());
  } catch (const json::exception&) {
    throw Error(ErrorKind::kUsage, fmt::format("the path {} is not UTF-8, but QEMU needs that", escaped(path.native())),
                {"rename the file, or give the path of a symbolic link to it"});
  }
}

}  // namespace

std::unique_ptr<DiskSource> open_disk_source(const fs::path& name, const DiskSourceOptions& options) {
  const fs::path path = fs::absolute(name);  // QEMU's tools would take a relative name with a colon for an address
  SourceFile file(path);
  const std::string format = options.format.empty() ? detect_disk_format(file.fd(), path) : options.format;
  if (std::find(known_formats().begin(), known_formats().end(), format) == known_formats().end()) {
    throw Error(ErrorKind::kUnsupported, fmt::format("format {} is not known (raw, qcow2, vmdk, vdi, vhdx)", format));
  }
  if (format == "raw") return std::make_unique<RawSource>(std::move(file));
  require_text(path);
  const std::uint64_t length = whole_length(file, format, options.salvage);
  const bool is_cut = length > file.size();
  // QEMU opens no VHDX that is cut off, and none that names another file.
  if (!is_cut || format != "vhdx") {
    const json info = image_info(path, format);
    refuse_references(info, path, format);
    if (!options.salvage) refuse_unclean(info, path, format);
  }
  if (!options.salvage) refuse_damage(path, format);
  return std::make_unique<ConvertedSource>(std::move(file), format, length, options.salvage);
}

}  // namespace isr
