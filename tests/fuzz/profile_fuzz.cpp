// Parses a profile whose writer has the profile key. An accepted profile must encode again to the same bytes.
#include <cstdlib>

#include "account/account.h"

using namespace isr;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const Profile profile = parse_profile(ByteView(data, size));
    const Bytes again = encode_profile(profile);
    if (encode_profile(parse_profile(again)) != again) std::abort();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt && error.kind() != ErrorKind::kUnsupported) throw;
  }
  return 0;
}
