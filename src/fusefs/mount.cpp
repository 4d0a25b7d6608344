// One libfuse session over a descriptor that mount_point.cpp opened. operations.cpp answers the requests and lists what
// it refuses.
//
//   state      thread   kernel                     left by
//   made       none     not mounted                start()
//   serving    loop     mounted                    unmount by anybody, abort, the destructor
//   ended      gone     detached or being so       the destructor
//
// Ending: a clean unmount makes every worker's read of the device fail with ENODEV, and the loop returns. After a lazy
// unmount (a file is still open) no request would ever arrive, so the loop is told to exit and woken by a signal.
// Closing the device then gives ENOTCONN to processes that hold a file. A worker that does not return in time is left
// behind, with the data that it uses.

#include "fusefs/mount.h"

#define FUSE_USE_VERSION 314
#include <fmt/format.h>
#include <fuse_lowlevel.h>
#include <pthread.h>

#include <csignal>
#include <cstdarg>
#include <thread>

#include "base/log.h"
#include "fusefs/file_server.h"
#include "fusefs/mount_point.h"

namespace isr {
namespace {

constexpr auto kInitDeadline = std::chrono::seconds(10);
constexpr auto kCleanEnd = std::chrono::seconds(5);
constexpr auto kForcedEnd = std::chrono::seconds(5);
constexpr auto kWakeInterval = std::chrono::milliseconds(20);
// The default action of this signal is to ignore it, so a stray one does no harm.
constexpr int kWakeSignal = SIGURG;

void log_libfuse(fuse_log_level level, const char* format, va_list arguments) {
  std::array<char, 512> text{};
  const int length = std::vsnprintf(text.data(), text.size(), format, arguments);
  std::string_view line(text.data(), std::min(static_cast<std::size_t>(std::max(length, 0)), text.size() - 1));
  while (line.ends_with('\n')) line.remove_suffix(1);
  if (level <= FUSE_LOG_ERR) {
    log::error("libfuse: {}", line);
  } else if (level <= FUSE_LOG_WARNING) {
    log::warn("libfuse: {}", line);
  } else {
    log::debug("libfuse: {}", line);
  }
}

using SessionPtr = std::unique_ptr<fuse_session, FreeWith<fuse_session_destroy>>;
using LoopConfig = std::unique_ptr<fuse_loop_config, FreeWith<fuse_loop_cfg_destroy>>;

/// All data that a worker uses; the loop's thread keeps it alive, too.
struct Serving {
  Serving(std::vector<MountedFile> files, std::function<std::string()> stats_json, const MountOptions& options)
      : server(std::move(files), std::move(stats_json), options) {}
  FileServer server;
  SessionPtr session;  // destroyed before the server
  Sync<bool> ended{false};
  std::condition_variable ended_changed;

  bool wait_ended(std::chrono::milliseconds timeout) {
    auto guard = ended.lock();
    return guard.wait_for(ended_changed, timeout, [&] { return *guard; });
  }
};

void run_loop(Serving& serving, unsigned threads) {
  // Signals are for the process's own threads. libfuse's threads inherit this mask.
  sigset_t blocked;
  sigfillset(&blocked);
  sigdelset(&blocked, kWakeSignal);
  pthread_sigmask(SIG_SETMASK, &blocked, nullptr);

  const LoopConfig config(fuse_loop_cfg_create());
  // If all threads waited in reads, no thread would see a write, or that a waiting process was killed (it would stay,
  // unkillable). So there is one thread for each asynchronous request, and `threads` more for synchronous ones.
  fuse_loop_cfg_set_max_threads(config.get(), threads + FileServer::kBackgroundRequests);
  // A limited number of idle threads stay, because making a thread costs more than keeping it. All threads share one
  // descriptor, so that a supervisor could hold it. A descriptor for each thread may be faster with many threads:
  // docs/decisions/0002-low-level-fuse.md.
  fuse_loop_cfg_set_idle_threads(config.get(), threads);
  fuse_loop_cfg_set_clone_fd(config.get(), 0);
  const int result = fuse_session_loop_mt(serving.session.get(), config.get());
  if (result < 0) log::error("the FUSE session ended: {}", std::generic_category().message(-result));
  serving.server.fail_initialising();
  *serving.ended.lock() = true;
  serving.ended_changed.notify_all();
}

/// Makes the loop return although no request arrives.
class WakeHandler {
 public:
  WakeHandler() {
    struct sigaction action {};
    action.sa_handler = [](int) {};  // without SA_RESTART: sem_wait() in the loop returns
    sigaction(kWakeSignal, &action, &before_);
  }
  ~WakeHandler() { sigaction(kWakeSignal, &before_, nullptr); }
  WakeHandler(const WakeHandler&) = delete;
  WakeHandler& operator=(const WakeHandler&) = delete;

