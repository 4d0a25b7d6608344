#pragma once

#include <functional>

#include "session/session_state.h"

namespace isr {

/// The state of a session with the file that says it. check_out() writes the first file; after that nothing else
/// changes either.
///
/// Threads: one at a time.
class StateFile {
 public:
  using Change = std::function<void(SessionState&)>;

  /// Reads it. Error{kNotFound} when the parcel is not checked out here. The account must outlive this.
  StateFile(const HostState& host, const ParcelEntry& parcel);
  StateFile(const StateFile&) = delete;
  StateFile& operator=(const StateFile&) = delete;

  const SessionState& now() const noexcept { return state_; }
  /// The session's directory, in which the file is.
  const fs::path& directory() const noexcept { return directory_; }

  /// Changes both, durably. After a failure neither has changed, or make_certain() has something to do.
  void change(const Change& change);
  /// Changes the state in memory only: what is here no longer fits what the file says, whether or not that can be
  /// written. save(), try_to_save(), write_if_behind() or a later change() brings it to the file.
  void change_in_memory(const Change& change) {
    change(state_);
    is_behind_ = true;
  }
  void save();
  /// As save(), but logs a failure.
  void try_to_save() noexcept;
  /// After a failure of change() the disk may say that it had succeeded: puts that right. To be called before a
  /// guest or anybody else goes on to write. Error{kIo}: not now.
  void make_certain();
  /// Saves what a change in memory left unsaved, if anything. Error{kIo}: not now.
  void write_if_behind();

 private:
  const HostState& host_;
  fs::path directory_;
  SessionState state_;
  bool is_uncertain_ = false;  ///< the file may say something else
  bool is_behind_ = false;     ///< the file lacks a change in memory
};

/// Error{kNotFound} that the parcel is not checked out here.
[[noreturn]] void refuse_without_session(const ParcelEntry& parcel);

}  // namespace isr
