#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace isr {

/// The phase of a session on this host. Absent is no phase: then there is no directory.
///
///   phase       on this host            lock
///   checkedout  journal, mount          ours
///   running     + QEMU                  ours, renewed
///   suspended   + memory, device state  ours
enum class SessionPhase { kCheckedOut, kRunning, kSuspended };
inline constexpr std::array kSessionPhases{SessionPhase::kCheckedOut, SessionPhase::kRunning, SessionPhase::kSuspended};
std::string_view to_name(SessionPhase phase) noexcept;
/// nullopt: no phase has this name.
std::optional<SessionPhase> phase_from_name(std::string_view name) noexcept;

enum class SessionEvent {
  kOpen,                ///< a process takes the session; running means that the one before crashed
  kStart,               ///< the VM boots from the disks, with fresh memory
  kStartFailed,         ///< and did not come to run
  kResume,              ///< the VM continues the suspended memory
  kResumeFailed,        ///< and did not come to run
  kSuspend,             ///< memory and device state are kept
  kPowerOff,            ///< the machine is off; its memory is worthless
  kPublish,             ///< a version of all that is here
  kCheckpoint,          ///< a version of the running machine, with its memory
  kDiscard,             ///< back to the base version, which has no memory
  kDiscardToSuspended,  ///< back to the base version, which has memory
  kEnd,                 ///< the session's directory goes
};
inline constexpr std::array kSessionEvents{
    SessionEvent::kOpen,         SessionEvent::kStart,   SessionEvent::kStartFailed,        SessionEvent::kResume,
    SessionEvent::kResumeFailed, SessionEvent::kSuspend, SessionEvent::kPowerOff,           SessionEvent::kPublish,
    SessionEvent::kCheckpoint,   SessionEvent::kDiscard, SessionEvent::kDiscardToSuspended, SessionEvent::kEnd};
std::string_view to_name(SessionEvent event) noexcept;

/// The effect of an event in a phase.
struct SessionTransition {
  std::optional<SessionPhase> next;  ///< nullopt: absent, or refused
  bool voids_memory = false;         ///< memory and device state that lie here are worthless from now on
  std::string_view refusal = {};     ///< why it cannot happen, to be read behind the parcel's name; empty: it can
};
/// The table. Pure; each pair of phase and event is a transition or a refusal.
const SessionTransition& session_transition(SessionPhase phase, SessionEvent event) noexcept;
/// As above, but a refusal is Error{kVm} that begins with `parcel`.
const SessionTransition& require_transition(SessionPhase phase, SessionEvent event, std::string_view parcel);

/// The table in Markdown, as docs/formats/session.md shows it.
std::string describe_session_table();

}  // namespace isr