 private:
  struct sigaction before_ {};
};

class FuseMount : public Mount {
 public:
  FuseMount(std::filesystem::path directory, std::vector<MountedFile> files, std::function<std::string()> stats_json,
            const MountOptions& options)
      : directory_(std::move(directory)),
        options_(options),
        serving_(std::make_shared<Serving>(std::move(files), std::move(stats_json), options)) {}

  ~FuseMount() override {
    try {
      stop();
    } catch (const std::exception& error) {
      log::error("unmounting {}: {}", directory_.string(), error.what());
    }
    if (loop_.joinable()) end_loop();
  }

  void start() override {
    if (serving_->session) throw Error(ErrorKind::kBug, "this mount was already started");
    std::string name = "isr";
    std::array<char*, 2> argv{name.data(), nullptr};
    fuse_args arguments = FUSE_ARGS_INIT(1, argv.data());
    const auto operations = FileServer::operations();
    serving_->session.reset(fuse_session_new(&arguments, &operations, sizeof operations, &serving_->server));
    fuse_opt_free_args(&arguments);
    if (!serving_->session) throw Error(ErrorKind::kDaemon, "libfuse could not make a session");

    UniqueFd device = attach(directory_, {options_.source_name, !serving_->server.writable()});
    device_ = mount_at(directory_).value_or(KernelMount{}).device;
    const std::string device_name = fmt::format("/dev/fd/{}", device.get());
    if (fuse_session_mount(serving_->session.get(), device_name.c_str()) != 0) {
      detach(directory_);
      throw Error(ErrorKind::kDaemon, "libfuse did not accept the mount");
    }
    device.release();  // the session closes it

    try {
      loop_ =
          std::jthread([serving = serving_, threads = std::max(2U, options_.threads)] { run_loop(*serving, threads); });
    } catch (const std::system_error&) {
      // If the device stayed open without a loop, every access below the mount would wait for ever.
      serving_->session.reset();
      detach(directory_);
      device_.clear();
      throw Error(ErrorKind::kDaemon, "cannot start a thread to serve the mount");
    }
    if (!serving_->server.wait_initialised(kInitDeadline)) {
      throw Error(ErrorKind::kDaemon,
                  fmt::format("the kernel has not begun to use the mount on {}", directory_.string()));
    }
  }

  bool ended() const override { return *serving_->ended.lock(); }

  void wait(std::stop_token stop) override {
    const std::stop_callback wake(stop, [this] {
      serving_->ended.lock().unlock();  // so that the waiter is either before its check or already asleep
      serving_->ended_changed.notify_all();
    });
    auto ended = serving_->ended.lock();
    ended.wait(serving_->ended_changed, [&] { return *ended || stop.stop_requested(); });
  }

  std::uint64_t open_files() const override { return serving_->server.open_files(); }
  void refuse_writers() override { serving_->server.refuse_writers(); }
  void admit_writers() override { serving_->server.admit_writers(); }

 private:
  /// Unmounts, unless the mount is gone already or another mount covers it.
  void stop() {
    serving_->server.stop();
    if (!serving_->session || device_.empty()) return;
    const auto mount = mount_at(directory_);
    if (mount && mount->device == device_) detached_ = detach(directory_);
  }

  void end_loop() noexcept {
    const bool clean = detached_ == Detached::kClean && serving_->wait_ended(kCleanEnd);
    if (!clean) {
      fuse_session_exit(serving_->session.get());
      const WakeHandler handler;
      const auto deadline = std::chrono::steady_clock::now() + kForcedEnd;
      do {
        // Sent repeatedly, because a signal that arrives just before the loop sleeps is lost.
        pthread_kill(loop_.native_handle(), kWakeSignal);
      } while (!serving_->wait_ended(kWakeInterval) && std::chrono::steady_clock::now() < deadline);
    }
    if (serving_->wait_ended(std::chrono::milliseconds(0))) {
      loop_.join();
    } else {
      log::error("a request to {} never ended; its threads are left behind", directory_.string());
      loop_.detach();
    }
  }

  std::filesystem::path directory_;
  MountOptions options_;
  std::shared_ptr<Serving> serving_;
  std::string device_;  // the device number of this mount, empty before start()
  Detached detached_ = Detached::kClean;
  std::jthread loop_;
};

}  // namespace

std::unique_ptr<Mount> make_mount(const std::filesystem::path& directory, std::vector<MountedFile> files,
                                  std::function<std::string()> stats_json, const MountOptions& options) {
  fuse_set_log_func(log_libfuse);
  const auto point = absolute_mount_point(directory);
  if (is_dead_mount(point)) detach(point);
  require_mountable(point);
  return std::make_unique<FuseMount>(point, std::move(files), std::move(stats_json), options);
}

}  // namespace isr
