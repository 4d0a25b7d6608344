#pragma once

#include "base/crypto.h"

namespace isr {

inline constexpr std::size_t kChunkSize = 131072;
inline constexpr std::size_t kReferencesPerPage = 256;

enum class ObjectType : std::uint8_t { kChunk = 1, kPage = 2 };

/// Names an object and has the key that opens it, so it carries the right to read. Stored as 36 clear bytes (cid,
/// length) and 84 secret ones (key, digest, sha1).
struct ChunkRef {
  Cid cid;
  std::uint32_t length = 0;  ///< of the object in bytes; 0: all zero, never stored
  Key key;
  Sha256 digest;  ///< of the plaintext
  Sha1 sha1;      ///< of the plaintext; only used to find lookaside candidates

  bool is_zero() const noexcept { return length == 0; }
  friend bool operator==(const ChunkRef&, const ChunkRef&) = default;
};
inline constexpr std::size_t kClearRefSize = 36;
inline constexpr std::size_t kSecretRefSize = 84;
inline constexpr std::size_t kRefSize = kClearRefSize + kSecretRefSize;

inline constexpr std::size_t kObjectHeaderSize = 12;
inline constexpr std::size_t kObjectOverhead = kObjectHeaderSize + kNonceSize + kTagSize;
/// The size of a sealed chunk that does not compress. Pages are smaller.
inline constexpr std::size_t kMaxObjectSize = kChunkSize + kObjectOverhead;

struct SealedObject {
  ChunkRef ref;
  Bytes bytes;  ///< empty when ref.is_zero()
};

/// Seals one chunk: exactly kChunkSize bytes of plaintext. The same plaintext,
/// secret and zstd version give the same object. docs/formats/object.md.
SealedObject seal_chunk(ByteView plaintext, const Key& domain_secret);
/// As above, for callers that already have the SHA-256.
SealedObject seal_chunk(ByteView plaintext, const Sha256& digest, const Key& domain_secret);
/// Opens an object, checks length, header, tag, raw length and digest, and writes exactly kChunkSize bytes.
/// Error{kCorrupt} naming the cid. A zero reference gives zeros.
void open_chunk(const ChunkRef& ref, ByteView object, MutableBytes out);

/// Seals a page of 1..256 references. Trailing zero references are not stored.
SealedObject seal_page(std::span<const ChunkRef> refs, const Key& domain_secret);
/// Returns always kReferencesPerPage references; absent ones are zero. Error{kCorrupt}.
std::vector<ChunkRef> open_page(const ChunkRef& ref, ByteView object);
/// The part of a page that anybody can read: its (cid, length) pairs in order; length 0 means all zero. Only the cid
/// proves it. Error{kCorrupt}.
struct ClearRef {
  Cid cid;
  std::uint32_t length;
};
std::vector<ClearRef> read_clear_refs(ByteView page_object);

void write_ref(const ChunkRef& ref, ByteWriter& out);  ///< kRefSize bytes: clear, then secret
ChunkRef read_ref(ByteReader& in);                     ///< Error{kCorrupt} when length is out of bounds

}  // namespace isr
