// The format file is the first file in a new store and is created atomically. So a directory without one is empty, or
// does not belong to isr, or is the rest of a cache that was deleted while a process wrote in it.
#include "chunkstore/pack_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/whole_file.h"

namespace isr {
namespace {

constexpr std::string_view kFormatFile = "format";
constexpr std::string_view kMagic = "isr-packs";
constexpr int kVersion = 1;
constexpr std::size_t kMaxFormatSize = 4096;
constexpr std::string_view kCacheTag =
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This directory is a cache of isr. It may be deleted while no isr runs.\n"
    "# For information about cache directory tags, see https://bford.info/cachedir/\n";

std::string_view name_of(PackUse use) noexcept { return use == PackUse::kCache ? "cache" : "settled"; }

[[noreturn]] void refuse(const fs::path& directory, std::string_view why) {
  throw Error(ErrorKind::kUnsupported, fmt::format("{}: {}", directory.string(), why));
}

void check_format(const fs::path& directory, ByteView text, PackUse use) {
  const auto json = nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || json.value("magic", nlohmann::json()) != kMagic) {
    refuse(directory, "its format file was not written by isr");
  }
  const auto version = json.value("version", nlohmann::json());
  if (version != kVersion)
    refuse(directory, fmt::format("format version {} is not known to this version of isr", version.dump()));
  const auto found = json.value("use", nlohmann::json());
  if (found != name_of(use)) refuse(directory, fmt::format("it is for {}, not for {}", found.dump(), name_of(use)));
}

bool is_of_a_cache(std::string_view name) {
  return name == "packs" || name == "pins" || name == "lock" || name == "CACHEDIR.TAG" || name.starts_with("index.db");
}

bool has_entries_of_others(const fs::path& directory, PackUse use) {
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    const bool is_ours = use == PackUse::kCache && is_of_a_cache(name);
    if (!is_ours && !name.starts_with(kTempFilePrefix) && name != "lost+found") return true;
  }
  if (error) throw_errno(fmt::format("cannot list {}", directory.string()), error.value());
  return false;
}

std::optional<Bytes> read_format(const fs::path& directory) {
  try {
    return read_file_if_exists(directory / kFormatFile, kMaxFormatSize);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kCorrupt) refuse(directory, "its format file was not written by isr");
    throw;
  }
}

}  // namespace

void prepare_pack_directory(const fs::path& directory, PackUse use) {
  make_private_directory(directory);
  auto format = read_format(directory);
  if (!format) {
    // The entries were seen before the format file was looked for, so no process was just creating the store.
    if (has_entries_of_others(directory, use) && !read_format(directory)) {
      refuse(directory, "it has files, but is not a store of isr");
    }
    const std::string text =
        fmt::format("{{\"magic\":\"{}\",\"version\":{},\"use\":\"{}\"}}\n", kMagic, kVersion, name_of(use));
    create_file(directory / kFormatFile, as_bytes(text));
    format = read_file(directory / kFormatFile, kMaxFormatSize);
  }
  check_format(directory, *format, use);
  make_private_directory(directory / "packs");
  if (use == PackUse::kCache) create_file(directory / "CACHEDIR.TAG", as_bytes(kCacheTag), 0644);
}

std::optional<DirectoryIdentity> identify_directory(const fs::path& directory) {
  struct stat status {};
  if (::lstat(directory.c_str(), &status) == 0) return DirectoryIdentity{status.st_dev, status.st_ino};
  if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
  throw_errno(fmt::format("cannot examine {}", directory.string()), errno);
}

std::optional<StoreLock> StoreLock::acquire(const fs::path& directory, std::chrono::milliseconds wait) {
  // flock() has no deadline, so we try repeatedly.
  constexpr std::chrono::milliseconds kPause{20};
  const auto deadline = std::chrono::steady_clock::now() + wait;
  UniqueFd fd = open_file(directory / "lock", O_RDWR | O_CREAT);
  while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) throw_errno(fmt::format("cannot lock {}", directory.string()), errno);
    if (std::chrono::steady_clock::now() >= deadline) return std::nullopt;
    std::this_thread::sleep_for(kPause);
  }
  return StoreLock(std::move(fd));
}

}  // namespace isr
