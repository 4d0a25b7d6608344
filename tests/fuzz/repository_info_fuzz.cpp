// Parses the marker of a repository, which a store sends, and an address, which a user
// pastes. Byte 0 chooses: even = the marker, odd = an address.
#include <cstdlib>

#include "repository/repository_info.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace isr;
  if (size == 0) return 0;
  const ByteView input(data + 1, size - 1);
  try {
    if (data[0] % 2 == 0) {
      if (encode_repository_info(parse_repository_info(input)) != to_bytes(input)) std::abort();
    } else {
      const std::string canonical = canonical_store_url(std::string(as_text(input)));
      if (canonical_store_url(canonical) != canonical) std::abort();
    }
  } catch (const Error& error) {
    const bool expected = error.kind() == ErrorKind::kCorrupt || error.kind() == ErrorKind::kUnsupported ||
                          error.kind() == ErrorKind::kUsage;
    if (!expected) throw;
  }
  return 0;
}
