// Parses a keybox and keys. Byte 0 chooses: 0 = the rest is a keybox, opened with the
// recovery key, which reads the whole format without the cost of scrypt; 1 = the rest
// is serialised keys; 2 = the rest is a typed recovery key.
#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "repository/keybox.h"

namespace {

using namespace isr;

template <class Call>
void refused_or_read(Call call, ErrorKind kind, ErrorKind other) {
  try {
    call();
  } catch (const Error& error) {
    if (error.kind() != kind && error.kind() != other) throw;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const ByteView input(data + 1, size - 1);
  switch (data[0] % 3) {
    case 0:
      refused_or_read([&] { open_keybox(input, "alice", Key{.value = {5}}); }, ErrorKind::kCorrupt, ErrorKind::kDenied);
      break;
    case 1:
      refused_or_read(
          [&] {
            if (!std::ranges::equal(serialise_user_keys(parse_user_keys(input)), input)) std::abort();
          },
          ErrorKind::kCorrupt, ErrorKind::kCorrupt);
      break;
    default:
      refused_or_read(
          [&] {
            const Key key = parse_recovery_key(as_text(input));
            if (parse_recovery_key(format_recovery_key(key)) != key) std::abort();
          },
          ErrorKind::kUsage, ErrorKind::kUsage);
  }
  return 0;
}
