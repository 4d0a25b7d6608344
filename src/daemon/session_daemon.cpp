// One mutex serialises the commands; a status that meets a busy daemon
// gets the last answer with the operation's name. A keeper thread settles the journal
// and notices when the guest has gone; another, also during an operation, renews the lock.

#include "daemon/session_daemon.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/stop.h"
#include "daemon/background.h"
#include "daemon/command_progress.h"
#include "daemon/control.h"
#include "daemon/end_wait.h"
#include "daemon/follow_console.h"
#include "daemon/handover.h"
#include "daemon/operation.h"
#include "daemon/protocol.h"
#include "daemon/read_interrupter.h"
#include "daemon/shutdown_delay.h"
#include "fusefs/mount.h"
#include "machine/machine.h"
#include "machine/rehearsal.h"
#include "repository/store_waits.h"
#include "session/session_state.h"

namespace isr {
namespace {

using nlohmann::json;
using namespace std::chrono_literals;

constexpr auto kRetryDisk = 10s;
constexpr int kKeeperNice = 10;
// systemd kills 90 s after it has told a session's processes to end.
constexpr auto kLongestSaving = 60s;
constexpr auto kHoldUp = 5s;  // of a command that waits for the network
constexpr auto kSaveAgain = 1s;

class Daemon {
 public:
  explicit Daemon(const Handover& handover)
      : paths_(handover.paths),
        account_(open_account(handover, waits_)),
        parcel_(handover.parcel),
        session_(account_, parcel_),
        machine_(session_, paths_, parcel_.name, parcel_.id, [this] { return stats_json(); }) {}

  void run() {
    Rehearsal::clean_up(paths_, parcel_.id);
    machine_.mount_disks();
    *last_status_.lock() = full_status();
    {
      const std::lock_guard lock(operation_);  // the first request may be there before server_ is
      session_.keep_lease([this](const Error& how) { lose_lock(how); });
      server_ = start_control_server(control_socket(paths_, parcel_.id),
                                     [this](const json& request, const ControlReply& reply,
                                            const std::stop_token& stop) { return handle(request, reply, stop); });
    }
    note_control_socket(account_, parcel_);
    keeper_ = std::jthread([this](const std::stop_token& stop) { keep(stop); });
    background_ready();
    if (const auto cause = end_.wait(); cause != EndWait::Cause::kDone) save_in_time(cause);
    keeper_.request_stop();
    keeper_.join();
    server_.reset();
  }

 private:
  // --- requests ------------------------------------------------------------

  /// The client of a request.
  struct Client {
    SendProgress send;
    std::stop_token stop;  ///< it has gone
  };

  json handle(const json& line, const ControlReply& reply, const std::stop_token& stop) {
    const Request request = parse_request(line);
    if (std::holds_alternative<StatusRequest>(request)) return encode_answer(status());
    // Not under operation_: what the guest says while it is stopped or suspended is wanted then.
    if (const auto* wanted = std::get_if<ConsoleRequest>(&request)) {
      return encode_answer(follow_console(*console_of(machine_, parcel_.name), *wanted, reply, stop));
    }
    if (const auto* typed = std::get_if<TypeRequest>(&request)) {
      return encode_answer(type_text(*console_of(machine_, parcel_.name), *typed));
    }
    if (is_lock_looked_at(request)) return encode_answer(DoneAnswer{});
    const std::string_view command = command_of(request);
    // What waits for memory to be written would hold the operation for as long as there is no room.
    while (!operation_.try_lock_for(kProgressPeriod)) {
      if (command == PowerOffRequest::kCommand && !machine_.memory_hindrance().empty()) machine_.give_up_memory();
      reply(encode_progress(current_.lock()->progress_for(command)));
    }
    const std::lock_guard lock(operation_, std::adopt_lock);
    if (ended_) return ending_.result_for(command);
    if (told_.stop_requested()) {
      throw NotBegun("the session daemon is about to end", {"run the command again; nothing is lost"});
    }
    *current_.lock() = {std::string(command), {}, &reply};
    const struct Done {
      Daemon& daemon;
      ~Done() { *daemon.current_.lock() = {}; }
    } done{*this};
    const Client client{[&](const ProgressLine& progress) {
                          current_.lock()->progress = progress;
                          reply(encode_progress(progress));
                        },
                        stop};
    json result;
    try {
      result = carry_out(request, client);
    } catch (const Error& error) {
      const bool is_first = !is_used_.exchange(true) && !machine_.running() && !publishes(request);
      if (is_first && error.kind() == ErrorKind::kLocked) leave();
      throw;
    }
    is_used_ = true;
    if (ended_) ending_ = {std::string(command), result};
    *last_status_.lock() = full_status();
    return result;
  }

