#pragma once

#include "image/snapshot.h"

/// The steps that sealing, settling and patches share.
namespace isr {

/// When this many bytes of a chunk have changed, the whole chunk is sealed; when fewer have, only the changed bytes.
inline constexpr std::size_t kMuchOfAChunk = kChunkSize / 2;

/// True for the errors of a source that does not have an object, or not now.
constexpr bool is_of_a_source(ErrorKind kind) {
  return kind == ErrorKind::kCorrupt || kind == ErrorKind::kOffline || kind == ErrorKind::kTransient;
}

/// Construct it before the first of some objects is put. Then sync() guarantees that all of them are durable, or
/// throws, even if another thread's sync of the store failed meanwhile.
class ObjectsToSync {
 public:
  explicit ObjectsToSync(PackStore& store) : store_(store), failed_before_(store.failed_syncs()) {}
  void sync() const;

 private:
  PackStore& store_;
  std::uint64_t failed_before_;
};

void put_object(const SealContext& context, const SealedObject& sealed);
ChunkRef put_sealed(const SealContext& context, ByteView plaintext);
/// The bytes of a chunk that an overlay has, when it has not these.
std::size_t bytes_without(const std::vector<Extent>& gaps) noexcept;

}  // namespace isr
