// A blob is a file of its name below the root. create_file() makes it appear whole, durably and for one racer only.
// This file adds the directories. An object is durable only once the entries of its directories are. So before a
// directory is used for the first time in this process, it is made when absent, and its parent is synced in any case
// (the process that made it may not have synced it yet). The same goes for an object that stat() finds, which saves its
// writer a put_new(): its directory is synced before anything is put that may refer to it. Temporary files begin with a
// dot, which no blob name does.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <set>

#include "base/file.h"
#include "base/sync.h"
#include "base/whole_file.h"
#include "repository/all_stores.h"
#include "repository/blob_name.h"
#include "repository/blob_store.h"
#include "repository/store_clock.h"

namespace isr {
namespace {

constexpr int kMaxDepth = 16;

[[noreturn]] void fail(std::string_view action, const fs::path& path, int errno_value) {
  const std::string what = fmt::format("{} {}", action, path.string());
  if (errno_value == EACCES || errno_value == EPERM) {
    throw Error(ErrorKind::kDenied, what + ": permission denied");
  }
  throw_errno(what, errno_value);
}

bool is_absence(int errno_value) { return errno_value == ENOENT || errno_value == ENOTDIR; }

/// False only when that is certain: an absent directory may be a disk that will be mounted later.
bool may_write(const std::string& path) {
  return ::access(path.c_str(), W_OK) == 0 || (errno != EACCES && errno != EROFS && errno != EPERM);
}

bool is_object(std::string_view name) { return name.starts_with("objects/"); }

/// Throws once stop is requested. A file operation that has begun is not interrupted.
void check(const std::stop_token& stop, std::string_view name) {
  if (stop.stop_requested()) throw Error(ErrorKind::kCancelled, fmt::format("{} was cancelled", name));
}

class DirectoryStore : public BlobStore {
 public:
  explicit DirectoryStore(const std::string& path) : BlobStore(path, may_write(path)), root_(path), clock_(root_) {}

  std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range, std::stop_token stop) override;
  std::optional<std::uint64_t> stat(std::string_view name, std::stop_token stop) override;
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override;
  void put_hint(std::string_view name, ByteView bytes, std::stop_token stop) override;
  std::optional<ListPage> list_page(std::string_view prefix, std::string_view after, std::stop_token stop) override;
  bool remove(std::string_view name) override;

 private:
  fs::path path_of(std::string_view name) const {
    check_blob_name(name);
    return root_ / name;
  }
  struct stat root_status() const;
  /// Called when something is absent. Throws when the reason is that the root is absent.
  void check_root() const { root_status(); }
  void check_put(std::string_view name, ByteView bytes) const;
  void prepare_parent(const fs::path& path);
  void prepare_directory(const fs::path& directory, mode_t mode);
  void sync_found_objects();
  template <class Write>
  auto write(const fs::path& path, Write body);
  std::vector<std::string> entries(const fs::path& directory, const std::string& prefix, std::string_view after) const;
  bool collect(const fs::path& directory, const std::string& prefix, std::string_view after, int depth,
               ListPageBuilder& page) const;

  fs::path root_;
  StoreClock clock_;
  Sync<std::set<fs::path>> prepared_;  ///< directories whose entries were synced
  Sync<std::set<fs::path>> found_;     ///< directories of objects that stat() found
};

struct stat DirectoryStore::root_status() const {
  struct stat status {};
  if (::stat(root_.c_str(), &status) != 0) {
    if (errno == ENOENT) {
      throw Error(ErrorKind::kNotFound, fmt::format("{}: there is no such directory", describe()),
                  {"if it is on a disk, check that the disk is mounted"});
    }
    fail("cannot reach", root_, errno);
  }
  if (!S_ISDIR(status.st_mode)) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{} is not a directory", describe()));
  }
  return status;
}

std::optional<Blob> DirectoryStore::get(std::string_view name, std::optional<ByteRange> range, std::stop_token stop) {
  const fs::path path = path_of(name);
  check(stop, name);
  // O_NONBLOCK: a FIFO in the blob's place must not block us.
  const auto open = [&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK); };
  UniqueFd fd(open());
  if (!fd && is_absence(errno)) {
    check_root();
    fd = UniqueFd(open());  // the disk may have been plugged in between the two
  }
  if (!fd) {
    if (!is_absence(errno)) fail("cannot open", path, errno);
    return std::nullopt;
  }
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) fail("cannot examine", path, errno);
  if (!S_ISREG(status.st_mode)) return std::nullopt;
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size > kMaxBlobSize) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{} in {} is larger than any blob", name, describe()));
  }
  const ByteRange wanted = range.value_or(ByteRange{0, size});
  const std::uint64_t offset = std::min(wanted.offset, size);
  Blob blob;
  blob.bytes.resize(std::min(wanted.length, size - offset));
  read_exact_at(fd.get(), blob.bytes, offset, path);
  if (is_object(name)) return blob;  // an object's age is not used, and the clock may have to wait for the disk
  const auto age = clock_.now() - WallTime(std::chrono::seconds(status.st_mtim.tv_sec));
  blob.age = std::max(age, std::chrono::seconds(0));  // the clock may have been set back
  return blob;
}

