#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/handle.h"

/// File operations. Every failure is an Error{kIo} that names the path. No function follows a symlink in the last
/// component unless it says so. Files are created with mode 0600 and directories with 0700, whatever the umask is.
namespace isr {

namespace fs = std::filesystem;

/// Opens with O_CLOEXEC|O_NOFOLLOW added to flags.
UniqueFd open_file(const fs::path& path, int flags, mode_t mode = 0600);
/// As open_file(); nullopt when the file is absent.
std::optional<UniqueFd> open_if_exists(const fs::path& path, int flags);

/// Reads exactly out.size() bytes at offset. Error{kIo} when the file ends before.
void read_exact_at(int fd, MutableBytes out, std::uint64_t offset, const fs::path& name_for_errors);
/// Reads up to out.size() bytes; returns the count, short only at end of file.
std::size_t read_at(int fd, MutableBytes out, std::uint64_t offset, const fs::path& name_for_errors);
void write_all_at(int fd, ByteView bytes, std::uint64_t offset, const fs::path& name_for_errors);
void sync_file(int fd, const fs::path& name_for_errors);  ///< fdatasync
void sync_directory(const fs::path& directory);           ///< follows a symlink; see Directory
std::uint64_t file_size(int fd, const fs::path& name_for_errors);

/// The contents of a regular file; nullopt when it is absent. Error{kCorrupt} when it is larger than limit.
std::optional<Bytes> read_file_if_exists(const fs::path& path, std::size_t limit);
Bytes read_file(const fs::path& path, std::size_t limit);

/// A directory that stays open. Open it before making files in it whose names must be synced: a later sync() then
/// cannot fail for lack of a descriptor.
class Directory {
 public:
  /// The directory must exist. A symlink is followed.
  explicit Directory(fs::path path);
  const fs::path& path() const noexcept { return path_; }
  /// On return every name made or removed in it before is durable.
  void sync() const;
  /// As open_file(), for a name in this directory.
  UniqueFd open(const std::string& name, int flags, mode_t mode = 0600) const;
  void remove_if_exists(const std::string& name) const;
  void rename(const std::string& from, const std::string& to) const;  ///< replaces `to`

 private:
  fs::path path_;
  UniqueFd fd_;
};

/// A file without a name, for reading and writing, in the file system of `directory`. It is gone when its descriptor is
/// closed.
UniqueFd open_unnamed_file(const fs::path& directory);

/// mkdir -p with mode 0700 on the directories that it creates. Error{kDenied} for a symlink as the last part, and for a
/// directory that others own or can write to.
void make_private_directory(const fs::path& path);
void remove_if_exists(const fs::path& path);

/// A directory below the system's temporary directory, removed on destruction.
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
