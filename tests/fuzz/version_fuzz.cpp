// Parses the description of a version. An accepted one must be the same after it is written and read again.
#include <cstdlib>

#include "account/parcel_version.h"

using namespace isr;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const ParcelVersion version = parse_version(ByteView(data, size));
    if (version.message.size() > 4096) return 0;  // can be read, but isr never writes it
    const Bytes again = encode_version(version);
    if (encode_version(parse_version(again)) != again) std::abort();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCorrupt && error.kind() != ErrorKind::kUnsupported) throw;
  }
  return 0;
}
