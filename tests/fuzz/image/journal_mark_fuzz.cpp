// Parses a journal's mark: only bytes that were sealed for the segment are accepted. Byte 0 chooses:
// even = the input is the mark; odd = a good mark, changed by exclusive or with the input. Byte 1 is the
// position of the first changed byte.
#include <cstdlib>

#include "base/error.h"
#include "image/journal_mark.h"

using namespace isr;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Key device_key = hkdf_sha256(as_bytes("device"), {}, "fuzz");
  static const auto segment = JournalSegment::make("/nowhere", {1, 1, 1}, device_key);
  static const Bytes good = [] {
    const TempDirectory temp;
    if (!write_mark(temp.path(), device_key, *segment, 7)) std::abort();
    return read_file(temp.path() / "synced", 1000);
  }();
  if (size < 2) return 0;
  Bytes mark(data + 2, data + size);
  if (data[0] % 2 == 1) {
    mark = good;
    for (std::size_t i = 2; i < size && data[1] + i - 2 < mark.size(); ++i) mark[data[1] + i - 2] ^= data[i];
  }
  const Mark parsed = parse_mark(mark, device_key, {&segment, 1});
  if (mark == good ? parsed.synced != 7 || parsed.newest != segment : parsed.newest != nullptr) std::abort();
  return 0;
}
