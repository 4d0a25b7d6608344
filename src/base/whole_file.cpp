// A file that must appear whole is written under a temporary name in the same directory. The directory is opened once.
// Creation, link, rename and fsync all go through that descriptor, so they cannot end up in different directories.
#include "base/whole_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file_calls.h"

namespace isr {
namespace {

/// A name in an open directory.
struct Place {
  explicit Place(const fs::path& full) : path(full), name(full.filename().string()), directory_path(parent_of(full)) {
    if (name.empty() || name == "." || name == "..") {
      throw Error(ErrorKind::kIo, fmt::format("{} is not a file name", path.string()));
    }
    directory = open_directory(directory_path);
  }
  void sync() const { sync_directory_fd(directory.get(), directory_path); }

  fs::path path;
  std::string name;
  fs::path directory_path;
  UniqueFd directory;
};

/// Creates `name` in the place's directory. On failure errno is set.
UniqueFd create_exclusively(const Place& place, const std::string& name) {
  return UniqueFd(uninterrupted([&] {
    return ::openat(place.directory.get(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  }));
}

void fill(const UniqueFd& fd, ByteView bytes, mode_t mode, const fs::path& path) {
  if (::fchmod(fd.get(), mode) != 0) fail("cannot set the mode of", path, errno);  // the umask must not change it
  write_all_at(fd.get(), bytes, 0, path);
  if (uninterrupted([&] { return ::fsync(fd.get()); }) != 0) fail("cannot sync", path, errno);
}

/// A complete, synced file under a temporary name. The destructor removes the name.
class TempFile {
 public:
  TempFile(const Place& place, ByteView bytes, mode_t mode) : place_(place) {
    name_ = temporary_name();
    fd_ = create_exclusively(place_, name_);
    if (!fd_) fail("cannot create a temporary file for", place_.path, errno);
    try {
      fill(fd_, bytes, mode, place_.path);
    } catch (...) {
      remove();
      throw;
    }
  }
  ~TempFile() { remove(); }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;

  void rename_over_target() {
    const int directory = place_.directory.get();
    if (::renameat(directory, name_.c_str(), directory, place_.name.c_str()) != 0) {
      fail("cannot replace", place_.path, errno);
    }
    name_.clear();
  }

  /// As link_to_target(), with a rename that replaces nothing.
  int rename_to_new_target() {
    const int directory = place_.directory.get();
    if (::renameat2(directory, name_.c_str(), directory, place_.name.c_str(), RENAME_NOREPLACE) != 0) return errno;
    name_.clear();
    return 0;
  }

  /// Returns 0, or the errno of link(). NFS may answer EEXIST when its first answer was lost; the link count then shows
  /// that our link was made.
  int link_to_target() {
    const int directory = place_.directory.get();
    if (::linkat(directory, name_.c_str(), directory, place_.name.c_str(), 0) == 0) return 0;
    const int errno_value = errno;
    if (errno_value == EEXIST && status_of(fd_.get(), place_.path).st_nlink == 2) return 0;
    return errno_value;
  }

 private:
  void remove() noexcept {
    if (!name_.empty()) ::unlinkat(place_.directory.get(), name_.c_str(), 0);
  }

  const Place& place_;
  std::string name_;  // empty once the file has its final name
  UniqueFd fd_;
};

/// For file systems that can do neither (some FUSE ones). Exactly one racer wins here, too, but a reader, or a process
/// that runs after a crash, may see a half-written file.
CreateResult create_in_place(const Place& place, ByteView bytes, mode_t mode) {
  const UniqueFd fd = create_exclusively(place, place.name);
  if (!fd && errno == EEXIST) return CreateResult::kExists;
  if (!fd) fail("cannot create", place.path, errno);
  try {
    fill(fd, bytes, mode, place.path);
  } catch (...) {
    ::unlinkat(place.directory.get(), place.name.c_str(), 0);
    throw;
  }
  return CreateResult::kCreated;
}

/// True for the errors of file systems that cannot link, or cannot rename without replacing.
bool is_not_supported(int errno_value) {
  return errno_value == EPERM || errno_value == EOPNOTSUPP || errno_value == ENOSYS || errno_value == EINVAL;
}

CreateResult link_new(const Place& place, ByteView bytes, mode_t mode) {
  struct stat status {};
  if (::fstatat(place.directory.get(), place.name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0) {
    return CreateResult::kExists;
  }
  int errno_value = 0;
  {
    TempFile file(place, bytes, mode);
    errno_value = file.link_to_target();
    if (is_not_supported(errno_value)) errno_value = file.rename_to_new_target();  // FAT has no hard links
  }
  if (errno_value == 0) return CreateResult::kCreated;
  if (errno_value == EEXIST) return CreateResult::kExists;
  if (!is_not_supported(errno_value)) fail("cannot create", place.path, errno_value);
  return create_in_place(place, bytes, mode);
}

}  // namespace

void replace_file(const fs::path& path, ByteView bytes, mode_t mode) {
  const Place place(path);
  TempFile(place, bytes, mode).rename_over_target();
  place.sync();
}

CreateResult create_file(const fs::path& path, ByteView bytes, mode_t mode) {
  const Place place(path);
  const CreateResult result = link_new(place, bytes, mode);
  place.sync();  // syncs an existing file's name, too: its writer may not have synced it yet
  return result;
}

}  // namespace isr