  /// What is under way looks at the lock itself.
  bool is_lock_looked_at(const Request& request) const {
    const auto* lock = std::get_if<OwnLockRequest>(&request);
    return lock != nullptr && !lock->common.steal_reason && !current_.lock()->command.empty();
  }

  json carry_out(const Request& request, const Client& client) {
    const CommonPart& common = *common_part(request);
    std::vector<std::string> kept_settings;
    if (common.settings) kept_settings = follow_settings(account_, *common.settings);
    reap();  // the keeper may not have come to it
    if (!std::holds_alternative<OwnLockRequest>(request) && !std::holds_alternative<SyncRequest>(request)) {
      machine_.require_unused();  // they take the mount away
    }
    if (std::holds_alternative<CheckinRequest>(request)) require_off();
    if (publishes(request) && common.steal_reason) secure_lock(common, client.stop);
    return std::visit(
        [&](const auto& one) -> json {
          if constexpr (requires { one.common; }) {
            auto answer = run(one, client);
            answer.kept_settings = kept_settings;
            return encode_answer(answer);
          } else {
            throw Error(ErrorKind::kBug, "a command that changes nothing was to be carried out");
          }
        },
        request);
  }

  BootAnswer run(const StartRequest& request, const Client& client) {
    BootOptions options = boot_options(request.boot);
    options.fresh = true;
    return boot(request.common, options, client);
  }

  BootAnswer run(const ResumeRequest& request, const Client& client) {
    BootOptions options = boot_options(request.boot);
    options.prefetch = request.prefetch;
    return boot(request.common, options, client);
  }

  BootOptions boot_options(const BootPart& wanted) const {
    BootOptions options;
    options.network = wanted.network;
    options.isolate_network = wanted.isolate_network;
    options.accelerator = wanted.accelerator;
    options.cdrom = wanted.cdrom;
    options.memory = account_.config.get("vm.memory");
    return options;
  }

  BootAnswer boot(const CommonPart& common, BootOptions& options, const Client& client) {
    options.progress = progress_to(client.send);
    const EitherStop either(client.stop, told_.get_token());
    options.stop = either.token();
    secure_lock(common, options.stop);
    if (common.online) options.before_run = [this, stop = options.stop] { session_.secure_lock({}, stop); };
    const bool resumed = machine_.start(options);
    return {.resumed = resumed,
            .network = machine_.network(),
            .accelerator = machine_.accelerator(),
            .fetches_memory = resumed && options.prefetch == Prefetch::kAll,
            .boot_pack_pages = session_.boot_pack_pages(),
            .mount = machine_.directory()};
  }

  DoneAnswer run(const OwnLockRequest& request, const Client& client) {
    secure_lock(request.common, client.stop);
    return {};
  }

  /// Before anything is fetched for a guest that may not run.
  void secure_lock(const CommonPart& common, const std::stop_token& stop) {
    if (common.online && session_.secure_lock(common.steal_reason, stop)) lock_lost_ = false;
  }

  PublishAnswer run(const SuspendRequest& request, const Client& client) {
    // Without a VM (checked out only, or after a crash) there are the disks to save.
    if (machine_.running()) {
      if (request.upload && account_.config.get_bool("suspend.drop_caches")) {
        client.send({"page cache"});
        machine_.drop_page_cache();
      }
      client.send({"memory"});
      machine_.suspend();
      machine_.mount_disks();
    }
    const bool memory = has_memory();
    PublishAnswer answer;
    if (request.upload) {
      answer = publish_and_end(request.message, client);
    } else {
      answer.uploaded = false;
      answer.result.version = session_.state().base;
    }
    answer.memory = memory;
    return answer;
  }

  /// Given up when the client goes before the guest has: what follows loses nothing and goes on.
  PublishAnswer run(const StopRequest& request, const Client& client) {
    if (machine_.running()) {
      const EitherStop either(client.stop, told_.get_token());
      if (either.token().stop_requested()) throw Error(ErrorKind::kCancelled, "interrupted before the guest was asked");
      client.send({"guest shuts down"});
      if (!machine_.power_down({request.timeout, either.token()}) && !request.kill) {
        throw still_running(parcel_.name, request.timeout);
      }
      power_off();
    }
    return publish_and_end(request.message, client);
  }

  VersionAnswer run(const PowerOffRequest&, const Client&) {
    power_off();
    return {session_.state().base};
  }

  PublishAnswer run(const SyncRequest& request, const Client& client) { return publish(request.message, client); }

