#include "vm/vm_events.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "base/child_process.h"
#include "vm/json_members.h"

namespace isr {

std::optional<VmEvent> VmFacts::take_in(const QmpEvent& event) {
  const nlohmann::json data = nlohmann::json::parse(event.data);
  if (event.name == "MIGRATION") {
    migration = text_member(data, "status");
  } else if (event.name == "SHUTDOWN") {
    shutdown_reason = text_member(data, "reason");
  } else if (event.name == "STOP") {
    return VmEvent{VmEventKind::kPaused, {}};
  } else if (event.name == "RESUME") {
    return VmEvent{VmEventKind::kRunning, {}};
  } else if (event.name == "RESET") {
    guest_panicked = false;
    return VmEvent{VmEventKind::kReset, text_member(data, "reason")};
  } else if (event.name == "GUEST_PANICKED") {
    if (!std::exchange(guest_panicked, true)) return VmEvent{VmEventKind::kGuestPanicked, {}};
  } else if (event.name == "BLOCK_IO_ERROR" && text_member(data, "action") == "stop" && !io_error) {
    io_error = true;
    return VmEvent{VmEventKind::kIoError, fmt::format("{} of {} failed: {}", text_member(data, "operation"),
                                                      text_member(data, "node-name"), text_member(data, "reason"))};
  }
  return std::nullopt;
}

VmExit VmFacts::end(int status, const std::string& last_words) {
  VmExit how;
  if (kill_asked) {
    how = {VmExit::Reason::kKilled, "killed"};
  } else if (status == 0 && shutdown_reason == "guest-shutdown") {
    how = {VmExit::Reason::kGuestShutdown, "the guest has switched itself off"};
  } else if (status == 0 && quit_asked) {
    how = {VmExit::Reason::kQuit, "ended on request"};
  } else {
    how = {VmExit::Reason::kDied,
           last_words.empty() ? describe_status(status) : fmt::format("{}: {}", describe_status(status), last_words)};
  }
  exiting = true;
  exit = how;
  return how;
}

}  // namespace isr
