// libfuse could mount by itself. This file does it instead, so that a refusal is an error with its cause, not a line on
// stderr, and so that isr owns the descriptor: a supervisor that outlives its workers has to hold it.

#include "fusefs/mount_point.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <future>
#include <sstream>
#include <system_error>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/find_program.h"
#include "base/spawn.h"
#include "fusefs/mount.h"

namespace isr {
namespace {

constexpr const char* kHelper = "fusermount3";
constexpr int kMaxLinks = 40;
constexpr auto kMuteDeadline = std::chrono::seconds(2);

std::string message_of(int errno_value) { return std::generic_category().message(errno_value); }

/// mountinfo writes space, tab, newline and backslash as \ooo.
std::string unescape(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

void for_each_mount(const std::function<void(const fs::path& point, const KernelMount& mount)>& body) {
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream fields(line);
    std::string id, parent, device, root, point, field;
    fields >> id >> parent >> device >> root >> point;
    while (fields >> field && field != "-") {
    }
    std::string type, source;
    fields >> type >> source;
    body(unescape(point), {device, type, unescape(source)});
  }
}

std::optional<fs::path> find_helper() { return find_program(kHelper, "/usr/bin:/bin"); }

struct HelperResult {
  int status = -1;
  std::string stderr_text;
};

/// Runs fusermount3. The channel, if any, becomes its descriptor 3, named in _FUSE_COMMFD.
HelperResult run_helper(std::vector<std::string> arguments, int channel) {
  const auto helper = find_helper();
  if (!helper) throw Error(ErrorKind::kDaemon, "fusermount3 is not installed (Debian package fuse3)");
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw_errno("pipe", errno);
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);

  arguments.insert(arguments.begin(), kHelper);
  SpawnOptions options;
  options.descriptors = {{writer.get(), STDERR_FILENO}};
  if (channel >= 0) {
    options.descriptors.emplace_back(channel, 3);
    options.environment = {"_FUSE_COMMFD=3"};
  }
  const pid_t pid = spawn(*helper, std::move(arguments), options);
  writer.reset();

