// `operation_` serialises the commands; a status request to a busy daemon gets the last status with the name of the
// command. The keeper thread settles the journal and notices that the guest has ended. Another thread renews the lock,
// also during a command.

#include "daemon/session_daemon.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <nlohmann/json.hpp>

#include "account/open_account.h"
#include "base/log.h"
#include "daemon/background.h"
#include "daemon/command_progress.h"
#include "daemon/control.h"
#include "daemon/end_wait.h"
#include "daemon/follow_console.h"
#include "daemon/guarded.h"
#include "daemon/handover.h"
#include "daemon/operation.h"
#include "daemon/protocol.h"
#include "daemon/read_interrupter.h"
#include "daemon/session_commands.h"
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
// systemd kills the processes of a login session 90 s after it has told them to end.
constexpr auto kLongestSaving = 60s;
constexpr auto kHoldUp = 5s;  // how long a command may wait for the network before that is interrupted
constexpr auto kSaveAgain = 1s;

class Daemon {
 public:
  Daemon(const Handover& handover, const std::shared_ptr<VmHost>& host)
      : paths_(handover.paths),
        account_(open_account(handover, waits_)),
        parcel_(handover.parcel),
        session_(account_, parcel_),
        machine_(
            session_, paths_, parcel_.name, parcel_.id, [this] { return stats_json(); }, host),
        commands_({account_, parcel_, paths_, session_, machine_, host, lock_lost_, told_.get_token(),
                   [this] { reap(); }, [this] { fall_silent(); }}) {}

  void run(const std::function<void()>& ready) {
    Rehearsal::clean_up(paths_, parcel_.id);
    machine_.disks().mount();
    *last_status_.lock() = full_status();
    {
      const std::lock_guard lock(operation_);  // the first request may arrive before server_ is set
      session_.lock().keep_lease([this](const Error& how) { lose_lock(how); });
      server_ = start_control_server(control_socket(paths_, parcel_.id),
                                     [this](const json& request, const ControlReply& reply,
                                            const std::stop_token& stop) { return handle(request, reply, stop); });
    }
    note_control_socket(account_.host, parcel_);
    keeper_ = std::jthread([this](const std::stop_token& stop) { keep(stop); });
    ready();
    if (const auto cause = end_.wait(); cause != EndWait::Cause::kDone) save_in_time(cause);
    keeper_.request_stop();
    keeper_.join();
    server_.reset();
  }

 private:
  // --- requests ------------------------------------------------------------

