#pragma once

#include <chrono>
#include <nlohmann/json_fwd.hpp>
#include <variant>

#include "daemon/control.h"
#include "daemon/handover.h"
#include "machine/vm_stats.h"
#include "session/session.h"

/// The protocol of a session daemon: a struct for each request and each answer, and their JSON lines. control.h says
/// how lines travel, docs/formats/control.md describes every field.
///
/// Shape:   the encoders write every field except absent optionals. The defaults of the structs are for callers only: a
///          line that lacks a field which is not optional is refused.
/// Errors:  a field that is missing, unknown, of another type or out of its range is Error{kUsage} in a request and
///          Error{kCorrupt} in an answer or progress line.
/// Threads: any.
namespace isr {

/// The part of every request that changes the session: the settings of the command, and how it treats the lock.
struct CommonPart {
  std::optional<EncodedSettings> settings;  ///< absent: the daemon keeps its settings
  bool online = false;                      ///< check the lock; poweroff and discard do not
  std::optional<std::string> steal_reason;  ///< with `online`: take the lock from its holder, for this reason
};

// --- progress lines ----------------------------------------------------------

struct ProgressLine {
  std::string step;
  std::uint64_t done = 0;   ///< bytes
  std::uint64_t total = 0;  ///< bytes; 0: unknown
};

/// A piece of the guest's output on its console.
struct ConsoleLine {
  std::string text;
  std::uint64_t offset = 0;  ///< of the text's first byte in the guest's whole output
};

using AnyProgress = std::variant<ProgressLine, ConsoleLine>;

// --- answers -----------------------------------------------------------------

struct Status {
  std::string id;  ///< of the parcel
  SessionStats session;
  fs::path mount;
  pid_t daemon_pid = 0;
  std::optional<VmStats> vm;  ///< absent: no VM runs
  bool lock_lost = false;
  std::string last_event;        ///< the last event that no command caused, in words; empty: none
  std::string busy;              ///< the command that is under way; empty: none
  std::string memory_waits_for;  ///< why the guest's memory cannot be written now; empty: it can
};

struct BootAnswer {
  bool resumed = false;  ///< from suspended memory; false: it boots from its disks
  NetworkMode network = NetworkMode::kNone;
  Accelerator accelerator;
  bool fetches_memory = false;  ///< the rest of its memory is fetched while it runs
  std::uint64_t boot_pack_pages = 0;
  fs::path mount;
  /// The keys of settings that the daemon did not adopt although the command's values differ. Other answers have this
  /// field, too.
  std::vector<std::string> kept_settings{};
};

struct PublishAnswer {
  PublishResult result;
  bool uploaded = true;                     ///< false: of `result` only `version` is set, the base of the work here
  std::optional<bool> memory;               ///< for suspend: memory was kept. Absent: another command
  std::optional<double> paused_ms;          ///< for a VM that runs on: how long it was paused
  std::optional<LockReturn> lock_returned;  ///< when the session has ended. Absent: it goes on
  std::vector<std::string> kept_settings{};
};

/// The version that the session continues now.
struct VersionAnswer {
  std::uint64_t version = 0;
  std::vector<std::string> kept_settings{};
};

struct DoneAnswer {
  std::vector<std::string> kept_settings{};
};

struct ConsoleAnswer {
  std::uint64_t offset = 0;  ///< of the end of the last text that was sent
  bool ended = false;        ///< the guest's console has ended
};

struct TypeAnswer {};

using AnyAnswer = std::variant<Status, BootAnswer, PublishAnswer, VersionAnswer, DoneAnswer, ConsoleAnswer, TypeAnswer>;

// --- requests ----------------------------------------------------------------

struct StatusRequest {
  static constexpr std::string_view kCommand = "status";
  using Answer = Status;
  using Progress = ProgressLine;
};

struct BootPart {
  std::optional<NetworkMode> network;  ///< for this run and later ones; absent: unchanged
  bool isolate_network = false;        ///< in this run the guest reaches nothing outside
  std::string accelerator = "auto";    ///< "auto", "kvm", "tcg"
  std::optional<fs::path> cdrom;       ///< the image in the drive of a machine that boots
};

/// Boots from the disks, or the CD.
struct StartRequest {
  static constexpr std::string_view kCommand = "start";
  using Answer = BootAnswer;
  using Progress = ProgressLine;
  CommonPart common{};
  BootPart boot{};
};

/// Continues the suspended memory; boots if there is none.
struct ResumeRequest {
  static constexpr std::string_view kCommand = "resume";
  using Answer = BootAnswer;
  using Progress = ProgressLine;
  CommonPart common{};
  BootPart boot{};
  Prefetch prefetch = Prefetch::kAll;
};

/// Makes sure that this session has the lock, as start and resume do.
struct OwnLockRequest {
  static constexpr std::string_view kCommand = "lock";
  using Answer = DoneAnswer;
  using Progress = ProgressLine;
  CommonPart common{};
};

/// Keeps memory and disks, uploads and publishes them; the session ends.
struct SuspendRequest {
  static constexpr std::string_view kCommand = "suspend";
  static constexpr bool kPublishes = true;
  using Answer = PublishAnswer;
  using Progress = ProgressLine;
  CommonPart common{};
  bool upload = true;  ///< false: all is kept here, and the session goes on
  std::string message = "suspend";
};

/// Shuts the guest down and publishes the disks; the session ends. It is given up if the client goes before the guest
/// is off.
struct StopRequest {
  static constexpr std::string_view kCommand = "stop";
  static constexpr bool kPublishes = true;
  using Answer = PublishAnswer;
  using Progress = ProgressLine;
  CommonPart common{};
  std::chrono::seconds timeout{60};  ///< ten years at most
  bool kill = false;                 ///< switch off a guest that still runs then; false: Error{kVm}
  std::string message = "stop";
};

/// Switches the VM off and drops its memory; the parcel stays checked out.
struct PowerOffRequest {
  static constexpr std::string_view kCommand = "poweroff";
  using Answer = VersionAnswer;
  using Progress = ProgressLine;
  CommonPart common{};
};

/// Publishes a new version, of a running VM with its memory; the session goes on.
struct SyncRequest {
  static constexpr std::string_view kCommand = "sync";
  static constexpr bool kPublishes = true;
  using Answer = PublishAnswer;
  using Progress = ProgressLine;
  CommonPart common{};
  std::string message = "sync";
};

/// Publishes; the session ends.
struct CheckinRequest {
  static constexpr std::string_view kCommand = "checkin";
  static constexpr bool kPublishes = true;
  using Answer = PublishAnswer;
  using Progress = ProgressLine;
  CommonPart common{};
  std::string message = "checkin";
};

/// Goes back to the base version; the parcel stays checked out.
struct DiscardRequest {
  static constexpr std::string_view kCommand = "discard";
  using Answer = VersionAnswer;
  using Progress = ProgressLine;
  CommonPart common{};
};

/// Sends the guest's output as console lines.
struct ConsoleRequest {
  static constexpr std::string_view kCommand = "console";
  using Answer = ConsoleAnswer;
  using Progress = ConsoleLine;
  std::uint64_t offset = 0;
  bool follow = false;  ///< go on until the guest's console has ended
};

/// Types into the serial console.
struct TypeRequest {
  static constexpr std::string_view kCommand = "type";
  using Answer = TypeAnswer;
  using Progress = ProgressLine;
  std::string text;
};

using Request = std::variant<StatusRequest, StartRequest, ResumeRequest, OwnLockRequest, SuspendRequest, StopRequest,
                             PowerOffRequest, SyncRequest, CheckinRequest, DiscardRequest, ConsoleRequest, TypeRequest>;

std::string_view command_of(const Request& request) noexcept;
/// Returns null for status, console and type, which change nothing.
const CommonPart* common_part(const Request& request) noexcept;
bool publishes(const Request& request) noexcept;

// --- lines -------------------------------------------------------------------

nlohmann::json encode_request(const Request& request);
Request parse_request(const nlohmann::json& line);

nlohmann::json encode_answer(const AnyAnswer& answer);
/// Parses an answer of the type that `kind` holds; `kind` must have its default values.
AnyAnswer parse_answer(const AnyAnswer& kind, const nlohmann::json& line);
template <class Answer>
Answer parse_answer(const nlohmann::json& line) {
  return std::get<Answer>(parse_answer(AnyAnswer(Answer{}), line));
}

nlohmann::json encode_progress(const AnyProgress& progress);
/// Like parse_answer(), but parses a progress line.
AnyProgress parse_progress(const AnyProgress& kind, const nlohmann::json& line);
template <class Progress>
Progress parse_progress(const nlohmann::json& line) {
  return std::get<Progress>(parse_progress(AnyProgress(Progress{}), line));
}

/// Encodes the part of a status that comes from the session.
nlohmann::json encode_stats(const SessionStats& stats);
nlohmann::json encode_stats(const FetchStats& stats);

template <class Progress>
using OnProgress = std::function<void(const Progress&)>;

/// Sends a request to a daemon and returns its answer. Errors of control_request() and of the daemon; {kDaemon} for an
/// answer that cannot be parsed, because the daemon may be of another version.
AnyAnswer ask_any(const fs::path& socket, const Request& request, const OnProgress<AnyProgress>& progress,
                  std::stop_token stop);
/// Like ask_any(), but with the types of the request.
template <class OneRequest>
typename OneRequest::Answer ask(const fs::path& socket, const OneRequest& request,
                                const OnProgress<typename OneRequest::Progress>& progress = {},
                                std::stop_token stop = {}) {
  OnProgress<AnyProgress> on_progress;
  if (progress) {
    on_progress = [&](const AnyProgress& one) { progress(std::get<typename OneRequest::Progress>(one)); };
  }
  return std::get<typename OneRequest::Answer>(ask_any(socket, request, on_progress, std::move(stop)));
}

}  // namespace isr
