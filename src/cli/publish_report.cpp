#include "cli/publish_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/sizes.h"
#include "session/held_lock.h"

namespace isr {
namespace {

using nlohmann::json;

/// Reports that the work lost the race, with three ways on: put it on top, leave it, or make a branch.
[[noreturn]] void report_fork(const std::string& name, const std::string& fork, bool is_lock_lost, bool goes_on_here) {
  const std::string one = fmt::format("{}@{}", name, fork);
  const std::string what =
      fmt::format("another host {}; the work of this host is kept as the fork {}",
                  is_lock_lost ? fmt::format("has taken over {}", name) : fmt::format("published {} first", name), one);
  const std::string both = fmt::format("to have both             isr branch {} NEW", one);
  if (goes_on_here) {
    throw Error(
        ErrorKind::kForked, what,
        {fmt::format("{0} goes on here; isr suspend {0} keeps it as a fork, too, and then there is a choice", name),
         both});
  }
  const std::string taking = is_lock_lost ? " --take-lock" : "";
  throw Error(ErrorKind::kForked, what,
              {fmt::format("to put this one on top   isr rollback {}{}", one, taking),
               fmt::format("to take the other        isr resume {}", name), both});
}

/// The JSON document for --json.
json document_of(const std::string& name, const PublishAnswer& answer) {
  const PublishResult& result = answer.result;
  json document{
      {"schema", 1}, {"type", "summary"}, {"parcel", name}, {"version", result.version}, {"uploaded", answer.uploaded}};
  if (answer.uploaded) {
    document.update({{"unchanged", result.unchanged},
                     {"fork", result.fork},
                     {"lock_lost", result.is_lock_lost},
                     {"uploaded_bytes", result.uploaded_bytes},
                     {"uploaded_objects", result.uploaded_objects}});
  }
  if (answer.memory) document["memory"] = *answer.memory;
  if (answer.paused_ms) document["paused_ms"] = *answer.paused_ms;
  if (answer.lock_returned) {
    document["ended"] = true;
    document["lock_due"] = answer.lock_returned == LockReturn::kLater;
    document["lock_moved"] = answer.lock_returned == LockReturn::kMoved;
  }
  return document;
}

}  // namespace

int report_publish(CommandContext& context, const std::string& name, const std::string& done,
                   const PublishAnswer& answer) {
  const PublishResult& result = answer.result;
  if (!result.fork.empty()) report_fork(name, result.fork, result.is_lock_lost, !answer.lock_returned);
  if (answer.lock_returned == LockReturn::kLater) {
    context.out.note(fmt::format(
        "the lock of {} is given back when its repository can be reached again; until then other hosts find it in use",
        name));
  }
  if (answer.lock_returned == LockReturn::kMoved) {
    context.out.note(fmt::format(
        "the lock of {0} stays: it was taken before this state directory was moved, or by the directory from which "
        "this one was copied; if the original is not in use, isr lock break {0} frees it",
        name));
  }
  if (context.out.json()) {
    context.out.document(document_of(name, answer));
    return 0;
  }
  const bool memory = answer.memory.value_or(true);
  if (!memory) context.out.note(fmt::format("nothing of {} was running: there was no memory to save", name));
  if (!answer.uploaded) {
    context.out.line(fmt::format("{} is {} on this host only; nothing was uploaded. isr suspend {} uploads it", name,
                                 memory ? "suspended" : "kept", name));
  } else if (result.unchanged) {
    context.out.line(fmt::format("{}: nothing changed since version {}", name, result.version));
  } else {
    std::string how = format_size(result.uploaded_bytes) + " uploaded";
    if (answer.paused_ms) how += fmt::format(", paused {:.0f} ms", *answer.paused_ms);
    context.out.line(fmt::format("{} {} as version {} ({})", name, memory ? done : "saved", result.version, how));
  }
  return 0;
}

int report_nothing_here(CommandContext& context, const OpenParcel& parcel) {
  const std::string& name = parcel.entry.name;
  if (!parcel.account.remote.offline() && give_back_orphaned_lock(parcel.account, parcel.entry)) {
    context.out.note(fmt::format("the lock of {} is given back, because this host no longer uses it", name));
  }
  context.out.note(fmt::format("{} is not checked out here: nothing to do", name));
  if (context.out.json()) context.out.done("", {{"parcel", name}, {"uploaded", false}, {"unchanged", true}});
  return 0;
}

}  // namespace isr
