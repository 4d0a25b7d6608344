// Files that must appear whole are written under a temporary name in the same
// directory. The directory is opened once; temp, link, rename and fsync all go
// through that descriptor, so they cannot end up in different directories.
#include "base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/crypto.h"
#include "base/error.h"

namespace isr {
namespace {

/// Repeats a system call that a signal interrupted.
template <class Call>
auto uninterrupted(Call call) {
  for (;;) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

[[noreturn]] void fail(std::string_view action, const fs::path& path, int errno_value) {
  if (errno_value == ELOOP) {
    throw Error(ErrorKind::kIo, fmt::format("{} {}: it is a symbolic link", action, path.string()));
  }
  throw_errno(fmt::format("{} {}", action, path.string()), errno_value);
}

struct stat status_of(int fd, const fs::path& path) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) fail("cannot examine", path, errno);
  return status;
}

void sync_directory_fd(int fd, const fs::path& directory) {
  // EINVAL: a file system that cannot sync directories (some FUSE and network ones).
  if (uninterrupted([&] { return ::fsync(fd); }) != 0 && errno != EINVAL) fail("cannot sync", directory, errno);
}

UniqueFd open_at(int directory, const char* name, int flags, mode_t mode, const fs::path& name_for_errors) {
  UniqueFd fd(uninterrupted([&] { return ::openat(directory, name, flags | O_CLOEXEC | O_NOFOLLOW, mode); }));
  if (!fd) fail("cannot open", name_for_errors, errno);
  return fd;
}

/// A symlink is followed: to the caller's path this is not the last component.
UniqueFd open_directory(const fs::path& directory) {
  UniqueFd fd(uninterrupted([&] { return ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
  if (!fd) fail("cannot open directory", directory, errno);
  return fd;
}

fs::path parent_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

/// A name in an open directory.
struct Place {
  explicit Place(const fs::path& full) : path(full), name(full.filename().string()), directory_path(parent_of(full)) {
    if (name.empty() || name == "." || name == "..") {
      throw Error(ErrorKind::kIo, fmt::format("{} is no file name", path.string()));
    }
    directory = open_directory(directory_path);
  }
  void sync() const { sync_directory_fd(directory.get(), directory_path); }

  fs::path path;
  std::string name;
  fs::path directory_path;
  UniqueFd directory;
};

/// Creates `name` in the place's directory; errno is left on failure.
UniqueFd create_exclusively(const Place& place, const std::string& name) {
  return UniqueFd(uninterrupted([&] {
    return ::openat(place.directory.get(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  }));
}

void fill(const UniqueFd& fd, ByteView bytes, mode_t mode, const fs::path& path) {
  if (::fchmod(fd.get(), mode) != 0) fail("cannot set the mode of", path, errno);  // the umask has no say
  write_all_at(fd.get(), bytes, 0, path);
  if (uninterrupted([&] { return ::fsync(fd.get()); }) != 0) fail("cannot sync", path, errno);
}

std::string temporary_name() {
  std::array<std::uint8_t, 8> random{};
  random_bytes(random);
  return std::string(kTempFilePrefix) + to_hex(random);
}

/// A complete and synced file under a temporary name, which goes with it.
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

  /// As link_to_target(), by a rename that replaces nothing.
  int rename_to_new_target() {
    const int directory = place_.directory.get();
    if (::renameat2(directory, name_.c_str(), directory, place_.name.c_str(), RENAME_NOREPLACE) != 0) return errno;
    name_.clear();
    return 0;
  }

  /// 0, or the errno of link(). NFS may say EEXIST when its first answer was
  /// lost; then the count of links tells that ours was made.
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
  std::string name_;  // empty: no longer there
  UniqueFd fd_;
};

/// For file systems that can do neither of the two (some FUSE). Exactly one racer
/// wins here too, but a reader, or who comes after a crash, may meet the file half
/// written.
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

/// The errors of file systems that cannot link, or rename without replacing.
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

/// False when something of that name is there already.
bool make_directory(const fs::path& path) {
  if (::mkdir(path.c_str(), 0700) != 0) {
    if (errno == EEXIST) return false;
    fail("cannot create directory", path, errno);
  }
  try {
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0) fail("cannot examine", path, errno);
    // Differs only when the umask takes the owner's own bits.
    if ((status.st_mode & 0777U) != 0700 && ::fchmodat(AT_FDCWD, path.c_str(), 0700, AT_SYMLINK_NOFOLLOW) != 0) {
      fail("cannot set the mode of", path, errno);
    }
    sync_directory(parent_of(path));
  } catch (const Error&) {
    ::rmdir(path.c_str());  // the next call would find it there and not sync its name
    throw;
  }
  return true;
}

void make_parents(const fs::path& path) {
  const fs::path parent = parent_of(path);
  struct stat status {};
  if (::stat(parent.c_str(), &status) == 0) return;  // what it is, mkdir of the child finds out
  if (errno != ENOENT) fail("cannot examine", parent, errno);
  make_parents(parent);
  make_directory(parent);
}

UniqueFd open_for_reading(const fs::path& path, int fd) {
  UniqueFd owner(fd);
  if (!S_ISREG(status_of(fd, path).st_mode)) {
    throw Error(ErrorKind::kIo, fmt::format("cannot read {}: it is no regular file", path.string()));
  }
  return owner;
}

}  // namespace

UniqueFd open_file(const fs::path& path, int flags, mode_t mode) {
  return open_at(AT_FDCWD, path.c_str(), flags, mode, path);
}

std::optional<UniqueFd> open_if_exists(const fs::path& path, int flags) {
  UniqueFd fd(uninterrupted([&] { return ::open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW, 0600); }));
  if (fd) return fd;
  if (errno == ENOENT) return std::nullopt;
  fail("cannot open", path, errno);
}

std::size_t read_at(int fd, MutableBytes out, std::uint64_t offset, const fs::path& name_for_errors) {
  std::size_t done = 0;
  while (done < out.size()) {
    const auto got = uninterrupted(
        [&] { return ::pread(fd, out.data() + done, out.size() - done, static_cast<off_t>(offset + done)); });
    if (got < 0) fail("cannot read", name_for_errors, errno);
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  return done;
}

void read_exact_at(int fd, MutableBytes out, std::uint64_t offset, const fs::path& name_for_errors) {
  const std::size_t got = read_at(fd, out, offset, name_for_errors);
  if (got != out.size()) {
    throw Error(ErrorKind::kIo, fmt::format("cannot read {}: it ends {} bytes short of {}", name_for_errors.string(),
                                            out.size() - got, offset + out.size()));
  }
}

void write_all_at(int fd, ByteView bytes, std::uint64_t offset, const fs::path& name_for_errors) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const auto put = uninterrupted(
        [&] { return ::pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done)); });
    if (put < 0) fail("cannot write", name_for_errors, errno);
    done += static_cast<std::size_t>(put);
  }
}

