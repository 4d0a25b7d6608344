#include "daemon/session_commands.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/stop.h"
#include "daemon/guarded.h"
#include "machine/rehearsal.h"

namespace isr {

using nlohmann::json;

template <>
BootAnswer SessionCommands::run(const StartRequest& request, const CommandClient& client) {
  BootOptions options = boot_options(request.boot);
  options.fresh = true;
  return boot(request.common, options, client);
}

template <>
BootAnswer SessionCommands::run(const ResumeRequest& request, const CommandClient& client) {
  BootOptions options = boot_options(request.boot);
  options.prefetch = request.prefetch;
  return boot(request.common, options, client);
}

BootOptions SessionCommands::boot_options(const BootPart& wanted) const {
  BootOptions options;
  options.network = wanted.network;
  options.isolate_network = wanted.isolate_network;
  options.accelerator = wanted.accelerator;
  options.cdrom = wanted.cdrom;
  options.memory = parts_.account.host.config.get("vm.memory");
  return options;
}

BootAnswer SessionCommands::boot(const CommonPart& common, BootOptions& options, const CommandClient& client) {
  options.progress = progress_to(client.send);
  const EitherStop either(client.stop, parts_.told);
  options.stop = either.token();
  secure_lock(common, options.stop);
  parts_.reap();  // a guest may have ended while the repository was asked
  if (common.online) options.before_run = [this, stop = options.stop] { parts_.session.lock().secure({}, stop); };
  const bool resumed = parts_.machine.start(options);
  return {.resumed = resumed,
          .network = parts_.machine.network(),
          .accelerator = parts_.machine.accelerator(),
          .fetches_memory = resumed && options.prefetch == Prefetch::kAll,
          .boot_pack_pages = parts_.session.prefetch().pages(),
          .mount = parts_.machine.disks().directory()};
}

template <>
DoneAnswer SessionCommands::run(const OwnLockRequest& request, const CommandClient& client) {
  secure_lock(request.common, client.stop);
  return {};
}

/// To be called before anything is fetched for a guest, because the lock may forbid it to run.
void SessionCommands::secure_lock(const CommonPart& common, const std::stop_token& stop) {
  if (common.online && parts_.session.lock().secure(common.steal_reason, stop)) parts_.lock_lost = false;
}

template <>
PublishAnswer SessionCommands::run(const SuspendRequest& request, const CommandClient& client) {
  // Without a VM (only checked out, or after a crash) there are only the disks to publish.
  if (parts_.machine.running()) {
    if (request.upload && parts_.account.host.config.get_bool("suspend.drop_caches")) {
      client.send({"page cache"});
      parts_.machine.drop_page_cache();
    }
    client.send({"memory"});
    parts_.machine.suspend();
    parts_.machine.disks().mount();
  }
  const bool memory = has_memory();
  PublishAnswer answer;
  if (request.upload) {
    answer = publish_and_end(request.message, client);
  } else {
    answer.uploaded = false;
    answer.result.version = parts_.session.state().base;
  }
  answer.memory = memory;
  return answer;
}

/// Gives the request up if the client goes before the guest is off. After that it goes on, because the publish loses
/// nothing.
template <>
PublishAnswer SessionCommands::run(const StopRequest& request, const CommandClient& client) {
  if (parts_.machine.running()) {
    const EitherStop either(client.stop, parts_.told);
    if (either.token().stop_requested())
      throw Error(ErrorKind::kCancelled, "interrupted before the guest was asked to shut down");
    client.send({"guest shuts down"});
    if (!parts_.machine.power_down({request.timeout, either.token()}) && !request.kill) {
      throw still_running(parts_.parcel.name, request.timeout);
    }
    power_off();
  }
  return publish_and_end(request.message, client);
}

template <>
VersionAnswer SessionCommands::run(const PowerOffRequest&, const CommandClient&) {
  power_off();
  return {parts_.session.state().base};
}

template <>
PublishAnswer SessionCommands::run(const SyncRequest& request, const CommandClient& client) {
  return publish(request.message, client);
}

template <>
PublishAnswer SessionCommands::run(const CheckinRequest& request, const CommandClient& client) {
  return publish_and_end(request.message, client);
}

template <>
VersionAnswer SessionCommands::run(const DiscardRequest&, const CommandClient&) {
  if (parts_.machine.running()) throw Error(ErrorKind::kVm, fmt::format("{} is running", parts_.parcel.name));
  parts_.machine.disks().unmount();
  then_mount([&] { parts_.session.discard(); });
  return {parts_.session.state().content};
}

bool SessionCommands::has_memory() const { return parts_.session.state().phase == SessionPhase::kSuspended; }
void SessionCommands::power_off() {
  then_mount([&] { parts_.machine.power_off(); });
}

void SessionCommands::require_off() const {
  if (!parts_.machine.running()) return;
  throw Error(ErrorKind::kVm, fmt::format("{} is running", parts_.parcel.name),
              {fmt::format("isr suspend {}    or    isr stop {}", parts_.parcel.name, parts_.parcel.name)});
}

/// Runs `body`, then mounts the disks, because they are mounted whenever no VM runs, also after a failure.
void SessionCommands::then_mount(const std::function<void()>& body) {
  try {
    body();
  } catch (...) {
    if (!parts_.machine.running()) guarded("mounting the disks", [&] { parts_.machine.disks().mount(); });
    throw;
  }
  parts_.machine.disks().mount();
}

PublishAnswer SessionCommands::publish(const std::string& message, const CommandClient& client) {
  const bool memory = has_memory();
  PublishOptions options;
  options.memory = memory;
  options.message = message;
  options.stop = parts_.told;
  const bool running = parts_.machine.running();
  if (running) options.checkpoint = [this](const auto& freeze) { return parts_.machine.checkpoint(freeze); };
  std::optional<Rehearsal> rehearsal;
  if (memory) {
    guarded("rehearsing a resume", [&] {
      if (!parts_.account.host.config.get_bool("suspend.rehearsal")) return;
      rehearsal.emplace(parts_.session, parts_.paths, parts_.parcel.id, parts_.host,
                        RehearsalOptions{.memory = parts_.account.host.config.get("vm.memory")});
    });
    options.boot_order = [&] { return rehearsal ? rehearsal->take() : BootOrder{}; };
  }
  PublishAnswer answer;
  try {
    answer.result = parts_.session.publisher().publish(options, progress_to(client.send));
  } catch (const Error& error) {
    throw explain_publish_failure(error, parts_.parcel.name, parts_.account.remote.entry.name, memory);
  }
  if (answer.result.fork.empty() && !answer.result.unchanged) parts_.lock_lost = false;
  if (running) answer.paused_ms = std::chrono::duration<double, std::milli>(parts_.machine.last_pause()).count();
  return answer;
}

PublishAnswer SessionCommands::publish_and_end(const std::string& message, const CommandClient& client) {
  PublishAnswer answer;
  bool is_ending = false;
  try {
    parts_.machine.disks().close();
    answer = publish(message, client);
    parts_.machine.disks().unmount();
    // The next session may begin once the directory of this one is gone. Its commands must not reach this daemon.
    answer.lock_returned = parts_.session.end([&] {
      is_ending = true;
      parts_.before_end();
    });
  } catch (...) {
    if (!is_ending) guarded("opening the disks", [&] { parts_.machine.disks().open(); });
    throw;
  }
  return answer;
}

json SessionCommands::carry_out(const Request& request, const CommandClient& client) {
  const CommonPart& common = *common_part(request);
  std::vector<std::string> kept_settings;
  if (common.settings) kept_settings = follow_settings(parts_.account, *common.settings);
  if (!std::holds_alternative<OwnLockRequest>(request) && !std::holds_alternative<SyncRequest>(request)) {
    parts_.machine.disks().require_unused();  // these commands remove the mount
  }
  if (std::holds_alternative<CheckinRequest>(request)) require_off();
  if (publishes(request) && common.steal_reason) {
    secure_lock(common, client.stop);
    parts_.reap();  // a guest may have ended while the repository was asked
  }
  return std::visit(
      [&](const auto& one) -> json {
        if constexpr (requires { one.common; }) {
          auto answer = run(one, client);
          answer.kept_settings = kept_settings;
          return encode_answer(answer);
        } else {
          throw Error(ErrorKind::kBug, "carry_out() was given a request that changes nothing");
        }
      },
      request);
}

}  // namespace isr
