// Formats other than raw are exported by qemu-storage-daemon as a raw file over
// its own FUSE export, so that no plaintext copy is ever written to a disk.

#include "session/disk_source.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "fusefs/mount_point.h"
#include "image/tree.h"
#include "vm/child_process.h"

extern char** environ;

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

class RawSource : public DiskSource {
 public:
  RawSource(const fs::path& file, UniqueFd fd) : path_(file), fd_(std::move(fd)), size_(file_size(fd_.get(), file)) {
    if (size_ == 0) throw Error(ErrorKind::kUsage, fmt::format("{} is empty", file.string()));
    if (size_ > kMaxImageSize) {
      throw Error(ErrorKind::kUnsupported, fmt::format("{} is larger than 16 TiB", file.string()));
    }
  }
  std::uint64_t size() const override { return size_; }
  void read(std::uint64_t offset, MutableBytes out) override {
    const std::size_t n = offset < size_ ? read_at(fd_.get(), out, offset, path_) : 0;
    if (offset < size_ && n < std::min<std::uint64_t>(out.size(), size_ - offset)) {
      throw Error(ErrorKind::kIo, fmt::format("{} became shorter while it was read", path_.string()));
    }
    std::fill(out.begin() + static_cast<std::ptrdiff_t>(n), out.end(), std::uint8_t{0});
  }
  std::uint64_t next_data(std::uint64_t offset) override {
    const off_t found = ::lseek(fd_.get(), static_cast<off_t>(offset), SEEK_DATA);
    if (found >= 0) return static_cast<std::uint64_t>(found);
    return errno == ENXIO ? size_ : offset;  // a file system without holes: everything may be data
  }

 private:
  fs::path path_;
  UniqueFd fd_;
  std::uint64_t size_;
};

pid_t spawn(const std::vector<std::string>& command, int out_fd, int error_fd) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (out_fd >= 0) posix_spawn_file_actions_adddup2(&actions, out_fd, STDOUT_FILENO);
  if (error_fd >= 0) posix_spawn_file_actions_adddup2(&actions, error_fd, STDERR_FILENO);
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  pid_t pid = 0;
  const int error = ::posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error == ENOENT) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{} is not installed", command[0]),
                {"sudo apt install qemu-utils qemu-system-common"});
  }
  if (error != 0) throw_errno("cannot start " + command[0], error);
  return pid;
}

struct Finished {
  int code = 0;  ///< its exit code; minus the signal that ended it
  std::string output, errors;
};