  PublishAnswer run(const CheckinRequest& request, const Client& client) {
    return publish_and_end(request.message, client);
  }

  VersionAnswer run(const DiscardRequest&, const Client&) {
    if (machine_.running()) throw Error(ErrorKind::kVm, fmt::format("{} is running", parcel_.name));
    machine_.unmount();
    then_mount([&] { session_.discard(); });
    return {session_.state().content};
  }

  bool has_memory() const { return session_.state().phase == SessionPhase::kSuspended; }
  void power_off() {
    then_mount([&] { machine_.power_off(); });
  }

  void require_off() const {
    if (!machine_.running()) return;
    throw Error(ErrorKind::kVm, fmt::format("{} is running", parcel_.name),
                {fmt::format("isr suspend {}    or    isr stop {}", parcel_.name, parcel_.name)});
  }

  /// A session without a VM has its disks mounted, also after a failure.
  void then_mount(const std::function<void()>& body) {
    try {
      body();
    } catch (...) {
      if (!machine_.running()) guarded("mounting the disks", [&] { machine_.mount_disks(); });
      throw;
    }
    machine_.mount_disks();
  }

  PublishAnswer publish(const std::string& message, const Client& client) {
    const bool memory = has_memory();
    Session::PublishOptions options;
    options.memory = memory;
    options.message = message;
    options.stop = told_.get_token();
    const bool running = machine_.running();
    if (running) options.checkpoint = [this](const auto& freeze) { return machine_.checkpoint(freeze); };
    std::optional<Rehearsal> rehearsal;
    if (memory) {
      guarded("rehearsing a resume", [&] {
        if (!account_.config.get_bool("suspend.rehearsal")) return;
        rehearsal.emplace(session_, paths_, parcel_.name, parcel_.id,
                          RehearsalOptions{.memory = account_.config.get("vm.memory")});
      });
      options.boot_order = [&] { return rehearsal ? rehearsal->take() : BootOrder{}; };
    }
    PublishAnswer answer;
    try {
      answer.result = session_.publish(options, progress_to(client.send));
    } catch (const Error& error) {
      throw explain_publish_failure(error, parcel_.name, account_.entry.name, memory);
    }
    if (answer.result.fork.empty() && !answer.result.unchanged) lock_lost_ = false;
    if (running) answer.paused_ms = std::chrono::duration<double, std::milli>(machine_.last_pause()).count();
    return answer;
  }

  PublishAnswer publish_and_end(const std::string& message, const Client& client) {
    PublishAnswer answer;
    try {
      machine_.close_disks();
      answer = publish(message, client);
      machine_.unmount();
      // The next session may begin once the directory of this one is gone, and must not meet this daemon.
      answer.lock_returned = session_.end([this] { fall_silent(); });
    } catch (...) {
      ended_ ? end_.done() : guarded("opening the disks", [&] { machine_.open_disks(); });
      throw;
    }
    end_.done();
    return answer;
  }

  // --- status and console, any time ----------------------------------------

  Status status() {
    is_used_ = true;
    if (ended_) throw NotBegun("the session has just ended");
    if (operation_.try_lock_politely_for(500ms)) {
      const std::lock_guard lock(operation_, std::adopt_lock);
      if (ended_) throw NotBegun("the session has just ended");
      *last_status_.lock() = full_status();
    }
    Status answer = *last_status_.lock();
    answer.busy = current_.lock()->command;
    answer.memory_waits_for = machine_.memory_hindrance();
    return answer;
  }

  /// On the mount's threads, whom the session is not for: during a command it is what it was before.
  std::string stats_json() {
    if (operation_.try_lock_politely_for(500ms)) {
      const std::lock_guard lock(operation_, std::adopt_lock);
      *last_stats_.lock() = session_.stats();
    }
    json stats = encode_stats(*last_stats_.lock());
    stats["schema"] = 1;
    return stats.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
  }

  Status full_status() {
    guarded("the guest's end", [&] { reap(); });  // else it is said to run, and has no VM
    Status answer;
    answer.id = parcel_.id;
    answer.session = session_.stats();
    answer.mount = machine_.directory();
    answer.daemon_pid = ::getpid();
    if (machine_.running()) {
      answer.session.changed_bytes += machine_.changed_bytes_in_qemu();
      answer.vm = machine_.stats();
    }
    answer.lock_lost = lock_lost_.load();
    answer.last_event = *last_event_.lock();
    return answer;
  }

  // --- keeping -------------------------------------------------------------

