// /proc lists the files that each process has open and mapped, /sys the files behind loop devices. Reading the links in
// /proc/PID/fd never waits; /proc/PID/maps and map_files wait for the process's mmap lock.

#include "fusefs/file_users.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>

#include "base/file.h"
#include "fusefs/mount_point.h"

namespace isr {
namespace {

std::optional<pid_t> process_number(const std::string& name) {
  pid_t pid = 0;
  const auto [end, failure] = std::from_chars(name.data(), name.data() + name.size(), pid);
  if (failure != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return pid;
}

/// The names in a directory; none when it is gone or not readable.
std::vector<fs::path> entries_of(const fs::path& directory) {
  std::vector<fs::path> out;
  std::error_code failure;
  for (fs::directory_iterator it(directory, failure), end; !failure && it != end; it.increment(failure)) {
    out.push_back(it->path());
  }
  return out;
}

std::string first_line(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

std::vector<std::string> open_files_of(const fs::path& process) {
  std::vector<std::string> files;
  for (const fs::path& link : entries_of(process / "fd")) {
    std::error_code gone;
    files.push_back(fs::read_symlink(link, gone).string());
  }
  return files;
}

bool is_any_below(const std::vector<std::string>& files, const std::string& directory) {
  return std::any_of(files.begin(), files.end(), [&](const std::string& file) { return file.starts_with(directory); });
}

/// The mount points of the other isr mounts, each with a slash appended.
std::vector<std::string> siblings_of(const std::string& below) {
  std::vector<std::string> siblings;
  for (const MountedSource& mount : all_mounts()) {
    std::string point = mount.point.string() + "/";
    if (mount.type == kMountType && point != below) siblings.push_back(std::move(point));
  }
  return siblings;
}

bool has_mapped(const fs::path& process, const std::string& below) {
  std::ifstream maps(process / "maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find(" " + below) != std::string::npos) return true;
  }
  return false;
}

bool uses_files(const fs::path& process, const std::string& below, const std::vector<std::string>& siblings) {
  const std::vector<std::string> files = open_files_of(process);
  if (is_any_below(files, below)) return true;
  const auto has_open = [&](const std::string& sibling) { return is_any_below(files, sibling); };
  return std::none_of(siblings.begin(), siblings.end(), has_open) && has_mapped(process, below);
}

/// Finds where a loop device or its partitions are mounted, as far as this process sees.
FileUser describe_loop(const std::string& device) {
  FileUser user{device, fmt::format("losetup -d {}", device)};
  for (const auto& [type, source, point] : all_mounts()) {
    if (source != device && !source.starts_with(device + "p")) continue;
    return {fmt::format("{}, which is mounted on {}", device, point.string()),
            fmt::format("umount {}", point.string())};
  }
  return user;
}

}  // namespace

std::vector<FileUser> find_file_users(const fs::path& directory, std::span<const pid_t> but_for) {
  const std::string below = directory.string() + "/";
  const std::vector<std::string> siblings = siblings_of(below);
  std::vector<FileUser> users;
  for (const fs::path& device : entries_of("/sys/block")) {
    if (!device.filename().string().starts_with("loop")) continue;
    if (!first_line(device / "loop" / "backing_file").starts_with(below)) continue;
    users.push_back(describe_loop("/dev/" + device.filename().string()));
  }
  for (const fs::path& process : entries_of("/proc")) {
    const auto pid = process_number(process.filename().string());
    if (!pid || *pid == ::getpid() || std::find(but_for.begin(), but_for.end(), *pid) != but_for.end()) continue;
    if (!uses_files(process, below, siblings)) continue;
    users.push_back({fmt::format("{} (process {})", first_line(process / "comm"), *pid), fmt::format("kill {}", *pid)});
  }
  return users;
}

}  // namespace isr
