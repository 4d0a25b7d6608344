// stat: shows the sessions of this host without asking the repository.

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/sizes.h"
#include "cli/app.h"
#include "cli/commands.h"
#include "cli/local_session.h"
#include "daemon/protocol.h"
#include "session/held_lock.h"
#include "session/session_state.h"

namespace isr {
namespace {

using nlohmann::json;

/// The state of a parcel on this host.
struct LocalStatus {
  std::string name;
  std::optional<LocalState> local;  ///< absent when it is not checked out here
  bool lock_due = false;            ///< the lock is given back when the repository can be reached
  std::optional<Status> status;     ///< from its daemon, when one runs and answers
  std::optional<Error> failure;     ///< why the state could not be read, or why a running daemon did not answer
};

std::string state_word(const LocalStatus& parcel) {
  if (parcel.local) return parcel.local->state;
  return parcel.failure ? "unknown" : "not checked out here";
}

/// Prints how much of a resumed guest's memory is on this host.
void print_memory(const Output& out, const SessionStats& session) {
  if (!session.fetching_ahead) return;
  const FetchingAhead& ahead = *session.fetching_ahead;
  const std::string_view waits = ahead.waiting ? "; waiting for the repository" : "";
  if (ahead.order_chunks_here < ahead.order_chunks) {
    out.line(fmt::format("MEMORY   fetching what it reads first: {} of {}{}",
                         format_size(ahead.order_chunks_here * kChunkSize),
                         format_size(ahead.order_chunks * kChunkSize), waits));
    return;
  }
  if (!session.memory) return;
  const auto& [all, here, safe_since] = *session.memory;
  if (safe_since) {
    out.line(fmt::format("MEMORY   100% here, {}; offline-safe since {}", format_size(all * kChunkSize),
                         describe_when(*safe_since, wall_now())));
  } else {
    out.line(fmt::format("MEMORY   {}% here, {} of {}{}", all == 0 ? 100 : here * 100 / all,
                         format_size(here * kChunkSize), format_size(all * kChunkSize), waits));
  }
}

void print_vm(const Output& out, const VmStats& vm) {
  out.line(
      fmt::format("VM       {} ({}: {}), process {}", vm.state, vm.accelerator.name, vm.accelerator.reason, vm.pid));
  if (!vm.awakening.empty()) out.line("         " + vm.awakening);
  if (vm.io_error) out.line("         held because a disk failed; it is tried again every 10 s");
  if (vm.guest_panicked) out.line("         the guest's kernel has panicked; isr console shows what it said");
}

void print_sources(const Output& out, const FetchStats& sources) {
  std::string others;  // sources that only some hosts have
  for (const TierTotals& tier : sources.tiers) {
    if (tier.name == "settled" || tier.name == "cache" || tier.name == "repository") continue;
    others += fmt::format(", {} {}", printable(tier.name), tier.hits);
  }
  out.line(fmt::format("READS    cache {}{}, repository {} ({}), of which the guest waited for {}", sources.cache_hits,
                       others, sources.repository_fetches, format_size(sources.repository_bytes),
                       sources.guest_fetches));
  if (sources.waiting > 0) {
    out.line(fmt::format("WAITING  for the repository, which cannot be reached: {}", printable(sources.waiting_for)));
  }
}

void print_session(const Output& out, const LocalStatus& parcel, const Status& status) {
  const SessionStats& session = status.session;
  std::string state = parcel.local->state;
  if (!state.ends_with("here")) state += " here";
  out.line(fmt::format("{}@{}  {} since {}", session.parcel, session.content, state,
                       describe_when(session.since, wall_now())));
  if (!status.busy.empty()) out.line("BUSY     " + status.busy);
  out.line(fmt::format("MOUNT    {}", printable_path(status.mount)));
  out.line(fmt::format("CHANGED  {} since version {}, journal {}", format_size(session.changed_bytes), session.content,
                       format_size(session.journal_bytes)));
  for (const ImageStats& image : session.images) {
    out.line(fmt::format("  {:<10} {:>10}   read {}, wrote {}", image.name, format_size(image.size),
                         format_size(image.read_bytes), format_size(image.written_bytes)));
  }
  if (status.vm) print_vm(out, *status.vm);
  print_memory(out, session);
  print_sources(out, session.sources);
  if (!status.memory_waits_for.empty())
    out.line("WAITING  to write the guest's memory: " + printable(status.memory_waits_for));
  if (status.lock_lost) out.line("LOCK     lost; what is suspended here becomes a fork if another host has it");
  if (!status.last_event.empty()) out.line("LAST     " + status.last_event);
}

/// The JSON document for --json.
json document_of(const LocalStatus& parcel) {
  const auto& local = parcel.local;
  const std::string state = state_word(parcel);
  if (!parcel.status) {
    json document{{"schema", 1},
                  {"parcel", parcel.name},
                  {"state", state},
                  {"phase", state},
                  {"upload_due", local && local->upload_due},
                  {"lock_due", parcel.lock_due},
                  {"version", local ? local->base : 0}};
    if (parcel.failure) {
      document["lock_due"] = nullptr;  // was not looked at
      if (!local) document["upload_due"] = document["version"] = nullptr;
      document["error"] = parcel.failure->what();
      document["hints"] = parcel.failure->hints();
    }
    return document;
  }
  json document = encode_answer(*parcel.status);
  document["schema"] = 1;
  document["mount"] = printable_path(parcel.status->mount);
  if (parcel.status->vm) document["vm"]["vnc"] = printable_path(parcel.status->vm->vnc_socket);
  document["state"] = state;
  document["upload_due"] = local->upload_due;
  return document;
}

LocalStatus status_without_daemon(const Account& account, const ParcelEntry& parcel,
                                  const std::optional<LocalState>& local) {
  return {parcel.name, local, !local && has_lock_to_give_back(account.host, parcel), {}, {}};
}

LocalStatus status_of(CommandContext& context, const Account& account, const ParcelEntry& parcel) {
  auto local = settled_local_state(account.host, parcel, context.stop());
  if (!local || !local->daemon_alive) return status_without_daemon(account, parcel, local);
  try {
    return {
        parcel.name, local, false, ask(control_socket(account.host, parcel), StatusRequest{}, {}, context.stop()), {}};
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kDaemon) throw;
    local = settled_local_state(account.host, parcel, context.stop());
    if (local && local->daemon_alive) throw;
    return status_without_daemon(account, parcel, local);  // the daemon has just ended
  }
}

void print_stat(CommandContext& context, const LocalStatus& parcel) {
  const Output& out = context.out;
  if (parcel.status) {
    print_session(out, parcel, *parcel.status);
  } else {
    out.line(fmt::format("{}: {}", parcel.name, state_word(parcel)));
  }
  if (parcel.failure) {
    out.line("ERROR    " + printable(parcel.failure->what()));
    for (const std::string& hint : parcel.failure->hints()) out.line("         " + printable(hint));
  }
  if (parcel.lock_due) out.line("LOCK     given back when the repository can be reached again");
  if (parcel.local && parcel.local->upload_due) {
    out.line(fmt::format("UPLOAD   not done yet: isr suspend {} uploads it", parcel.name));
  }
}

Account open_local_account(CommandContext& context) {
  try {
    return context.open_account({}, impatient(), true);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kOffline || context.offline()) throw;
    return context.open_account({}, impatient(), false);  // never used on this host
  }
}

