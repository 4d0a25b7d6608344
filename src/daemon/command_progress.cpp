#include "daemon/command_progress.h"

#include <fmt/format.h>

#include "base/error.h"

namespace isr {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

}  // namespace

ProgressFn progress_to(const SendProgress& send) {
  return [&send, last = Clock::time_point{}, last_step = std::string()](std::string_view step, std::uint64_t done,
                                                                        std::uint64_t total) mutable {
    const auto now = Clock::now();
    if (step == last_step && done != total && now - last < kProgressPeriod) return;
    last = now;
    last_step = step;
    send({std::string(step), done, total});
  };
}

void CurrentCommand::tell_of_wait(const std::string& words) const {
  if (reply == nullptr) return;
  ProgressLine line = progress.value_or(ProgressLine{command});
  line.step += ": " + words;
  (*reply)(encode_progress(line));
}

ProgressLine CurrentCommand::progress_for(std::string_view waiting) const {
  if (waiting == command && progress) return *progress;
  return {command.empty() ? "wait" : "wait for " + command};
}

json EndingCommand::result_for(std::string_view waited) const {
  if (waited == command) return result;
  throw NotBegun("the session has just ended");
}

Error explain_publish_failure(const Error& error, const std::string& parcel, const std::string& repository,
                              bool suspended) {
  std::vector<std::string> hints = error.hints();
  const bool is_out_of_reach = error.kind() == ErrorKind::kOffline || error.kind() == ErrorKind::kTransient;
  if (is_out_of_reach || error.kind() == ErrorKind::kCancelled) {
    hints.push_back(fmt::format("nothing is lost: run the same command again when {} can be reached", repository));
  }
  return Error(error.kind(),
               fmt::format("{} is {}, but not uploaded: {}", parcel,
                           suspended ? "suspended on this host" : "kept on this host", error.what()),
               hints);
}

Error still_running(const std::string& parcel, std::chrono::seconds timeout) {
  return {ErrorKind::kVm,
          fmt::format("{} did not shut down within {} s; it is still running", parcel, timeout.count()),
          {fmt::format("isr stop {} --kill      switches it off if it does not shut down", parcel),
           fmt::format("isr suspend {}          keeps it as it is", parcel)}};
}

}  // namespace isr
