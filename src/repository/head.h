#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/crypto.h"

namespace isr {

/// The commit point of one version of a chain: a blob of two lines (docs/formats/head.md).
/// Line 1 is JSON with everything below, line 2 an Ed25519 signature over
/// "isr1/head\0" | length u64 | line 1, which is checked before line 1 is parsed.
struct Head {
  std::string chain;            ///< chain id, e.g. "parcels/4f…": also the place where it is stored
  std::uint64_t n = 0;          ///< 1, 2, …
  Sha256 prev;                  ///< SHA-256 of the blob of the head that this one follows; zero for the first
  std::vector<Sha256> skipped;  ///< hashes of the junk between that head and this one, see prev_n()
  WallTime time;
  std::string host;  ///< name of the host that wrote it
  std::uint32_t epoch = 1;
  PublicKey signer;
  std::vector<Cid> roots;  ///< roots of the images, so that they can be found without keys
  Bytes sealed;            ///< AEAD box under the epoch key; see seal_payload()

  /// The number of the head that this one follows; 0 for the first head.
  std::uint64_t prev_n() const { return n - 1 - skipped.size(); }
};

/// Seals the payload. It is bound to its place: chain, n and epoch are associated data.
Bytes seal_payload(const Key& epoch_key, const std::string& chain, std::uint64_t n, std::uint32_t epoch,
                   ByteView payload);
/// Error{kDenied} when the epoch key does not open it.
Bytes open_payload(const Key& epoch_key, const Head& head);

/// Returns the blob. Sets head.signer from the key.
Bytes encode_head(Head head, const SigningKey& key);
inline constexpr std::size_t kMaxHeadSize = 1U << 20U;
/// The longest run of numbers with junk.
inline constexpr std::size_t kMaxSkipped = 16;
/// nullopt for junk: a blob that is not signed by `signer` or was signed for another place. A head that was signed for
/// this place but cannot be parsed is not junk: Error{kCorrupt}, as decode_head().
std::optional<Head> find_head(ByteView blob, const PublicKey& signer, const std::string& chain, std::uint64_t n);
/// Checks first the signature by `signer`, then form and bounds, then that it is head n of this chain. Error{kCorrupt}
/// otherwise, naming chain and n.
Head decode_head(ByteView blob, const PublicKey& signer, const std::string& chain, std::uint64_t n);
Sha256 head_hash(ByteView blob);

}  // namespace isr
