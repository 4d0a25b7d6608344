// Parses a page. Byte 0 chooses how deep the input gets: 0 = the rest is a whole object,
// which the tag refuses unless only the clear halves are read; 1 = the rest is both
// halves of the references, under a good tag and digest; 2 = the rest is one reference.
#include <algorithm>

#include "base/error.h"
#include "chunkstore/object.h"

namespace {

using namespace isr;

template <class Call>
void refused_or_read(Call call) {
  try {
    call();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
  }
}

void as_it_is(ByteView object) {
  ChunkRef ref;
  ref.length = static_cast<std::uint32_t>(object.size());
  refused_or_read([&] { open_page(ref, object); });
  refused_or_read([&] { read_clear_refs(object); });
}

void as_plaintext(ByteView plaintext) {
  const auto count = static_cast<std::uint32_t>(plaintext.size() / kRefSize);
  plaintext = plaintext.first(count * kRefSize);
  const ByteView clear = plaintext.first(count * kClearRefSize);
  const ByteView secret = plaintext.subspan(clear.size());
  ChunkRef ref;
  ref.digest = sha256(plaintext);
  const Bytes header =
      ByteWriter().put(as_bytes("ISR1")).u8(2).u8(0).u16(0).u32(static_cast<std::uint32_t>(plaintext.size())).take();
  const Bytes count_bytes = ByteWriter().u32(count).take();
  Bytes body(secret.size());
  const auto tag = gcm_seal(ref.key, Nonce{}, {header, count_bytes, clear}, secret, body);
  const Bytes object =
      ByteWriter().put(header).put(Nonce{}.view()).put(count_bytes).put(clear).put(body).put(tag).take();
  ref.length = static_cast<std::uint32_t>(object.size());
  refused_or_read([&] { open_page(ref, object); });
  refused_or_read([&] { read_clear_refs(object); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const ByteView input(data + 1, size - 1);
  switch (data[0] % 3) {
    case 0:
      as_it_is(input);
      break;
    case 1:
      as_plaintext(input);
      break;
    default:
      refused_or_read([&] {
        ByteReader in(input, "reference");
        read_ref(in);
      });
  }
  return 0;
}