Finished run_program(const std::vector<std::string>& command) {
  const UniqueFd output(::memfd_create("output", MFD_CLOEXEC));
  const UniqueFd errors(::memfd_create("errors", MFD_CLOEXEC));
  const pid_t pid = spawn(command, output.get(), errors.get());
  int status = 0;
  ::waitpid(pid, &status, 0);
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

/// The output of a command; Error{kUnsupported} with its last words when it fails.
std::string capture(const std::vector<std::string>& command) {
  Finished finished = run_program(command);
  if (finished.code == 0) return finished.output;
  throw Error(ErrorKind::kUnsupported, finished.errors.empty() ? command[0] + " failed" : finished.errors);
}

/// QEMU reads zeros behind the end of a file that was cut off, tables and data alike.
void refuse_damage(const fs::path& file, const std::string& format) {
  constexpr int kLeaks = 3;  // clusters that nothing uses: harmless
  constexpr int kCannotCheck = 63;
  const Finished checked = run_program({"qemu-img", "check", "--output=json", "-f", format, "--", file.string()});
  if (checked.code == 0 || checked.code == kLeaks || checked.code == kCannotCheck) return;
  throw Error(ErrorKind::kUnsupported, fmt::format("{} is cut off or damaged", file.string()),
              {fmt::format("qemu-img check -f {} {}    says more", format, file.string())});
}

void refuse_references(const fs::path& file, const std::string& format) {
  json info;
  try {
    info = json::parse(capture({"qemu-img", "info", "--output=json", "-f", format, "--", file.string()}));
  } catch (const json::exception&) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{} is not a {} image", file.string(), format));
  }
  if (info.contains("backing-filename") || info.contains("full-backing-filename")) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{} has a backing file, {}; it is not followed", file.string(),
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

/// Another format, seen through qemu-storage-daemon's FUSE export of it. Once the
/// export is open its mount is taken away again, lazily: from then on there is only
/// our descriptor, and whatever ends us ends the export with it.
class ConvertedSource : public DiskSource {
 public:
  ConvertedSource(const fs::path& file, const std::string& format) {
    const TempDirectory temp("isr-import");
    const fs::path target = temp.path() / "disk.raw";
    replace_file(target, {});
    const fs::path pid_file = temp.path() / "pid";
    start(file, format, target, pid_file);
    UniqueFd fd;
    try {
      wait_for(pid_file);
      fd = open_regular(target);
    } catch (const Error&) {
      if (mount_at(target)) detach(target);
      throw;
    }
    detach(target);
    raw_ = std::make_unique<RawSource>(file, std::move(fd));
  }
  std::uint64_t size() const override { return raw_->size(); }
  void read(std::uint64_t offset, MutableBytes out) override { raw_->read(offset, out); }
  std::uint64_t next_data(std::uint64_t offset) override { return raw_->next_data(offset); }

 private:
  void start(const fs::path& file, const std::string& format, const fs::path& target, const fs::path& pid_file) {
    const json protocol{
        {"driver", "file"}, {"node-name", "file"}, {"filename", fs::absolute(file).string()}, {"read-only", true}};
    json node{{"driver", format}, {"node-name", "disk"}, {"file", "file"}, {"read-only", true}};
    if (format == "qcow2" || format == "vmdk") node["backing"] = nullptr;
    ChildOptions options;
    options.program = "qemu-storage-daemon";
    options.arguments = {
        "--blockdev", protocol.dump(),
        "--blockdev", node.dump(),
        "--export",   fmt::format("type=fuse,id=export,node-name=disk,mountpoint={},writable=off", target.string()),
        "--pidfile",  pid_file.string()};
    options.directory = "/";
    options.death_signal = SIGTERM;  // a mount that is not yet taken away it takes away itself
    options.runs_fusermount = true;
    try {
      daemon_.start(std::move(options));
    } catch (const Error& error) {
      throw Error(ErrorKind::kUnsupported, error.what(), {"sudo apt install qemu-system-common"});
    }
  }

  /// It writes its pid once all that its command line asks for is there.
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

  ChildProcess daemon_;
  std::unique_ptr<RawSource> raw_;  // closed before the daemon is killed
};

}  // namespace

std::string detect_disk_format(const fs::path& file) {
  const UniqueFd fd = open_regular(file);
  Bytes head(512);
  head.resize(read_at(fd.get(), head, 0, file));
  const std::string_view text = as_text(head);
  if (text.starts_with("QFI\xfb")) return "qcow2";
  if (text.starts_with("KDMV") || text.starts_with("COWD")) return "vmdk";
  if (text.starts_with("vhdxfile")) return "vhdx";
  if (text.size() >= 0x44 && text.substr(0x40, 4) == std::string_view("\x7f\x10\xda\xbe", 4)) return "vdi";
  if (text.starts_with("# Disk DescriptorFile")) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{} is a VMDK descriptor, which names other files", file.string()),
                {"qemu-img convert -f vmdk -O qcow2 IN OUT    makes one file of it"});
  }
  return "raw";
}

std::unique_ptr<DiskSource> open_disk_source(const fs::path& file, const std::string& format) {
  UniqueFd fd = open_regular(file);
  if (file_size(fd.get(), file) == 0) throw Error(ErrorKind::kUsage, fmt::format("{} is empty", file.string()));
  const std::string chosen = format.empty() ? detect_disk_format(file) : format;
  if (std::find(known_formats().begin(), known_formats().end(), chosen) == known_formats().end()) {
    throw Error(ErrorKind::kUnsupported, fmt::format("format {} is not known (raw, qcow2, vmdk, vdi, vhdx)", chosen));
  }
  if (chosen == "raw") return std::make_unique<RawSource>(file, std::move(fd));
  refuse_references(file, chosen);
  refuse_damage(file, chosen);
  return std::make_unique<ConvertedSource>(file, chosen);
}

}  // namespace isr
