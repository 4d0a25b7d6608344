#pragma once

#include <memory>
#include <stop_token>

#include "chunkstore/object.h"

namespace isr {

/// On every link a guest read goes first, settling last. kImpatient: a guest waits for it, which has
/// another way to go when it fails.
enum class Priority { kGuest, kImpatient, kReadahead, kUpload, kPrefetch, kSettling };
/// False: the work can as well be left for later, or undone, so it never waits for a repository to come back.
constexpr bool is_awaited(Priority priority) { return priority == Priority::kGuest || priority == Priority::kPrefetch; }

/// Where sealed objects come from: a cache, a lookaside medium, a peer, a
/// repository, or a layer around another source.
///
/// Shape:   one call, one whole object, named by the SHA-256 of its bytes.
/// Units:   stored (encrypted) bytes, 1..kMaxObjectSize. Never plaintext.
/// Absence: std::nullopt, not an error; the caller asks the next tier.
/// Errors:  Error{kTransient} retry may help; {kCorrupt} bytes do not hash to
///          cid; {kDenied}; {kOffline}; {kCancelled} stop was requested.
/// Threads: fetch() may run on many threads at once and may block.
class ObjectSource {
 public:
  virtual ~ObjectSource() = default;
  virtual std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) = 0;
  virtual std::string describe() const = 0;  ///< for logs, without credentials
  /// The caller found that what fetch() gave does not open. A source that keeps
  /// copies checks its own against the cid and forgets a damaged one, so that the
  /// next fetch() asks further on; what is intact stays. Others ignore it.
  /// Layers pass it on. Never throws for damage.
  virtual void drop(const Cid& /*cid*/) {}
};
using SourcePtr = std::shared_ptr<ObjectSource>;

}  // namespace isr
