#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace isr {

/// The class of a failure. The kind alone decides whether to retry (only kTransient), which errno FUSE answers and the
/// exit code. The code that first sees the failure classifies it.
enum class ErrorKind {
  kFailed,       ///< anything without a better name                   exit 1
  kUsage,        ///< bad argument, name, size or config file           exit 2
  kWarnings,     ///< done, but something was repaired or left out      exit 3
  kNotFound,     ///< no such repository, parcel or version             exit 10
  kLocked,       ///< locked by another host                            exit 11
  kDenied,       ///< password or key wrong, missing, not allowed       exit 12
  kTransient,    ///< unreachable, timed out, 5xx: a retry may help     exit 13
  kOffline,      ///< retries exhausted, or --offline: data not here    exit 13
  kCorrupt,      ///< damaged or tampered data                          exit 14
  kHistory,      ///< rolled back, forked or expired                    exit 15
  kVm,           ///< the VM could not start, or already runs           exit 16
  kForked,       ///< another host published first; ours is a fork      exit 17
  kIo,           ///< no space, quota, local I/O error                  exit 18
  kUnsupported,  ///< format or store that cannot do what we need       exit 19
  kDaemon,       ///< the session daemon is absent or does not answer   exit 20
  kCancelled,    ///< stop was requested                                exit 130
  kBug,          ///< a state that our own code should exclude          exit 1
};

/// A failure that ends an operation. what() is one line for a person: what
/// happened and to which object, without secrets. hints() say what to do next.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& what) : std::runtime_error(what), kind_(kind) {}
  Error(ErrorKind kind, const std::string& what, std::vector<std::string> hints)
      : std::runtime_error(what), kind_(kind), hints_(std::move(hints)) {}

  ErrorKind kind() const noexcept { return kind_; }
  const std::vector<std::string>& hints() const noexcept { return hints_; }

 private:
  ErrorKind kind_;
  std::vector<std::string> hints_;
};

/// The kIo of a full disk or quota. The operation may succeed once there is room: see with_room() in base/room.h.
class NoSpaceError : public Error {
 public:
  explicit NoSpaceError(const std::string& what, std::vector<std::string> hints = {})
      : Error(ErrorKind::kIo, what, std::move(hints)) {}
};

/// The errno that FUSE answers. kCorrupt becomes EIO.
int to_errno(ErrorKind kind) noexcept;
/// The exit code of the process. `isr --help-all` shows the table.
int to_exit_code(ErrorKind kind) noexcept;
/// "locked", "denied", …: stable names for JSON and the control socket.
std::string_view to_name(ErrorKind kind) noexcept;
/// The inverse of to_name(); kFailed for an unknown name.
ErrorKind error_kind_from_name(std::string_view name) noexcept;

/// Classifies any exception. An Error stays itself, a std::filesystem::filesystem_error becomes kIo, a lack of memory
/// or threads kFailed, and anything else kBug.
Error as_error(const std::exception& failure);

/// Throws Error{kIo} with `what` and the text of `errno_value`. ENOSPC, EDQUOT and EFBIG get a text of their own; the
/// first two throw NoSpaceError.
[[noreturn]] void throw_errno(std::string_view what, int errno_value);

}  // namespace isr
