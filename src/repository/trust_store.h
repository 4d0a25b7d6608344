#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/crypto.h"

namespace isr {

/// The newest state of a chain that this host has seen and checked.
struct Seen {
  std::uint64_t n = 0;
  Sha256 hash;  ///< of the head's blob
  std::uint32_t epoch = 0;
  WallTime time;  ///< the greatest signed time seen
  /// Hashes of the junk after head n that accept_older() allowed to be skipped.
  std::vector<Sha256> junk{};
};

/// The hint for a refusal: `when`, and the command that makes version n of the chain (a parcel or a user's profile) the
/// newest trusted one.
std::string accept_older_hint(const std::string& chain, std::uint64_t n, const std::string& when);
/// Throws Error{kHistory} with that hint. `offered` is the version that accept-older would take; 0: there is none.
[[noreturn]] void refuse_history(const std::string& chain, const std::string& what, std::uint64_t offered,
                                 const std::string& when = "if the repository was restored from a backup on purpose:");

/// The newest state of every chain that this host has seen, so that a repository cannot show an old state as the
/// current one. Its own SQLite file with synchronous=FULL; every row carries a MAC under the device key. It is written
/// only after all checks passed.
/// Threads: any.
class TrustStore {
 public:
  /// Error{kCorrupt} when the file is damaged. The message names the file and says that accept_older() does not help.
  TrustStore(const std::filesystem::path& file, const Key& device_key);
  ~TrustStore();

  std::optional<Seen> seen(const std::string& chain);
  /// Throws Error{kHistory} when n is below the number seen, or equal to it with another hash. Changes nothing.
  void check(const std::string& chain, const Seen& candidate);
  /// check(), then remembers the candidate.
  void accept(const std::string& chain, const Seen& seen);
  /// The user's way out of a refusal: remembers an older or forked head and logs the reason.
  void accept_older(const std::string& chain, const Seen& seen, const std::string& reason);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace isr
