#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace isr {

/// The phase of a session on this host. An absent session has no phase, and no directory.
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
  kOpen,                ///< a process opens the session; in phase running the process before it has crashed
  kStart,               ///< the VM boots from the disks, with fresh memory
  kStartFailed,         ///< the VM of kStart did not come to run
  kResume,              ///< the VM continues the suspended memory
  kResumeFailed,        ///< the VM of kResume did not come to run
  kSuspend,             ///< memory and device state are kept
  kPowerOff,            ///< the machine is off; its memory is worthless
  kPublish,             ///< a version of everything in the session is made
  kCheckpoint,          ///< a version of the running machine is made, with its memory
  kDiscard,             ///< back to the base version, which has no memory
  kDiscardToSuspended,  ///< back to the base version, which has memory
  kEnd,                 ///< the session's directory is removed
};
inline constexpr std::array kSessionEvents{
    SessionEvent::kOpen,         SessionEvent::kStart,   SessionEvent::kStartFailed,        SessionEvent::kResume,
    SessionEvent::kResumeFailed, SessionEvent::kSuspend, SessionEvent::kPowerOff,           SessionEvent::kPublish,
    SessionEvent::kCheckpoint,   SessionEvent::kDiscard, SessionEvent::kDiscardToSuspended, SessionEvent::kEnd};
std::string_view to_name(SessionEvent event) noexcept;

/// The effect of an event in a phase.
struct SessionTransition {
  std::optional<SessionPhase> next;  ///< nullopt: absent, or refused
  bool voids_memory = false;         ///< memory and device state in the session become void
  std::string_view refusal = {};     ///< why the event is refused, as text behind the parcel's name; empty: it is not
};
/// The table. Pure; each pair of phase and event is a transition or a refusal.
const SessionTransition& session_transition(SessionPhase phase, SessionEvent event) noexcept;
/// Like session_transition(), but throws a refusal as Error{kVm} whose text begins with `parcel`.
const SessionTransition& require_transition(SessionPhase phase, SessionEvent event, std::string_view parcel);

/// Returns the table in Markdown, as docs/formats/session.md shows it.
std::string describe_session_table();

}  // namespace isr
