#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/handle.h"

/// Files, with every failure an Error{kIo} that names the path. Nothing here
/// follows a symlink in the last component. Files are created 0600 and
/// directories 0700 whatever the umask.
namespace isr {

namespace fs = std::filesystem;

/// Opens with O_CLOEXEC|O_NOFOLLOW added to flags.
UniqueFd open_file(const fs::path& path, int flags, mode_t mode = 0600);
/// As open_file(); nullopt when the file is absent.
std::optional<UniqueFd> open_if_exists(const fs::path& path, int flags);

/// Reads exactly out.size() bytes at offset. Error{kIo} at end of file.
void read_exact_at(int fd, MutableBytes out, std::uint64_t offset, const fs::path& name_for_errors);
/// Reads up to out.size() bytes; returns the count, short only at end of file.
std::size_t read_at(int fd, MutableBytes out, std::uint64_t offset, const fs::path& name_for_errors);
void write_all_at(int fd, ByteView bytes, std::uint64_t offset, const fs::path& name_for_errors);
void sync_file(int fd, const fs::path& name_for_errors);  ///< fdatasync
void sync_directory(const fs::path& directory);           ///< follows a symlink; see Directory
std::uint64_t file_size(int fd, const fs::path& name_for_errors);

/// The whole regular file; Error{kCorrupt} when larger than limit. nullopt when absent.
std::optional<Bytes> read_file_if_exists(const fs::path& path, std::size_t limit);
Bytes read_file(const fs::path& path, std::size_t limit);

/// A directory that stays open. Open it before making files in it whose names must be synced:
/// then a sync of what is already written never fails for want of a descriptor.
class Directory {
 public:
  /// It must exist; a symlink is followed.
  explicit Directory(fs::path path);
  const fs::path& path() const noexcept { return path_; }
  /// Every name made or removed in it before is durable on return.
  void sync() const;
  /// As open_file(), of a name in it.
  UniqueFd open(const std::string& name, int flags, mode_t mode = 0600) const;
  void remove_if_exists(const std::string& name) const;
  void rename(const std::string& from, const std::string& to) const;  ///< replaces `to`

 private:
  fs::path path_;
  UniqueFd fd_;
};

/// A file for reading and writing in the file system of `directory` that no name leads to; it goes with its descriptor.
UniqueFd open_unnamed_file(const fs::path& directory);

/// mkdir -p with 0700 on what it creates; refuses a symlink as the last part,
/// and a directory that others can write or own: Error{kDenied}.
void make_private_directory(const fs::path& path);
void remove_if_exists(const fs::path& path);

/// A directory below the system's temporary one, removed on destruction.
class TempDirectory {
 public:
  explicit TempDirectory(std::string_view prefix = "isr");
  ~TempDirectory();
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;
  const fs::path& path() const noexcept { return path_; }

 private:
  fs::path path_;
};

}  // namespace isr