  HelperResult result;
  std::array<char, 512> chunk{};
  for (;;) {
    const ssize_t count = ::read(reader.get(), chunk.data(), chunk.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    if (result.stderr_text.size() < 4096) result.stderr_text.append(chunk.data(), static_cast<std::size_t>(count));
  }
  result.status = await_child(pid);
  while (!result.stderr_text.empty() && result.stderr_text.back() == '\n') result.stderr_text.pop_back();
  return result;
}

UniqueFd receive_descriptor(int channel) {
  char byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  if (::recvmsg(channel, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0) return {};
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) return {};
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return UniqueFd(fd);
}

/// fusermount3 splits its options at commas.
std::string escape_option(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == ',' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

UniqueFd attach_by_helper(const fs::path& directory, const AttachOptions& options) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) throw_errno("socketpair", errno);
  const UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  const std::string flags = fmt::format("{},nosuid,nodev,default_permissions,fsname={},subtype=isr",
                                        options.read_only ? "ro" : "rw", escape_option(options.source_name));
  const auto result = run_helper({"-o", flags, "--", directory.string()}, theirs.get());
  UniqueFd fd = receive_descriptor(ours.get());
  if (result.status != 0 || !fd) {
    throw Error(ErrorKind::kDaemon,
                fmt::format("cannot mount on {}: {}", directory.string(),
                            result.stderr_text.empty() ? "fusermount3 failed" : result.stderr_text));
  }
  return fd;
}

UniqueFd attach_as_root(const fs::path& directory, const AttachOptions& options) {
  UniqueFd fd(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (!fd) throw Error(ErrorKind::kDaemon, fmt::format("/dev/fuse: {}", message_of(errno)));
  const std::string data = fmt::format("fd={},rootmode=40000,user_id={},group_id={},default_permissions", fd.get(),
                                       ::geteuid(), ::getegid());
  unsigned long flags = MS_NOSUID | MS_NODEV;
  if (options.read_only) flags |= MS_RDONLY;
  if (::mount(options.source_name.c_str(), directory.c_str(), kMountType.data(), flags, data.c_str()) != 0) {
    throw Error(ErrorKind::kDaemon, fmt::format("cannot mount on {}: {}", directory.string(), message_of(errno)));
  }
  return fd;
}

bool is_fuse(const KernelMount& mount) { return mount.type == "fuse" || mount.type.starts_with("fuse."); }

}  // namespace

fs::path absolute_mount_point(const fs::path& directory) {
  if (directory.empty()) throw Error(ErrorKind::kUsage, "the mount point has no name");
  fs::path path = fs::absolute(directory).lexically_normal();
  for (int links = 0; links < kMaxLinks; ++links) {
    if (!path.has_filename()) path = path.parent_path();  // "a/" is "a"
    if (path == path.root_path()) return path;
    std::error_code failure;
    const fs::path above = fs::weakly_canonical(path.parent_path(), failure);
    if (failure) return path;
    path = above / path.filename();
    // Does not access a mount: a dead one fails, and one that does not answer would block.
    if (mount_at(path) || !fs::is_symlink(path, failure)) return path;
    path = (above / fs::read_symlink(path, failure)).lexically_normal();
  }
  throw Error(ErrorKind::kUsage, fmt::format("the mount point {} is a loop of links", directory.string()));
}

std::optional<KernelMount> mount_at(const fs::path& directory) {
  std::optional<KernelMount> found;
  for_each_mount([&](const fs::path& point, const KernelMount& mount) {
    if (point == directory) found = mount;  // the last line is the topmost
  });
  return found;
}

std::vector<MountedSource> all_mounts() {
  std::vector<MountedSource> found;
  for_each_mount([&](const fs::path& point, const KernelMount& mount) {
    found.push_back({mount.type, mount.source, point});
  });
  return found;
}

bool is_dead_mount(const fs::path& directory) {
  const fs::path point = absolute_mount_point(directory);
  const auto mount = mount_at(point);
  if (!mount || !is_fuse(*mount)) return false;
  // statvfs() is never answered from the kernel's caches. A stopped daemon would not answer at all, so the call runs on
  // a thread that can be left behind.
  auto asked = std::make_shared<std::promise<int>>();
  auto answer = asked->get_future();
  std::thread([asked, point] {
    struct statvfs space {};
    asked->set_value(::statvfs(point.c_str(), &space) == 0 ? 0 : errno);
  }).detach();
  if (answer.wait_for(kMuteDeadline) != std::future_status::ready)
    return false;  // a daemon that does not answer is not dead
  const int failure = answer.get();
  // ECONNABORTED: the connection was aborted, but its daemon still holds the device.
  return failure == ENOTCONN || failure == ECONNABORTED;
}

Detached detach(const fs::path& directory) {
  if (::geteuid() == 0) {
    if (::umount2(directory.c_str(), UMOUNT_NOFOLLOW) == 0) return Detached::kClean;
    if (::umount2(directory.c_str(), UMOUNT_NOFOLLOW | MNT_DETACH) == 0) return Detached::kLazily;
    const int failure = errno;
    if (!mount_at(directory)) return Detached::kLazily;
    throw_errno(fmt::format("cannot unmount {}", directory.string()), failure);
  }
  if (run_helper({"-u", "--", directory.string()}, -1).status == 0) return Detached::kClean;
  const auto result = run_helper({"-u", "-z", "--", directory.string()}, -1);
  if (result.status == 0 || !mount_at(directory)) return Detached::kLazily;
  throw Error(ErrorKind::kIo, fmt::format("cannot unmount {}: {}", directory.string(), result.stderr_text));
}

bool unmount(const fs::path& directory) {
  const fs::path point = absolute_mount_point(directory);
  const auto mount = mount_at(point);
  if (!mount || mount->type != kMountType) return false;
  detach(point);
  return true;
}

FuseAccess probe_fuse_access() {
  FuseAccess access;
  access.root = ::geteuid() == 0;
  access.no_new_privs = ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
  access.fusermount = find_helper();
  return access;
}

std::optional<std::string> why_no_fuse(const FuseAccess& access) {
  struct stat attributes {};
  if (::stat(access.device.c_str(), &attributes) != 0) {
    return fmt::format("{} is absent: load the kernel module fuse, or give the container the device",
                       access.device.string());
  }
  if (!S_ISCHR(attributes.st_mode)) return fmt::format("{} is not a device", access.device.string());
  if (access.root) return std::nullopt;
  if (::access(access.device.c_str(), R_OK | W_OK) != 0) {
    return fmt::format("you may not open {}: {}", access.device.string(), message_of(errno));
  }
  if (!access.fusermount) return "fusermount3 is not installed (Debian package fuse3)";
  if (access.no_new_privs) {
    return "no_new_privs is set for this process, so fusermount3 cannot mount (systemd: NoNewPrivileges=no)";
  }
  return std::nullopt;
}

void require_mountable(const fs::path& directory) {
  const std::string name = directory.string();
  if (const auto mount = mount_at(directory); mount && is_fuse(*mount)) {
    throw Error(ErrorKind::kUsage, fmt::format("{} is already mounted ({})", name, mount->type));
  }
  std::error_code failure;
  const auto status = fs::status(directory, failure);
  if (status.type() == fs::file_type::not_found) {
    throw Error(ErrorKind::kUsage, fmt::format("the mount point {} does not exist", name));
  }
  if (failure) throw_errno(fmt::format("the mount point {}", name), failure.value());
  if (status.type() != fs::file_type::directory) {
    throw Error(ErrorKind::kUsage, fmt::format("the mount point {} is not a directory", name));
  }
  const bool empty = fs::is_empty(directory, failure);
  if (failure) throw_errno(fmt::format("the mount point {}", name), failure.value());
  if (!empty) throw Error(ErrorKind::kUsage, fmt::format("the mount point {} is not empty", name));
  if (const auto cause = why_no_fuse(probe_fuse_access())) {
    throw Error(ErrorKind::kDaemon, fmt::format("cannot mount: {}", *cause));
  }
}

UniqueFd attach(const fs::path& directory, const AttachOptions& options) {
  return ::geteuid() == 0 ? attach_as_root(directory, options) : attach_by_helper(directory, options);
}

}  // namespace isr
