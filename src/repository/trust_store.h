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
  WallTime time;  ///< greatest signed time seen
  /// Hashes of what lies behind head n, is no head, and may be skipped: accept_older() said so.
  std::vector<Sha256> junk{};
};

/// The way out of a refusal: the command that makes version n of the chain, a parcel's or a user's profile, the newest
/// trusted one, behind the words `when`.
std::string accept_older_hint(const std::string& chain, std::uint64_t n, const std::string& when);
/// Throws Error{kHistory} with the way out as a hint; `offered` is the version
/// that accept-older would take; 0: there is none.
[[noreturn]] void refuse_history(const std::string& chain, const std::string& what, std::uint64_t offered,
                                 const std::string& when = "if the repository was restored from a backup on purpose:");

/// What this host has seen of every chain, so that a repository cannot hand
/// back yesterday as today. Its own SQLite file with synchronous=FULL; every row
/// carries a MAC under the device key. Written only after all checks passed.
/// Threads: any.
class TrustStore {
 public:
  /// Error{kCorrupt} when the file is damaged; says that accept_older() is no
  /// way out of that and which file to look at.
  TrustStore(const std::filesystem::path& file, const Key& device_key);
  ~TrustStore();

  std::optional<Seen> seen(const std::string& chain);
  /// Throws Error{kHistory} when n is below what was seen, or is the same n
  /// with another hash. Changes nothing.
  void check(const std::string& chain, const Seen& candidate);
  /// check(), then remembers.
  void accept(const std::string& chain, const Seen& seen);
  /// The logged way out: remembers an older or forked head, with the reason.
  void accept_older(const std::string& chain, const Seen& seen, const std::string& reason);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace isr
