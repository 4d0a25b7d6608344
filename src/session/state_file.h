#pragma once

#include <functional>

#include "session/session_state.h"

namespace isr {

/// The state of a session, and the file that stores it. check_out() writes the first file; after that only this class
/// changes the state or the file.
///
/// Threads: one at a time.
class StateFile {
 public:
  using Change = std::function<void(SessionState&)>;

  /// Reads the file. Error{kNotFound} when the parcel is not checked out here. The account must outlive this.
  StateFile(const HostState& host, const ParcelEntry& parcel);
  StateFile(const StateFile&) = delete;
  StateFile& operator=(const StateFile&) = delete;

  const SessionState& now() const noexcept { return state_; }
  /// The session's directory, in which the file is.
  const fs::path& directory() const noexcept { return directory_; }

  /// Changes the state and the file, durably. After a failure the state is unchanged, and the file is, too, unless
  /// make_certain() has to put it right.
  void change(const Change& change);
  /// Changes the state in memory only, for a change that holds whether or not it can be written. save(), try_to_save(),
  /// write_if_behind() or a later change() brings it to the file.
  void change_in_memory(const Change& change) {
    change(state_);
    is_behind_ = true;
  }
  /// Writes the state to the file. Error{kIo}.
  void save();
  /// Like save(), but logs a failure.
  void try_to_save() noexcept;
  /// Puts the file right when it may have a change whose change() failed. Call before the guest or any other writer
  /// goes on. Error{kIo} when the file cannot be written now.
  void make_certain();
  /// Writes the file if it lacks a change or is uncertain. Error{kIo} when it cannot be written now.
  void write_if_behind();

 private:
  const HostState& host_;
  fs::path directory_;
  SessionState state_;
  bool is_uncertain_ = false;  ///< the file may differ from the state after a failed change()
  bool is_behind_ = false;     ///< the file lacks a change in memory
};

/// Throws Error{kNotFound}: the parcel is not checked out here.
[[noreturn]] void refuse_without_session(const ParcelEntry& parcel);

}  // namespace isr