/// As status_of(); nullopt when nothing of the parcel is on this host. Turns errors into a status, so that a parcel
/// with damaged state, a silent daemon or a daemon of another isr version does not hide the others.
std::optional<LocalStatus> status_or_failure(CommandContext& context, const Account& account,
                                             const ParcelEntry& parcel) {
  LocalStatus status;
  status.name = parcel.name;
  try {
    status.local = local_state(account.host, parcel);
    if (!status.local && !has_lock_to_give_back(account.host, parcel)) return std::nullopt;
    return status_of(context, account, parcel);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kCancelled) throw;
    status.failure = error;
  } catch (const fs::filesystem_error& error) {
    status.failure = Error(ErrorKind::kIo, error.what());
  }
  return status;
}

/// All parcels that are checked out here.
int run_stat_all(CommandContext& context) {
  Account account = open_local_account(context);
  const Profile profile = read_profile(account);
  std::vector<LocalStatus> all;
  for (const ParcelEntry& parcel : profile.parcels) {
    if (auto status = status_or_failure(context, account, parcel)) all.push_back(std::move(*status));
  }
  const auto failed = std::find_if(all.begin(), all.end(), [](const auto& parcel) { return parcel.failure; });
  const int code = failed == all.end() ? 0 : to_exit_code(failed->failure->kind());
  if (context.out.json()) {
    json documents = json::array();
    for (const LocalStatus& parcel : all) documents.push_back(document_of(parcel));
    context.out.document({{"schema", 1}, {"parcels", documents}});
    return code;
  }
  if (all.empty()) context.out.note("no parcel is checked out here; isr ls shows all");
  for (const LocalStatus& parcel : all) print_stat(context, parcel);
  return code;
}

int run_stat(CommandContext& context, const std::string& name) {
  if (name.empty()) return run_stat_all(context);
  const OpenParcel parcel = context.open_local_parcel(name);
  const LocalStatus status = status_of(context, parcel.account, parcel.entry);
  if (context.out.json()) {
    context.out.document(document_of(status));
  } else {
    print_stat(context, status);
  }
  return 0;
}

}  // namespace

void register_stat(App& app) {
  auto stat = std::make_shared<std::string>();
  app.command(Group::kEveryday, "stat", "local state, cache and transfer numbers")
      .optional_argument("NAME", *stat, "the parcel; without it, all that are checked out here")
      .example("isr stat work", "for people")
      .example("isr stat work --json", "for scripts; \"mount\" is the directory")
      .note(
          "Without NAME a parcel whose daemon does not answer, or whose state is damaged, has a line that says so. The "
          "others are shown, and the exit code is the one of the first of these parcels.")
      .exit_codes({0, 10, 14, 18, 19, 20})
      .run([stat](CommandContext& context) { return run_stat(context, *stat); });
}

}  // namespace isr