  void keep(const std::stop_token& stop) {
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kKeeperNice);  // settling yields to the guest
    auto retried = std::chrono::steady_clock::now();
    std::optional<ShutdownDelay> delay;
    WaitReport waiting;
    while (!stop.stop_requested()) {
      std::this_thread::sleep_for(200ms);
      if (delay && delay->begun() && !told_.stop_requested()) end_.shutdown_begins();
      if (const auto words = waiting.due(*waits_, account_.entry.name)) current_.lock()->tell_of_wait(*words);
      if (!operation_.try_lock_politely_for(100ms)) continue;
      const std::lock_guard lock(operation_, std::adopt_lock);
      if (ended_) return;
      guarded("the guest's end", [&] { reap(); });
      if (machine_.running() != delay.has_value()) {
        machine_.running() ? void(delay.emplace()) : delay.reset();
      }
      if (std::chrono::steady_clock::now() - retried > kRetryDisk) {
        retried = std::chrono::steady_clock::now();
        guarded("letting the guest go on", [&] { machine_.go_on_if_held(); });
        if (!machine_.running() && !machine_.mounted()) machine_.try_to_mount_disks();
      }
      guarded("page faults", [&] { machine_.read_around_if_due(); });
      guarded("settling", [&] { operation_.work_idly(stop, [&](auto ended) { session_.settle_if_due(ended); }); });
    }
  }

  void reap() {
    if (const auto how = machine_.reap()) {
      log::warn("{}", *how);
      *last_event_.lock() = *how;
    }
  }

  void lose_lock(const Error& how) {
    lock_lost_ = true;
    log::error("the lock was lost: {}", how.what());
    *last_event_.lock() = fmt::format(
        "the lock was lost; if another host has it (isr lock show {}), what is suspended here becomes a fork",
        parcel_.name);
  }

  static void guarded(std::string_view what, const std::function<void()>& body) {
    try {
      body();
    } catch (const std::exception& error) {
      log::warn("{}: {}", what, error.what());
    }
  }

  /// Nobody knows of this daemon but the command for which it was started, and which was refused.
  void leave() {
    guarded("ending after a refusal", [&] {
      machine_.require_unused();
      fall_silent();
      end_.done();
    });
  }

  /// Answers the requests that it has accepted and takes no more. The daemon must end after this.
  void fall_silent() {
    ended_ = true;
    server_->stop_listening();
  }

  // --- being told to end ----------------------------------------------------

  /// What runs is suspended here; what is under way is given up where that loses nothing. A second signal, or time
  /// that has passed, ends it as a crash would: the disks are kept, and memory that was suspended before.
  void save_in_time(EndWait::Cause cause) {
    log::warn("the daemon was told to end");
    told_.request_stop();
    if (end_.save_in_time(cause, kLongestSaving, [this] { save(); })) return;
    log::error("the daemon ends before it was done; what was written is kept");
    ::_exit(EXIT_FAILURE);
  }

  void save() {
    while (!operation_.try_lock_for(kHoldUp)) guarded("what waits", [&] { session_.interrupt_reads(); });
    const std::lock_guard lock(operation_, std::adopt_lock);
    *current_.lock() = {"suspend", {}};
    while (!ended_ && machine_.running()) {
      guarded("suspending before the end", [&] {
        const ReadInterrupter interrupter(session_, kHoldUp);
        machine_.suspend();
      });
      if (machine_.running()) std::this_thread::sleep_for(kSaveAgain);
    }
    *current_.lock() = {};
    if (ended_) return;
    fall_silent();
    end_.done();
  }

  Paths paths_;
  std::shared_ptr<StoreWaits> waits_ = std::make_shared<StoreWaits>();
  Account account_;
  ParcelEntry parcel_;
  std::atomic<bool> lock_lost_{false};
  Sync<std::string> last_event_;
  Operation operation_;
  std::stop_source told_;  ///< to end: commands that can be given up are
  EndWait end_;
  Sync<SessionStats> last_stats_;
  Session session_;  // its lease says the first two, the machine's mount asks for the others
  Machine machine_;
  std::atomic<bool> ended_{false};  // set under operation_
  std::atomic<bool> is_used_{false};
  EndingCommand ending_;  // guarded by operation_
  Sync<CurrentCommand> current_;
  Sync<Status> last_status_;
  std::unique_ptr<ControlServer> server_;
  std::jthread keeper_;
};

}  // namespace

int session_daemon_main() {
  block_signals();
  std::unique_ptr<Daemon> daemon;
  try {
    daemon = std::make_unique<Daemon>(parse_handover(read_background_secret()));
    daemon->run();
    return 0;
  } catch (const std::exception& error) {
    log::error("{}", error.what());
    daemon.reset();  // its mount and its lock file are free when the failure is told
    background_failed(error);
    return 1;
  }
}

}  // namespace isr