std::optional<std::uint64_t> DirectoryStore::stat(std::string_view name, std::stop_token stop) {
  const fs::path path = path_of(name);
  check(stop, name);
  struct stat status {};
  int result = ::lstat(path.c_str(), &status);
  if (result != 0 && is_absence(errno)) {
    check_root();
    result = ::lstat(path.c_str(), &status);  // as in get()
  }
  if (result != 0) {
    if (!is_absence(errno)) fail("cannot examine", path, errno);
    return std::nullopt;
  }
  if (!S_ISREG(status.st_mode)) return std::nullopt;
  if (writable() && is_object(name)) found_.lock()->insert(path.parent_path());
  return static_cast<std::uint64_t>(status.st_size);
}

void DirectoryStore::check_put(std::string_view name, ByteView bytes) const {
  check_blob_name(name);
  if (!writable()) throw Error(ErrorKind::kUnsupported, fmt::format("{} is read-only", describe()));
  if (bytes.size() > kMaxBlobSize) {
    throw Error(ErrorKind::kUsage, fmt::format("{}: {} bytes are too many for a blob", name, bytes.size()));
  }
}

void DirectoryStore::prepare_directory(const fs::path& directory, mode_t mode) {
  if (directory == root_ || prepared_.lock()->contains(directory)) return;
  prepare_directory(directory.parent_path(), mode);
  if (::mkdir(directory.c_str(), 0700) == 0) {
    if (::chmod(directory.c_str(), mode) != 0) {
      const int errno_value = errno;
      ::rmdir(directory.c_str());  // otherwise the next call would keep its wrong mode
      fail("cannot set the mode of", directory, errno_value);
    }
  } else if (errno != EEXIST) {
    fail("cannot create directory", directory, errno);
  }
  sync_directory(directory.parent_path());
  prepared_.lock()->insert(directory);
}

void DirectoryStore::prepare_parent(const fs::path& path) {
  const fs::path parent = path.parent_path();
  if (prepared_.lock()->contains(parent)) return;
  // Users who may read the root may read everything in it. setgid is inherited as on any directory.
  const mode_t mode = (root_status().st_mode & 02777U) | 0700U;
  prepare_directory(parent, mode);
}

/// Another process may have put an object that was found, and may have been killed before the sync or not have reached
/// it yet. The lock is held meanwhile, so that a second caller waits until the sync is done.
void DirectoryStore::sync_found_objects() {
  auto found = found_.lock();
  for (auto directory = found->begin(); directory != found->end(); directory = found->erase(directory)) {
    if (!fs::exists(*directory)) continue;  // the directory was emptied, or another disk is mounted there
    prepare_parent(*directory / "object");
    sync_directory(*directory);
  }
}

/// Runs the write. If a directory that was prepared before is gone (an emptied repository, another disk mounted there),
/// prepares all directories again and repeats the write once.
template <class Write>
auto DirectoryStore::write(const fs::path& path, Write body) {
  prepare_parent(path);
  const mode_t mode = (root_status().st_mode & 0444U) | 0600U;
  try {
    return body(mode);
  } catch (const Error&) {
    if (::access(path.parent_path().c_str(), W_OK) == 0) throw;
    if (errno != ENOENT && errno != ENOTDIR) fail("cannot write to", path.parent_path(), errno);
  }
  prepared_.lock()->clear();
  prepare_parent(path);
  return body(mode);
}

PutResult DirectoryStore::put_new(std::string_view name, ByteView bytes, std::stop_token stop) {
  check_put(name, bytes);
  check(stop, name);
  const fs::path path = path_of(name);
  if (!is_object(name)) sync_found_objects();
  const auto result = write(path, [&](mode_t mode) { return create_file(path, bytes, mode); });
  return result == CreateResult::kCreated ? PutResult::kCreated : PutResult::kExists;
}

