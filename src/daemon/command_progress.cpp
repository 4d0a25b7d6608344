#include "daemon/command_progress.h"

#include <fmt/format.h>

#include "base/error.h"

namespace isr {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

json progress_line(std::string_view step, std::uint64_t done = 0, std::uint64_t total = 0) {
  return {{"type", "progress"}, {"step", step}, {"done", done}, {"total", total}};
}

}  // namespace

ProgressFn progress_to(const ControlReply& reply) {
  return [&reply, last = Clock::time_point{}, last_step = std::string()](std::string_view step, std::uint64_t done,
                                                                         std::uint64_t total) mutable {
    const auto now = Clock::now();
    if (step == last_step && done != total && now - last < kProgressPeriod) return;
    last = now;
    last_step = step;
    reply(progress_line(step, done, total));
  };
}

void CurrentCommand::tell_of_wait(const std::string& words) const {
  if (reply == nullptr) return;
  json line = progress.is_null() ? progress_line(command) : progress;
  line["step"] = fmt::format("{}: {}", line.value("step", ""), words);
  (*reply)(line);
}

json CurrentCommand::progress_for(const std::string& waiting) const {
  if (waiting == command && !progress.is_null()) return progress;
  return progress_line(command.empty() ? "wait" : fmt::format("wait for {}", command));
}

json EndingCommand::result_for(const std::string& waited) const {
  if (waited == command) return result;
  throw NotBegun("the session has just ended");
}

Error explain_publish_failure(const Error& error, const std::string& parcel, const std::string& repository,
                              bool suspended) {
  std::vector<std::string> hints = error.hints();
  const bool is_out_of_reach = error.kind() == ErrorKind::kOffline || error.kind() == ErrorKind::kTransient;
  if (is_out_of_reach || error.kind() == ErrorKind::kCancelled) {
    hints.push_back(fmt::format("nothing is lost: the same command goes on when {} can be reached", repository));
  }
  return Error(error.kind(),
               fmt::format("{} is {}, but not uploaded: {}", parcel,
                           suspended ? "suspended on this host" : "kept on this host", error.what()),
               hints);
}

}  // namespace isr
