#include "cli/run_vm.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "account/version_reader.h"
#include "cli/ask_daemon.h"
#include "cli/local_session.h"
#include "cli/new_session.h"
#include "cli/vm_flags.h"
#include "daemon/protocol.h"
#include "machine/cdrom.h"
#include "machine/resumable.h"

namespace isr {
namespace {

using nlohmann::json;

/// Call before the lock is taken and before anything is downloaded.
void check_memory_loads_here(const OpenParcel& parcel, const LoadedVersion& loaded) {
  if (!loaded.version.suspended() || !loaded.version.stamp) return;
  const auto why = why_not_resumable(loaded.version.vm, *loaded.version.stamp, parcel.account.host.paths);
  if (!why) return;
  throw Error(ErrorKind::kVm, fmt::format("the memory of {} cannot be loaded here: {}", parcel.entry.name, *why),
              {fmt::format("isr start {}    boots from its disks and drops the memory", parcel.entry.name)});
}

/// Gives back the lock that a failed attempt has taken.
void give_back(const OpenParcel& parcel) {
  try {
    ask(daemon_of_session(parcel, {}), CheckinRequest{});
  } catch (const Error&) {
    // The parcel stays checked out here. The failure that is being reported says why nothing runs.
  }
}

fs::path check_out(CommandContext& context, OpenParcel& parcel, const RunOptions& options, bool fresh) {
  const VersionSelector selector = wanted_version(parcel, options.version);
  parcel.account.remote.online("resuming " + parcel.entry.name);
  const LoadedVersion loaded = load_version(parcel.account, parcel.entry, selector.choice);
  if (!fresh) check_memory_loads_here(parcel, loaded);
  // Which version is the newest is certain only once we have the lock.
  const VersionChoice choice = selector.choice.is_newest() ? VersionChoice{} : loaded.choice();
  return take_out(context, parcel, LockMode::kAttended, choice, options.take_lock);
}

/// The CD image in the drive at boot, after the flag of the command line was applied.
std::optional<fs::path> choose_cdrom(CommandContext& context, const OpenParcel& parcel, const RunOptions& options) {
  if (options.cdrom && *options.cdrom == "none") {
    eject_cdrom(parcel.account.host, parcel.entry);
  } else if (options.cdrom) {
    insert_cdrom(parcel.account.host, parcel.entry, *options.cdrom);
  }
  const auto inserted = inserted_cdrom(parcel.account.host, parcel.entry);
  if (!inserted) return std::nullopt;
  try {
    return check_cdrom(*inserted);
  } catch (const Error& error) {
    context.out.note(fmt::format("{}; the drive stays empty", error.what()));
    return std::nullopt;
  }
}

/// One line about how far the guest's network reaches.
std::string describe_network(NetworkMode mode, const std::string& name) {
  if (mode == NetworkMode::kNone) return "network none: the guest's network cable is unplugged";
  if (mode == NetworkMode::kUser) {
    return "network user: the guest connects as you do, also to services on this host's 127.0.0.1 (its 10.0.2.2)";
  }
  return fmt::format(
      "network restricted: the guest reaches nothing outside itself    --network user at the next "
      "start or resume of {} changes that",
      name);
}

/// The JSON document for a start or resume.
json document_of(const std::string& name, const BootAnswer& answer, std::chrono::duration<double> took) {
  return {{"schema", 1},
          {"type", "summary"},
          {"parcel", name},
          {"resumed", answer.resumed},
          {"network", to_name(answer.network)},
          {"accelerator", answer.accelerator.name},
          {"accelerator_reason", answer.accelerator.reason},
          {"fetches_memory", answer.fetches_memory},
          {"boot_pack_pages", answer.boot_pack_pages},
          {"mount", printable_path(answer.mount)},
          {"seconds", took.count()}};
}

void print_boot(CommandContext& context, const std::string& name, const BootAnswer& answer, bool fresh,
                const std::optional<fs::path>& cdrom, std::chrono::duration<double> took) {
  if (!fresh && !answer.resumed) {
    context.out.note(fmt::format("{} had no saved memory: it boots from its disks", name));
  }
  if (cdrom && !answer.resumed) {
    context.out.note(
        fmt::format("in the CD drive: {}    isr start {} --cdrom none takes it out", printable_path(*cdrom), name));
  }
  context.out.note(fmt::format("accelerator {}: {}", answer.accelerator.name, answer.accelerator.reason));
  context.out.note(describe_network(answer.network, name));
  if (answer.fetches_memory) {
    context.out.note(fmt::format("its memory is being fetched; isr stat {} says when it is safe offline", name));
  }
  context.out.line(
      fmt::format("Running after {:.1f} s. Screen: isr view {}   console: isr console {}", took.count(), name, name));
}

int run_opened(CommandContext& context, OpenParcel& parcel, const RunOptions& options, bool fresh) {
  const auto began = std::chrono::steady_clock::now();
  const std::string& name = parcel.entry.name;
  const auto local = local_state(parcel.account.host, parcel.entry);
  if (local && local->daemon_alive && local->state == "running") {
    throw Error(ErrorKind::kVm, fmt::format("{} is running already", name), {fmt::format("isr view {}", name)});
  }
  if (local && (options.version || parcel.version.given)) {
    throw Error(ErrorKind::kVm, fmt::format("{} is checked out here at version {}", name, local->base),
                {fmt::format("isr checkin {}    or    isr discard {}    first", name, name)});
  }
  if (local && fresh && local->state == "suspended here") {
    confirm(context.flags, fmt::format("{} is suspended; starting it drops its memory. Start?", name));
  }
  const auto cdrom = choose_cdrom(context, parcel, options);
  const fs::path socket = local ? fs::path() : check_out(context, parcel, options, fresh);
  const auto daemon = [&] { return local ? daemon_of_session(parcel, context.stop()) : socket; };
  const BootPart boot{
      .network = find_network_mode(options.network),
      .isolate_network = options.no_network,
      .accelerator = options.accelerator.empty() ? context.config().get("vm.accelerator") : options.accelerator,
      .cdrom = cdrom};
  const bool take_lock = local && options.take_lock;
  BootAnswer answer;
  try {
    answer = fresh ? ask_with_lock(context, parcel, daemon, StartRequest{.boot = boot}, take_lock, "Starting " + name)
                   : ask_with_lock(context, parcel, daemon,
                                   ResumeRequest{.boot = boot, .prefetch = parse_prefetch(options.prefetch)}, take_lock,
                                   "Resuming " + name);
  } catch (const Error& error) {
    if (!local && error.kind() != ErrorKind::kDaemon && error.kind() != ErrorKind::kCancelled) give_back(parcel);
    throw;
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  if (context.out.json()) {
    context.out.document(document_of(name, answer, took));
  } else {
    print_boot(context, name, answer, fresh, cdrom, took);
  }
  return 0;
}

}  // namespace

void add_run_flags(Command& command, RunOptions& options) {
  command.argument("NAME[@V]", options.name, "the parcel, and the version if not the newest")
      .option("-r,--version", options.version, "V", "another version than the newest, or a fork")
      .choice("--accelerator", options.accelerator, {"auto", "kvm", "tcg"},
              "what runs the guest's code: kvm, tcg, or auto")
      .choice("--network", options.network, network_modes(),
              "from now on: no network (none), nothing outside (restricted), or connections as you (user)")
      .flag("--no-network", options.no_network, "only this time: the guest reaches nothing outside")
      .flag("--take-lock", options.take_lock, "take the lock even from another host; its unsynced work becomes a fork")
      .note(
          "The lock of a host that has not been heard of for lock.lease seconds (600) is taken over when you agree on "
          "the terminal, or with --take-lock. A host that comes back to a lost lock is told so, and keeps its "
          "session.");
}

int run_vm(CommandContext& context, const RunOptions& options, bool fresh) {
  OpenParcel parcel = context.open_parcel(options.name);
  return with_session(parcel, [&] { return run_opened(context, parcel, options, fresh); });
}

}  // namespace isr