void DirectoryStore::put_hint(std::string_view name, ByteView bytes, std::stop_token stop) {
  check_put(name, bytes);
  check(stop, name);
  if (!name.ends_with("/latest")) throw Error(ErrorKind::kUsage, fmt::format("{} is not the name of a hint", name));
  const fs::path path = path_of(name);
  write(path, [&](mode_t mode) { replace_file(path, bytes, mode); });
}

/// The entries of a directory whose names begin with `prefix`, sorted: files, and directories with a '/' appended.
/// Leaves out entries that have no names after `after`, and names that no blob can have, which another program may have
/// put there.
std::vector<std::string> DirectoryStore::entries(const fs::path& directory, const std::string& prefix,
                                                 std::string_view after) const {
  std::vector<std::string> found;
  std::error_code error;
  fs::directory_iterator entries(directory, error);
  if (error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory) return found;
  if (error) fail("cannot list", directory, error.value());
  for (; entries != fs::directory_iterator(); entries.increment(error)) {
    std::string name = entries->path().filename().string();
    if (!is_blob_name(prefix + name) || entries->is_symlink(error)) continue;
    // Uses the type from the directory entry, because a stat() of each file would take longer than everything else.
    if (entries->is_directory(error)) {
      name += '/';
    } else if (!entries->is_regular_file(error)) {
      // Unlike increment(), this reports an entry that vanished as a type (not_found), not as an error.
      const auto status = entries->symlink_status(error);
      if (status.type() == fs::file_type::none) fail("cannot examine", entries->path(), error.value());
      continue;
    }
    const std::string whole = prefix + name;
    if (whole <= after && !(name.ends_with('/') && after.starts_with(whole))) continue;
    if (found.size() == kMaxListedNames) {
      throw Error(ErrorKind::kUnsupported, fmt::format("{}: more than {} files", directory.string(), found.size()));
    }
    found.push_back(std::move(name));
  }
  if (error) fail("cannot list", directory, error.value());
  std::sort(found.begin(), found.end());
  return found;
}

/// Returns false when the page is full.
bool DirectoryStore::collect(const fs::path& directory, const std::string& prefix, std::string_view after, int depth,
                             ListPageBuilder& page) const {
  for (const std::string& name : entries(directory, prefix, after)) {
    if (!name.ends_with('/')) {
      if (!page.add(prefix + name)) return false;
    } else if (depth < kMaxDepth) {
      if (!collect(directory / name.substr(0, name.size() - 1), prefix + name, after, depth + 1, page)) return false;
    }
  }
  return true;
}

std::optional<ListPage> DirectoryStore::list_page(std::string_view prefix, std::string_view after,
                                                  std::stop_token stop) {
  check(stop, prefix);
  if (!prefix.ends_with('/')) throw Error(ErrorKind::kUsage, "the prefix of a list must end in '/'");
  check_blob_name(std::string(prefix) + "x");
  check_root();
  ListPageBuilder page;
  collect(root_ / prefix.substr(0, prefix.size() - 1), std::string(prefix), after, 0, page);
  return page.take();
}

bool DirectoryStore::remove(std::string_view name) {
  const fs::path path = path_of(name);
  if (!writable()) throw Error(ErrorKind::kUnsupported, fmt::format("{} is read-only", describe()));
  // The removal is not synced. A blob that comes back after a power cut is removed again.
  if (::unlink(path.c_str()) == 0) return true;
  if (errno != ENOENT && errno != ENOTDIR && errno != EISDIR) fail("cannot remove", path, errno);
  check_root();
  return false;
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    const auto byte = i + 2 < text.size() ? from_hex(text.substr(i + 1, 2)) : std::nullopt;
    if (!byte || byte->front() == 0) refuse_address("a % must be followed by two hex digits");
    out += static_cast<char>(byte->front());
    i += 2;
  }
  return out;
}

std::string path_of_file_url(std::string_view rest) {
  if (rest.starts_with("localhost/")) rest.remove_prefix(9);
  if (!rest.starts_with('/')) refuse_address("a file:// address cannot name another host; write file:///path");
  return canonical_directory(percent_decoded(rest));
}

}  // namespace

BlobStorePtr make_directory_store(const std::string& path) { return std::make_shared<DirectoryStore>(path); }

StoreScheme directory_scheme() {
  const auto open = [](const std::string& path, const StoreOptions&, std::stop_token) {
    return make_directory_store(path);
  };
  return {"file", "a directory", path_of_file_url, open};
}

}  // namespace isr
