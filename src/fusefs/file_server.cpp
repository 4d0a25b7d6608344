// The state behind the operations: attributes, repeated reads and stats.json snapshots.

#include "fusefs/file_server.h"

#define FUSE_USE_VERSION 314
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

#include "base/log.h"

namespace isr {
namespace {

constexpr auto kFirstRetry = std::chrono::milliseconds(100);
constexpr auto kLongestRetry = std::chrono::milliseconds(2000);
constexpr unsigned kReadAheadRequests = 48;
constexpr unsigned kRequestBytes = 1U << 20U;  // of one read or write; the most that libfuse 3.14 can receive

/// A change that cannot be made now. Several requests may wait for the same reason, which is logged once.
class Wait {
 public:
  explicit Wait(const MountedFile& file) : file_(file) {}
  ~Wait() {
    if (!begun_) return;
    auto hindrance = file_.endurance->hindrance.lock();
    if (--hindrance->waiting > 0) return;
    hindrance->why.clear();
    log::info("{}: all waiting writes are done", file_.name);
  }
  Wait(const Wait&) = delete;
  Wait& operator=(const Wait&) = delete;

  void begin(const char* why) {
    if (begun_) return;
    begun_ = true;
    auto hindrance = file_.endurance->hindrance.lock();
    if (hindrance->waiting++ > 0) return;
    hindrance->why = why;
    log::error("{} cannot be written; the guest waits until it can be: {}", file_.name, why);
  }

 private:
  const MountedFile& file_;
  bool begun_ = false;
};

}  // namespace

FileServer::FileServer(std::vector<MountedFile> files, std::function<std::string()> stats_json,
                       const MountOptions& options)
    : files_(std::move(files)), stats_json_(std::move(stats_json)), immutable_(options.immutable) {
  clock_gettime(CLOCK_REALTIME, &started_);
}

bool FileServer::writable() const {
  return std::any_of(files_.begin(), files_.end(), [this](const MountedFile& file) { return writable(file); });
}

const MountedFile* FileServer::image_file(std::uint64_t inode) const {
  if (inode < 2 || inode - 2 >= files_.size()) return nullptr;
  return &files_[inode - 2];
}

std::uint64_t FileServer::find(const std::string& name) const {
  for (std::size_t i = 0; i < files_.size(); ++i) {
    if (files_[i].name == name) return i + 2;
  }
  return name == kStatsName ? files_.size() + 2 : 0;
}

std::string FileServer::label(std::uint64_t inode) const {
  if (inode == FUSE_ROOT_ID) return "the directory";
  if (const auto* file = image_file(inode)) return file->name;
  return is_stats(inode) ? std::string(kStatsName) : "an unknown inode";
}

bool FileServer::fill_attributes(std::uint64_t inode, struct stat& out) {
  out = {};
  out.st_ino = inode;
  out.st_uid = geteuid();
  out.st_gid = getegid();
  out.st_atim = out.st_mtim = out.st_ctim = started_;
  out.st_blksize = 4096;
  if (inode == FUSE_ROOT_ID) {
    out.st_mode = S_IFDIR | 0700;
    out.st_nlink = 2;
    return true;
  }
  out.st_nlink = 1;
  if (const auto* file = image_file(inode)) {
    out.st_mode = S_IFREG | (writable(*file) ? 0600U : 0400U);
    out.st_size = static_cast<off_t>(file->image->size());
  } else if (is_stats(inode)) {
    out.st_mode = S_IFREG | 0400;
    out.st_size = static_cast<off_t>(stats_of(0)->size());
  } else {
    return false;
  }
  out.st_blocks = (out.st_size + 511) / 512;
  return true;
}

void FileServer::negotiate(fuse_conn_info& connection) {
  connection.max_write = kRequestBytes;  // also bounds reads: libfuse derives max_pages from it
  connection.max_readahead = kRequestBytes;
  // Direct and read-ahead requests beyond this number wait in the kernel. The kernel stops read-ahead earlier, which
  // only costs speed.
  connection.max_background = kBackgroundRequests;
  connection.congestion_threshold = kReadAheadRequests;
  connection.want &= ~static_cast<unsigned>(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
                                            FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_EXPORT_SUPPORT |
                                            FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_HANDLE_KILLPRIV);
  connection.want |= connection.capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS);
  *phase_.lock() = Phase::kInitialised;
  phase_changed_.notify_all();
}

bool FileServer::wait_initialised(std::chrono::milliseconds timeout) {
  auto phase = phase_.lock();
  phase.wait_for(phase_changed_, timeout, [&] { return *phase != Phase::kNew; });
  return *phase == Phase::kInitialised;
}

void FileServer::fail_initialising() {
  auto phase = phase_.lock();
  if (*phase == Phase::kNew) *phase = Phase::kFailed;
  phase_changed_.notify_all();
}

void FileServer::stop() {
  *phase_.lock() = Phase::kStopping;
  phase_changed_.notify_all();
}

void FileServer::endure(const Endurance& endurance, const std::function<bool()>& given_up,
                        const std::function<void()>& body, const std::function<void(const Error&)>& on_failure) {
  for (auto delay = kFirstRetry;; delay = std::min(delay * 2, kLongestRetry)) {
    try {
      return body();
    } catch (const std::exception& error) {  // also catches std::bad_alloc
      if (endurance.given_up || given_up()) throw;
      on_failure(as_error(error));
      auto phase = phase_.lock();
      if (phase.wait_for(phase_changed_, delay, [&] { return *phase == Phase::kStopping; })) throw;
    }
  }
}

bool FileServer::begin_open(int flags) {
  auto opening = opening_.lock();
  if ((flags & O_ACCMODE) != O_RDONLY && !opening->admits_writers) return false;
  ++opening->open;
  return true;
}

void FileServer::read(const MountedFile& file, std::uint64_t offset, const std::function<bool()>& given_up,
                      const std::function<void()>& body) {
  if (!file.endurance) return body();
  bool told = false;
  const auto tell = [&](const Error& error) {
    if (!told) log::warn("{}: reading at {} failed and is repeated: {}", file.name, offset, error.what());
    told = true;
  };
  endure(*file.endurance, given_up, body, std::cref(tell));
  if (told) log::info("{}: the read at {} works again", file.name, offset);
}

void FileServer::change(const MountedFile& file, const std::function<bool()>& given_up,
                        const std::function<void()>& body) {
  if (!file.endurance) return body();
  Wait wait(file);
  endure(*file.endurance, given_up, body, [&wait](const Error& error) { wait.begin(error.what()); });
}

std::uint64_t FileServer::open_stats() {
  auto snapshot = std::make_shared<const std::string>(stats_json_ ? stats_json_() : "{}\n");
  auto stats = stats_.lock();
  stats->newest = snapshot;
  stats->open.emplace(stats->next_handle, std::move(snapshot));
  return stats->next_handle++;
}

FileServer::Snapshot FileServer::stats_of(std::uint64_t handle) {
  {
    auto stats = stats_.lock();
    const auto found = stats->open.find(handle);
    if (found != stats->open.end()) return found->second;
    if (!stats->open.empty()) return stats->newest;
  }
  return std::make_shared<const std::string>(stats_json_ ? stats_json_() : "{}\n");
}

void FileServer::close_stats(std::uint64_t handle) { stats_.lock()->open.erase(handle); }

}  // namespace isr
