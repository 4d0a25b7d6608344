#include "session/session_machine.h"

#include <fmt/format.h>

#include "base/error.h"

namespace isr {
namespace {

constexpr auto kCheckedOut = SessionPhase::kCheckedOut;
constexpr auto kRunning = SessionPhase::kRunning;
constexpr auto kSuspended = SessionPhase::kSuspended;

using Transition = SessionTransition;
constexpr Transition to(SessionPhase next) { return {next}; }
constexpr Transition without_memory(SessionPhase next) { return {next, true}; }
constexpr Transition refuse(std::string_view why) { return {std::nullopt, false, why}; }
constexpr Transition kToAbsent{};

constexpr std::string_view kIsRunning = "is running";
constexpr std::string_view kIsNotRunning = "is not running";
constexpr std::string_view kHasNoMemory = "has no suspended memory";

/// One row per event and one column per phase, each in the order of its enumerators.
constexpr std::array<std::array<Transition, kSessionPhases.size()>, kSessionEvents.size()> kTable{{
    // checkedout                    running                        suspended
    {to(kCheckedOut), without_memory(kCheckedOut), to(kSuspended)},            // open
    {without_memory(kRunning), refuse(kIsRunning), without_memory(kRunning)},  // start
    {refuse(kIsNotRunning), to(kCheckedOut), refuse(kIsNotRunning)},           // start failed: start had voided memory
    {refuse(kHasNoMemory), refuse(kIsRunning), to(kRunning)},                  // resume
    {refuse(kIsNotRunning), to(kSuspended), refuse(kIsNotRunning)},            // resume failed
    {refuse(kIsNotRunning), to(kSuspended), refuse(kIsNotRunning)},            // suspend
    {without_memory(kCheckedOut), without_memory(kCheckedOut), without_memory(kCheckedOut)},  // power off
    {to(kCheckedOut), refuse(kIsRunning), to(kSuspended)},                                    // publish
    {refuse(kIsNotRunning), to(kRunning), refuse(kIsNotRunning)},                             // checkpoint
    {without_memory(kCheckedOut), refuse(kIsRunning), without_memory(kCheckedOut)},           // discard
    {without_memory(kSuspended), refuse(kIsRunning), without_memory(kSuspended)},             // … to suspended
    {kToAbsent, refuse(kIsRunning), kToAbsent},                                               // end
}};

constexpr std::array<std::string_view, kSessionEvents.size()> kEventNames{
    "open",      "start",   "start failed", "resume",  "resume failed",        "suspend",
    "power off", "publish", "checkpoint",   "discard", "discard to suspended", "end"};
constexpr std::array<std::string_view, kSessionPhases.size()> kPhaseNames{"checkedout", "running", "suspended"};

std::string describe(const Transition& transition) {
  if (!transition.refusal.empty()) return fmt::format("refused: {}", transition.refusal);
  if (!transition.next) return "absent";
  return fmt::format("`{}`{}", to_name(*transition.next), transition.voids_memory ? ", memory is void" : "");
}

}  // namespace

std::string_view to_name(SessionPhase phase) noexcept { return kPhaseNames[static_cast<std::size_t>(phase)]; }

std::optional<SessionPhase> phase_from_name(std::string_view name) noexcept {
  for (const SessionPhase phase : kSessionPhases) {
    if (to_name(phase) == name) return phase;
  }
  return std::nullopt;
}

std::string_view to_name(SessionEvent event) noexcept { return kEventNames[static_cast<std::size_t>(event)]; }

const SessionTransition& session_transition(SessionPhase phase, SessionEvent event) noexcept {
  return kTable[static_cast<std::size_t>(event)][static_cast<std::size_t>(phase)];
}

const SessionTransition& require_transition(SessionPhase phase, SessionEvent event, std::string_view parcel) {
  const SessionTransition& transition = session_transition(phase, event);
  if (transition.refusal.empty()) return transition;
  throw Error(ErrorKind::kVm, fmt::format("{} {}", parcel, transition.refusal));
}

std::string describe_session_table() {
  std::string out = "| event |";
  for (const SessionPhase phase : kSessionPhases) out += fmt::format(" in `{}` |", to_name(phase));
  out += "\n|---|---|---|---|\n";
  for (const SessionEvent event : kSessionEvents) {
    out += fmt::format("| {} |", to_name(event));
    for (const SessionPhase phase : kSessionPhases)
      out += fmt::format(" {} |", describe(session_transition(phase, event)));
    out += '\n';
  }
  return out;
}

}  // namespace isr