void sync_file(int fd, const fs::path& name_for_errors) {
  if (uninterrupted([&] { return ::fdatasync(fd); }) != 0) fail("cannot sync", name_for_errors, errno);
}

void sync_directory(const fs::path& directory) { Directory(directory).sync(); }

Directory::Directory(fs::path path) : path_(std::move(path)), fd_(open_directory(path_)) {}

void Directory::sync() const { sync_directory_fd(fd_.get(), path_); }

UniqueFd Directory::open(const std::string& name, int flags, mode_t mode) const {
  return open_at(fd_.get(), name.c_str(), flags, mode, path_ / name);
}

void Directory::remove_if_exists(const std::string& name) const {
  if (::unlinkat(fd_.get(), name.c_str(), 0) != 0 && errno != ENOENT) fail("cannot remove", path_ / name, errno);
}

void Directory::rename(const std::string& from, const std::string& to) const {
  if (::renameat(fd_.get(), from.c_str(), fd_.get(), to.c_str()) != 0) fail("cannot replace", path_ / to, errno);
}

std::uint64_t file_size(int fd, const fs::path& name_for_errors) {
  return static_cast<std::uint64_t>(status_of(fd, name_for_errors).st_size);
}

std::optional<Bytes> read_file_if_exists(const fs::path& path, std::size_t limit) {
  auto opened = open_if_exists(path, O_RDONLY | O_NONBLOCK);  // a FIFO in its place must not hang us
  if (!opened) return std::nullopt;
  const UniqueFd fd = open_for_reading(path, opened->release());
  // One byte more than expected shows the end; files in /proc give their size as 0.
  Bytes out(std::min<std::uint64_t>(file_size(fd.get(), path), limit) + 1);
  std::size_t size = 0;
  for (;;) {
    size += read_at(fd.get(), MutableBytes(out).subspan(size), size, path);
    if (size > limit) {
      throw Error(ErrorKind::kCorrupt, fmt::format("{} is larger than {} bytes", path.string(), limit));
    }
    if (size < out.size()) break;
    out.resize(std::min(limit, out.size() * 2 + 4096) + 1);
  }
  out.resize(size);
  return out;
}

