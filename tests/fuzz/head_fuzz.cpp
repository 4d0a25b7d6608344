// Parses a head. Byte 0 chooses how deep the input gets: even = the rest is a whole blob,
// which the signature check refuses; odd = the rest becomes a first line under a good
// signature. An accepted head must have the one form that the writer writes.
#include <cstdlib>

#include "base/error.h"
#include "repository/head.h"
#include "repository/signed_text.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace isr;
  if (size == 0) return 0;
  static const SigningKey key = signing_key_from_seed({.value = {1, 2, 3}});
  const ByteView input(data + 1, size - 1);
  const Bytes blob = data[0] % 2 == 0 ? to_bytes(input) : sign_text("isr1/head", as_text(input), key);
  try {
    const Head head = decode_head(blob, key.public_key, "parcels/4f", 41);
    if (encode_head(head, key) != blob) std::abort();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt) throw;
  }
  return 0;
}
