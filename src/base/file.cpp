#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/error.h"
#include "base/file_calls.h"

namespace isr {
namespace {

/// Returns false when something of that name exists already.
bool make_directory(const fs::path& path) {
  if (::mkdir(path.c_str(), 0700) != 0) {
    if (errno == EEXIST) return false;
    fail("cannot create directory", path, errno);
  }
  try {
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0) fail("cannot examine", path, errno);
    // The mode differs only when the umask takes the owner's own bits.
    if ((status.st_mode & 0777U) != 0700 && ::fchmodat(AT_FDCWD, path.c_str(), 0700, AT_SYMLINK_NOFOLLOW) != 0) {
      fail("cannot set the mode of", path, errno);
    }
    sync_directory(parent_of(path));
  } catch (const Error&) {
    ::rmdir(path.c_str());  // otherwise the next call would find it and not sync its name
    throw;
  }
  return true;
}

void make_parents(const fs::path& path) {
  const fs::path parent = parent_of(path);
  struct stat status {};
  if (::stat(parent.c_str(), &status) == 0) return;  // mkdir of the child fails if this is not a directory
  if (errno != ENOENT) fail("cannot examine", parent, errno);
  make_parents(parent);
  make_directory(parent);
}

UniqueFd open_for_reading(const fs::path& path, int fd) {
  UniqueFd owner(fd);
  if (!S_ISREG(status_of(fd, path).st_mode)) {
    throw Error(ErrorKind::kIo, fmt::format("cannot read {}: not a regular file", path.string()));
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
  auto opened = open_if_exists(path, O_RDONLY | O_NONBLOCK);  // O_NONBLOCK: a FIFO in its place must not block us
  if (!opened) return std::nullopt;
  const UniqueFd fd = open_for_reading(path, opened->release());
  // Reads one byte more than expected to detect the end. Files in /proc give their size as 0.
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
    throw Error(ErrorKind::kDenied, fmt::format("{} is a symbolic link or not a directory", path.string()));
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
  // NFS and others cannot make a file without a name. Old kernels take the flag for an attempt to write to a directory.
  if (errno != EOPNOTSUPP && errno != EISDIR) fail("cannot make a temporary file in", directory, errno);
  const fs::path path = directory / temporary_name();
  fd = open_file(path, O_RDWR | O_CREAT | O_EXCL);
  if (::unlink(path.c_str()) != 0) fail("cannot remove", path, errno);
  return fd;
}

void remove_if_exists(const fs::path& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) fail("cannot remove", path, errno);
}

TempDirectory::TempDirectory(std::string_view prefix) {
  std::string name = (fs::temp_directory_path() / fmt::format("{}-XXXXXX", prefix)).string();
  if (::mkdtemp(name.data()) == nullptr) fail("cannot create directory", name, errno);
  path_ = name;
}

TempDirectory::~TempDirectory() {
  std::error_code ignored;  // files left in /tmp do no harm
  fs::remove_all(path_, ignored);
}

}  // namespace isr
