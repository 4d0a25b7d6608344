#pragma once

#include <memory>
#include <stop_token>

#include "chunkstore/object.h"

namespace isr {

/// On every link guest reads go first and settling goes last. kImpatient: a guest waits, but has another way to get its
/// data when the fetch fails.
enum class Priority { kGuest, kImpatient, kReadahead, kUpload, kPrefetch, kSettling };
/// False when the work can be left for later or undone. Such a fetch never waits for a repository to come back.
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
  /// Call when an object from fetch() did not open. A source that keeps copies checks its own copy against the cid and
  /// forgets it when it is damaged, so that the next fetch() asks further sources. An intact copy stays. Other sources
  /// ignore the call; layers pass it on. Never throws because of damage.
  virtual void drop(const Cid& /*cid*/) {}
};
using SourcePtr = std::shared_ptr<ObjectSource>;

}  // namespace isr
