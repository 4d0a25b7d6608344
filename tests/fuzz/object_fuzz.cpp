// Opens a chunk. Byte 0 chooses how deep the input gets: 0 = the rest is a whole
// object, which the tag refuses; 1 = the rest becomes a zstd payload under a good tag.
#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "chunkstore/object.h"

namespace {

using namespace isr;

void open(const ChunkRef& ref, ByteView object) {
  Bytes out(kChunkSize);
  try {
    open_chunk(ref, object, out);
    if (sha256(out) != ref.digest) std::abort();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
  }
}

Bytes sealed_payload(const Key& key, ByteView payload) {
  const Bytes header = ByteWriter().put(as_bytes("ISR1")).u8(1).u8(1).u16(0).u32(kChunkSize).take();
  Bytes body(payload.size());
  const auto tag = gcm_seal(key, Nonce{}, {header}, payload, body);
  return ByteWriter().put(header).put(Nonce{}.view()).put(body).put(tag).take();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const ByteView input(data + 1, size - 1);
  ChunkRef ref;
  ref.key.value.fill(7);
  const Bytes object = data[0] % 2 == 0 ? to_bytes(input) : sealed_payload(ref.key, input);
  if (object.empty()) return 0;  // a reference of length 0 is the zero chunk
  ref.length = static_cast<std::uint32_t>(object.size());
  open(ref, object);
  return 0;
}