  json handle(const json& line, const ControlReply& reply, const std::stop_token& stop) {
    const Request request = parse_request(line);
    if (std::holds_alternative<StatusRequest>(request)) return encode_answer(status());
    // Not under operation_: a user needs the console also while a stop or suspend is under way.
    if (const auto* wanted = std::get_if<ConsoleRequest>(&request)) {
      return encode_answer(follow_console(*console_of(machine_, parcel_.name), *wanted, reply, stop));
    }
    if (const auto* typed = std::get_if<TypeRequest>(&request)) {
      return encode_answer(type_text(*console_of(machine_, parcel_.name), *typed));
    }
    if (is_lock_looked_at(request)) return encode_answer(DoneAnswer{});
    const std::string_view command = command_of(request);
    // A command that waits for memory to be written holds operation_ for as long as the disk is full. A poweroff drops
    // the memory, so it ends that wait.
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
      ~Done() {
        *daemon.current_.lock() = {};
        if (daemon.ended_) daemon.end_.done();
      }
    } done{*this};
    reap();  // the keeper may not have noticed yet that the guest has ended
    const CommandClient client{[&](const ProgressLine& progress) {
                                 current_.lock()->progress = progress;
                                 reply(encode_progress(progress));
                               },
                               stop};
    json result;
    try {
      result = commands_.carry_out(request, client);
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

  /// True if the request only checks the lock and the command under way has checked it already. A lock request under
  /// way does not count, because it may still be refused.
  bool is_lock_looked_at(const Request& request) const {
    const auto* lock = std::get_if<OwnLockRequest>(&request);
    const std::string current = current_.lock()->command;
    return lock != nullptr && !lock->common.steal_reason && !current.empty() && current != OwnLockRequest::kCommand;
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

  /// Runs on the mount's threads, which may not use the session: during a command it returns the last statistics.
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
    guarded("noting the guest's end", [&] { reap(); });  // otherwise the phase would be running, but without a VM
    Status answer;
    answer.id = parcel_.id;
    answer.session = session_.stats();
    answer.mount = machine_.disks().directory();
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
      if (const auto words = waiting.due(*waits_, account_.remote.entry.name)) current_.lock()->tell_of_wait(*words);
      if (!operation_.try_lock_politely_for(100ms)) continue;
      const std::lock_guard lock(operation_, std::adopt_lock);
      if (ended_) return;
      guarded("noting the guest's end", [&] { reap(); });
      if (machine_.running() != delay.has_value()) {
        machine_.running() ? void(delay.emplace()) : delay.reset();
      }
      if (std::chrono::steady_clock::now() - retried > kRetryDisk) {
        retried = std::chrono::steady_clock::now();
        guarded("writing the session's state", [&] { session_.write_state_if_behind(); });
        guarded("letting the guest go on", [&] { machine_.go_on_if_held(); });
        if (!machine_.running() && !machine_.disks().mounted()) machine_.disks().try_to_mount();
      }
      guarded("reading around page faults", [&] { machine_.read_around_if_due(); });
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
        "the lock was lost; if another host has it (isr lock show {}), the work on this host becomes a fork",
        parcel_.name);
  }

  /// Ends the daemon after its first command was refused. No other command has used it.
  void leave() {
    guarded("ending after a refusal", [&] {
      machine_.disks().require_unused();
      fall_silent();
      end_.done();
    });
  }

  /// Answers the requests that were accepted and takes no more. The daemon must end after this.
  void fall_silent() {
    ended_ = true;
    server_->stop_listening();
  }

  // --- being told to end ----------------------------------------------------

  /// Suspends the guest on this host and gives up the command that is under way where that loses nothing. A second
  /// signal, or the end of the time, ends the daemon as a crash would: the disks and memory that was suspended before
  /// are kept.
  void save_in_time(EndWait::Cause cause) {
    log::warn("the daemon was told to end");
    told_.request_stop();
    if (end_.save_in_time(cause, kLongestSaving, [this] { save(); })) return;
    log::error("the daemon ends before everything was saved; written data is kept");
    ::_exit(EXIT_FAILURE);
  }

  void save() {
    while (!operation_.try_lock_for(kHoldUp)) guarded("interrupting reads", [&] { session_.interrupt_reads(); });
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
  std::stop_source told_;  ///< requested when the daemon is told to end; commands that can be given up then end
  EndWait end_;
  Sync<SessionStats> last_stats_;
  Session session_;  // uses lock_lost_ and last_event_ in its lease; the machine's mount uses the other fields above
  Machine machine_;
  SessionCommands commands_;
  std::atomic<bool> ended_{false};  // set under operation_
  std::atomic<bool> is_used_{false};
  EndingCommand ending_;  // guarded by operation_
  Sync<CurrentCommand> current_;
  Sync<Status> last_status_;
  std::unique_ptr<ControlServer> server_;
  std::jthread keeper_;
};

}  // namespace

void run_session_daemon(Handover& handover, const std::shared_ptr<VmHost>& host, const std::function<void()>& ready) {
  Daemon daemon(handover, host);
  handover = {};
  daemon.run(ready);
}

int session_daemon_main() {
  block_signals();
  try {
    Handover handover = parse_handover(read_background_secret());
    run_session_daemon(handover, make_qemu_host(), background_ready);
    return 0;
  } catch (const std::exception& error) {
    log::error("{}", error.what());
    background_failed(error);
    return 1;
  }
}

}  // namespace isr
