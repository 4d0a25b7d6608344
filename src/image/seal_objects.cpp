#include "image/seal_objects.h"

#include <fmt/format.h>

#include "base/error.h"

namespace isr {

void ObjectsToSync::sync() const {
  store_.sync();
  if (store_.failed_syncs() == failed_before_) return;
  throw Error(ErrorKind::kIo,
              fmt::format("{}: a sync failed, and sealed objects were lost with it", store_.describe()));
}

void put_object(const SealContext& context, const SealedObject& sealed) {
  if (context.sweep != nullptr) context.sweep->keep(sealed.ref.cid);
  context.settled.put(sealed.ref.cid, sealed.bytes);
}

ChunkRef put_sealed(const SealContext& context, ByteView plaintext) {
  const SealedObject sealed = seal_chunk(plaintext, context.domain_secret);
  if (!sealed.ref.is_zero()) put_object(context, sealed);
  return sealed.ref;
}

std::size_t bytes_without(const std::vector<Extent>& gaps) noexcept {
  std::uint64_t missing = 0;
  for (const Extent& gap : gaps) missing += gap.length;
  return kChunkSize - std::min<std::uint64_t>(missing, kChunkSize);
}

}  // namespace isr