Bytes read_file(const fs::path& path, std::size_t limit) {
  auto bytes = read_file_if_exists(path, limit);
  if (!bytes) fail("cannot open", path, ENOENT);
  return *std::move(bytes);
}

void replace_file(const fs::path& path, ByteView bytes, mode_t mode) {
  const Place place(path);
  TempFile(place, bytes, mode).rename_over_target();
  place.sync();
}

CreateResult create_file(const fs::path& path, ByteView bytes, mode_t mode) {
  const Place place(path);
  const CreateResult result = link_new(place, bytes, mode);
  place.sync();  // also when it exists: its maker may not have come that far
  return result;
}

void make_private_directory(const fs::path& path) {
  if (!path.has_filename() && path.has_relative_path()) {  // "x/" would follow a symlink x
    make_private_directory(path.parent_path());
    return;
  }
  make_parents(path);
  make_directory(path);
  const UniqueFd fd(
      uninterrupted([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); }));
  if (!fd && (errno == ENOTDIR || errno == ELOOP)) {
    throw Error(ErrorKind::kDenied, fmt::format("{} is a symbolic link or no directory", path.string()));
  }
  if (!fd) fail("cannot open directory", path, errno);
  const auto status = status_of(fd.get(), path);
  if (status.st_uid != ::geteuid()) {
    throw Error(ErrorKind::kDenied, fmt::format("directory {} belongs to another user", path.string()));
  }
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    throw Error(ErrorKind::kDenied, fmt::format("others can write to directory {}", path.string()),
                {fmt::format("chmod go-w {}", path.string())});
  }
}

UniqueFd open_unnamed_file(const fs::path& directory) {
  UniqueFd fd(uninterrupted([&] { return ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600); }));
  if (fd) return fd;
  // NFS and others make no file without a name; an old kernel takes the flag for a wish to write to a directory.
  if (errno != EOPNOTSUPP && errno != EISDIR) fail("cannot make a temporary file in", directory, errno);
  const fs::path path = directory / temporary_name();
  fd = open_file(path, O_RDWR | O_CREAT | O_EXCL);
  if (::unlink(path.c_str()) != 0) fail("cannot remove", path, errno);
  return fd;
}

void remove_if_exists(const fs::path& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) fail("cannot remove", path, errno);
}

namespace {

/// A request for the lock of a whole file.
struct flock exclusive_lock() {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

}  // namespace

std::optional<FileLock> FileLock::try_acquire(const fs::path& path) {
  UniqueFd fd = open_file(path, O_RDWR | O_CREAT);
  struct flock lock = exclusive_lock();
  if (uninterrupted([&] { return ::fcntl(fd.get(), F_OFD_SETLK, &lock); }) != 0) {
    if (errno == EAGAIN || errno == EACCES) return std::nullopt;
    fail("cannot lock", path, errno);
  }
  // Its last holder may have removed it meanwhile: then another process can lock the next file of this name.
  struct stat locked {};
  struct stat there {};
  if (::fstat(fd.get(), &locked) != 0) fail("cannot examine", path, errno);
  if (::lstat(path.c_str(), &there) != 0 || there.st_ino != locked.st_ino || there.st_dev != locked.st_dev) {
    return std::nullopt;
  }
  return FileLock(std::move(fd));
}

bool FileLock::is_held(const fs::path& path) {
  const auto fd = open_if_exists(path, O_RDWR);
  if (!fd) return false;
  struct flock lock = exclusive_lock();
  if (::fcntl(fd->get(), F_OFD_GETLK, &lock) != 0) fail("cannot look at the lock of", path, errno);
  return lock.l_type != F_UNLCK;
}

TempDirectory::TempDirectory(std::string_view prefix) {
  std::string name = (fs::temp_directory_path() / fmt::format("{}-XXXXXX", prefix)).string();
  if (::mkdtemp(name.data()) == nullptr) fail("cannot create directory", name, errno);
  path_ = name;
}

TempDirectory::~TempDirectory() {
  std::error_code ignored;  // what stays behind in /tmp hurts nobody
  fs::remove_all(path_, ignored);
}

}  // namespace isr
